"""The Chamfer distance between every cloud of one set and every one of another."""

from typing import no_type_check

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial import KDTree
from torch import Tensor

from meshgpt.errors import DataError

AT_ONCE = 2**26  # distances between points that are in memory together, on an accelerator


@no_type_check
def chamfer_matrix(
    a: Float[Tensor, "n p 3"], b: Float[Tensor, "m q 3"] | None = None, device: str | torch.device = "cpu"
) -> Float[Tensor, "n m"]:
    """CD(x, y) = mean over x of min |x - y|^2 + mean over y of min |x - y|^2: squared and summed, as papers print it.

    b: the clouds of `a` if not given, of which each pair is then measured once. device: trees search on "cpu"; an
    accelerator takes all distances, coordinate by coordinate, so that small ones do not drown in rounding. Raises
    `DataError` for other shapes.
    """
    for clouds in (a, a if b is None else b):
        if clouds.ndim != 3 or clouds.shape[2] != 3 or clouds.shape[1] == 0:
            raise DataError(f"clouds are (clouds, points, 3) with a point at least, got {tuple(clouds.shape)}")
    matrix = by_trees if torch.device(device).type == "cpu" else by_distances
    return matrix(a.to(device), None if b is None else b.to(device)).cpu()


def by_trees(a: Float[Tensor, "n p 3"], b: Float[Tensor, "m q 3"] | None = None) -> Float[Tensor, "n m"]:
    rows = [KDTree(cloud) for cloud in a.double().numpy()]
    columns = rows if b is None else [KDTree(cloud) for cloud in b.double().numpy()]
    found = np.zeros((len(rows), len(columns)))
    for i, one in enumerate(rows):
        for j, other in enumerate(columns):
            if b is not None or i < j:
                found[i, j] = np.square(one.query(other.data)[0]).mean() + np.square(other.query(one.data)[0]).mean()
    return torch.from_numpy(found if b is not None else found + found.T)


def by_distances(
    a: Float[Tensor, "n p 3"], b: Float[Tensor, "m q 3"] | None = None, at_once: int = AT_ONCE
) -> Float[Tensor, "n m"]:
    others = a if b is None else b
    step = max(1, at_once // max(1, a.shape[1] * others.shape[1]))
    rows = [torch.cat([_to_one(cloud, some) for some in others.split(step)]) for cloud in a]
    return torch.stack(rows).double() if rows else torch.zeros(0, len(others), dtype=torch.float64)


def _to_one(cloud: Float[Tensor, "p 3"], others: Float[Tensor, "m q 3"]) -> Float[Tensor, " m"]:
    squares = cloud.new_zeros(len(others), len(cloud), others.shape[1])
    for mine, theirs in zip(cloud.unbind(dim=-1), others.unbind(dim=-1), strict=True):
        apart = mine[None, :, None] - theirs[:, None, :]
        squares.addcmul_(apart, apart)
    return squares.amin(dim=2).mean(dim=1) + squares.amin(dim=1).mean(dim=1)
