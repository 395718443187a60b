"""What the tests of damaged files share: each file is refused or a valid mesh, in bounded time and memory."""

import resource
import sys
import time

import numpy as np

from meshgpt.errors import MeshFileError
from meshgpt.mesh.files import ReadLimits, read_mesh

SECONDS, BYTES = 2.0, 300e6


def outcome(data: bytes, **options) -> str:
    """'mesh' or 'refused'; anything else fails the test."""
    try:
        mesh = read_mesh(data, **options)
    except MeshFileError as error:
        assert str(error).startswith(f"<{len(data)} bytes>: ")
        assert len(str(error)) < 400 and "TypeCheck" not in str(error)
        return "refused"
    assert mesh.num_faces > 0 and np.isfinite(mesh.vertices).all()
    assert mesh.faces.max() < mesh.num_vertices and (mesh.faces[:, :3] >= 0).all()
    assert np.abs(mesh.vertices).max() <= ReadLimits().max_coordinate
    return "mesh"


def assert_bounded(cases, **options) -> list[str]:
    """Outcomes of all cases, each within the time and memory that a damaged file may take."""
    outcomes, before = [], peak_memory()
    for data in cases:
        start = time.process_time()
        outcomes.append(outcome(data, **options))
        assert time.process_time() - start < SECONDS
    assert peak_memory() - before < BYTES
    return outcomes


def peak_memory() -> int:
    """The most bytes that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
