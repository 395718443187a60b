"""Meshes come back from every format as they were written, and from other people's files as they were meant."""

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest

from meshgpt.errors import MeshFileError
from meshgpt.mesh.files import FORMATS, read_mesh, write_mesh
from meshgpt.mesh.mesh import Mesh

SAMPLES = Path(__file__).parent / "files"
QUAD_FORMATS = ("obj", "ply", "off")
CUBE = Mesh(
    np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], dtype=float),
    np.array([[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, -1], [1, 7, 3, -1]]),
)


def volume(mesh: Mesh) -> float:
    """Signed volume: positive where the faces are wound counter-clockwise seen from outside."""
    a, b, c = (mesh.triangulated().vertices[mesh.triangulated().faces[:, i]] for i in range(3))
    return float(np.einsum("ij,ij->", a, np.cross(b, c)) / 6)


def assert_same(read: Mesh, written: Mesh) -> None:
    assert np.array_equal(read.vertices, written.vertices)
    assert np.array_equal(read.faces, written.faces)


@pytest.mark.parametrize("kind", FORMATS)
def test_real_meshes_come_back_exactly_from_every_format(kind, tiny_meshes, tmp_path):
    for mesh in tiny_meshes[::4]:
        mesh = Mesh(mesh.vertices.astype(np.float32), mesh.faces)  # what glb, gltf and stl can hold
        assert_same(read_mesh(write_mesh(mesh, tmp_path / f"a.{kind}")), mesh.cleaned())


@pytest.mark.parametrize("kind", FORMATS)
def test_quads_stay_quads_where_the_format_has_them(kind, tmp_path):
    path = write_mesh(CUBE, tmp_path / f"cube.{kind}")
    read, cut = read_mesh(path, quads=True), read_mesh(path)
    assert volume(read) == volume(cut) == pytest.approx(1)
    assert cut.corners == 3 and cut.num_faces == 12
    if kind in QUAD_FORMATS:
        assert_same(read, CUBE.cleaned())
    else:
        assert read.corners == 4 and read.num_faces == 12 and (read.faces[:, 3] == -1).all()


@pytest.mark.parametrize("kind", FORMATS)
def test_a_concave_quad_is_written_as_triangles_inside_it(kind, tmp_path):
    dart = Mesh(np.array([[0, 0, 0], [2, -1, 0], [0.5, 0, 0], [2, 1, 0]]), np.array([[0, 1, 2, 3]]))
    mesh = read_mesh(write_mesh(dart, tmp_path / f"dart.{kind}"))
    assert mesh.num_faces == 2 and mesh.face_areas.sum() == pytest.approx(0.5)


@pytest.mark.parametrize("kind", QUAD_FORMATS)
def test_full_precision_is_kept_in_text_and_ply(kind, tmp_path):
    mesh = Mesh(CUBE.vertices * np.pi + 1 / 3, CUBE.faces)
    assert_same(read_mesh(write_mesh(mesh, tmp_path / f"a.{kind}"), quads=True), mesh.cleaned())


@pytest.mark.parametrize("kind", FORMATS)
def test_without_merging_the_vertices_of_the_file_are_kept_in_order(kind, tmp_path):
    doubled = Mesh(np.concatenate((CUBE.vertices, CUBE.vertices[:1], [[5, 5, 5]])), CUBE.triangulated().faces)
    path = write_mesh(doubled, tmp_path / f"a.{kind}")
    kept = read_mesh(path, merge=False)
    if kind in QUAD_FORMATS:
        assert_same(kept, doubled)
    elif kind == "stl":
        assert kept.num_vertices == 36
    assert kept.num_faces == 12 and read_mesh(path).num_vertices == 8


def test_vertices_that_differ_by_rounding_only_become_one_and_others_do_not():
    random = np.random.default_rng(0)
    corners = CUBE.triangulated().vertices[CUBE.triangulated().faces].reshape(-1, 3)
    soup = Mesh(corners + random.uniform(-2e-7, 2e-7, corners.shape), np.arange(36).reshape(-1, 3))
    lines = [f"v {x!r} {y!r} {z!r}" for x, y, z in soup.vertices.tolist()]
    text = "\n".join([*lines, *(f"f {i} {i + 1} {i + 2}" for i in range(1, 36, 3))]).encode()
    mesh = read_mesh(text)
    assert (mesh.num_vertices, mesh.num_faces) == (8, 12)
    assert {tuple(vertex) for vertex in mesh.vertices} <= {tuple(vertex) for vertex in soup.vertices}
    assert read_mesh(text, merge=False).num_vertices == 36
    near = "v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0.00001 0\nf 1 2 3\nf 4 2 3\n"
    assert read_mesh(near.encode()).num_vertices == 4


