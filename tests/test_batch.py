"""Packed and padded are two views of the same meshes."""

import numpy as np
import pytest
import torch

from meshgpt.data.batch import MeshBatch
from meshgpt.errors import DataError, MeshError
from meshgpt.mesh.mesh import Mesh
from meshgpt.mesh.topology import derive_face_edges_from_faces, face_graph

EMPTY = Mesh([[0.0, 0.0, 0.0]], [])


def padded(meshes: list[Mesh]) -> tuple[torch.Tensor, torch.Tensor]:
    pad = torch.nn.utils.rnn.pad_sequence
    vertices = pad([torch.tensor(m.vertices, dtype=torch.float32) for m in meshes], batch_first=True)
    return vertices, pad([torch.tensor(m.faces) for m in meshes], batch_first=True, padding_value=-1)


def test_packing_gives_the_meshes_back(tiny_meshes):
    meshes = [*tiny_meshes[:5], EMPTY]
    batch = MeshBatch.from_meshes(meshes, texts=["a"] * 6)
    assert batch.batch_size == 6 and batch.num_faces == sum(m.num_faces for m in meshes)
    assert batch.texts == ("a",) * 6
    for mesh, back in zip(meshes, batch.meshes(), strict=True):
        assert np.array_equal(mesh.faces, back.faces)
        assert np.allclose(mesh.vertices, back.vertices, rtol=1e-6)


def test_padded_and_packed_hold_the_same_faces_and_edges(tiny_meshes):
    meshes = tiny_meshes[:4]
    vertices, faces = padded(meshes)
    packed, from_padded = MeshBatch.from_meshes(meshes), MeshBatch.from_padded(vertices, faces)
    assert torch.equal(from_padded.face_counts, packed.face_counts)
    assert torch.allclose(from_padded.vertices[from_padded.faces], packed.vertices[packed.faces])
    given = MeshBatch.from_padded(vertices, faces, derive_face_edges_from_faces(faces, include_self=False))
    assert set(map(tuple, given.face_edges.T.tolist())) == set(map(tuple, packed.face_edges.T.tolist()))
    assert torch.equal(packed.face_edges, face_graph(packed.faces))


def test_padding_faces_puts_each_where_its_mask_is(tiny_meshes):
    batch = MeshBatch.from_meshes([tiny_meshes[0], EMPTY, tiny_meshes[1]])
    values = torch.arange(batch.num_faces)
    back = batch.pad_faces(values, -1)
    assert torch.equal(back[batch.face_mask], values) and (back[~batch.face_mask] == -1).all()
    assert batch.face_mask.sum(dim=1).tolist() == [tiny_meshes[0].num_faces, 0, tiny_meshes[1].num_faces]
    assert torch.bincount(batch.face_owner, minlength=3).tolist() == batch.face_counts.tolist()


def test_a_triangle_among_quads_repeats_its_third_corner_as_an_index():
    mesh = Mesh(np.eye(3), [[0, 1, 2, -1]])
    assert MeshBatch.from_meshes([mesh]).corner_indices.tolist() == [[0, 1, 2, 2]]


def test_meshes_of_different_kinds_do_not_mix():
    triangle, quad = Mesh(np.eye(3), [[0, 1, 2]]), Mesh(np.eye(3), [[0, 1, 2, -1]])
    with pytest.raises(DataError, match=r"\[3, 4\] corners"):
        MeshBatch.from_meshes([triangle, quad])
    with pytest.raises(DataError, match="no mesh at all"):
        MeshBatch.from_meshes([])


def test_bad_padding_and_bad_indices_are_named():
    vertices = torch.zeros(2, 4, 3)
    with pytest.raises(MeshError, match="face 0 refers to vertex 4, but the mesh has 4"):
        MeshBatch.from_padded(vertices, torch.tensor([[[0, 1, 2]], [[0, 1, 4]]]))
    with pytest.raises(MeshError, match="face 1 of mesh 0 is .*padding fills a face or none"):
        MeshBatch.from_padded(vertices[:1], torch.tensor([[[0, 1, 2], [0, -1, 2]]]))
    with pytest.raises(MeshError, match="face_edges refer to face 7, but there are 1"):
        MeshBatch.from_padded(vertices[:1], torch.tensor([[[0, 1, 2]]]), torch.tensor([[[0, 7]]]))


def test_moving_to_a_device_moves_every_tensor(tiny_meshes):
    batch = MeshBatch.from_meshes(tiny_meshes[:2]).to("meta")
    assert all(value.device.type == "meta" for value in vars(batch).values() if isinstance(value, torch.Tensor))
