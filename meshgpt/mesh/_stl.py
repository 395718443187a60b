"""STL, binary and ASCII: triangles without shared vertices."""

import re
from array import array

import numpy as np

from meshgpt.errors import MeshFileError
from meshgpt.mesh._limits import ReadLimits
from meshgpt.mesh._text import excerpt, floats
from meshgpt.mesh.polygons import Polygons

HEADER = 84
TRIANGLE = np.dtype([("normal", "<f4", 3), ("vertices", "<f4", (3, 3)), ("attribute", "<u2")])
STATEMENT = re.compile(rb"^[ \t]*(vertex|endfacet|facet|endsolid)\b[ \t]*([^\r\n]*)", re.IGNORECASE | re.MULTILINE)


def is_binary_stl(data: bytes) -> bool:
    """Whether the length is what the count in a binary header asks for (some of these begin with `solid`)."""
    return len(data) >= HEADER and len(data) == HEADER + TRIANGLE.itemsize * _count(data)


def read_stl(data: bytes, limits: ReadLimits) -> Polygons:
    if not is_binary_stl(data) and data.lstrip()[:5].lower() == b"solid":
        points = _ascii_points(data, limits)
    else:
        points = _binary_points(data, limits)
    if len(points) % 3:
        raise MeshFileError(f"holds {len(points)} vertices, which is no multiple of 3: the last triangle is cut off")
    return Polygons(points, np.arange(len(points)), np.full(len(points) // 3, 3))


def _count(data: bytes) -> int:
    return int.from_bytes(data[80:HEADER], "little")


def _binary_points(data: bytes, limits: ReadLimits) -> np.ndarray:
    if len(data) < HEADER:
        raise MeshFileError(f"is {len(data)} bytes long, the header of a binary STL file alone has {HEADER}")
    expected = HEADER + TRIANGLE.itemsize * _count(data)
    if expected != len(data):
        what = f"the header says {_count(data)} triangles, {expected} bytes in all"
        raise MeshFileError(f"{what}, but there are {len(data)}: the file is damaged or not STL")
    limits.check_faces(_count(data))
    return np.frombuffer(data, TRIANGLE, offset=HEADER)["vertices"].reshape(-1, 3).astype(np.float64)


def _ascii_points(data: bytes, limits: ReadLimits) -> np.ndarray:
    limits.check_faces(len(data) // 60)
    points, open_facets, ended = array("d"), 0, False
    for statement in STATEMENT.finditer(data):
        word = statement[1].lower()
        ended = word == b"endsolid"
        if word == b"vertex":
            points.extend(_position(statement[2], len(points) // 3))
        elif word != b"endsolid":
            open_facets += 1 if word == b"facet" else -1
            if open_facets not in (0, 1) or len(points) % 9:
                raise MeshFileError(f"facet {len(points) // 9} is not closed after 3 vertices")
    if not ended or open_facets:
        raise MeshFileError("does not end with `endsolid`: the file is cut off")
    return np.array(points, dtype=np.float64).reshape(-1, 3)


def _position(text: bytes, number: int) -> list[float]:
    words = text.split()
    if len(words) != 3:
        raise MeshFileError(f"vertex {number} ({excerpt(text)}) has {len(words)} coordinates of 3")
    return floats(words, "vertex", number)
