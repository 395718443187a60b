"""A damaged or hostile glTF file gives a valid mesh or a `MeshFileError` that says where it does not hang together."""

import base64
import json
import struct
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from damage import assert_bounded, outcome

from meshgpt.errors import MeshFileError, MeshLimitError
from meshgpt.mesh.files import ReadLimits, read_mesh


def gltf(**changes) -> bytes:
    """A triangle as .gltf with embedded buffer, some of its top-level entries replaced."""
    payload = np.eye(3, dtype="<f4").tobytes() + np.arange(3, dtype="<u2").tobytes() + b"\0\0"
    document = {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1}]}],
        "accessors": [
            {"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3"},
            {"bufferView": 1, "componentType": 5123, "count": 3, "type": "SCALAR"},
        ],
        "bufferViews": [
            {"buffer": 0, "byteLength": 36},
            {"buffer": 0, "byteOffset": 36, "byteLength": 6},
        ],
        "buffers": [
            {"byteLength": 44, "uri": "data:application/octet-stream;base64," + base64.b64encode(payload).decode()}
        ],
    }
    return json.dumps({**document, **changes}).encode()


def places(value, path=()):
    """The path of keys to every value of a JSON document."""
    yield path
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from places(value[key], (*path, key))


def test_every_value_of_a_gltf_may_be_of_any_kind():
    strange = [None, True, -1, 0, 1, 7, 2.5, 1e300, 10**400, "x", [], {}, [[]], [{}], [0], {"0": 0}, float("nan")]
    cases = []
    for path in places(json.loads(gltf())):
        for value in strange:
            root = {"": json.loads(gltf())}
            parent = root
            for key in ("", *path)[:-1]:
                parent = parent[key]
            parent[("", *path)[-1]] = value
            cases.append(json.dumps(root[""]).encode())
    assert len(cases) > 500
    outcomes = assert_bounded(cases)
    assert 0 < outcomes.count("mesh") < len(outcomes) / 2


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"asset": {"version": "1.0"}}, "asset.version '1.0'"),
        ({"asset": {}}, "asset.version None"),
        ({"scenes": 4}, "`scenes` is not a list"),
        ({"nodes": [{"mesh": 5}]}, r"refers to meshes\[5\], but there are 1"),
        ({"nodes": [5]}, r"nodes\[0\] is 5 and not an object"),
        ({"nodes": [{"children": [1]}, {"children": [0]}]}, "must form a tree"),
        ({"nodes": [{"children": [1, 1]}, {"mesh": 0}]}, "must form a tree"),
        ({"nodes": [{"children": 1}]}, "children is not a list"),
        ({"nodes": [{"mesh": 0, "scale": [1, 2]}]}, "scale is not 3 finite numbers"),
        ({"nodes": [{"mesh": 0, "matrix": [float("nan")] * 16}]}, "matrix is not 16 finite numbers"),
        ({"nodes": [{"mesh": 0, "extensions": {"EXT_mesh_gpu_instancing": {}}}]}, "EXT_mesh_gpu_instancing"),
        ({"nodes": [{}]}, "without any triangles"),
        ({"meshes": [{"primitives": [3]}]}, "a primitive that is not an object"),
        ({"meshes": [{"primitives": [{}]}]}, "a primitive without positions"),
        ({"meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "mode": 1}]}]}, "without any triangles"),
        ({"meshes": [{"primitives": [{"attributes": {"POSITION": 1}}]}]}, "VEC3 is needed"),
        ({"meshes": [{"primitives": [{"attributes": {"POSITION": 9}}]}]}, r"refers to accessors\[9\]"),
        ({"buffers": [{"byteLength": 44}]}, "neither a uri nor a binary chunk"),
        ({"buffers": [{"byteLength": 44, "uri": 5}]}, "which is not text"),
        ({"buffers": [{"byteLength": 44, "uri": "data:text/plain,abc"}]}, "not base64"),
        ({"buffers": [{"byteLength": 44, "uri": "data:x;base64,!!"}]}, "damaged base64"),
        ({"buffers": [{"byteLength": 44, "uri": "data:x;base64,AAAA"}]}, "44 bytes and holds 3"),
        ({"buffers": [{"byteLength": -1, "uri": "data:x;base64,AAAA"}]}, "byteLength is -1"),
    ],
)
def test_a_gltf_that_does_not_hang_together_says_why(changes, says):
    with pytest.raises(MeshFileError, match=says):
        read_mesh(gltf(**changes))


POSITIONS = {"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3"}
INDICES = {"bufferView": 1, "componentType": 5123, "count": 3, "type": "SCALAR"}


