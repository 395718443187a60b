"""A glTF scene becomes the mesh that a viewer shows: transforms, skins, strips, sparse and interleaved data."""

import base64
import json
import struct

import numpy as np
import pytest

from meshgpt.mesh.files import read_mesh
from meshgpt.mesh.mesh import Mesh

CORNER = np.array([[0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 3]], dtype="<f4")  # a tetrahedron of volume 1
FACES = np.array([0, 2, 1, 0, 1, 3, 0, 3, 2, 1, 2, 3], dtype="<u2")
TYPES = {"<f4": 5126, "<u2": 5123, "<u4": 5125, "|u1": 5121, "<i2": 5122, "|i1": 5120}
SHAPES = {(): "SCALAR", (3,): "VEC3", (4,): "VEC4", (4, 4): "MAT4"}
TURN = [np.sqrt(0.5), 0.0, 0.0, np.sqrt(0.5)]  # a quarter turn about x: y becomes z


def volume(mesh: Mesh) -> float:
    a, b, c = (mesh.vertices[mesh.faces[:, i]] for i in range(3))
    return float(np.einsum("ij,ij->", a, np.cross(b, c)) / 6)


class Builder:
    """A glTF document that grows by arrays."""

    def __init__(self, nodes=({"mesh": 0},), **entries):
        self.data = b""
        self.json = {
            "asset": {"version": "2.0"},
            "scenes": [{"nodes": [0]}],
            "nodes": list(nodes),
            "accessors": [],
            "bufferViews": [],
            **entries,
        }

    def view(self, array: np.ndarray, **entries) -> int:
        self.json["bufferViews"].append(
            {"buffer": 0, "byteOffset": len(self.data), "byteLength": array.nbytes, **entries}
        )
        self.data += array.tobytes().ljust((array.nbytes + 3) // 4 * 4, b"\0")
        return len(self.json["bufferViews"]) - 1

    def accessor(self, array: np.ndarray, **entries) -> int:
        form = {"componentType": TYPES[array.dtype.str], "type": SHAPES[array.shape[1:]], "count": len(array)}
        self.json["accessors"].append({"bufferView": self.view(array), **form, **entries})
        return len(self.json["accessors"]) - 1

    def primitive(self, indices=FACES, positions=CORNER, mode=None, **attributes) -> dict:
        arrays = {"POSITION": positions, **attributes}
        primitive = {"attributes": {name: self.accessor(array) for name, array in arrays.items()}}
        if indices is not None:
            primitive["indices"] = self.accessor(np.asarray(indices, "<u2"))
        return {**primitive, "mode": mode} if mode is not None else primitive

    def gltf(self, uri: str | None = None) -> bytes:
        uri = uri or "data:application/gltf-buffer;base64," + base64.b64encode(self.data).decode()
        return json.dumps({**self.json, "buffers": [{"byteLength": len(self.data), "uri": uri}]}).encode()

    def glb(self) -> bytes:
        text = json.dumps({**self.json, "buffers": [{"byteLength": len(self.data)}]}).encode()
        text = text.ljust((len(text) + 3) // 4 * 4)
        chunks = (
            struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(self.data), b"BIN\0") + self.data
        )
        return b"glTF" + struct.pack("<II", 2, 12 + len(chunks)) + chunks

    def mesh(self, **options) -> Mesh:
        """What is read, from both containers."""
        mesh, other = read_mesh(self.gltf(), **options), read_mesh(self.glb(), **options)
        assert np.array_equal(mesh.vertices, other.vertices) and np.array_equal(mesh.faces, other.faces)
        return mesh


def scene(nodes, **primitive) -> Mesh:
    """One tetrahedron (or primitive) as mesh 0 under the given nodes."""
    builder = Builder(nodes)
    builder.json["meshes"] = [{"primitives": [builder.primitive(**primitive)]}]
    return builder.mesh()


def test_translation_rotation_and_scale_act_in_this_order():
    mesh = scene([{"mesh": 0, "translation": [10, 0, 0], "rotation": TURN, "scale": [2, 1, 1]}])
    assert sorted(mesh.vertices.round(6).tolist()) == [[10, -3, 0], [10, 0, 0], [10, 0, 2], [12, 0, 0]]
    assert volume(mesh) == pytest.approx(2)


def test_a_matrix_is_read_column_by_column():
    matrix = [2, 0, 0, 0, 0, 0, 1, 0, 0, -1, 0, 0, 10, 0, 0, 1]  # the transform of the test above
    mesh = scene([{"mesh": 0, "matrix": matrix}])
    assert sorted(mesh.vertices.tolist()) == [[10, -3, 0], [10, 0, 0], [10, 0, 2], [12, 0, 0]]


def test_transforms_of_parents_act_after_those_of_children():
    nodes = [{"children": [1], "scale": [2, 2, 2]}, {"children": [2], "translation": [1, 0, 0]}, {"mesh": 0}]
    assert scene(nodes).bounds.tolist() == [[2, 0, 0], [4, 4, 6]]


@pytest.mark.parametrize(
    ("scales", "mirrored"), [([[-1, 1, 1]], True), ([[-1, -1, -1]], True), ([[-1, 1, 1], [1, -2, 1]], False)]
)
def test_a_mirrored_part_stays_right_side_out(scales, mirrored):
    nodes = [{"children": [i + 1], "scale": scale} for i, scale in enumerate(scales)] + [{"mesh": 0}]
    mesh = scene(nodes)
    assert volume(mesh) == pytest.approx(abs(np.prod(scales)))
    assert (np.prod(scales) < 0) == mirrored


def test_all_parts_of_a_scene_are_joined_and_a_mesh_may_be_used_twice():
    nodes = [{"children": [1, 2, 3]}, {"mesh": 0}, {"mesh": 0, "translation": [5, 0, 0]}, {"mesh": 1}]
    builder = Builder(nodes)
    far = builder.primitive(positions=CORNER + np.float32(20))
    builder.json["meshes"] = [{"primitives": [builder.primitive(), far]}, {"primitives": [builder.primitive()]}]
    mesh = builder.mesh()
    assert mesh.num_faces == 16 and volume(mesh) == pytest.approx(4, rel=1e-5)  # mesh 1 repeats the first part
    assert builder.mesh(merge=False).num_faces == 20


def test_only_the_default_scene_is_read_and_without_scenes_every_root():
    nodes = [{"mesh": 0}, {"mesh": 0, "translation": [5, 0, 0], "children": [2]}, {"mesh": 0, "translation": [1, 0, 0]}]
    for entries, low in (({"scene": 1}, 5), ({"scene": 0}, 0), ({}, 0), ({"scenes": []}, 0)):
        builder = Builder(nodes, **{"scenes": [{"nodes": [0]}, {"nodes": [1]}], **entries})
        builder.json["meshes"] = [{"primitives": [builder.primitive()]}]
        mesh = builder.mesh()
        assert mesh.bounds[0, 0] == low
        assert mesh.num_faces == (12 if entries.get("scenes") == [] else 8 if low else 4)


def test_strips_and_fans_become_triangles_wound_like_the_first():
    strip = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 2, 0]], dtype="<f4")
    fan = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], dtype="<f4")
    for points, mode, count in ((strip, 5, 3), (fan, 6, 2)):
        for indices in (None, np.arange(len(points))):
            mesh = scene([{"mesh": 0}], positions=points, indices=indices, mode=mode)
            assert mesh.num_faces == count and (mesh.face_normals[:, 2] == 1).all()
            assert mesh.face_areas.sum() == pytest.approx(count / 2)


