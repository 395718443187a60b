"""Geometry under KHR_draco_mesh_compression, decoded by the optional package DracoPy."""

import numpy as np

from meshgpt.errors import MeshFileError

EXTENSION = "KHR_draco_mesh_compression"


def decode_draco(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Points (n, 3) float32 and triangles (m, 3) of a Draco bitstream."""
    try:
        import DracoPy  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        what = f"its geometry is compressed with {EXTENSION}"
        raise MeshFileError(f"{what}; pip install 'meshgpt[draco]', or export it without compression") from error
    try:
        decoded = DracoPy.decode(data)
        return np.asarray(decoded.points).reshape(-1, 3), np.asarray(decoded.faces).astype(np.int64).reshape(-1, 3)
    except Exception as error:  # the decoder has several kinds of its own, and a point cloud has no faces
        raise MeshFileError(f"its {EXTENSION} data cannot be decoded ({error}); export it again") from error