@pytest.mark.parametrize(
    ("positions", "indices", "says"),
    [
        ({"count": 4}, {}, r"accessors\[0\] says 4 values"),
        ({"count": 2}, {}, "refers to vertex 2, but there are 2"),
        ({"byteOffset": 4}, {}, r"accessors\[0\] says 3 values"),
        ({"bufferView": 7}, {}, r"refers to bufferViews\[7\]"),
        ({"bufferView": None}, {}, r"refers to bufferViews\[None\]"),
        ({"count": 2**40}, {}, "6000000 are allowed"),
        ({}, {"count": 2}, "no multiple of 3"),
        ({}, {"componentType": 5122}, "no unsigned whole numbers"),
        ({"sparse": {"count": 4, "indices": {}, "values": {}}}, {}, "replaces 4 of 3 values"),
        ({"sparse": {"count": 1}}, {}, "lacks its indices or values"),
        ({"sparse": {"count": 1, "indices": {"componentType": 5126}, "values": {}}}, {}, "indices of the type 5126"),
        ({"sparse": {"count": 1, "indices": {"componentType": 5123}, "values": {}}}, {}, "names no buffer view"),
        (
            {
                "sparse": {
                    "count": 1,
                    "indices": {"bufferView": 1, "byteOffset": 4, "componentType": 5121},
                    "values": {"bufferView": 0},
                },
                "count": 2,
            },
            {},
            "replaces value 2 of 2",
        ),
    ],
)
def test_an_accessor_that_leaves_its_bytes_says_where(positions, indices, says):
    with pytest.raises(MeshFileError, match=says):
        read_mesh(gltf(accessors=[{**POSITIONS, **positions}, {**INDICES, **indices}]))


def test_an_accessor_without_bytes_and_a_view_beyond_its_buffer_are_refused():
    bare = {key: value for key, value in POSITIONS.items() if key != "bufferView"}
    with pytest.raises(MeshFileError, match="names no buffer view"):
        read_mesh(gltf(accessors=[bare, INDICES]))
    with pytest.raises(MeshFileError, match="ends at byte 100 of a buffer of 44"):
        read_mesh(gltf(bufferViews=[{"buffer": 0, "byteOffset": 64, "byteLength": 36}, {"buffer": 0, "byteLength": 6}]))


def test_compressed_gltf_names_its_compression(monkeypatch):
    draco = {"attributes": {"POSITION": 0}, "extensions": {"KHR_draco_mesh_compression": {"bufferView": 0}}}
    bare = {key: value for key, value in POSITIONS.items() if key != "bufferView"}
    monkeypatch.setitem(sys.modules, "DracoPy", None)
    with pytest.raises(MeshFileError, match="KHR_draco_mesh_compression; pip install 'meshgpt.draco.'"):
        read_mesh(gltf(meshes=[{"primitives": [draco]}], accessors=[bare]))
    assert outcome(gltf(meshes=[{"primitives": [draco]}])) == "mesh"  # the same geometry is there uncompressed
    packed = {"buffer": 0, "byteLength": 36, "extensions": {"EXT_meshopt_compression": {}}}
    with pytest.raises(MeshFileError, match="EXT_meshopt_compression"):
        read_mesh(gltf(bufferViews=[packed, {"buffer": 0, "byteLength": 6}]))


def test_draco_geometry_is_decoded_where_its_package_is_and_checked_then(monkeypatch):
    def decoder(faces):
        return SimpleNamespace(decode=lambda data: SimpleNamespace(points=np.eye(3) * len(data), faces=faces))

    draco = {"attributes": {"POSITION": 0}, "extensions": {"KHR_draco_mesh_compression": {"bufferView": 1}}}
    bare = {key: value for key, value in POSITIONS.items() if key != "bufferView"}
    data = gltf(meshes=[{"primitives": [draco]}], accessors=[bare])
    monkeypatch.setitem(sys.modules, "DracoPy", decoder(np.array([[0, 1, 2]])))
    assert read_mesh(data).bounds.tolist() == [[0, 0, 0], [6, 6, 6]]  # a buffer view of six bytes
    for faces, says in (([[0, 1, 3]], "refers to vertex 3"), ([[0, -1, 2]], "refers to vertex -1"), (None, "decoded")):
        monkeypatch.setitem(sys.modules, "DracoPy", decoder(faces))
        with pytest.raises(MeshFileError, match=says):
            read_mesh(data)