def test_vertices_so_dense_that_all_have_near_neighbours_are_not_drawn_together():
    x = np.linspace(0, 1, 3000)[:, None] * 1e-3
    strip = np.concatenate((np.pad(x, ((0, 0), (0, 2))), np.pad(x, ((0, 0), (0, 2))) + [0, 1, 0]))
    i = np.arange(2999)
    faces = np.concatenate((np.stack((i, i + 1, i + 3000), 1), np.stack((i + 1, i + 3001, i + 3000), 1)))
    rows = [f"v {x!r} {y!r} {z!r}" for x, y, z in strip.tolist()] + [
        f"f {a} {b} {c}" for a, b, c in (faces + 1).tolist()
    ]
    mesh = read_mesh("\n".join(rows).encode())
    assert (mesh.num_vertices, mesh.num_faces) == (6000, 5998)


@pytest.mark.parametrize("kind", FORMATS)
def test_metadata_travels_in_the_file(kind, tmp_path):
    metadata = {"seed": 7, "prompt": "a chair\nv 9 9 9 \u00e9", "nested": {"a": [1, None]}}
    path = write_mesh(CUBE, tmp_path / f"a.{kind}", metadata=metadata)
    assert volume(read_mesh(path)) == pytest.approx(1)
    data = path.read_bytes()
    if kind == "gltf":
        assert json.loads(data)["scenes"][0]["extras"] == metadata
    elif kind == "glb":
        assert json.loads(data[20 : 20 + int.from_bytes(data[12:16], "little")])["scenes"][0]["extras"] == metadata
    elif kind != "stl":
        assert b'"seed": 7\n' in data and b'"prompt": "a chair\\nv 9 9 9 \\u00e9"\n' in data


@pytest.mark.parametrize("up", ["x", "y", "z", "-x", "-y", "-z"])
def test_the_up_axis_becomes_y_by_a_turn_and_not_by_a_mirror(up, tmp_path):
    corner = Mesh(
        np.array([[0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 3]], float), [[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]]
    )
    axis = "xyz".index(up[-1])
    sign = -1 if up[0] == "-" else 1
    read = read_mesh(write_mesh(corner, tmp_path / "a.ply"), up=up)
    assert volume(read) == pytest.approx(volume(corner)) == 1
    top = read.vertices[np.abs(read.vertices[:, 1]).argmax()]
    assert top.tolist() == [0, sign * (axis + 1), 0]


@pytest.mark.parametrize("kind", FORMATS)
def test_the_content_decides_the_format_and_not_the_name(kind, tmp_path):
    data = write_mesh(CUBE, tmp_path / f"a.{kind}").read_bytes()
    for name in ("a.obj", "a.STL", "a", "a.glb.txt", f"B.{kind.upper()}"):
        (tmp_path / name).write_bytes(data)
        assert read_mesh(tmp_path / name).num_faces == 12


@pytest.mark.parametrize("kind", FORMATS)
def test_bytes_open_files_and_paths_as_text_are_read_alike(kind, tmp_path):
    path = write_mesh(CUBE, str(tmp_path / f"a.{kind}"))
    data = path.read_bytes()
    for source in (str(path), data, bytearray(data), memoryview(data), io.BytesIO(data)):
        assert read_mesh(source).num_faces == 12
    with path.open("rb") as file:
        assert read_mesh(file, file_type="." + kind.upper()).num_faces == 12
    if kind in ("obj", "off", "gltf"):
        with path.open() as file:
            assert read_mesh(file).num_faces == 12


def test_a_file_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    path = write_mesh(CUBE, tmp_path / "a.obj")
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MeshFileError, match="a.obj: cannot be written .No space left on device"):
        write_mesh(Mesh(CUBE.vertices * 2, CUBE.faces), path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a.obj"]


@pytest.mark.parametrize(
    ("name", "mesh", "metadata", "says"),
    [
        ("a.dae", CUBE, None, "its extension is none of obj"),
        ("a", CUBE, None, "its extension is none of obj"),
        ("a.obj", Mesh(CUBE.vertices, CUBE.faces[:0]), None, "the mesh has no faces"),
        ("gone/a.obj", CUBE, None, "No such file or directory"),
        ("a.glb", Mesh(CUBE.vertices * 1e200, CUBE.faces), None, "exceeds float32; use ply"),
        ("a.glb", CUBE, {"a": {1, 2}}, "its metadata is not JSON"),
        ("a.glb", CUBE, {"a": float("nan")}, "its metadata is not JSON"),
    ],
)
def test_what_cannot_be_written_says_why(name, mesh, metadata, says, tmp_path):
    with pytest.raises(MeshFileError, match=says):
        write_mesh(mesh, tmp_path / name, metadata=metadata)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "vertices", "triangles", "faces_with_quads", "quads", "area"),
    [
        ("kaykit_chair_quads.obj", 175, 294, 174, 120, 5.116128),
        ("kaykit_hex_6gons.obj", 12, 20, 14, 6, 13.856402),
        ("kaykit_rock_8gon.obj", 121, 223, 134, 89, 31.95096),
        ("kaykit_pencil_12gon.obj", 157, 310, 166, 144, 0.5792983),
        ("kenney_tree.stl", 126, 280, 280, 0, 6.949716),
        ("quaternius_floor_open.glb", 260, 201, 201, 0, 6.050961),
        ("basemesh_push_pin_1cm.glb", 103, 188, 188, 0, 8.925891e-05),
        ("Barrel_A.gltf", 194, 384, 384, 0, 4.811598),
    ],
)
def test_real_files_have_the_faces_and_the_area_they_should(name, vertices, triangles, faces_with_quads, quads, area):
    mesh, kept = read_mesh(SAMPLES / name), read_mesh(SAMPLES / name, quads=True)
    assert (mesh.num_vertices, mesh.num_faces) == (vertices, triangles)
    assert (kept.num_faces, (kept.faces[:, 3] >= 0).sum()) == (faces_with_quads, quads)
    assert mesh.face_areas.sum() == pytest.approx(area, rel=1e-5)


