"""Damaged and hostile files give a valid mesh or a `MeshFileError` that names the file, and nothing else."""

import struct

import numpy as np
import pytest
from damage import assert_bounded, outcome

from meshgpt.errors import MeshFileError, MeshLimitError
from meshgpt.mesh.files import FORMATS, ReadLimits, read_mesh, write_mesh
from meshgpt.mesh.mesh import Mesh

CUBE = Mesh(
    np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], dtype=float),
    np.array([[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, -1], [1, 7, 3, -1]]),
)


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    """One cube in each format, as `write_mesh` writes it, and a few more ways to write them."""
    folder = tmp_path_factory.mktemp("valid")
    files = {kind: write_mesh(CUBE, folder / f"cube.{kind}").read_bytes() for kind in FORMATS}
    return {**files, "ascii.ply": ascii_ply(), "ascii.stl": ascii_stl()}


def ascii_ply() -> bytes:
    header = ["ply", "format ascii 1.0", "element vertex 8", *(f"property float {axis}" for axis in "xyz")]
    header += ["element face 7", "property list uchar int vertex_index", "end_header"]
    rows = [" ".join(map(str, row)) for row in CUBE.vertices.tolist()]
    faces = [[corner for corner in face if corner >= 0] for face in CUBE.faces.tolist()]
    rows += [" ".join(map(str, (len(face), *face))) for face in faces]
    return "\n".join(header + rows).encode() + b"\n"


def ascii_stl() -> bytes:
    lines = ["solid cube"]
    for triangle in CUBE.triangulated().vertices[CUBE.triangulated().faces].tolist():
        lines += ["facet normal 0 0 0", " outer loop", *(f"  vertex {x} {y} {z}" for x, y, z in triangle)]
        lines += [" endloop", "endfacet"]
    return "\n".join([*lines, "endsolid cube", ""]).encode()


def random_damage(data: bytes, count: int, seed: int):
    """Copies with bytes flipped, overwritten, cut out or doubled."""
    random = np.random.default_rng(seed)
    for i in range(count):
        at, length = int(random.integers(len(data))), int(random.integers(1, 9))
        noise = random.integers(0, 256, length, dtype=np.uint8).tobytes()
        bit = bytes([data[at] ^ (1 << int(random.integers(8)))])
        middle = (bit + data[at + 1 : at + length], noise, b"", data[at : at + length] * 3)[i % 4]
        yield data[:at] + middle + data[at + length :]


@pytest.mark.parametrize("kind", [*FORMATS, "ascii.ply", "ascii.stl"])
def test_a_file_cut_anywhere_is_refused_or_a_mesh(valid, kind):
    data = valid[kind]
    cases = [data[:length] for length in np.linspace(0, len(data) - 1, 60).astype(int)]
    outcomes = assert_bounded(cases, file_type=kind[-3:] if kind != "gltf" else kind)
    if kind in ("glb", "gltf", "stl", "ply", "ascii.stl", "off"):
        assert (
            outcomes.count("refused") >= 58
        )  # an OBJ file that ends early is whole; an ASCII file may lack its last \n
    assert outcome(data) == "mesh"


@pytest.mark.parametrize("kind", [*FORMATS, "ascii.ply", "ascii.stl"])
def test_random_damage_is_refused_or_a_mesh(valid, kind):
    outcomes = assert_bounded(random_damage(valid[kind], 120, seed=len(kind)))
    assert "refused" in outcomes


