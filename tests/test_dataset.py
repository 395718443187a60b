"""Data sets: what is written comes back, views share it, and damage is named."""

import json
import multiprocessing
import pickle
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from meshgpt.data import store as store_module
from meshgpt.data.coding import decode_coordinates, encode_coordinates
from meshgpt.data.dataset import MeshDataset, bundled_names
from meshgpt.data.pack import MeshRecord, write_dataset
from meshgpt.errors import DataError, DataIndexError
from meshgpt.mesh.canonical import canonicalize
from meshgpt.mesh.mesh import Mesh

TETRAHEDRON = [[0, 2, 1], [0, 1, 3], [1, 2, 3], [2, 0, 3]]


@pytest.fixture(scope="module")
def tiny() -> MeshDataset:
    return MeshDataset("tiny")


@pytest.fixture
def folder(tiny: MeshDataset, tmp_path: Path) -> Path:
    return write_dataset(tiny[:6], tmp_path / "data")


def tetrahedron(size: float = 1.0, at: float = 0.0) -> Mesh:
    return Mesh(np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]) * size + at, TETRAHEDRON)


def edit_manifest(folder: Path, **changes) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, **changes}))


def save_array(folder: Path, name: str, array: np.ndarray) -> None:
    """Replaces one array and lets the manifest agree with its size."""
    np.save(folder / f"{name}.npy", array)
    files = json.loads((folder / "manifest.json").read_text())["files"]
    files[f"{name}.npy"]["bytes"] = (folder / f"{name}.npy").stat().st_size
    edit_manifest(folder, files=files)


# what the package carries


def test_bundled_tiny_has_64_small_meshes_with_caption_category_licence_and_author(tiny):
    assert len(tiny) == 64 and tiny.face_counts.max() <= 200 and len(tiny.categories) == 64
    for record in tiny:
        assert record.caption and record.category and record.author and record.licence == "CC0-1.0"
        assert record.mesh.num_faces == record.mesh.faces.shape[0] > 0


def test_bundled_lowpoly_marks_train_and_val_and_no_family_lies_in_both():
    dataset = MeshDataset.bundled("cc0-lowpoly")
    train, val = dataset.train_and_val()
    assert (len(train), len(val)) == (2351, 207) and dataset.face_counts.max() <= 800
    assert not set(train.column("family")) & set(val.column("family"))
    assert set(dataset.column("licence")) == {"CC0-1.0"}


def test_data_sets_joined_by_plus_are_one_in_their_order():
    tiny, more = MeshDataset("tiny"), MeshDataset("cc0-more")
    both = MeshDataset("tiny+cc0-more")
    assert len(both) == len(tiny) + len(more) and both[3].line() == tiny[3].line()
    assert both[len(tiny)].line() == more[0].line() and both[-1].line() == more[-1].line()
    for name in ("face_counts", "vertex_counts"):
        assert (getattr(both, name) == np.concatenate([getattr(tiny, name), getattr(more, name)])).all()
    assert (both.column("name") == np.concatenate([tiny.column("name"), more.column("name")])).all()
    assert both.filter(max_faces=20).face_counts.max() <= 20
    again = pickle.loads(pickle.dumps(both[60:70]))
    assert [again[i].line() for i in range(10)] == [both[60 + i].line() for i in range(10)]
    assert all((again.mesh(i).vertices == both.mesh(60 + i).vertices).all() for i in range(10))
    assert again.fingerprint == both[60:70].fingerprint != MeshDataset("cc0-more+tiny")[60:70].fingerprint
    both.verify()


def test_meshes_without_a_mark_that_join_marked_ones_are_learned_from(tmp_path):
    unmarked = [replace(record, split="") for record in MeshDataset("tiny")[:5]]
    write_dataset(unmarked, tmp_path / "own.zip")
    train, val = MeshDataset(f"cc0-lowpoly+{tmp_path / 'own.zip'}").train_and_val()
    assert (len(train), len(val)) == (2351 + 5, 207)
    assert list(train.column("name")[-5:]) == [record.name for record in unmarked]


