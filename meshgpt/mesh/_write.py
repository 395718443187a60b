"""Meshes to files: text formats and PLY by hand, so that quads stay quads, the binary ones with trimesh."""

import json
import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any, no_type_check

import numpy as np

from meshgpt.errors import MeshFileError
from meshgpt.mesh.mesh import Mesh


@no_type_check
def write_mesh(mesh, path, *, metadata=None) -> Path:
    """Write a mesh in the format its extension names: obj, glb, gltf, ply, stl or off; returns the path.

    Quads stay quads in obj, ply and off and are cut into triangles in the others. Coordinates keep full precision in
    obj, off and ply, and are float32 in glb, gltf and stl. metadata: a dict of what JSON can hold, kept in glb and gltf
    as `extras` of the scene, in obj, ply and off as comments, and not in stl.

    The file appears whole or not at all. Raises `MeshFileError` for an unknown extension, a mesh without faces and a
    place that cannot be written.
    """
    path = Path(path)
    kind = path.suffix.lower().lstrip(".")
    if kind not in WRITERS:
        raise MeshFileError(f"{path}: cannot be written, its extension is none of {', '.join(WRITERS)}")
    if not mesh.num_faces:
        raise MeshFileError(f"{path}: cannot be written, the mesh has no faces")
    largest = np.abs(mesh.vertices).max()
    if kind in ("glb", "gltf", "stl") and largest > np.finfo(np.float32).max:
        raise MeshFileError(f"{path}: cannot be written, a coordinate of {largest:g} exceeds float32; use ply")
    replace_file(path, WRITERS[kind](mesh, _jsonable(metadata, path)))
    return path


def _jsonable(metadata: Any, path: Path) -> dict:
    try:
        return json.loads(json.dumps(dict(metadata or {}), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise MeshFileError(f"{path}: cannot be written, its metadata is not JSON ({error})") from error


def replace_file(path: Path, data: bytes) -> None:
    """Put the bytes at the path in one step, so that nobody sees half a file."""
    part = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}.part")
    try:
        try:
            with part.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise MeshFileError(f"{path}: cannot be written ({error.strerror or error})") from error


def _rows(faces: np.ndarray) -> list[list[int]]:
    """Corners of each face, without the -1 of a triangle among quads."""
    return [[corner for corner in face if corner >= 0] for face in faces.tolist()]


def _comments(metadata: dict) -> list[str]:
    """One line for each entry; JSON in ASCII has no line breaks of its own."""
    return [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in metadata.items()]


def _text(rows: Iterable[str]) -> bytes:
    return ("\n".join(rows) + "\n").encode()


def _obj(mesh: Mesh, metadata: dict) -> bytes:
    comments = (f"# {comment}" for comment in _comments(metadata))
    vertices = (f"v {x!r} {y!r} {z!r}" for x, y, z in mesh.vertices.tolist())
    faces = ("f " + " ".join(str(corner + 1) for corner in face) for face in _rows(mesh.faces))
    return _text([*comments, *vertices, *faces])


def _off(mesh: Mesh, metadata: dict) -> bytes:
    comments = (f"# {comment}" for comment in _comments(metadata))
    vertices = (f"{x!r} {y!r} {z!r}" for x, y, z in mesh.vertices.tolist())
    faces = (" ".join(map(str, (len(face), *face))) for face in _rows(mesh.faces))
    return _text(["OFF", *comments, f"{mesh.num_vertices} {mesh.num_faces} 0", *vertices, *faces])


def _ply(mesh: Mesh, metadata: dict) -> bytes:
    single = mesh.vertices.astype(np.float32)
    exact = bool((single == mesh.vertices).all())
    kind = "float" if exact else "double"
    header = ["ply", "format binary_little_endian 1.0", *(f"comment {comment}" for comment in _comments(metadata))]
    header += [f"element vertex {mesh.num_vertices}", *(f"property {kind} {axis}" for axis in "xyz")]
    header += [f"element face {mesh.num_faces}", "property list uchar int vertex_indices", "end_header"]
    vertices = (single.astype("<f4") if exact else mesh.vertices.astype("<f8")).tobytes()
    return _text(header) + vertices + _ply_faces(mesh.faces)


def _ply_faces(faces: np.ndarray) -> bytes:
    if faces.shape[1] == 3 or (faces[:, 3] >= 0).all():
        rows = np.empty(len(faces), np.dtype([("size", "u1"), ("corners", "<i4", (faces.shape[1],))]))
        rows["size"], rows["corners"] = faces.shape[1], faces
        return rows.tobytes()
    return b"".join(bytes([len(face)]) + np.array(face, "<i4").tobytes() for face in _rows(faces))


def _trimesh(mesh: Mesh):
    import trimesh  # here, since it takes longer to import than the rest of this package together

    triangles = mesh.triangulated()
    return trimesh.Trimesh(triangles.vertices, triangles.faces, process=False, validate=False)


def _stl(mesh: Mesh, metadata: dict) -> bytes:
    from trimesh.exchange.stl import export_stl

    return export_stl(_trimesh(mesh))


def _scene(mesh: Mesh, metadata: dict):
    from trimesh import Scene

    return Scene(_trimesh(mesh), metadata=metadata)


def _glb(mesh: Mesh, metadata: dict) -> bytes:
    from trimesh.exchange.gltf import export_glb

    return export_glb(_scene(mesh, metadata))


def _gltf(mesh: Mesh, metadata: dict) -> bytes:
    from trimesh.exchange.gltf import export_gltf

    return export_gltf(_scene(mesh, metadata), embed_buffers=True)["model.gltf"]


WRITERS = {"obj": _obj, "glb": _glb, "gltf": _gltf, "ply": _ply, "stl": _stl, "off": _off}