def test_the_flat_triangles_that_join_strips_vanish():
    strip = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [5, 0, 0], [6, 0, 0], [5, 1, 0]], dtype="<f4")
    mesh = scene([{"mesh": 0}], positions=strip, indices=[0, 1, 2, 2, 3, 3, 4, 5], mode=5)
    assert mesh.num_faces == 2 and mesh.num_vertices == 6


def test_missing_indices_take_the_corners_in_order():
    mesh = scene([{"mesh": 0}], positions=CORNER[FACES.astype(int)], indices=None)
    assert mesh.num_vertices == 4 and volume(mesh) == pytest.approx(1)


@pytest.mark.parametrize("kind", ["|u1", "<u2", "<u4"])
def test_indices_of_every_size_are_read(kind):
    builder = Builder()
    primitive = {
        "attributes": {"POSITION": builder.accessor(CORNER)},
        "indices": builder.accessor(FACES.astype(kind)),
    }
    builder.json["meshes"] = [{"primitives": [primitive]}]
    assert volume(builder.mesh()) == pytest.approx(1)


def test_points_lines_and_morph_targets_are_left_out():
    builder = Builder()
    morphed = {**builder.primitive(), "targets": [{"POSITION": builder.accessor(CORNER * 9)}]}
    others = [builder.primitive(mode=mode, positions=CORNER + np.float32(50)) for mode in (0, 1, 2, 3)]
    builder.json["meshes"] = [{"primitives": [*others, morphed], "weights": [1.0]}]
    assert builder.mesh().bounds.tolist() == [[0, 0, 0], [1, 2, 3]]


def test_interleaved_attributes_are_read_with_their_stride():
    builder = Builder()
    rows = np.zeros(4, np.dtype([("normal", "<f4", 3), ("position", "<f4", 3), ("uv", "<f4", 2)]))
    rows["position"] = CORNER
    view = builder.view(rows, byteStride=32)
    form = {"bufferView": view, "byteOffset": 12, "componentType": 5126, "type": "VEC3", "count": 4}
    builder.json["accessors"].append(form)
    primitive = {"attributes": {"POSITION": 0}, "indices": builder.accessor(FACES)}
    builder.json["meshes"] = [{"primitives": [primitive]}]
    assert volume(builder.mesh()) == pytest.approx(1)


