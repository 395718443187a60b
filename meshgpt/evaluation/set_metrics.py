"""How alike two sets of shapes are, from the distances between them (Yang et al., PointFlow, arXiv:1906.12320)."""

from dataclasses import dataclass
from typing import no_type_check

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial import KDTree
from torch import Tensor

from meshgpt.errors import DataError
from meshgpt.evaluation.chamfer import chamfer_matrix
from meshgpt.evaluation.clouds import in_sphere

CELLS = 28  # along each axis, for the Jensen-Shannon divergence


@dataclass(frozen=True)
class SetMetrics:
    """A set G of shapes beside as many shapes R of the real kind, with a distance d.

    mmd: mean over R of the least d to a shape of G; lower is better. For the Chamfer distance often printed times 1000.
    coverage: share of R that is the nearest shape of R to some shape of G; higher is better, but real ones have far
    from 1. one_nn_accuracy: how often the nearest other shape of G and R together is of one's own set; 0.5 where they
    cannot be told apart. jsd: Jensen-Shannon divergence, in bits, of where points lie; 0 is best.
    """

    mmd: float
    coverage: float
    one_nn_accuracy: float
    jsd: float


@no_type_check
def compare_sets(
    generated: Float[Tensor, "n p 3"],
    reference: Float[Tensor, "n p 3"],
    among_reference: Float[Tensor, "n n"] | None = None,
    device: str | torch.device = "cpu",
) -> SetMetrics:
    """All of them, of two sets of equal size by their points (`surface_clouds`).

    among_reference: `chamfer_matrix(reference)`, where it is there already. Raises `DataError` for sets that are not of
    one size: coverage and 1-NN accuracy say nothing then.
    """
    if len(generated) != len(reference) or not len(reference):
        raise DataError(f"sets must be of one size to be compared, got {len(generated)} and {len(reference)} shapes")
    if among_reference is None:
        among_reference = chamfer_matrix(reference, device=device)
    across = chamfer_matrix(generated, reference, device)
    return SetMetrics(
        minimum_matching_distance(across),
        coverage(across),
        one_nn_accuracy(chamfer_matrix(generated, device=device), across, among_reference),
        jensen_shannon(generated, reference),
    )


def minimum_matching_distance(across: Float[Tensor, "g r"]) -> float:
    """MMD (Achlioptas et al., arXiv:1707.02392): the mean over the reference of the distance to the nearest of G."""
    return float(across.amin(dim=0).mean())


def coverage(across: Float[Tensor, "g r"]) -> float:
    """COV (the same): the share of the reference that is nearest to some shape of G."""
    return len(across.argmin(dim=1).unique()) / across.shape[1]


def one_nn_accuracy(
    among_generated: Float[Tensor, "g g"], across: Float[Tensor, "g r"], among_reference: Float[Tensor, "r r"]
) -> float:
    """1-NNA (Lopez-Paz and Oquab, arXiv:1610.06545), leave-one-out over both sets together."""
    count = len(across)
    rows = torch.cat((torch.cat((among_generated, across), dim=1), torch.cat((across.T, among_reference), dim=1)))
    rows = rows.clone().fill_diagonal_(torch.inf)
    own = torch.arange(len(rows)) < count
    return float((own[rows.argmin(dim=1)] == own).double().mean())


@no_type_check
def jensen_shannon(a: Float[Tensor, "n p 3"], b: Float[Tensor, "m q 3"], cells: int = CELLS) -> float:
    """Divergence, to base 2, of how all points of each set spread over the cells of the unit sphere.

    Every cloud is moved to its centroid and scaled into the sphere; a point counts for the nearest of the nodes of a
    grid of `cells` along each axis that lie within it.
    """
    line = np.linspace(-1, 1, cells)
    nodes = np.stack(np.meshgrid(line, line, line, indexing="ij"), axis=-1).reshape(-1, 3)
    tree = KDTree(nodes[np.linalg.norm(nodes, axis=1) <= 1])
    shares = [_share(tree, in_sphere(clouds).reshape(-1, 3).cpu().numpy()) for clouds in (a, b)]
    middle = _entropy((shares[0] + shares[1]) / 2)
    return max(0.0, middle - (_entropy(shares[0]) + _entropy(shares[1])) / 2)


def _share(tree: KDTree, points: np.ndarray) -> np.ndarray:
    counts = np.bincount(tree.query(points)[1], minlength=tree.n)
    return counts / counts.sum()


def _entropy(shares: np.ndarray) -> float:
    """In bits."""
    real = shares[shares > 0]
    return float(-(real * np.log2(real)).sum())
