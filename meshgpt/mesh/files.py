"""Meshes from files and to files: obj, glb, gltf, ply, stl and off.

The readers are small and our own, because what a file says is checked before it is believed; trimesh writes the binary
formats. What a file holds decides how it is read, its name only where the content leaves it open.
"""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, no_type_check
from urllib.parse import unquote

import numpy as np

from meshgpt.errors import MeshFileError
from meshgpt.mesh._gltf_scene import read_gltf
from meshgpt.mesh._limits import ReadLimits
from meshgpt.mesh._obj import read_obj
from meshgpt.mesh._off import KEYWORD as OFF_KEYWORD
from meshgpt.mesh._off import read_off
from meshgpt.mesh._ply import read_ply
from meshgpt.mesh._source import content, named, read_file
from meshgpt.mesh._stl import is_binary_stl, read_stl
from meshgpt.mesh._weld import welded
from meshgpt.mesh._write import write_mesh
from meshgpt.mesh.mesh import Mesh
from meshgpt.mesh.polygons import Polygons, faces_from_polygons

__all__ = ["FORMATS", "ReadLimits", "read_mesh", "write_mesh"]

FORMATS = ("obj", "glb", "gltf", "ply", "stl", "off")
ARCHIVES = {
    b"PK\x03\x04": "zip", b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"7z\xbc\xaf": "7z", b"Rar!": "rar"
}  # fmt: skip
OBJ_STATEMENT = re.compile(rb"^[ \t]*(v|vt|vn|vp|f|o|g|s|l|p|usemtl|mtllib)[ \t]+\S", re.MULTILINE)
UP_TURNS = {  # rows of the rotation that brings the named axis to y
    "y": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "z": ((1, 0, 0), (0, 0, 1), (0, -1, 0)),
    "x": ((0, -1, 0), (1, 0, 0), (0, 0, 1)),
    "-y": ((1, 0, 0), (0, -1, 0), (0, 0, -1)),
    "-z": ((1, 0, 0), (0, 0, -1), (0, 1, 0)),
    "-x": ((0, 1, 0), (-1, 0, 0), (0, 0, 1)),
}


@no_type_check
def read_mesh(source, *, quads=False, up="y", merge=True, limits=None, file_type=None) -> Mesh:
    """Read one mesh, all parts of a scene joined, in the units of the file, y up.

    source: a path, the bytes of a file, or an open file. quads: keep polygons of four corners (k = 4, triangles among
    them (a, b, c, -1)); otherwise and for larger polygons, triangles. up: the axis of the file that points up (x, y, z,
    -x, -y or -z), turned to y. merge: vertices that coincide (within 1e-6 of the longest side) become one, faces that
    repeat a corner, duplicate faces and unused vertices are dropped, as `Mesh.cleaned` does; False keeps the vertices
    as the file has them. limits: a `ReadLimits`. file_type: one of obj glb gltf ply stl off, to overrule what the
    content looks like.

    No archive is unpacked, and no file is opened but the path itself and, for a .gltf, buffers in its own folder.
    Raises `MeshFileError` for everything that cannot be read, `MeshLimitError` (a kind of it) for what goes beyond the
    limits.
    """
    limits = ReadLimits() if limits is None else limits
    if up not in UP_TURNS:
        raise MeshFileError(f"up is {up!r}, it must be one of {', '.join(UP_TURNS)}")
    name, folder = named(source)
    try:
        data = content(source, limits)
        kind = _forced(file_type) if file_type is not None else _kind_of(data, name)
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is found below
            polygons = _parse(kind, data, limits, partial(_open_buffer, folder, limits))
        limits.check_polygons(polygons)
        return _assembled(polygons, quads, up, merge)
    except MeshFileError as error:
        raise type(error)(f"{name}: {error}") from error.__cause__
    except OSError as error:
        raise MeshFileError(f"{name}: cannot be opened ({error.strerror or error})") from error
    except Exception as error:  # whatever damage the checks do not name, running out of memory or stack included
        raise MeshFileError(f"{name}: is damaged ({type(error).__name__}: {error}); export it again") from error


@no_type_check
def turned_back(mesh, up) -> Mesh:
    """A mesh with y up in the axes of a file whose axis `up` points up."""
    return mesh if up == "y" else Mesh(mesh.vertices @ np.array(UP_TURNS[up], dtype=np.float64), mesh.faces)


def _parse(kind: str, data: bytes, limits: ReadLimits, open_buffer: Callable[[str], bytes]) -> Polygons:
    if kind in ("glb", "gltf"):
        return read_gltf(data, limits, open_buffer)
    return {"obj": read_obj, "ply": read_ply, "stl": read_stl, "off": read_off}[kind](data, limits)


def _assembled(polygons: Polygons, quads: bool, up: str, merge: bool) -> Mesh:
    vertices = polygons.vertices @ np.array(UP_TURNS[up], dtype=np.float64).T
    vertices = welded(vertices) if merge else vertices
    mesh = Mesh(vertices, faces_from_polygons(Polygons(vertices, polygons.corners, polygons.sizes), quads))
    mesh = mesh.cleaned() if merge else mesh
    if not mesh.num_faces:
        raise MeshFileError(f"each of its {len(polygons.sizes)} faces has fewer than 3 different corners")
    return mesh


def _forced(file_type: Any) -> str:
    kind = file_type.lower().lstrip(".") if isinstance(file_type, str) else file_type
    if kind not in FORMATS:
        raise MeshFileError(f"file_type is {file_type!r}, it must be one of {', '.join(FORMATS)}")
    return kind


def _kind_of(data: bytes, name: str) -> str:
    """The format by the first bytes; by the extension where they do not tell."""
    start = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n\0")
    for magic, archive in ARCHIVES.items():
        if data.startswith(magic):
            raise MeshFileError(f"is a {archive} archive; unpack it and read the mesh inside")
    if start.startswith(b"glTF"):
        return "glb"
    if re.match(rb"ply\s", start):
        return "ply"
    if is_binary_stl(data):
        return "stl"
    if start.startswith(b"{"):
        return "gltf"
    if OFF_KEYWORD.match(start):
        return "off"
    if start[:5].lower() == b"solid":
        return "stl"
    extension = Path(name).suffix.lower().lstrip(".")
    if OBJ_STATEMENT.search(data, 0, 1 << 16) or extension == "obj":
        return "obj"
    if extension in FORMATS:
        return extension
    raise MeshFileError(f"looks like none of {', '.join(FORMATS)} (it begins with {data[:16]!r})")


def _open_buffer(folder: Path | None, limits: ReadLimits, uri: str) -> bytes:
    """An external buffer of a .gltf: a relative address that stays within its own folder."""
    if folder is None:
        raise MeshFileError(f"needs the file {uri!r}; read it by its path, or save it as .glb")
    path = PurePosixPath(unquote(uri))
    outside = path.is_absolute() or ".." in path.parts or any(mark in str(path) for mark in ("\\", ":", "\0"))
    if outside or not (folder / path).resolve().is_relative_to(folder.resolve()):
        raise MeshFileError(f"needs {uri!r}, which is not in its own folder; save it as .glb")
    try:
        return read_file(folder / path, limits)
    except OSError as error:
        raise MeshFileError(f"needs the file {uri!r} beside it ({error.strerror or error})") from error