@pytest.mark.parametrize("based", [True, False])
def test_sparse_accessors_replace_some_values(based):
    builder = Builder()
    primitive = builder.primitive(positions=CORNER if based else CORNER * 0)
    places = np.array([1, 2, 3], dtype="|u1")
    sparse = {
        "count": 3,
        "indices": {"bufferView": builder.view(places), "componentType": 5121},
        "values": {"bufferView": builder.view(CORNER[1:] * 2)},
    }
    positions = builder.json["accessors"][0]
    positions["sparse"] = sparse
    if not based:
        del positions["bufferView"]
    builder.json["meshes"] = [{"primitives": [primitive]}]
    assert volume(builder.mesh()) == pytest.approx(8)


def test_quantized_positions_are_fractions_where_they_are_normalized():
    builder = Builder()
    primitive = builder.primitive(positions=(CORNER * 10000).astype("<i2"))
    builder.json["meshes"] = [{"primitives": [primitive]}]
    assert builder.mesh().bounds[1].tolist() == [10000, 20000, 30000]
    builder.json["accessors"][0]["normalized"] = True
    assert builder.mesh().bounds[1] == pytest.approx(np.array([1, 2, 3]) * 10000 / 32767)


def skinned(joint_nodes: list[dict], inverse: np.ndarray | None) -> Mesh:
    """The tetrahedron, vertex 3 on the second of two joints, the others on the first; its own node lies far away."""
    builder = Builder([{"children": [1, 2]}, {"mesh": 0, "skin": 0, "translation": [99, 0, 0]}, *joint_nodes])
    joints = np.array([[0, 0, 0, 0]] * 3 + [[1, 0, 0, 0]], dtype="|u1")
    weights = np.array([[2, 0, 0, 0]] * 4, dtype="<f4")  # not quite normalised, as some exporters write them
    primitive = builder.primitive(JOINTS_0=joints, WEIGHTS_0=weights)
    skin = {"joints": [2, 3]}
    if inverse is not None:
        skin["inverseBindMatrices"] = builder.accessor(inverse.astype("<f4"))
    builder.json |= {"meshes": [{"primitives": [primitive]}], "skins": [skin]}
    return builder.mesh()


def test_a_skin_in_its_rest_pose_moves_nothing_and_its_own_node_plays_no_part():
    shift = np.eye(4)
    shift[3, :3] = [-1, -2, -3]  # column by column, as glTF stores it
    nodes = [{"children": [3], "translation": [1, 2, 3]}, {}]
    assert skinned(nodes, np.stack((shift, shift))).bounds.tolist() == [[0, 0, 0], [1, 2, 3]]


def test_a_bent_joint_moves_its_vertices_only():
    mesh = skinned([{"children": [3]}, {"translation": [0, 0, 7]}], None)
    assert mesh.bounds.tolist() == [[0, 0, 0], [1, 2, 10]]


def test_a_skin_without_weights_is_rigid():
    builder = Builder([{"mesh": 0, "skin": 0, "translation": [5, 0, 0]}])
    builder.json |= {"meshes": [{"primitives": [builder.primitive()]}], "skins": [{"joints": [0]}]}
    assert builder.mesh().bounds[0, 0] == 5


@pytest.mark.parametrize("uri", ["part one.bin", "part%20one.bin", "./part%20one.bin", "sub/part.bin"])
def test_a_buffer_beside_the_file_or_below_it_is_read(uri, tmp_path, monkeypatch):
    builder = Builder()
    builder.json["meshes"] = [{"primitives": [builder.primitive()]}]
    (tmp_path / "sub").mkdir()
    for name in ("part one.bin", "sub/part.bin"):
        (tmp_path / name).write_bytes(builder.data)
    (tmp_path / "a.gltf").write_bytes(builder.gltf(uri))
    assert volume(read_mesh(tmp_path / "a.gltf")) == pytest.approx(1)
    monkeypatch.chdir(tmp_path)
    assert volume(read_mesh("a.gltf")) == pytest.approx(1)


def test_a_glb_may_have_other_chunks_and_bytes_after_its_end():
    builder = Builder()
    builder.json["meshes"] = [{"primitives": [builder.primitive()]}]
    data = builder.glb()
    extra = struct.pack("<I4s", 4, b"EXTR") + b"more"
    data = data[:8] + struct.pack("<I", len(data) + len(extra)) + data[12:] + extra
    assert volume(read_mesh(data + b"\0\0\0\0")) == pytest.approx(1)
