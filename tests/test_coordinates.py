"""Raw coordinates: lossless on the grid, for triangles and quads."""

import numpy as np
import pytest
import torch

from meshgpt.data.batch import MeshBatch
from meshgpt.errors import CodesError, ConfigError
from meshgpt.mesh.canonical import canonicalize
from meshgpt.mesh.mesh import Mesh
from meshgpt.tokenizers.autoencoder import MeshAutoencoder
from meshgpt.tokenizers.coordinates import CoordinateTokenizer


@pytest.mark.parametrize("bins", [128, 512])
def test_every_mesh_comes_back_exactly(tiny_meshes, bins):
    tokenizer = CoordinateTokenizer(num_discrete_coors=bins)
    for mesh in tiny_meshes:
        grid = canonicalize(mesh.normalized(), bins)
        ids = tokenizer.encode(mesh)
        assert len(ids) == 9 * len(grid.faces)
        assert canonicalize(tokenizer.decode(ids), bins) == grid


def test_quads_and_triangles_among_them_come_back():
    mesh = Mesh([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1]], [[0, 1, 2, 3], [0, 4, 1, -1]])
    tokenizer = CoordinateTokenizer(quads=True)
    assert canonicalize(tokenizer.decode(tokenizer.encode(mesh))) == canonicalize(mesh.normalized())


def test_codes_are_the_bins_in_the_order_of_the_sort():
    grid = canonicalize(Mesh(np.eye(3), [[0, 1, 2]]).normalized())
    ids = CoordinateTokenizer().encode(Mesh(np.eye(3), [[0, 1, 2]]))
    assert ids.tolist() == grid.vertices[grid.faces][0][:, [1, 2, 0]].flatten().tolist()


def test_batches_are_padded_and_decode_to_what_the_learned_tokenizer_gives(tiny_meshes):
    grids = [canonicalize(mesh.normalized()).mesh() for mesh in tiny_meshes[:3]]
    batch, tokenizer = MeshBatch.from_meshes(grids), CoordinateTokenizer()
    codes = tokenizer.codes_from_batch(batch)
    coordinates, mask = tokenizer.decode_from_codes_to_faces(codes)
    learned = MeshAutoencoder(dim_codebook=24, encoder_dims_through_depth=(8,), decoder_dims_through_depth=())
    expected, expected_mask = learned.decode_from_codes_to_faces(learned.codes_from_batch(batch))
    assert torch.equal(mask, expected_mask) and torch.equal(coordinates[mask], expected[mask])
    assert torch.equal(tokenizer.decode_faces_alone(codes[0, :18].view(2, 9)), coordinates[0, :2])


def test_codes_that_do_not_fit_are_refused():
    with pytest.raises(CodesError, match="code 128 is out of range"):
        CoordinateTokenizer().decode([128] * 9)
    with pytest.raises(CodesError, match="8 codes are not whole faces of 9"):
        CoordinateTokenizer().decode([1] * 8)


def test_it_is_saved_and_loaded_and_refuses_too_few_bins(tmp_path):
    CoordinateTokenizer(num_discrete_coors=64, quads=True).save_pretrained(tmp_path)
    again = CoordinateTokenizer.from_pretrained(tmp_path)
    assert again.num_discrete_coors == 64 and again.corners == 4
    with pytest.raises(ConfigError, match="at least 2, got 1"):
        CoordinateTokenizer(num_discrete_coors=1)
