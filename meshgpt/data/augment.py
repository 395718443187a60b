"""One mesh becomes many: stretched, turned, mirrored, jittered, decimated; all before the grid.

Ranges after MeshGPT (arXiv:2311.15475: each axis scaled by 0.75 to 1.25) and EdgeRunner (arXiv:2409.18114: decimation
to no less than a quarter of the faces). Unlike theirs, turns are multiples of 90 degrees unless asked otherwise: walls
stay on the grid's axes, where equal coordinates give equal tokens.
"""

from dataclasses import dataclass
from typing import no_type_check

import numpy as np

from meshgpt.config import Config
from meshgpt.data.decimate import decimate
from meshgpt.mesh.mesh import MARGIN, Mesh, reverse_winding


@dataclass(frozen=True)
class Augmentation(Config):
    """What may happen to a mesh; calling it with a mesh and a `np.random.Generator` does it.

    scale: lowest and highest factor of each axis, drawn alone for each. turns: how many equal turns about y make a full
    circle, one of which is drawn: 4 keeps right angles on the axes, 1 turns nothing, 0 means any angle. mirror: half of
    the meshes are mirrored in x. jitter: standard deviation of the noise on every vertex, in normalised coordinates.
    shift: largest move along each axis after normalising, at most 0.05, so that all stays within [-1, 1].
    decimate: the share of meshes that lose faces, down to `decimate_to` of them (needs the extra 'mesh').
    """

    scale: tuple[float, float] = (0.75, 1.25)
    turns: int = 4
    mirror: bool = True
    jitter: float = 0.0
    shift: float = 0.0
    decimate: float = 0.0
    decimate_to: float = 0.25

    def validate(self) -> None:
        self.require(len(self.scale) == 2 and 0 < self.scale[0] <= self.scale[1], "scale", "be (low, high) above 0")
        self.require(self.turns >= 0, "turns", "be 0 (any angle), 1 (none) or more")
        self.require(0 <= self.jitter <= 0.5, "jitter", "lie in [0, 0.5]")
        self.require(0 <= self.shift <= 1 - MARGIN + 1e-12, "shift", f"lie in [0, {1 - MARGIN:.2f}]")
        self.require(0 <= self.decimate <= 1, "decimate", "lie in [0, 1]")
        self.require(0 < self.decimate_to <= 1, "decimate_to", "lie in (0, 1]")

    @no_type_check
    def __call__(self, mesh: Mesh, generator: np.random.Generator) -> Mesh:
        return augment(mesh, self, generator)


def augmentation_generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The randomness of mesh `index` in `epoch`, whatever batch or process it falls into."""
    return np.random.default_rng((seed, epoch, index))


@no_type_check
def augment(mesh: Mesh, config: Augmentation, generator: np.random.Generator) -> Mesh:
    """The mesh changed as `config` says and normalised again (see `Mesh.normalized`), then shifted; right side out.

    Depends on nothing but its arguments. A mesh without faces comes back as it is.
    """
    if not mesh.num_faces:
        return mesh
    if config.decimate and generator.random() < config.decimate:
        share = generator.uniform(config.decimate_to, 1.0)
        mesh = decimate(mesh, max(int(share * mesh.num_faces), 4))
    factors = generator.uniform(*config.scale, 3)
    mirrored = config.mirror and generator.random() < 0.5
    factors[0] *= -1 if mirrored else 1
    vertices = (mesh.vertices * factors) @ _turn_about_y(_angle(config.turns, generator)).T
    used = np.zeros(mesh.num_vertices + 1, dtype=bool)  # the last is for the -1 of triangles among quads
    used[mesh.faces] = True
    used = np.flatnonzero(used[:-1])
    vertices = _normalized(vertices, used)
    if config.jitter:
        noise = generator.standard_normal(vertices.shape) * config.jitter
        vertices = _normalized(vertices + noise, used)
    if config.shift:
        vertices = vertices + generator.uniform(-config.shift, config.shift, 3)
    return Mesh(vertices, reverse_winding(mesh.faces) if mirrored else mesh.faces)


def _angle(turns: int, generator: np.random.Generator) -> float:
    """Radians."""
    return 2 * np.pi * (generator.random() if turns == 0 else generator.integers(turns) / turns)


def _turn_about_y(angle: float) -> np.ndarray:
    """(3, 3): exact for quarter turns, so that equal coordinates stay equal."""
    cosine, sine = (0.0 if abs(value) < 1e-12 else value for value in (np.cos(angle), np.sin(angle)))
    return np.array([[cosine, 0, sine], [0, 1, 0], [-sine, 0, cosine]])


def _normalized(vertices: np.ndarray, used: np.ndarray) -> np.ndarray:
    """As `Mesh.normalized`, for vertices of which some are `used`."""
    corners = vertices[used]
    low, high = corners.min(axis=0), corners.max(axis=0)
    longest = (high - low).max()
    return (vertices - (low + high) / 2) * (2 * MARGIN / longest if longest > 0 else 1.0)
