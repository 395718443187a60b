"""What `inspect_dataset` says of a data set is true."""

import json

import numpy as np
import pytest

from meshgpt.data.dataset import MeshDataset
from meshgpt.data.inspect import dataset_sheet, inspect_dataset
from meshgpt.data.pack import MeshRecord, write_dataset
from meshgpt.errors import DataError
from meshgpt.mesh.mesh import Mesh
from meshgpt.mesh.topology import topology_report

CORNERS = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
TETRAHEDRON = [[0, 2, 1], [0, 1, 3], [1, 2, 3], [2, 0, 3]]


def test_counts_shares_and_duplicates(tmp_path):
    solid, open_mesh = Mesh(CORNERS, TETRAHEDRON), Mesh(CORNERS, TETRAHEDRON[:3])
    mixed = Mesh(CORNERS, [TETRAHEDRON[0][::-1], *TETRAHEDRON[1:]])
    records = [
        MeshRecord(solid, category="solid", caption="one solid", licence="CC0-1.0", family="f"),
        MeshRecord(Mesh(CORNERS * 3 + 1, TETRAHEDRON), category="solid", caption="one solid"),
        MeshRecord(open_mesh, category="open", caption="one open"),
        MeshRecord(mixed),
    ]
    report = inspect_dataset(MeshDataset(write_dataset(records, tmp_path / "data")))
    assert (report.meshes, report.vertices, report.faces, report.corners) == (4, 16, 15, 3)
    assert report.categories == {"solid": 2, "": 1, "open": 1} and report.licences == {"": 3, "CC0-1.0": 1}
    assert (report.watertight, report.consistently_wound, report.duplicates) == (0.75, 0.75, 1)
    assert (report.captions, report.families, report.words["one"]) == (2, 1, 3)
    assert report.face_range == (3, 4, 4) and report.face_histogram == {"1-50": 4}
    assert json.loads(report.to_json())["meshes"] == 4


def test_watertightness_agrees_with_the_topology_report(tmp_path):
    dataset = MeshDataset("tiny")
    whole = [topology_report(dataset.mesh(index)) for index in range(64)]
    report = inspect_dataset(dataset)
    assert report.watertight == np.mean([r.watertight for r in whole])
    assert report.consistently_wound == np.mean([r.consistently_wound for r in whole])


def test_quads_and_triangles_are_told_apart(tmp_path):
    box = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
    faces = [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, -1], [1, 7, 3, -1]]
    report = inspect_dataset(MeshDataset(write_dataset([MeshRecord(Mesh(box, faces))], tmp_path / "data")))
    assert (report.corners, report.watertight, report.consistently_wound) == (4, 1, 1)
    assert "quads and triangles" in str(report)


def test_the_table_shows_the_most_frequent_and_counts_the_rest():
    table = inspect_dataset(MeshDataset("tiny")).table(rows=3)
    assert "64 meshes" in table and "... and 61 more with 61" in table and "CC0-1.0" in table
    assert all(len(line) <= 120 for line in table.splitlines())


def test_a_range_of_faces_includes_its_end(tmp_path):
    strip = np.array([[i // 2, i % 2, 0] for i in range(104)])
    faces = np.array([[i, i + 1, i + 2] for i in range(102)])
    sizes = (50, 51, 100, 101)
    records = [MeshRecord(Mesh(strip, faces[:n]).cleaned()) for n in sizes]
    report = inspect_dataset(MeshDataset(write_dataset(records, tmp_path / "data")))
    assert report.face_histogram == {"1-50": 1, "51-100": 2, "101-200": 1}


def test_a_sheet_is_written_and_an_empty_view_is_refused(tmp_path):
    dataset = MeshDataset("tiny")
    path = dataset_sheet(dataset, tmp_path / "sheet.png", count=4, size=48)
    assert path.read_bytes().startswith(b"\x89PNG")
    empty = dataset.filter(max_faces=0)
    with pytest.raises(DataError, match="is empty: there is nothing to inspect"):
        inspect_dataset(empty)
    with pytest.raises(DataError, match="is empty: there is nothing to show"):
        dataset_sheet(empty, tmp_path / "none.png")


def test_a_sheet_needs_no_pillow(tmp_path, monkeypatch):
    monkeypatch.setattr("meshgpt.data.inspect._has_pillow", lambda: False)
    assert dataset_sheet(MeshDataset("tiny"), tmp_path / "sheet.png", count=2, size=32).is_file()