def test_a_file_whose_name_has_a_plus_is_that_file_and_a_missing_part_is_named(tmp_path):
    write_dataset(list(MeshDataset("tiny")[:3]), tmp_path / "a+b.zip")
    assert len(MeshDataset(tmp_path / "a+b.zip")) == 3
    with pytest.raises(DataError, match="nothing.zip: no such file or folder"):
        MeshDataset(f"tiny+{tmp_path / 'nothing.zip'}")


def test_triangles_and_quads_cannot_be_joined(tmp_path):
    quad = MeshRecord(Mesh([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], [[0, 1, 2, 3]]), name="quad")
    write_dataset([quad], tmp_path / "quads.zip")
    with pytest.raises(DataError, match="corners cannot be joined"):
        MeshDataset(f"tiny+{tmp_path / 'quads.zip'}")


def test_bundled_data_is_small_and_names_its_sources(tiny):
    for name in bundled_names():
        folder = MeshDataset.bundled(name).store.path
        assert (folder / "meshes.zip").stat().st_size < 6_000_000
        text = (folder / "LICENSES.md").read_text()
        assert all(source in text for source in set(MeshDataset.bundled(name).column("source")))
    assert (tiny.store.path / "meshes.zip").stat().st_size < 60_000


def test_an_unknown_bundled_name_lists_the_known_ones():
    with pytest.raises(DataError, match="no bundled data set 'huge'; there are: cc0-lowpoly, cc0-more, tiny"):
        MeshDataset.bundled("huge")


# 16 bits


def test_16_bit_coordinates_keep_place_size_and_every_bin_of_128(tiny):
    rng = np.random.default_rng(0)
    for mesh in (record.mesh for record in tiny):
        mesh = Mesh(mesh.vertices * rng.uniform(0.01, 50, 3) + rng.normal(size=3) * 20, mesh.faces)
        codes, placement = encode_coordinates(mesh)
        again = Mesh(decode_coordinates(codes, placement), mesh.faces)
        assert canonicalize(again.normalized()) == canonicalize(mesh.normalized())
        assert np.abs(again.vertices - mesh.vertices).max() <= 4 * placement[3]
        assert np.allclose(again.bounds, mesh.bounds, atol=4 * placement[3])


def test_a_plane_of_symmetry_stays_exact():
    vertices = np.array([[-1, 0, 0], [1, 0, 0], [0, 1 / 3, 0], [0, 0, 0.7]])
    codes, placement = encode_coordinates(Mesh(vertices, TETRAHEDRON))
    again = decode_coordinates(codes, placement)
    assert (again[2:, 0] == 0).all() and again[0, 0] == -again[1, 0]


def test_a_mesh_of_one_point_and_vertices_that_no_face_uses_can_be_stored():
    point = Mesh(np.full((3, 3), 7.5), [[0, 1, 2]])
    assert np.array_equal(decode_coordinates(*encode_coordinates(point)), point.vertices)
    loose = Mesh(np.vstack((tetrahedron().vertices, [[100, 0, 0]])), TETRAHEDRON)
    again = decode_coordinates(*encode_coordinates(loose))
    assert np.allclose(again[:4], loose.vertices[:4], atol=1e-4) and np.allclose(again[4], [1, 0, 0])


# writing and reading


@pytest.mark.parametrize("name", ["data", "data.zip"])
@pytest.mark.parametrize("coordinates", ["uint16", "float32"])
def test_what_is_written_comes_back(tiny, tmp_path, name, coordinates):
    records = [replace(record, extra={"theme": "ö", "parts": [1, 2]}) for record in tiny[:8]]
    again = MeshDataset(write_dataset(records, tmp_path / name, coordinates))
    again.verify()
    for old, new in zip(records, again, strict=True):
        assert np.array_equal(old.mesh.faces, new.mesh.faces)
        tolerance = np.ptp(old.mesh.vertices, axis=0).max() * (1e-4 if coordinates == "uint16" else 1e-7)
        assert np.allclose(old.mesh.vertices, new.mesh.vertices, atol=tolerance)
        assert replace(old, mesh=new.mesh) == new or old.line() == new.line()


