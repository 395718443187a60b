"""How far two clouds of features are apart, of pictures say: FID and KID, with whatever network gave the features."""

from typing import no_type_check

import torch
from jaxtyping import Float
from torch import Tensor

from meshgpt.errors import DataError

AT_ONCE = 1024  # rows whose products with all others are in memory


@no_type_check
def frechet_distance(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> float:
    """|mean a - mean b|^2 + tr(A + B - 2 (A B)^(1/2)), A and B the covariances (FID, arXiv:1706.08500, Equation 6).

    Depends on how many rows there are, and falls with them: compare figures of equal numbers only. Raises `DataError`
    for fewer than 2 rows.
    """
    a, b = _checked(a, b)
    (first, one), (second, other) = ((rows.mean(dim=0), torch.atleast_2d(rows.T.cov())) for rows in (a, b))
    values, vectors = torch.linalg.eigh(one)
    root = vectors @ (values.clamp(min=0).sqrt()[:, None] * vectors.T)
    cross = torch.linalg.eigvalsh(root @ other @ root).clamp(min=0).sqrt().sum()  # of A^(1/2) B A^(1/2), as of A B
    distance = (first - second).square().sum() + one.trace() + other.trace() - 2 * cross
    return max(0.0, float(distance))


@no_type_check
def kernel_distance(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> float:
    """Squared maximum mean discrepancy, without bias, under the kernel (x y / d + 1)^3 (KID, arXiv:1801.01401).

    Of all rows together; its expectation does not depend on their number, and it may be a little below 0. Raises
    `DataError` for fewer than 2 rows.
    """
    a, b = _checked(a, b)
    return _mean_within(a) + _mean_within(b) - 2 * _kernel_sum(a, b) / (len(a) * len(b))


def _mean_within(rows: Float[Tensor, "n d"]) -> float:
    """The mean of the kernel over pairs of different rows."""
    own = float(((rows.square().sum(dim=1) / rows.shape[1] + 1) ** 3).sum())
    return (_kernel_sum(rows, rows) - own) / (len(rows) * (len(rows) - 1))


def _kernel_sum(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> float:
    return sum(float(((some @ b.T / a.shape[1] + 1) ** 3).sum()) for some in a.split(AT_ONCE))


@no_type_check
def _checked(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        shapes = f"{tuple(a.shape)} and {tuple(b.shape)}"
        raise DataError(f"features are (rows, width) of one width, and 2 rows at least; got {shapes}")
    return a.double(), b.double()
