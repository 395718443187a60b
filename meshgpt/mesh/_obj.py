"""Wavefront OBJ: `v` and `f` statements; all others are passed over, and no other file is opened."""

from array import array

import numpy as np

from meshgpt.errors import MeshFileError
from meshgpt.mesh._limits import ReadLimits
from meshgpt.mesh._text import excerpt, floats, integers, lines
from meshgpt.mesh.polygons import Polygons


def read_obj(data: bytes, limits: ReadLimits) -> Polygons:
    """The polygons of all objects and groups; of a vertex only x, y and z (colours and weights may be anything)."""
    limits.check_vertices(data.count(b"\nv "))
    limits.check_faces(data.count(b"\nf "))
    for end in (b"\\\r\n", b"\\\n"):  # a line that goes on in the next one
        data = data.replace(end, b" ")
    coordinates, corners, sizes = array("d"), array("q"), array("q")
    for number, line in enumerate(lines(data), 1):
        words = line.split()
        if not words:
            continue
        if words[0] == b"v":
            coordinates.extend(_position(words, number))
            limits.check_vertices(len(coordinates) // 3)
        elif words[0] == b"f":
            face = _face(line, number, len(coordinates) // 3)
            corners.extend(face)
            sizes.append(len(face))
            limits.check_faces(len(sizes))
    vertices = np.array(coordinates, dtype=np.float64).reshape(-1, 3)
    return Polygons(vertices, np.array(corners, dtype=np.int64), np.array(sizes, dtype=np.int64))


def _position(words: list[bytes], number: int) -> list[float]:
    if len(words) < 4:
        raise MeshFileError(f"line {number} ({excerpt(b' '.join(words))}) has {len(words) - 1} coordinates of 3")
    return floats(words[1:4], "line", number)


def _face(line: bytes, number: int, num_vertices: int) -> list[int]:
    """Vertex indices from 0; a negative index counts back from the last vertex so far."""
    words = line.partition(b"#")[0].split()[1:]
    if len(words) < 3:
        raise MeshFileError(f"line {number} ({excerpt(line)}) has {len(words)} corners, a face needs at least 3")
    indices = integers([word.partition(b"/")[0] for word in words], "line", number)
    face = [index - 1 if index > 0 else index + num_vertices for index in indices]
    if 0 in indices or min(face) < 0 or max(face) >= 2**62:
        wrong = next(i for i, at in zip(indices, face, strict=True) if i == 0 or not 0 <= at < 2**62)
        what = f"line {number} ({excerpt(line)}) refers to vertex {wrong}"
        raise MeshFileError(f"{what}; indices count from 1, or from -1 backwards")
    return face