def test_quads_and_triangles_share_a_data_set(tmp_path):
    quad = Mesh([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [2, 0, 0]], [[0, 1, 2, 3], [1, 4, 2, -1]])
    dataset = MeshDataset(write_dataset([MeshRecord(quad), MeshRecord(tetrahedron())], tmp_path / "quads"))
    assert np.array_equal(dataset.mesh(0).faces, quad.faces)
    assert dataset.mesh(1).corners == 4 and (dataset.mesh(1).faces[:, 3] == -1).all()


def test_a_mesh_with_many_vertices_needs_wider_indices(tmp_path):
    vertices = np.random.default_rng(0).normal(size=(40_000, 3))
    dataset = MeshDataset(write_dataset([MeshRecord(Mesh(vertices, [[0, 1, 39_999]]))], tmp_path / "wide"))
    assert dataset.mesh(0).faces.tolist() == [[0, 1, 39_999]]


def test_equal_records_give_equal_bytes_and_fingerprints(tiny, tmp_path):
    one, two = (write_dataset(tiny[:4], tmp_path / name) for name in ("one.zip", "two.zip"))
    assert one.read_bytes() == two.read_bytes()
    first, second = MeshDataset(one), MeshDataset(two)
    assert first.fingerprint == second.fingerprint != first[:3].fingerprint


def test_npz_beside_jsonl_opens_by_either_name_and_takes_its_split_from_it(tmp_path):
    meshes = [tetrahedron(2.0), tetrahedron(1.0, at=3.0)]
    np.savez(
        tmp_path / "val.npz",
        vertices=np.concatenate([m.vertices for m in meshes]).astype(np.float32),
        faces=np.concatenate([m.faces for m in meshes]).astype(np.int32),
        vertex_offsets=[0, 4, 8],
        face_offsets=[0, 4, 8],
    )
    (tmp_path / "val.jsonl").write_text('{"name": "a", "caption": "one", "n": 1}\n{"name": "b"}\n')
    for name in ("val.npz", "val.jsonl"):
        dataset = MeshDataset(tmp_path / name)
        assert np.array_equal(dataset.mesh(1).vertices, meshes[1].vertices)
        assert (dataset[0].caption, dataset[0].split, dataset[0].extra) == ("one", "val", {"n": 1})
    dataset.verify()
    assert len(dataset.fingerprint) == 64
    (tmp_path / "val.jsonl").unlink()
    with pytest.raises(DataError, match=r"val.jsonl: no such file; val.npz and val.jsonl belong together"):
        MeshDataset(tmp_path / "val.npz")


def test_writing_refuses_what_cannot_be_read_back(tmp_path):
    with pytest.raises(DataError, match="no meshes to write"):
        write_dataset([], tmp_path / "none")
    with pytest.raises(DataError, match=r"record 1 \('bare'\) has no faces"):
        write_dataset([MeshRecord(tetrahedron()), MeshRecord(Mesh([], []), "bare")], tmp_path / "bare")
    with pytest.raises(DataError, match="coordinates must be 'uint16' or 'float32', got 'int8'"):
        write_dataset([MeshRecord(tetrahedron())], tmp_path / "kind", coordinates="int8")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_data_set_is_replaced_only_when_asked(folder, tiny):
    with pytest.raises(DataError, match="exists already"):
        write_dataset(tiny[:2], folder)
    assert len(MeshDataset(write_dataset(tiny[:2], folder, overwrite=True))) == 2
    assert [path.name for path in folder.parent.iterdir()] == ["data"]


# views


