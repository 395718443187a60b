"""Other people's data sets and folders of files serve as they are."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from meshgpt.data.dataset import MeshDataset
from meshgpt.data.folder import DatasetFromTransforms, MeshFolder, as_mesh_records
from meshgpt.data.pack import MeshRecord
from meshgpt.errors import DataError, DataIndexError
from meshgpt.mesh.mesh import Mesh

VERTICES, FACES = torch.eye(3), torch.tensor([[0, 1, 2]])
TRIANGLE = "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3"


class Tuples(Dataset):
    def __init__(self, *items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b/chair_2.obj", "b/chair_1.OBJ", "a.obj"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(TRIANGLE)
    (tmp_path / "b" / "chair_2.txt").write_text("a green chair")
    (tmp_path / "c.tri").write_text("0 0 0 1 0 0 0 1 0")
    return tmp_path


def read_tri(path: Path):
    points = np.array(path.read_text().split(), dtype=float).reshape(-1, 3)
    return points, np.arange(len(points)).reshape(-1, 3), "three points"


def test_tuples_dicts_meshes_and_records_become_records():
    mesh = Mesh(VERTICES, FACES)
    records = list(
        as_mesh_records(
            Tuples(
                (VERTICES, FACES),
                [VERTICES.numpy(), FACES.tolist(), "a sheet"],
                {"texts": "by key", "faces": FACES, "other": 1, "vertices": VERTICES},
                {"caption": "c", "category": "sheet", "faces": FACES, "vertices": VERTICES, "texts": None},
                mesh,
                MeshRecord(mesh, caption="kept"),
                (VERTICES, FACES, None),
            )
        )
    )
    assert [record.caption for record in records] == ["", "a sheet", "by key", "c", "", "kept", ""]
    assert records[3].category == "sheet"
    assert all(np.array_equal(record.mesh.faces, FACES) for record in records)


def test_padded_faces_are_dropped_and_the_missing_corner_of_a_triangle_is_kept():
    padded = torch.tensor([[0, 1, 2], [-1, -1, -1]])
    quads = torch.tensor([[0, 1, 2, -1], [-1, -1, -1, -1]])
    records = as_mesh_records(Tuples((VERTICES, padded), (VERTICES, quads)))
    assert records[0].mesh.faces.tolist() == [[0, 1, 2]] and records[-1].mesh.faces.tolist() == [[0, 1, 2, -1]]


@pytest.mark.parametrize(
    ("item", "says"),
    [
        (7, "item 0 is a int; expected a Mesh, "),
        ({"vertices": VERTICES, "face": FACES}, r"item 0 is a mapping of \['face', 'vertices'\]"),
        ((VERTICES,), "item 0 is a tuple"),
        ((VERTICES, FACES, 3), "item 0: the third entry of a tuple is its text, got int"),
        ((VERTICES, FACES + 1), "item 0: face 0 refers to vertex 3"),
    ],
)
def test_an_item_that_is_no_mesh_is_named(item, says):
    with pytest.raises(DataError, match=says):
        as_mesh_records(Tuples(item))[0]


def test_what_is_no_data_set_and_what_is_beyond_its_end_are_refused():
    with pytest.raises(DataError, match="needs a length and numbered items, which generator lacks"):
        as_mesh_records(item for item in [])
    records = as_mesh_records(Tuples((VERTICES, FACES)))
    with pytest.raises(DataIndexError, match="index 1 is beyond the 1 meshes"):
        records[1]
    with pytest.raises(DataIndexError, match="must be a whole number, got 'a'"):
        records["a"]


def test_a_folder_is_read_in_the_order_of_its_paths(folder):
    dataset = MeshFolder(folder)
    assert [record.name for record in dataset] == ["a", "b/chair_1", "b/chair_2"] and len(dataset) == 3
    assert [record.caption for record in dataset] == ["a", "chair", "a green chair"]
    assert dataset[-1].category == "b" and dataset[0].mesh.num_faces == 1


def test_a_folder_takes_a_function_for_all_files_or_one_for_each_extension(folder):
    turned = MeshFolder(folder, read=lambda path: Mesh(np.eye(3) * 5, [[0, 2, 1]]))
    assert len(turned) == 3 and turned[0].mesh.vertices.max() == 5
    dataset = MeshFolder(folder, read={".TRI": read_tri})
    assert [record.name for record in dataset] == ["c"] and dataset[0].caption == "three points"


def test_a_file_that_cannot_be_read_is_named(folder):
    (folder / "a.obj").write_text("f 1 2 3")
    with pytest.raises(DataError, match="a.obj: "):
        MeshFolder(folder)[0]
    with pytest.raises(DataError, match="no mesh file in it; read are xyz"):
        MeshFolder(folder, read={"xyz": read_tri})


def test_the_name_and_keywords_of_meshgpt_pytorch_work(folder):
    def shout(item):
        vertices, faces, text = item
        return vertices, faces, text.upper()

    plain = DatasetFromTransforms(folder=folder, transforms={"tri": read_tri})
    loud = DatasetFromTransforms(folder, {".tri": read_tri}, augment_fn=shout)
    named = DatasetFromTransforms(folder, {"tri": read_tri}, data_kwargs=["vertices", "faces", "texts"])
    assert [d[0].caption for d in (plain, loud, named)] == ["three points", "THREE POINTS", "three points"]
    wrong = DatasetFromTransforms(folder, {"tri": read_tri}, data_kwargs=["vertices", "faces"])
    with pytest.raises(DataError, match=r"c.tri: its reader gives 3 things, data_kwargs names 2"):
        wrong[0]


def test_a_data_loader_with_workers_gives_records(tmp_path):
    from meshgpt.data.batch import MeshBatch

    def collate(records):
        return MeshBatch.from_meshes([record.mesh for record in records], texts=[record.caption for record in records])

    loader = torch.utils.data.DataLoader(MeshDataset("tiny")[:8], batch_size=4, collate_fn=collate)
    assert [batch.batch_size for batch in loader] == [4, 4]