def obj(text: str, **options) -> Mesh:
    return read_mesh(text.encode(), **options)


TRIANGLE = "v 0 0 0\nv 1 0 0\nv 0 1 0\n"


@pytest.mark.parametrize(
    "face",
    [
        "1 2 3",
        "1/1 2/2 3/3",
        "1/1/1 2/2/2 3/3/3",
        "1//1 2//2 3//3",
        "1// 2// 3//",
        "-3 -2 -1",
        "-3/-1 -2/9 -1/",
        "1 2 3 # 4",
        "\t1   2\t3  ",
    ],
)
def test_every_way_to_write_an_obj_face_is_understood(face):
    mesh = obj(TRIANGLE + "vt 0 0\nvn 0 0 1\nf " + face)
    assert mesh.num_faces == 1 and mesh.face_normals[0].tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    "text",
    [
        TRIANGLE.replace("\n", "\r\n") + "f 1 2 3\r\n",
        TRIANGLE.replace("\n", "\r") + "f 1 2 3",
        "\ufeff" + TRIANGLE + "f 1 2 3",
        TRIANGLE + "f 1 \\\n2 3",
        TRIANGLE + "f 1 \\\r\n2 3",
        "mtllib gone.mtl\nusemtl f\n" + TRIANGLE + "f 1 2 3",
        "g f 1 2 9\no v 9 9 9\ns off\n" + TRIANGLE + "f 1 2 3\nl 1 2\np 1\nvp 1 1\ncurv 0 1 1 2",
        TRIANGLE.replace("0\n", "0 nan nan nan\n") + "f 1 2 3",
        TRIANGLE.replace("0\n", "0 1.0\n") + "f 1 2 3",
        "f 1 2 3\n" + TRIANGLE,
        "# v 9 9 9\n\n  " + TRIANGLE + "\n  f 1 2 3\nf 1 1 2",
    ],
)
def test_what_else_an_obj_may_hold_does_not_matter(text):
    mesh = obj(text)
    assert mesh.num_faces == 1 and mesh.face_areas.tolist() == [0.5]


def test_negative_indices_count_from_the_vertices_so_far():
    mesh = obj(TRIANGLE + "f -3 -2 -1\n" + TRIANGLE.replace("0\n", "5\n") + "f -3 -2 -1\n")
    assert sorted(mesh.vertices[mesh.faces[:, 0], 2]) == [0, 5]


def test_two_objects_become_one_mesh_and_share_what_coincides():
    mesh = obj("o a\n" + TRIANGLE + "f 1 2 3\no b\n" + TRIANGLE.replace("v 0 0 0", "v 1 1 0") + "f 4 6 5\n")
    assert (mesh.num_vertices, mesh.num_faces) == (4, 2)


def test_a_concave_polygon_has_its_own_area_and_not_that_of_a_fan():
    outline = "v 0 0 0\nv 2 0 0\nv 2 1 0\nv 1 1 0\nv 1 2.5 0\nv 0 2.5 0\n"
    for order in ("1 2 3 4 5 6", "3 4 5 6 1 2", "6 5 4 3 2 1"):
        mesh = obj(outline + "f " + order)
        assert mesh.num_faces == 4 and mesh.face_areas.sum() == pytest.approx(3.5)
        assert (mesh.face_normals[:, 2] == (-1 if order[0] == "6" else 1)).all()


PLY_VERTICES = "element vertex 4\nproperty float x\nproperty float y\nproperty float z\n"


def ply(header: str, body: bytes, form: str = "ascii") -> Mesh:
    return read_mesh(f"ply\nformat {form} 1.0\ncomment f 1 2\n{header}end_header\n".encode() + body, quads=True)