def test_a_record_is_found_from_either_end_and_a_slice_is_a_view(tiny):
    assert tiny[-1].name == tiny[63].name == tiny[60:][3].name == tiny[[5, 63]][-1].name
    assert len(tiny[::2]) == 32 and tiny[::2].store is tiny.store
    assert "tiny" in repr(tiny[:3]) and "3 of 64" in repr(tiny[:3])
    assert [record.name for record in tiny[:3]] == list(tiny.column("name")[:3])


def test_an_index_beyond_the_end_is_an_index_error_with_both_numbers(tiny):
    for index in (64, -65):
        with pytest.raises(DataIndexError, match=f"index {index} is beyond the 64 meshes"):
            tiny[index]
    with pytest.raises(IndexError, match="must be a whole number, got 'chair'"):
        tiny["chair"]
    with pytest.raises(DataIndexError, match="must be a whole number, got 1.5"):
        tiny.mesh(1.5)


def test_filters_combine(tiny):
    view = tiny.filter(max_faces=100, min_faces=20, predicate=lambda record: "a" in record.name)
    assert 0 < len(view) < 64
    assert view.face_counts.max() <= 100 and view.face_counts.min() >= 20
    assert all("a" in record.name for record in view)
    category, source = tiny[3].category, tiny[3].source
    assert set(tiny.filter(categories=category).column("category")) == {category}
    assert set(tiny.filter(sources=[source], split="train", licences="CC0-1.0").column("source")) == {source}
    assert np.array_equal(view.vertex_counts, [record.mesh.num_vertices for record in view])
    assert len(tiny.filter(max_faces=0)) == 0 and tiny.filter(max_faces=0).categories == []


def test_a_filter_for_what_is_not_there_names_what_is(tiny):
    with pytest.raises(DataError, match=r"has no mesh of category 'unicorn'; there are: .*book"):
        tiny.filter(categories=["book", "unicorn"])
    with pytest.raises(DataError, match="has no mesh of split 'val'; there are: train"):
        tiny.split("val")
    with pytest.raises(DataError, match="no column 'colour'; there are: name, caption"):
        tiny.column("colour")


def test_training_and_validation_never_share_a_family_and_more_meshes_move_none(tiny):
    train, val = tiny.train_and_val(0.2)
    assert len(train) + len(val) == 64 and 3 <= len(val) <= 25
    assert not set(train.column("family")) & set(val.column("family"))
    again = tiny[10:].train_and_val(0.2)[1]
    assert set(again.column("name")) == set(val.column("name")) - set(tiny[:10].column("name"))
    assert set(tiny.train_and_val(0.2, seed=1)[1].indices) != set(val.indices)
    assert all(map(len, tiny[:2].train_and_val(0.001))) and all(map(len, tiny[:2].train_and_val(0.999)))


def test_a_split_that_cannot_be_made_is_refused(tiny):
    with pytest.raises(DataError, match=r"val_fraction must lie between 0 and 1, got 1.5"):
        tiny.train_and_val(1.5)
    with pytest.raises(DataError, match="has 1 families of meshes that are not marked 'test'; two are needed"):
        tiny[:1].train_and_val()


def test_meshes_marked_test_are_neither_trained_on_nor_validated_with(tmp_path, tiny):
    marks = ["train"] * 12 + ["test"] * 12
    records = [replace(tiny[i], split=mark) for i, mark in enumerate(marks)]
    dataset = MeshDataset(write_dataset(records, tmp_path / "data"))
    train, val = dataset.train_and_val()
    assert train.splits == val.splits == ["train"] and len(train) + len(val) == 12


