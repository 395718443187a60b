"""What a mesh that a model wrote is worth: closed, symmetric, of one piece, of the size and the kind asked for."""

import dataclasses
import math

import numpy as np
from jaxtyping import Float, Int

from meshgpt.config import Config
from meshgpt.mesh.mesh import Mesh
from meshgpt.mesh.symmetry import mirrored_share
from meshgpt.mesh.topology import components
from meshgpt.pipeline import doubt

MOST_FOLDS, MOST_NATS = 2.0, 8.0  # farther off than this, in size and in kind, counts as this


@dataclasses.dataclass(frozen=True)
class RewardConfig(Config):
    """How much each thing weighs, in nats.

    form: for each nat of `doubt`: open edges, want of symmetry, loose parts. symmetry: more for the share of vertices
    without a mirror image, and pieces: for each e-fold of parts, since tuning gives these up for the rest. unfinished:
    for a mesh that the model did not end. size: for each e-fold between the faces written and those asked for.
    likeness: for each nat by which the judge doubts that it is what was asked for. empty: for a mesh without faces, in
    place of all others.
    """

    form: float = 1.0
    symmetry: float = 3.0
    pieces: float = 1.0
    unfinished: float = 3.0
    size: float = 8.0
    likeness: float = 1.2
    empty: float = 20.0

    def validate(self) -> None:
        for field in dataclasses.fields(self):
            self.require(getattr(self, field.name) >= 0, field.name, "not be negative")


def reward(mesh: Mesh, ended: bool, faces: int | None, likeness: float, config: RewardConfig | None = None) -> float:
    """Of one mesh, never positive. faces: how many were asked for. likeness: log p of the wish, 0 if there is none."""
    config = config or RewardConfig()
    if mesh.num_faces == 0:
        return -config.empty
    off = 0.0 if faces is None else min(abs(math.log(mesh.num_faces / faces)), MOST_FOLDS)
    unlike = min(-likeness, MOST_NATS)
    form = config.form * doubt(mesh) + config.symmetry * (1 - mirrored_share(mesh))
    form += config.pieces * math.log(int(components(mesh).max()) + 1)
    return -(form + config.size * off + config.likeness * unlike + config.unfinished * (not ended))


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
