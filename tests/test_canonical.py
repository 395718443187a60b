"""The grid and the canonical order."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from meshgpt.errors import MeshError
from meshgpt.mesh.canonical import GridMesh, canonicalize, dequantize, is_canonical, quantize
from meshgpt.mesh.mesh import Mesh


def shuffled(mesh: Mesh, seed: int) -> Mesh:
    """The same surface written another way: vertices and faces in another order, faces begun at another corner."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(mesh.num_vertices)
    faces = np.argsort(order)[mesh.faces[rng.permutation(mesh.num_faces)]]
    starts = rng.integers(0, 3, (mesh.num_faces, 1))
    return Mesh(mesh.vertices[order], np.take_along_axis(faces, (starts + np.arange(3)) % 3, axis=1))


def oriented_triangles(vertices: np.ndarray, faces: np.ndarray) -> set:
    """Faces as position triples up to rotation: equal exactly if surface and winding are."""
    rows = vertices[faces].tolist()
    return {min(tuple(map(tuple, row[i:] + row[:i])) for i in range(len(row))) for row in rows}


@given(st.lists(st.floats(-2, 2, allow_nan=False), min_size=1), st.sampled_from([2, 100, 128, 1024]))
def test_a_bin_centre_is_nearest_to_what_fell_into_it(values, bins):
    array = np.array(values)
    q = quantize(array, bins)
    assert q.min() >= 0 and q.max() < bins
    inside = np.abs(array) <= 1
    assert (np.abs(dequantize(q, bins) - array)[inside] <= 1 / bins + 2e-3 / bins + 1e-12).all()
    assert np.array_equal(quantize(dequantize(q, bins), bins), q)
    tensor = torch.tensor(values, dtype=torch.float64)
    assert np.array_equal(quantize(tensor, bins).numpy(), q)


def test_rounding_does_not_decide_planes_of_symmetry():
    near_zero = np.array([0.0, 1e-9, -1e-9, -1e-6])
    assert (quantize(near_zero) == 64).all()


def test_canonical_form_is_idempotent_and_obeys_its_grammar(tiny_meshes):
    for mesh in tiny_meshes:
        grid = canonicalize(mesh.normalized())
        assert is_canonical(grid.vertices, grid.faces)
        again = canonicalize(grid.mesh())
        assert again == grid and hash(again) == hash(grid)


def test_canonical_form_does_not_depend_on_how_a_mesh_is_written(tiny_meshes):
    for seed, mesh in enumerate(tiny_meshes):
        assert canonicalize(shuffled(mesh, seed).normalized()) == canonicalize(mesh.normalized())


def test_winding_is_never_lost(tiny_meshes):
    for mesh in tiny_meshes:
        mesh = mesh.normalized()
        bins = quantize(mesh.vertices)
        kept = [face for face in mesh.faces if len(np.unique(bins[face], axis=0)) == 3]
        grid = canonicalize(mesh)
        assert oriented_triangles(grid.vertices, grid.faces) == oriented_triangles(bins, np.array(kept))


def test_flipping_a_mesh_flips_its_canonical_form(tiny_meshes):
    for mesh in tiny_meshes[:8]:
        one, two = (canonicalize(m.normalized()) for m in (mesh, mesh.flipped()))
        assert np.array_equal(one.vertices, two.vertices)
        assert oriented_triangles(one.vertices, one.faces[:, [0, 2, 1]]) == oriented_triangles(two.vertices, two.faces)


def test_two_sided_sheets_keep_both_sides_and_duplicates_go():
    vertices = [[-0.9, 0, 0], [0.9, 0, 0], [0, 0.9, 0]]
    grid = canonicalize(Mesh(vertices, [[0, 1, 2], [1, 2, 0], [0, 2, 1]]))
    assert len(grid.faces) == 2


def test_vertices_that_fall_together_are_merged_and_thin_faces_dropped():
    vertices = [[0, 0, 0.5], [0, 0, 0.5001], [0.9, 0, 0], [0, 0.9, 0]]
    grid = canonicalize(Mesh(vertices, [[0, 1, 2], [0, 2, 3]]))
    assert len(grid.vertices) == 3 and len(grid.faces) == 1


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.integers(3, 12), st.integers(0, 30), st.sampled_from([3, 4]))
def test_any_soup_of_faces_becomes_canonical(seed, nv, nf, k):
    rng = np.random.default_rng(seed)
    faces = rng.integers(0, nv, (nf, k))
    if k == 4:
        faces[rng.random(nf) < 0.3, 3] = -1
    grid = canonicalize(Mesh(rng.uniform(-1, 1, (nv, 3)), faces), 4)
    assert is_canonical(grid.vertices, grid.faces)
    assert canonicalize(grid.mesh(), 4) == grid


def test_the_check_of_canonical_order_can_fail():
    grid = canonicalize(Mesh([[-0.9, 0, 0], [0.9, 0, 0], [0, 0.9, 0], [0, 0.9, 0.9]], [[0, 1, 2], [0, 1, 3]]))
    vertices, faces = grid.vertices, grid.faces
    assert is_canonical(vertices, faces)
    assert not is_canonical(vertices, faces[::-1])
    assert not is_canonical(vertices[::-1], faces)
    assert not is_canonical(vertices, np.roll(faces, 1, axis=1))
    assert not is_canonical(vertices, np.concatenate((faces, faces[-1:])))
    assert not is_canonical(np.concatenate((vertices, [[127, 127, 127]])), faces)
    assert GridMesh(vertices, faces) != GridMesh(vertices, faces[:1])


def test_too_few_bins_are_refused():
    with pytest.raises(MeshError, match="at least 2, got 1"):
        canonicalize(Mesh([], []), 1)
