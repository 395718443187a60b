"""Grey pictures of meshes from all sides, always the same ones: what `ViewNetwork` sees.

Papers print FID of shaded renders in eight views (MeshGPT, arXiv:2311.15475, section 4) by a renderer that few have.
These are of `meshgpt.mesh.picture`, which needs nothing but numpy and gives the same pixels everywhere.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import no_type_check

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from meshgpt.errors import ConfigError
from meshgpt.mesh.camera import Camera
from meshgpt.mesh.mesh import Mesh
from meshgpt.mesh.picture import Style, render

VIEWS, SIZE = 8, 64  # pictures of a mesh, evenly around it, and pixels along a side of each
ELEVATION = 0.35  # radians from which it is looked down upon
# Both sides of a face look alike: winding is counted by itself, and many real meshes are sheets.
GREY = Style(front="#c8c8c8", back="#c8c8c8", background=("#ffffff", "#ffffff"), wireframe=False, shadow=0.0)


@no_type_check
def views(meshes: Sequence[Mesh], count: int = VIEWS, size: int = SIZE) -> UInt8[Tensor, "n {count} {size} {size}"]:
    """`count` grey pictures of each mesh, fitted into them; one without faces gives white ones."""
    if count < 1:
        raise ConfigError(f"a mesh is seen in at least 1 view, got {count}")
    shown = np.empty((len(meshes), count, size, size), dtype=np.uint8)
    azimuths = [2 * math.pi * (view + 0.5) / count for view in range(count)]
    for row, mesh in enumerate(meshes):
        camera = Camera(elevation=ELEVATION).fitted(mesh, azimuths)
        for view, azimuth in enumerate(azimuths):
            shown[row, view] = render(mesh, size, replace(camera, azimuth=azimuth), GREY).mean(axis=-1).round()
    return torch.from_numpy(shown)