def test_balanced_weights_give_every_group_the_same_share(tmp_path):
    records = [MeshRecord(tetrahedron(), category=c) for c in ["chair"] * 9 + ["table"]]
    dataset = MeshDataset(write_dataset(records, tmp_path / "data"))
    assert np.allclose(dataset.balanced_weights(), [0.5 / 9] * 9 + [0.5])
    assert np.allclose(dataset.balanced_weights(("category",), strength=0.5)[-1], 1 / 4)
    assert np.allclose(dataset.balanced_weights(strength=0), 0.1)
    assert np.allclose(dataset.balanced_weights(by=()), 0.1)
    with pytest.raises(DataError, match="strength must lie between 0 and 1, got 2"):
        dataset.balanced_weights(strength=2.0)
    with pytest.raises(DataError, match="is empty"):
        dataset.filter(max_faces=0).balanced_weights()


def _faces_of(dataset: MeshDataset) -> list[int]:
    return [record.mesh.num_faces for record in dataset]


@pytest.mark.slow
def test_a_view_travels_to_another_process(folder):
    view = MeshDataset(folder)[1:5]
    assert len(pickle.dumps(view)) < 2000
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_faces_of, (view,)) == list(view.face_counts)


# damage


def test_a_place_without_a_data_set_says_what_one_is(tmp_path):
    with pytest.raises(DataError, match="no such file or folder; a data set is a folder written by"):
        MeshDataset(tmp_path / "nothing")
    with pytest.raises(DataError, match="a folder without manifest.json"):
        MeshDataset(tmp_path)
    with pytest.raises(DataError, match="opened by its path or name, got int"):
        MeshDataset(7)


@pytest.mark.parametrize("name", ["vertices.npy", "faces.npy", "records.jsonl", "placements.npy"])
def test_a_truncated_or_missing_file_is_named(folder, name):
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[:-7])
    with pytest.raises(DataError, match=f"{name} has {len(data) - 7} bytes, its manifest says {len(data)}"):
        MeshDataset(folder)
    (folder / name).unlink()
    with pytest.raises(DataError, match=f"{name} is missing, its manifest says {len(data)}"):
        MeshDataset(folder)


def test_a_changed_byte_is_found_by_verify(folder):
    data = bytearray((folder / "vertices.npy").read_bytes())
    data[-3] ^= 1
    (folder / "vertices.npy").write_bytes(data)
    dataset = MeshDataset(folder)
    with pytest.raises(DataError, match="the contents of vertices.npy have changed since it was written"):
        dataset.verify()


def test_another_version_or_format_asks_for_an_update(folder):
    edit_manifest(folder, version=9)
    with pytest.raises(DataError, match="version 9, but this meshgpt reads .* version 1; update meshgpt"):
        MeshDataset(folder)
    edit_manifest(folder, version=1, format="other")
    with pytest.raises(DataError, match="format 'other' version 1"):
        MeshDataset(folder)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1, "version": 1, "files": {"a": 3}}'])
def test_a_damaged_manifest_is_named(folder, text):
    (folder / "manifest.json").write_text(text)
    with pytest.raises(DataError, match="manifest.json is damaged"):
        MeshDataset(folder)


def test_a_manifest_cannot_name_files_elsewhere(folder):
    edit_manifest(folder, files={"../secret.npy": {"bytes": 1, "sha256": ""}})
    with pytest.raises(DataError, match=r"names '../secret.npy', which is not a file of this folder"):
        MeshDataset(folder)


def test_a_file_that_is_no_array_is_named(folder):
    size = (folder / "faces.npy").stat().st_size
    (folder / "faces.npy").write_bytes(b"x" * size)
    with pytest.raises(DataError, match="faces.npy cannot be read"):
        MeshDataset(folder)


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("face_offsets", lambda a: a + 1, "face_offsets must rise from 0"),
        ("vertex_offsets", lambda a: a[::-1], "vertex_offsets must rise from 0"),
        ("vertex_offsets", lambda a: np.append(a, a[-1]), "vertex_offsets tells of 7 meshes, face_offsets of 6"),
        ("record_offsets", lambda a: a[:0], "record_offsets is empty"),
        ("placements", lambda a: a[:-1], r"placements has shape \(5, 4\), not \(6, 4\)"),
        ("faces", lambda a: a[:, :2], "faces has shape"),
        ("vertices", lambda a: a.astype(bool), r"vertices has shape .* of bool"),
    ],
)
def test_arrays_that_do_not_fit_each_other_are_refused(folder, name, change, says):
    save_array(folder, name, change(np.load(folder / f"{name}.npy")))
    with pytest.raises(DataError, match=says):
        MeshDataset(folder)


