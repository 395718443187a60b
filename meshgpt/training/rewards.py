"""What a mesh that a model wrote is worth: formed as well as a real one, of the size, kind and shape asked for.

Perfection is not asked for: real meshes have open edges and want symmetry too, and a model that is to have neither ends
at boxes. So each mesh is compared with the real one that its wish was taken from.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial import KDTree

from meshgpt.config import Config
from meshgpt.mesh.form import Form

MOST_FOLDS, MOST_NATS = 2.0, 8.0  # farther off than this, in size and in kind, counts as this
NEAREST, FARTHEST = 0.02, 0.3  # Chamfer distances beyond which a mesh is no nearer to its shape, or no farther off


@dataclasses.dataclass(frozen=True)
class RewardConfig(Config):
    """How much each thing weighs, in nats.

    form: for each nat of `doubt` beyond that of the real mesh: open edges, want of symmetry, loose parts. symmetry:
    more for the share of vertices without a mirror image, and pieces: for each e-fold of parts, since tuning gives
    these up for the rest; both beyond the real mesh's too. unfinished: for a mesh that the model did not end. size: for
    each e-fold between the faces written and those asked for. likeness: for each nat by which the judge doubts that it
    is what was asked for. variety: for what `energies` gives. nearness: for each e-fold of the Chamfer distance to
    the shape to follow. empty: for a mesh without faces, in place of all others.
    """

    form: float = 1.0
    symmetry: float = 3.0
    pieces: float = 1.0
    unfinished: float = 3.0
    size: float = 8.0
    likeness: float = 1.2
    variety: float = 12.0
    nearness: float = 3.0
    empty: float = 20.0

    def validate(self) -> None:
        for field in dataclasses.fields(self):
            self.require(getattr(self, field.name) >= 0, field.name, "not be negative")


@dataclasses.dataclass(frozen=True)
class Attempt:
    """What is known of a mesh that was written for a wish.

    form: its own, and real: that of the mesh which the wish was taken from. faces: how many it has, and asked: how many
    it should have. likeness: log p of the wish, 0 where there is none. energy: see `energies`. apart: the Chamfer
    distance to the shape that it follows.
    """

    form: Form
    real: Form
    faces: int
    asked: int | None = None
    ended: bool = True
    likeness: float = 0.0
    energy: float = 0.0
    apart: float | None = None


def reward(attempt: Attempt, config: RewardConfig | None = None) -> float:
    """Of one mesh; 0 for what is as it should be, but for `energy`, which is relative."""
    config, form, real = config or RewardConfig(), attempt.form, attempt.real
    if attempt.faces == 0:
        return -config.empty
    loss = config.form * max(form.doubt - real.doubt, 0.0) + config.symmetry * max(real.symmetry - form.symmetry, 0.0)
    loss += config.pieces * max(math.log(form.parts / max(real.parts, 1)), 0.0)
    if attempt.asked is not None:
        loss += config.size * min(abs(math.log(attempt.faces / attempt.asked)), MOST_FOLDS)
    if attempt.apart is not None:
        loss += config.nearness * math.log(min(max(attempt.apart, NEAREST), FARTHEST) / NEAREST)
    loss += config.likeness * min(-attempt.likeness, MOST_NATS) + config.unfinished * (not attempt.ended)
    return config.variety * attempt.energy - loss


def energies(
    real: Float[np.ndarray, "p 3"], written: Sequence[Float[np.ndarray, "p 3"] | None]
) -> Float[np.ndarray, " s"]:
    """Of points on each of several meshes written for one wish: how far they are from the others, less from the real.

    Distances are Chamfer distances (mean of both ways). With a distance that belongs to an energy, the mean of this is
    largest where what is written is distributed as what is real (the energy score: Gneiting & Raftery 2007, section
    4.3): to be all alike costs as much as to be unlike. 0 for None, a mesh without area, which counts for no other.
    """
    trees = [None if points is None else KDTree(points) for points in written]
    there = [index for index, tree in enumerate(trees) if tree is not None]
    found, real_tree = np.zeros(len(written)), KDTree(real)
    between = {}
    for place, one in enumerate(there):
        for other in there[:place]:
            between[one, other] = between[other, one] = _chamfer(trees[one], trees[other])
    for one in there:
        others = [between[one, other] for other in there if other != one]
        found[one] = (np.mean(others) if others else 0.0) - _chamfer(trees[one], real_tree)
    return found


def _chamfer(one: KDTree, other: KDTree) -> float:
    return float(one.query(other.data)[0].mean() + other.query(one.data)[0].mean()) / 2


def advantages(rewards: Float[np.ndarray, "w s"]) -> Float[np.ndarray, "w s"]:
    """By how much each of s meshes for the same wish is better than their mean, in their deviation.

    Group-relative advantages, as those of GRPO (Shao et al., arXiv:2402.03300, section 4.1.2). Where all are nearly
    alike the deviation is taken as larger than it is, so that noise is not learned.
    """
    apart = rewards - rewards.mean(axis=1, keepdims=True)
    return apart / (rewards.std(axis=1, keepdims=True) + 0.3)


def open_sides(faces: Int[np.ndarray, "nf k 3"]) -> Int[np.ndarray, " nf"]:
    """How many sides of each face no other face shares; corners are the same where their bins are."""
    if len(faces) == 0:
        return np.zeros(0, dtype=np.int64)
    _, corners = np.unique(faces.reshape(-1, 3), axis=0, return_inverse=True)
    corners = corners.reshape(faces.shape[:2])
    sides = np.stack((corners, np.roll(corners, -1, axis=1)), axis=-1)
    sides.sort(axis=-1)
    _, which, count = np.unique(sides.reshape(-1, 2), axis=0, return_inverse=True, return_counts=True)
    return (count[which.reshape(corners.shape)] == 1).sum(axis=1)