@pytest.mark.parametrize(
    ("skin", "attributes", "says"),
    [
        ({"joints": []}, {}, "has no joints"),
        ({"joints": [9]}, {}, "the joint 9, which is no node of the scene"),
        ({"joints": [0], "inverseBindMatrices": 3}, {}, "0 inverse bind matrices for 1 joints"),
        ({"joints": [0]}, {"JOINTS_0": 2}, "has 1 joints, the vertices refer to others"),
        ({"joints": [0]}, {"WEIGHTS_0": 4}, "without a weight"),
    ],
)
def test_a_skin_that_does_not_fit_its_mesh_is_refused(skin, attributes, says):
    four = {"bufferView": 0, "componentType": 5121, "count": 3, "type": "VEC4"}
    accessors = [
        POSITIONS,
        {**four, "bufferView": 2},
        {**four, "byteOffset": 1},
        {**four, "componentType": 5126, "count": 0, "type": "MAT4"},
        {**four, "bufferView": 2},
        {**four, "componentType": 5121, "normalized": True},
    ]
    views = [{"buffer": 0, "byteLength": 36}, {"buffer": 0, "byteLength": 6}]
    views.append({"buffer": 0, "byteOffset": 4, "byteLength": 12})  # zeros
    primitive = {"attributes": {"POSITION": 0, "JOINTS_0": 1, "WEIGHTS_0": 5, **attributes}}
    with pytest.raises(MeshFileError, match=says):
        read_mesh(
            gltf(
                nodes=[{"mesh": 0, "skin": 0}],
                skins=[skin],
                meshes=[{"primitives": [primitive]}],
                accessors=accessors,
                bufferViews=views,
            )
        )


def test_deep_and_wide_gltf_are_refused_or_read_without_recursion():
    chain = [{"children": [i + 1]} for i in range(3000)] + [{"mesh": 0}]
    assert outcome(gltf(nodes=chain)) == "mesh"
    doubled = [{"children": [i + 1, i + 1]} for i in range(60)] + [{"mesh": 0}]
    assert outcome(gltf(nodes=doubled)) == "refused"
    with pytest.raises(MeshFileError, match="nested too deeply"):
        read_mesh(b'{"asset":' + b"[" * 100_000, file_type="gltf")
    with pytest.raises(MeshFileError, match="cannot be parsed"):
        read_mesh(b'{"asset": {"version": ' + b"9" * 10_000 + b"}}")


def glb(*chunks: tuple[int, bytes], version: int = 2) -> bytes:
    body = b"".join(struct.pack("<II", len(data), kind) + data for kind, data in chunks)
    return b"glTF" + struct.pack("<II", version, 12 + len(body)) + body


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"glTF\2\0\0\0", "header of a GLB file alone has 20"),
        (glb((0x4E4F534A, b"{}      "), version=1), "GLB version 1"),
        (glb((0x12345678, b"{}      ")), "no JSON chunk"),
        (glb((0x4E4F534A, b"{}      "))[:-4], "the file is cut off"),
        (glb((0x4E4F534A, b"{}      "))[:12] + struct.pack("<I", 99) + b"JSON{}      ", "a chunk at byte 12 says 99"),
        (glb((0x4E4F534A, b"\xff\xfe{}    ")), "JSON cannot be parsed"),
    ],
)
def test_a_glb_with_a_broken_frame_says_where(data, says):
    with pytest.raises(MeshFileError, match=says):
        read_mesh(data)


def test_a_short_file_cannot_ask_for_much_memory():
    with pytest.raises(MeshFileError, match="names no buffer view for its 70000 values"):
        read_mesh(gltf(accessors=[{"componentType": 5126, "count": 70_000, "type": "VEC3", "sparse": {}}]))
    with pytest.raises(MeshLimitError, match="its JSON has 5000001 parts where 4000000 are allowed"):
        read_mesh(b'{"a":' + b"[" * 2_500_000 + b"]," * 2_500_000)
    many = [{"children": list(range(1, 1000))}, *({"mesh": 0} for _ in range(999))]
    for limits, says in ((ReadLimits(max_faces=900), "999 faces"), (ReadLimits(max_vertices=900), "2997 vertices")):
        with pytest.raises(MeshLimitError, match=says):
            read_mesh(gltf(nodes=many), limits=limits)


@pytest.mark.parametrize(
    "uri",
    ["../secret.bin", "a/../../secret.bin", "/etc/passwd", "%2e%2e/secret.bin", "..\\secret.bin", "file:///secret.bin",
     "http://localhost/secret.bin", "C:secret.bin", "link.bin", "sub/missing.bin", "nul\0.bin"],
)  # fmt: skip
def test_no_file_outside_the_folder_is_opened(tmp_path, uri, monkeypatch):
    folder = tmp_path / "inside"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(np.eye(3, dtype="<f4").tobytes() + bytes(8))
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    path = folder / "mesh.gltf"
    path.write_bytes(gltf(buffers=[{"byteLength": 44, "uri": uri}]))
    with pytest.raises(MeshFileError, match="which is not in its own folder|needs the file"):
        read_mesh(path)
    with pytest.raises(MeshFileError, match="read it by its path"):
        read_mesh(path.read_bytes())
