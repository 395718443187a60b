"""The scene of a glTF file as one set of triangles: node transforms, skins in their rest pose, all triangle modes."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from meshgpt.errors import MeshFileError
from meshgpt.mesh._draco import EXTENSION as DRACO
from meshgpt.mesh._draco import decode_draco
from meshgpt.mesh._gltf import Document, Opener
from meshgpt.mesh._limits import ReadLimits
from meshgpt.mesh.mesh import drop_unused_vertices
from meshgpt.mesh.polygons import Polygons, fan_triangles, strip_triangles

TRIANGLES, STRIP, FAN = 4, 5, 6
INSTANCING = "EXT_mesh_gpu_instancing"


def read_gltf(data: bytes, limits: ReadLimits, open_buffer: Opener) -> Polygons:
    """The triangles of the default scene in world coordinates; points, lines, morph targets and images are left out."""
    document = Document(data, limits, open_buffer)
    world = _world_transforms(document)
    vertices, triangles, offset, count = [np.zeros((0, 3))], [np.zeros((0, 3), np.int64)], 0, 0
    for points, faces in _parts(document, world):
        vertices.append(points)
        triangles.append(faces + offset)
        offset, count = offset + len(points), count + len(faces)
        limits.check_vertices(offset)
        limits.check_faces(count)
    if not count:
        raise MeshFileError(f"a scene of {len(world)} nodes without any triangles; export it with its meshes")
    faces = np.concatenate(triangles)
    return Polygons(np.concatenate(vertices), faces.reshape(-1), np.full(len(faces), 3))


def _world_transforms(document: Document) -> dict[int, np.ndarray]:
    """Nodes of the scene, parents first, and their transforms (4, 4) to the world."""
    world: dict[int, np.ndarray] = {}
    waiting = [(index, np.eye(4)) for index in reversed(_roots(document))]
    while waiting:
        index, parent = waiting.pop()
        node = document.item("nodes", index)
        if index in world:
            raise MeshFileError(f"nodes[{index}] is reached twice: nodes must form a tree")
        world[index] = parent @ _local_transform(node, f"nodes[{index}]")
        waiting += [(child, world[index]) for child in reversed(_list(node, "children", f"nodes[{index}]"))]
    return world


def _roots(document: Document) -> list:
    if document.json.get("scenes"):
        index = document.json.get("scene", 0)
        return _list(document.item("scenes", index), "nodes", f"scenes[{index}]")
    nodes = range(len(_list(document.json, "nodes", "the file")))
    children = {str(child) for i in nodes for child in _list(document.item("nodes", i), "children", f"nodes[{i}]")}
    return [i for i in nodes if str(i) not in children]


def _local_transform(node: dict, where: str) -> np.ndarray:
    if "matrix" in node:
        return _numbers(node, "matrix", 16, where).reshape(4, 4).T
    transform = np.eye(4)
    if "rotation" in node:
        transform[:3, :3] = _rotation(_numbers(node, "rotation", 4, where))
    if "scale" in node:
        transform[:3, :3] *= _numbers(node, "scale", 3, where)
    if "translation" in node:
        transform[:3, 3] = _numbers(node, "translation", 3, where)
    return transform


def _rotation(quaternion: np.ndarray) -> np.ndarray:
    """The rotation (3, 3) of a quaternion (x, y, z, w), made a unit one first."""
    length = np.linalg.norm(quaternion)
    x, y, z, w = quaternion / length if length > 0 else (0.0, 0.0, 0.0, 1.0)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + 2 * w * cross + 2 * cross @ cross


def _parts(document: Document, world: dict[int, np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """World points and triangles of each primitive; a mesh that several nodes use is placed for all of them at once."""
    rigid: dict[int, list[np.ndarray]] = {}
    for index, transform in world.items():
        node = document.item("nodes", index)
        if "mesh" not in node:
            continue
        document.item("meshes", node["mesh"])
        if INSTANCING in (node.get("extensions") or {}):
            raise MeshFileError(f"nodes[{index}] is copied by {INSTANCING}; export it without instances")
        if "skin" not in node:
            rigid.setdefault(node["mesh"], []).append(transform)
            continue
        for points, triangles, primitive in _primitives(document, node["mesh"]):
            joints = _joint_transforms(document, node, primitive, world)
            yield _placed(points, triangles, transform[None]) if joints is None else _bent(points, triangles, joints)
    for mesh, transforms in rigid.items():
        for points, triangles, _ in _primitives(document, mesh):
            points, triangles = drop_unused_vertices(points, triangles)  # parts often share one array of points
            document.limits.check_vertices(len(points) * len(transforms))
            document.limits.check_faces(len(triangles) * len(transforms))
            yield _placed(points, triangles, np.stack(transforms))


def _placed(points: np.ndarray, triangles: np.ndarray, transforms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points (n, 3) and triangles under each of k transforms (k, 4, 4), right side out also where it mirrors."""
    linear = transforms[:, :3, :3]
    moved = points @ linear.swapaxes(1, 2) + transforms[:, None, :3, 3]
    faces = triangles + (np.arange(len(transforms)) * len(points))[:, None, None]
    faces = np.where(np.linalg.det(linear)[:, None, None] < 0, faces[:, :, [0, 2, 1]], faces)
    return moved.reshape(-1, 3), faces.reshape(-1, 3)


