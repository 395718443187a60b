"""What tells the weights of a tuned model from those of the model that it began as, in few numbers.

What tuning changes in a matrix is close to one of low rank (LoRA: Hu et al., arXiv:2106.09685), and so the product of
two thin ones stands for it, found by singular values afterwards. Before that the matrix as a whole may be multiplied:
scores are, where a head is sharpened. Vectors and small matrices are kept as they differ.
"""

import torch
from torch import Tensor

from meshgpt._storage import EXACT
from meshgpt.errors import CheckpointError

DOWN, UP = ":down", ":up"  # of a matrix (m n): (r n) and (r m), whose product is added
FITS = 20  # of these parts, one after the other
TIMES = f":times{EXACT}"  # by which it is multiplied before


def adapter(base: dict[str, Tensor], tuned: dict[str, Tensor], rank: int) -> dict[str, Tensor]:
    """The tensors that `adapted` adds to `base`; of matrices that stayed as they were there are none.

    Raises `CheckpointError` where the two have other tensors, shapes, or whole numbers.
    """
    if rank < 1:
        raise CheckpointError(f"the rank of an adapter must be at least 1, got {rank}")
    odd = sorted(base.keys() ^ tuned.keys())
    odd += [name for name in base if name in tuned and base[name].shape != tuned[name].shape]
    if odd:
        raise CheckpointError(f"an adapter needs a model of the same form: {odd[0]} differs, and {len(odd) - 1} more")
    tensors = {}
    for name, value in tuned.items():
        if not value.is_floating_point():
            if not torch.equal(value, base[name].to(value.device)):
                raise CheckpointError(f"an adapter changes weights alone, but {name} holds other whole numbers")
            continue
        after, before = value.detach().float().cpu(), base[name].float()
        if torch.equal(after, before):
            continue
        if after.ndim != 2 or rank * sum(after.shape) >= after.numel():
            tensors[name] = after - before
            continue
        tensors[name + TIMES], tensors[name + UP], tensors[name + DOWN] = _parts(before, after, rank)
    return tensors


def _parts(before: Tensor, after: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """A factor and two thin matrices (r m), (r n), which take `before` near to `after`; each is fitted to the other."""
    times, up, down = torch.ones(()), before[:0], before[:0]
    for _ in range(FITS):
        left, strengths, right = torch.linalg.svd(after - times * before, full_matrices=False)
        root = strengths[:rank].sqrt()
        up, down = (left[:, :rank] * root).T, right[:rank] * root[:, None]
        whole = before.square().sum().clamp(min=torch.finfo(torch.float32).tiny)
        last, times = times, (before * (after - up.T @ down)).sum() / whole
        if abs(float(times - last)) < torch.finfo(torch.float32).eps:
            break
    return times, up, down


def adapted(base: dict[str, Tensor], change: dict[str, Tensor], where: str) -> dict[str, Tensor]:
    """The weights of the tuned model. Raises `CheckpointError` for a change of what `base` does not have."""
    state = dict(base)
    for name, value in change.items():
        if name.endswith((DOWN, TIMES)):
            continue
        name, is_low = name.removesuffix(UP), name.endswith(UP)
        apart = value.float().T @ change[name + DOWN].float() if is_low else value
        if name not in base or base[name].shape != apart.shape:
            raise CheckpointError(f"{where} does not fit its base: it changes {name} {tuple(apart.shape)}")
        state[name] = base[name].float() * (change[name + TIMES] if is_low else 1.0) + apart
    return state
