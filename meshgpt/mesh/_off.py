"""OFF, with the variants of its first word (COFF, NOFF, STOFF, ...) and files whose counts follow it at once."""

import itertools
import re

import numpy as np

from meshgpt.errors import MeshFileError
from meshgpt.mesh._limits import ReadLimits
from meshgpt.mesh._text import excerpt, floats, integers, lines
from meshgpt.mesh.polygons import Polygons

KEYWORD = re.compile(rb"(?:\s|#[^\n]*\n)*(ST)?C?N?(4?)(n?)OFF(?![A-Za-z])", re.IGNORECASE)


def read_off(data: bytes, limits: ReadLimits) -> Polygons:
    """The polygons of an ASCII OFF file; colours, normals and texture coordinates are passed over."""
    keyword = KEYWORD.match(data)
    if keyword is None:
        raise MeshFileError(f"begins with {excerpt(data[:80])}, an OFF file begins with OFF")
    if keyword[2] or keyword[3]:
        raise MeshFileError(f"{excerpt(keyword[0])} vertices are not points in space; only three dimensions are read")
    rows = _rows(data[keyword.end() :])
    counts = next(rows, b"").split()
    if counts[:1] == [b"BINARY"]:
        raise MeshFileError("binary OFF is not read; save it as ASCII OFF, PLY or GLB")
    if len(counts) < 2:
        raise MeshFileError("the counts of vertices and faces are missing after OFF")
    num_vertices, num_faces = integers(counts[:2], "the line of counts")
    _check_counts(num_vertices, num_faces, len(data), limits)
    vertices = np.array([_position(row, i) for i, row in enumerate(itertools.islice(rows, num_vertices))])
    if len(vertices) < num_vertices:
        raise MeshFileError(f"the header says {num_vertices} vertices, the file ends after {len(vertices)}")
    faces = [_face(row, i) for i, row in enumerate(itertools.islice(rows, num_faces))]
    if len(faces) < num_faces:
        raise MeshFileError(f"the header says {num_faces} faces, the file ends after {len(faces)}")
    sizes = np.array([len(face) for face in faces], dtype=np.int64)
    corners = np.fromiter(itertools.chain.from_iterable(faces), np.int64, sizes.sum())
    return Polygons(vertices.reshape(-1, 3), corners, sizes)


def _rows(data: bytes):
    """Lines without comments and blank lines."""
    stripped = (line.partition(b"#")[0].strip() for line in lines(data))
    return (line for line in stripped if line)


def _check_counts(num_vertices: int, num_faces: int, num_bytes: int, limits: ReadLimits) -> None:
    if min(num_vertices, num_faces) < 0 or 6 * num_vertices + 8 * num_faces > num_bytes + 14:
        what = f"the header says {num_vertices} vertices and {num_faces} faces"
        raise MeshFileError(f"{what}, which {num_bytes} bytes cannot hold")
    limits.check_vertices(num_vertices)
    limits.check_faces(num_faces)


def _position(row: bytes, number: int) -> list[float]:
    words = row.split()
    if len(words) < 3:
        raise MeshFileError(f"vertex {number} ({excerpt(row)}) has {len(words)} coordinates of 3")
    return floats(words[:3], "vertex", number)


def _face(row: bytes, number: int) -> list[int]:
    words = row.split()
    (size,) = integers(words[:1], "face", number)
    if not 0 <= size < len(words):
        what = f"face {number} ({excerpt(row)}) should list {size} corners"
        raise MeshFileError(f"{what} and has {len(words) - 1} numbers")
    corners = integers(words[1 : size + 1], "face", number)
    if corners and not -(2**62) < min(corners) <= max(corners) < 2**62:
        raise MeshFileError(f"face {number} ({excerpt(row)}) refers to a vertex that no file can hold")
    return corners