def test_a_missing_array_is_named(folder):
    files = json.loads((folder / "manifest.json").read_text())["files"]
    edit_manifest(folder, files={name: entry for name, entry in files.items() if name != "placements.npy"})
    with pytest.raises(DataError, match="the array 'placements' is missing"):
        MeshDataset(folder)


def test_a_face_beyond_the_vertices_is_found_when_its_mesh_is_read(folder):
    faces = np.load(folder / "faces.npy")
    faces[0, 0] = 9999
    save_array(folder, "faces", faces)
    dataset = MeshDataset(folder)
    assert dataset[1].mesh.num_faces
    with pytest.raises(DataError, match=r"mesh 0 is damaged \(face 0 refers to vertex 9999"):
        dataset.mesh(0)


@pytest.mark.parametrize(("first", "says"), [(b"x", "is not JSON"), (b"[", "is not JSON")])
def test_a_damaged_record_is_named(folder, first, says):
    data = (folder / "records.jsonl").read_bytes()
    (folder / "records.jsonl").write_bytes(first + data[1:])
    with pytest.raises(DataError, match=f"the record of mesh 0 {says}"):
        MeshDataset(folder).column("name")


def test_a_record_that_is_no_object_is_named(folder):
    data = (folder / "records.jsonl").read_bytes()
    line = data.index(b"\n")
    (folder / "records.jsonl").write_bytes(b"7" + b" " * (line - 1) + data[line:])
    with pytest.raises(DataError, match=r"the record of mesh 0 is b'7 .*, not an object"):
        MeshDataset(folder)[0]


def test_a_damaged_archive_is_named(tiny, tmp_path):
    path = write_dataset(tiny[:4], tmp_path / "data.zip")
    data = path.read_bytes()
    middle = len(data) // 2
    path.write_bytes(data[:middle] + bytes(64) + data[middle + 64 :])
    with pytest.raises(DataError, match="data.zip: "):
        MeshDataset(path)
    path.write_bytes(data[:middle])
    with pytest.raises(DataError, match="data.zip: not a readable zip archive"):
        MeshDataset(path)


def test_an_archive_must_hold_a_whole_data_set(tiny, tmp_path):
    path = write_dataset(tiny[:4], tmp_path / "data.zip")
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for left_out, says in (("manifest.json", "without manifest.json"), ("faces.npy", "faces.npy missing from")):
        with zipfile.ZipFile(path, "w") as archive:
            for name in set(members) - {left_out}:
                archive.writestr(name, members[name])
        with pytest.raises(DataError, match=says):
            MeshDataset(path)
    with zipfile.ZipFile(path, "w") as archive:
        for name in members:
            archive.writestr(name, members[name] if name != "faces.npy" else b"no array")
    with pytest.raises(DataError, match="faces.npy cannot be read"):
        MeshDataset(path)


def test_an_archive_that_unpacks_to_too_much_is_not_unpacked(tiny, tmp_path, monkeypatch):
    path = write_dataset(tiny[:4], tmp_path / "data.zip")
    monkeypatch.setattr(store_module, "MEMORY_LIMIT", 1000)
    with pytest.raises(DataError, match="more than the 1000 held in memory; unpack it into a folder"):
        MeshDataset(path)
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path / "unpacked")
    assert len(MeshDataset(tmp_path / "unpacked")) == 4


def test_a_name_here_comes_before_a_bundled_one(folder, tmp_path, monkeypatch):
    shutil.move(folder, tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    assert len(MeshDataset("tiny")) == 6
