"""The cross entropy of a wide softmax without its scores: they are made, and used up, for a few rows at a time."""

from typing import no_type_check

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

SCORES_AT_ONCE = 2**22  # on a CPU, about what its cache has room for
SCORES_AT_ONCE_ON_A_DEVICE = 2**26


def linear_nats(
    hidden: Float[Tensor, "m d"],
    weight: Float[Tensor, "v d"],
    bias: Float[Tensor, " v"],
    targets: Int[Tensor, " m"],
    may_be_last: Bool[Tensor, " m"],
) -> Float[Tensor, " m"]:
    """-log softmax(hidden @ weight.T + bias) at each row's target, in nats; the last class only where it may be.

    In float32 or wider, products in what autocast says. Where the gradient of all rows is the same, as that of a mean
    is, it is made beside the scores, which so are made once (as in arXiv:2410.10989, section 3.2); else they are made
    again.
    """
    device = hidden.device.type
    narrows = torch.is_autocast_enabled(device) and hidden.dtype != torch.float64
    dtype = torch.get_autocast_dtype(device) if narrows else hidden.dtype
    learns = torch.is_grad_enabled() and any(x.requires_grad for x in (hidden, weight, bias))
    return _LinearNats.apply(hidden, weight, bias, targets, may_be_last, dtype, learns)  # pyright: ignore


class _LinearNats(torch.autograd.Function):
    @staticmethod
    @no_type_check
    def forward(ctx, hidden, weight, bias, targets, may_be_last, dtype, learns):
        inputs = (hidden, weight, bias, targets, may_be_last)
        nats, gradients = _chunked(*inputs, dtype, gradient=torch.ones(()) if learns else None)
        ctx.dtype = dtype
        ctx.save_for_backward(*inputs, *gradients)
        return nats

    @staticmethod
    @no_type_check
    def backward(ctx, gradient):
        inputs, made = ctx.saved_tensors[:5], ctx.saved_tensors[5:]
        if len(gradient) and gradient.stride() == (0,):  # what a sum hands back: one number for all
            made = [part * gradient[0].to(part.dtype) for part in made]
        else:
            made = _chunked(*inputs, ctx.dtype, gradient)[1]
        return (*made, None, None, None, None)


@no_type_check
def _chunked(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    targets: Tensor,
    may_be_last: Tensor,
    dtype: torch.dtype,
    gradient: Tensor | None,
) -> tuple[Tensor, list[Tensor]]:
    """(nats (m), gradients of hidden, weight and bias), where `gradient` is that of the nats: (m), or one for all."""
    exact = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    nats, made = torch.empty(len(hidden), dtype=exact, device=hidden.device), []
    narrow_weight, narrow_bias = weight.to(dtype), bias.to(dtype)
    if gradient is not None:
        made = [torch.empty_like(hidden), *(torch.zeros_like(part, dtype=exact) for part in (weight, bias))]
    at_once = SCORES_AT_ONCE if hidden.device.type == "cpu" else SCORES_AT_ONCE_ON_A_DEVICE
    size = max(at_once // len(weight), 1)
    for start in range(0, len(hidden), size):
        rows = slice(start, start + size)
        own, target = hidden[rows].to(dtype), targets[rows, None]
        scores = F.linear(own, narrow_weight, narrow_bias).to(exact)
        scores[:, -1].masked_fill_(~may_be_last[rows], -torch.inf)
        total = scores.logsumexp(dim=-1, keepdim=True)
        nats[rows] = (total - scores.gather(-1, target)).squeeze(-1)
        if gradient is None:
            continue
        errors = scores.sub_(total).exp_()
        errors.scatter_add_(-1, target, errors.new_full(target.shape, -1.0))
        if gradient.ndim:
            errors.mul_(gradient[rows, None])
        narrow = errors.to(dtype)
        made[0][rows] = narrow @ narrow_weight
        if dtype == exact:
            made[1].addmm_(narrow.T, own)
        else:
            made[1].add_(narrow.T @ own)
        made[2].add_(errors.sum(dim=0))
    return nats, [part.to(like.dtype) for part, like in zip(made, (hidden, weight, bias), strict=False)]