@pytest.mark.parametrize(("form", "order"), [("binary_little_endian", "<"), ("binary_big_endian", ">")])
@pytest.mark.parametrize("sizes", [(4,), (3, 3), (4, 3), (3, 4, 3)])
def test_binary_ply_of_both_byte_orders_with_other_properties_is_read(form, order, sizes):
    header = "element vertex 4\nproperty uchar red\nproperty double x\nproperty short y\nproperty float z\n"
    header += f"element edge 1\nproperty int a\nelement face {len(sizes)}\nproperty uchar flags\n"
    header += "property list uchar float texcoord\nproperty list ushort uint vertex_indices\nproperty float quality\n"
    rows = [(0, 0, 0, 0), (0, 1, 0, 0), (0, 1, 1, 0), (0, 0, 1, 0)]
    vertex = np.dtype([("red", "u1"), ("x", order + "f8"), ("y", order + "i2"), ("z", order + "f4")])
    body = np.array(rows, vertex).tobytes() + np.array([5], order + "i4").tobytes()
    for size in sizes:
        body += b"\1\2" + np.array([0.5, 0.5], order + "f4").tobytes() + np.array([size], order + "u2").tobytes()
        body += np.roll(np.arange(4), -sizes.index(size))[:size].astype(order + "u4").tobytes() + bytes(4)
    mesh = ply(header, body, form)
    assert mesh.face_areas.sum() == pytest.approx(sum({3: 0.5, 4: 1}[size] for size in set(sizes)))


def test_ascii_ply_may_have_other_elements_lists_and_line_ends():
    header = PLY_VERTICES + "property list uchar int extra\nelement face 1\nproperty list uchar int vertex_index\n"
    rows = b"0 0 0 0\r\n1 0 0 2 7 7\r\n1 1 0 0 0 1 0 1 9\r\n4 0 1 2 3"
    assert ply(header.replace("\n", "\r\n"), rows).face_areas.tolist() == [1]


@pytest.mark.parametrize("chunk", [1, 2, 7, 1000])
def test_text_is_read_in_pieces_that_never_cut_a_number(chunk, monkeypatch):
    monkeypatch.setattr("meshgpt.mesh._text.CHUNK", chunk)
    header = PLY_VERTICES + "element face 1\nproperty list uchar int vertex_index\n"
    mesh = ply(header, b"  0 0 0\n1.5 0 0\n1.50 1.25 0\n\n0 1.25 0 4 0 1 2 3  ")
    assert mesh.face_areas.tolist() == [1.875]


def test_ply_strips_are_cut_into_triangles_wound_one_way():
    header = PLY_VERTICES + "element tristrips 1\nproperty list int int vertex_indices\n"
    mesh = ply(header, b"0 0 0 1 0 0 0 1 0 1 1 0 9 0 1 2 3 -1 0 1 2 -1")
    assert mesh.num_faces == 2 and mesh.face_normals[:, 2].tolist() == [1, 1]


@pytest.mark.parametrize("head", [b"solid cube", b"\0", b"solid \xff"])
def test_a_binary_stl_may_begin_with_any_header(head, tmp_path):
    data = write_mesh(CUBE, tmp_path / "a.stl").read_bytes()
    assert read_mesh(head.ljust(80) + data[80:]).num_faces == 12


def test_an_ascii_stl_may_hold_several_solids_in_any_case():
    facet = (
        "  Facet Normal 0 0 1\n outer loop\n VERTEX 0 0 {z}\n vertex 1E0 0 {z}\n\tvertex 0 1 {z}\n endloop\n ENDFACET\n"
    )
    names = ("vertex facet", "Endsolid")
    text = "".join(f"SOLID {name}\n{facet.format(z=z)}endsolid {name}\n" for z, name in enumerate(names))
    mesh = read_mesh(text.encode())
    assert (mesh.num_faces, mesh.num_vertices) == (2, 6)


@pytest.mark.parametrize(
    "text",
    [
        "OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n",
        "OFF3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2",
        "off 3 1\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2",
        "COFF\n3 1 0\n0 0 0 255 0 0 1\n1 0 0 nan 0 0 1\n0 1 0 0 0 0 1\n3 0 1 2 1.0 0.5 0.2\n",
        "# a\nOFF # b\n\n3 1 0 # c\n0 0 0\n\n1 0 0 # d\n0 1 0\n#\n3 0 1 2 9\n",
        "STCNOFF\r\n3 1 0\r\n0 0 0 1 1\r\n1 0 0\r\n0 1 0\r\n3 0 1 2\r\n",
    ],
)
def test_off_has_many_first_words_and_trailing_colours(text):
    mesh = read_mesh(text.encode(), file_type="off" if text[0] == "#" else None)
    assert mesh.face_areas.tolist() == [0.5]