def _bent(points: np.ndarray, triangles: np.ndarray, transforms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points (n, 3), each under its own transform (n, 4, 4), and the triangles, right side out."""
    linear = transforms[:, :3, :3]
    moved = np.einsum("nij,nj->ni", linear, points) + transforms[:, :3, 3]
    mirrored = np.linalg.det(linear)[triangles[:, :1]] < 0
    return moved, np.where(mirrored, triangles[:, [0, 2, 1]], triangles)


def _primitives(document: Document, mesh: int) -> Iterator[tuple[np.ndarray, np.ndarray, dict]]:
    """Points (n, 3) float64 and triangles (m, 3) of those primitives of a mesh that are triangles."""
    where = f"meshes[{mesh}]"
    for primitive in _list(document.item("meshes", mesh), "primitives", where):
        if not isinstance(primitive, dict):
            raise MeshFileError(f"{where} has a primitive that is not an object")
        if primitive.get("mode", TRIANGLES) in (TRIANGLES, STRIP, FAN):
            points, triangles = _primitive(document, primitive, where)
            yield points.astype(np.float64), triangles, primitive


def _primitive(document: Document, primitive: dict, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Points (n, 3) and triangles (m, 3) of one primitive."""
    attributes = primitive.get("attributes")
    if not isinstance(attributes, dict) or "POSITION" not in attributes:
        raise MeshFileError(f"{where} has a primitive without positions")
    packed = (primitive.get("extensions") or {}).get(DRACO)
    if packed is not None and "bufferView" not in document.item("accessors", attributes["POSITION"]):
        points, triangles = decode_draco(bytes(document.view(packed.get("bufferView"))[0]))
        return points, _within(triangles, len(points), where)
    points = document.accessor(attributes["POSITION"], "VEC3")
    indices = np.arange(len(points))
    if "indices" in primitive:
        stored = document.accessor(primitive["indices"], "SCALAR")[:, 0]
        if stored.dtype.kind != "u":
            raise MeshFileError(f"{where} has indices that are no unsigned whole numbers")
        indices = _within(stored.astype(np.int64), len(points), where)
    mode = primitive.get("mode", TRIANGLES)
    if mode == TRIANGLES and len(indices) % 3:
        raise MeshFileError(f"{where} has {len(indices)} corners, which is no multiple of 3")
    if mode == TRIANGLES:
        return points, indices.reshape(-1, 3)
    return points, strip_triangles(indices) if mode == STRIP else fan_triangles(indices)


def _within(indices: np.ndarray, num_vertices: int, where: str) -> np.ndarray:
    if indices.size and not 0 <= indices.min() <= indices.max() < num_vertices:
        wrong = indices.max() if indices.min() >= 0 else indices.min()
        raise MeshFileError(f"{where} refers to vertex {wrong}, but there are {num_vertices} vertices")
    return indices


def _joint_transforms(
    document: Document, node: dict, primitive: dict, world: dict[int, np.ndarray]
) -> np.ndarray | None:
    """Transforms (n, 4, 4) of each vertex by the joints of its skin, as the nodes stand; None for a rigid primitive.

    Linear blend skinning as glTF 2.0 section 3.7.3 has it: the node's own transform plays no part.
    """
    attributes = primitive.get("attributes")
    if not isinstance(attributes, dict) or "JOINTS_0" not in attributes or "WEIGHTS_0" not in attributes:
        return None
    skin, where = document.item("skins", node["skin"]), f"skins[{node['skin']}]"
    joints = _list(skin, "joints", where)
    missing = [joint for joint in joints if not isinstance(joint, int) or joint not in world]
    if missing or not joints:
        what = f"the joint {missing[0]!r}, which is no node of the scene" if missing else "no joints"
        raise MeshFileError(f"{where} has {what}")
    matrices = np.stack([world[joint] for joint in joints])
    if "inverseBindMatrices" in skin:
        inverse = document.accessor(skin["inverseBindMatrices"], "MAT4").astype(np.float64)
        if len(inverse) < len(joints):
            raise MeshFileError(f"{where} has {len(inverse)} inverse bind matrices for {len(joints)} joints")
        matrices = matrices @ inverse[: len(joints)].reshape(-1, 4, 4).transpose(0, 2, 1)
    return _blended(document, attributes, matrices, where)


def _blended(document: Document, attributes: dict, matrices: np.ndarray, where: str) -> np.ndarray:
    """The weighted mean (n, 4, 4) of the joint matrices of each vertex."""
    total, weight = 0.0, 0.0
    for i in range(2):
        if f"JOINTS_{i}" in attributes and f"WEIGHTS_{i}" in attributes:
            joints = document.accessor(attributes[f"JOINTS_{i}"], "VEC4")
            weights = document.accessor(attributes[f"WEIGHTS_{i}"], "VEC4").astype(np.float64)
            if len(joints) != len(weights) or joints.dtype.kind != "u" or joints.max(initial=0) >= len(matrices):
                raise MeshFileError(f"{where} has {len(matrices)} joints, the vertices refer to others")
            for j in range(4):
                total = total + weights[:, j, None, None] * matrices[joints[:, j]]
            weight = weight + weights.sum(axis=1)
    positions = document.accessor(attributes["POSITION"], "VEC3")
    if np.shape(weight) != (len(positions),) or not (np.asarray(weight) > 0).all():
        raise MeshFileError(f"{where} leaves vertices without a weight")
    return total / np.asarray(weight)[:, None, None]


def _list(entry: dict, key: str, where: str) -> list:
    value: Any = entry.get(key, [])
    if not isinstance(value, list):
        raise MeshFileError(f"{where}.{key} is not a list")
    return value


def _numbers(node: dict, key: str, count: int, where: str) -> np.ndarray:
    values = node[key]
    good = isinstance(values, list) and all(isinstance(v, int | float) and abs(v) < 1e300 for v in values)
    if not good or len(values) != count:
        raise MeshFileError(f"{where}.{key} is not {count} finite numbers")
    return np.array(values, dtype=np.float64)