@pytest.mark.parametrize("kind", ["obj", "off", "ascii.ply", "ascii.stl", "gltf"])
@pytest.mark.parametrize(
    "word", ["nan", "-inf", "1e308", "1e999", "-1", "0", "8", "9223372036854775808", "1.5", "x", ""]
)
def test_any_number_of_a_text_may_be_anything(valid, kind, word):
    words = valid[kind].replace(b",", b" , ").replace(b":", b" : ").split(b" ")
    numbers = [i for i, text in enumerate(words) if text.strip().strip(b"]}").replace(b".", b"").isdigit()]
    picked = numbers[:: max(1, len(numbers) // 5)]
    assert_bounded(b" ".join([*words[:i], word.encode(), *words[i + 1 :]]) for i in picked)


@pytest.mark.parametrize("kind", ["glb", "stl", "ply"])
@pytest.mark.parametrize("bits", [0x7FC00000, 0xFF800000, 0x7F7FFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0])
def test_any_four_bytes_of_a_binary_file_may_be_anything(valid, kind, bits):
    data = valid[kind]
    places = range(0, len(data) - 3, 4 * max(1, len(data) // 4 // 12))
    assert_bounded(data[:at] + struct.pack("<I", bits) + data[at + 4 :] for at in places)


@pytest.mark.parametrize("count", [0, 1, 7, 9, 1000, 2**31 - 1, 2**32 - 1, 2**63, 10**30, -1])
def test_a_count_that_the_bytes_do_not_hold_is_refused_before_memory_is_asked_for(valid, count):
    number = str(count).encode()
    cases = [valid[kind].replace(b"element vertex 8", b"element vertex " + number) for kind in ("ply", "ascii.ply")]
    cases += [valid[kind].replace(b"element face 7", b"element face " + number) for kind in ("ply", "ascii.ply")]
    cases += [valid["off"].replace(b"8 7 0", number + b" 7 0"), valid["off"].replace(b"8 7 0", b"8 " + number + b" 0")]
    cases += [valid["gltf"].replace(b'"count":8', b'"count":' + number)]
    cases += [valid["gltf"].replace(b'"byteLength":', b'"byteLength":%d,"was":' % count)]
    if 0 <= count < 2**32:
        cases += [valid["stl"][:80] + struct.pack("<I", count) + valid["stl"][84:]]
        cases += [valid["glb"][:8] + struct.pack("<I", count) + valid["glb"][12:]]
    outcomes = assert_bounded(cases)
    if count > 9:
        assert set(outcomes) == {"refused"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("v 0 0\nf 1 1 1", r"line 1 \('v 0 0'\) has 2 coordinates"),
        ("v 0 0 x\nf 1 1 1", "line 1 holds what is not a number"),
        ("v 0 0 0\nf 1 1", r"line 2 \('f 1 1'\) has 2 corners"),
        ("v 0 0 0\nf 1 1 a", "not a whole number"),
        ("v 0 0 0\nf 1 1 0", "refers to vertex 0; indices count from 1"),
        ("v 0 0 0\nf 1 1 -2", "refers to vertex -2"),
        ("v 0 0 0\nf 1 1 99999999999999999999", "refers to vertex 99999999999999999999"),
        ("v 0 0 0\nf 1 1 4", "face 0 refers to vertex 3, but there are 1 vertices"),
        ("v 0 0 0\nv nan 0 0\nf 1 1 2", "vertex 1 is .*must be finite"),
        ("v 0 0 0\nv 1e12 0 0\nf 1 1 2", "beyond 1e.09"),
        ("v 0 0 0\nf 1 1 1", "fewer than 3 different corners"),
        ("v 0 0 0\nv 1 0 0", "2 points but no faces"),
        ("o nothing\ng f 1 2 3", "no geometry"),
    ],
)
def test_an_obj_says_which_line_is_wrong(text, says):
    with pytest.raises(MeshFileError, match=says):
        read_mesh(text.encode())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("OFF", "counts of vertices and faces are missing"),
        ("OFF BINARY\n1 1 1", "binary OFF"),
        ("4OFF\n1 1 1", "only three dimensions"),
        ("OFF\n3 x 0\n", "the line of counts holds"),
        ("OFF\n3 1 0\n0 0 0\n0 0 0\n", "3 vertices, the file ends after 2|cannot hold"),
        ("OFF\n3 1 0\n0 0 0\n0 0 0\n" + "#" * 99, "3 vertices, the file ends after 2"),
        ("OFF\n1 2 0\n0 0 0\n3 0 0 0\n" + "#" * 99, "2 faces, the file ends after 1"),
        ("OFF\n1 1 0\n0 0\n3 0 0 0\n", "vertex 0 .* has 2 coordinates"),
        ("OFF\n1 1 0\n0 0 0\n3 0 0 \n", "should list 3 corners and has 2"),
        ("OFF\n1 1 0\n0 0 0\n2 0 0\n0 0 0 0 0", "face 0 has 2 corners"),
        (f"OFF\n1 1 0\n0 0 0\n3 0 0 {2**63}", "a vertex that no file can hold"),
    ],
)
def test_an_off_says_which_row_is_wrong(text, says):
    with pytest.raises(MeshFileError, match=says):
        read_mesh(text.encode())


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        (b"end_header", b"end", "no end_header line"),
        (b"ascii", b"ebcdic", "names no format that is known"),
        (b"element face", b"elephant face", "'elephant face 7' is not understood"),
        (b"list uchar int", b"list uchar", "is not understood"),
        (b"list uchar int", b"list uchar thing", "is not understood"),
        (b"vertex 8", b"vertex eight", "not a whole number"),
        (b"float y", b"float why", "no property y"),
        (b"vertex_index", b"corners", "no list property vertex_indices"),
        (b"4 0 1", b"4.5 0 1", "the length 4.5"),
        (b"4 0 1", b"4 0.5 1", "not a whole number"),
        (b"4 0 1", b"-4 0 1", "the length -4"),
        (b"0.0 1.0 0.0", b"0.0 one 0.0", "not a number"),
        (b"element vertex 8", b"element vertex 9", "the data ends before"),
    ],
)
def test_a_ply_says_what_is_wrong(before, after, says):
    with pytest.raises(MeshFileError, match=says):
        read_mesh(ascii_ply().replace(before, after, 1))


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("endfacet", "", "is not closed after 3 vertices"),
        ("  vertex 0.0 0.0 0.0\n", "", "is not closed after 3 vertices"),
        ("vertex 0.0 0.0 0.0", "vertex 0.0 0.0", "has 2 coordinates of 3"),
        ("vertex 0.0 0.0 0.0", "vertex 0.0 0.0 x", "not a number"),
        ("endsolid", "end", "cut off"),
    ],
)
def test_an_ascii_stl_says_what_is_wrong(before, after, says):
    with pytest.raises(MeshFileError, match=says):
        read_mesh(ascii_stl().decode().replace(before, after, 1).encode())


def test_vertices_outside_facets_and_lists_beyond_the_data_are_cut_off_files(valid):
    with pytest.raises(MeshFileError, match="holds 1 vertices, which is no multiple of 3"):
        read_mesh(b"solid\nvertex 0 0 0\nendsolid\n")
    start = valid["ply"].index(b"end_header") + 11 + 8 * 12
    with pytest.raises(MeshFileError, match="7 face rows, but the data ends before"):
        read_mesh(valid["ply"][:start] + b"\xff" + valid["ply"][start + 1 :])


def test_a_binary_stl_of_the_wrong_length_says_both_numbers(valid):
    with pytest.raises(MeshFileError, match="12 triangles, 684 bytes in all, but there are 600"):
        read_mesh(valid["stl"][:600], file_type="stl")
    with pytest.raises(MeshFileError, match="is 50 bytes long"):
        read_mesh(b"\1" * 50, file_type="stl")


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        (ReadLimits(max_bytes=100), "bytes where 100 are allowed; raise ReadLimits.max_bytes"),
        (ReadLimits(max_vertices=7), "vertices where 7 are allowed"),
        (ReadLimits(max_faces=6), "faces where 6 are allowed"),
        (ReadLimits(max_polygon=3), "4 corners where 3 are allowed|bytes"),
        (ReadLimits(max_coordinate=0.5), "beyond 0.5"),
    ],
)
def test_each_limit_is_enforced_in_every_format(valid, limits, says):
    for kind, data in valid.items():
        if limits.max_polygon == 3 and kind in ("glb", "gltf", "stl", "ascii.stl"):
            continue  # these hold triangles only
        with pytest.raises(MeshLimitError, match=says):
            read_mesh(data, limits=limits)


def test_the_extension_counts_where_the_content_does_not_tell(tmp_path):
    for name, says in (("a.STL", "the header says"), ("a.ply", "no end_header"), ("a.glb", "JSON"), ("a.off", "OFF")):
        (tmp_path / name).write_bytes(b"\1" * 100)
        with pytest.raises(MeshFileError, match=f"{name}: .*{says}"):
            read_mesh(tmp_path / name)


def test_a_word_without_end_is_quoted_in_part():
    header = "element vertex 9\nproperty float x\nproperty float y\nproperty float z\nend_header\n"
    with pytest.raises(MeshFileError, match="not a number") as caught:
        read_mesh(b"ply\nformat ascii 1.0\n" + header.encode() + b"x" * 10_000_000)
    assert len(str(caught.value)) < 200


def test_archives_are_not_opened(tmp_path):
    import gzip
    import io
    import zipfile

    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cube.obj", b"v 0 0 0\n" * 1_000_000)
    for data, kind in ((bomb.getvalue(), "zip"), (gzip.compress(b"v 0 0 0\n" * 1000), "gzip")):
        path = tmp_path / "cube.obj"
        path.write_bytes(data)
        with pytest.raises(MeshFileError, match=f"cube.obj: is a {kind} archive; unpack it"):
            read_mesh(path)


def test_what_is_no_mesh_at_all_is_refused(tmp_path):
    for data in (b"", b" \n\t", b"\0" * 50, b"hello", b"\x89PNG\r\n", bytes(range(256)) * 40):
        assert outcome(data) == "refused"
    with pytest.raises(MeshFileError, match="gone.glb: cannot be opened"):
        read_mesh(tmp_path / "gone.glb")
    with pytest.raises(MeshFileError, match="is not a file"):
        read_mesh(tmp_path)
    with pytest.raises(MeshFileError, match="is a int, a path, bytes or an open file"):
        read_mesh(3)
    with pytest.raises(MeshFileError, match="up is 'w'"):
        read_mesh(b"x", up="w")
    with pytest.raises(MeshFileError, match="file_type is 'dae'"):
        read_mesh(b"x", file_type="dae")


@pytest.mark.parametrize("raised", [MemoryError("no"), RecursionError("no"), KeyError("no"), struct.error("no")])
def test_what_no_check_foresaw_is_still_a_mesh_file_error(monkeypatch, raised):
    def explode(*_):
        raise raised

    monkeypatch.setattr("meshgpt.mesh.files.read_obj", explode)
    with pytest.raises(MeshFileError, match=f"is damaged .{type(raised).__name__}") as caught:
        read_mesh(b"v 0 0 0")
    assert caught.value.__cause__ is raised


def test_the_material_library_of_an_obj_is_never_opened(tmp_path, monkeypatch):
    path = write_mesh(CUBE, tmp_path / "cube.obj")
    path.write_bytes(b"mtllib ../../etc/passwd\nmtllib /dev/zero\n" + path.read_bytes())
    assert read_mesh(path).num_faces == 12
