"""The last touches: floaters go, holes close, halves meet their images; and figures that tell a mesh from others."""

import numpy as np
import pytest
import torch

from meshgpt.data.dataset import MeshDataset
from meshgpt.errors import MeshError
from meshgpt.mesh.figures import NUM_FIGURES, figures_of
from meshgpt.mesh.finishing import HALVES, filled, finished_forms, symmetrized, without_floaters
from meshgpt.mesh.mesh import Mesh, join
from meshgpt.mesh.symmetry import mirrored_share
from meshgpt.mesh.topology import loose_share, topology_report

CUBE = Mesh(
    np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)]),
    np.array(
        [[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1], [2, 3, 7], [2, 7, 6], [0, 2, 6], [0, 6, 4],
         [1, 5, 7], [1, 7, 3]]
    ),
)  # fmt: skip


def moved(mesh, by, scale=1.0):
    return Mesh(mesh.vertices * scale + np.array(by), mesh.faces)


def volume(mesh):
    a, b, c = mesh.vertices[mesh.faces].transpose(1, 0, 2)
    return float((a * np.cross(b, c)).sum() / 6)


@pytest.fixture(scope="module")
def real():
    data = MeshDataset("tiny")
    return [data.mesh(i).normalized() for i in range(0, 64, 4)]


def test_what_hangs_in_the_air_goes_and_what_stands_stays():
    beside, above = moved(CUBE, (3, -0.25, 0), 0.5), moved(CUBE, (0, 4, 0), 0.3)
    found = without_floaters(join([CUBE, beside, above]))
    assert found.num_faces == 24 and found.bounds[1, 1] == 0.5
    assert loose_share(join([CUBE, above])) > 0 and without_floaters(join([CUBE, above])).num_faces == 12


def test_the_largest_group_stays_even_where_it_floats():
    crumb = moved(CUBE, (0, -3, 0), 0.1)
    assert without_floaters(join([CUBE, crumb])).num_faces == 24


@pytest.mark.parametrize("missing", [[0], [0, 1], [0, 1, 8]])
def test_a_hole_is_filled_and_the_volume_comes_back(missing):
    torn = Mesh(CUBE.vertices, np.delete(CUBE.faces, missing, axis=0))
    whole = filled(torn)
    assert topology_report(whole).boundary_edges == 0
    assert volume(whole) == pytest.approx(volume(CUBE), rel=0.2)


def test_holes_are_filled_as_what_is_around_them_is_wound():
    inside_out = Mesh(CUBE.vertices, CUBE.faces[1:, ::-1])
    assert volume(filled(inside_out)) == pytest.approx(-volume(CUBE))


def test_a_sheet_has_no_hole_and_a_long_hole_stays():
    sheet = Mesh(CUBE.vertices, CUBE.faces[:2])
    assert filled(sheet) is sheet
    torn = Mesh(CUBE.vertices, CUBE.faces[2:])
    assert filled(torn, longest=3) is torn


def test_nothing_is_filled_where_an_edge_would_have_three_faces():
    with_fin = Mesh(np.concatenate((CUBE.vertices, [[2.0, 0, 0]])), np.concatenate((CUBE.faces[1:], [[0, 3, 8]])))
    before = topology_report(with_fin).nonmanifold_edges
    assert topology_report(filled(with_fin)).nonmanifold_edges == before


@pytest.mark.parametrize("half", HALVES)
def test_a_half_and_its_image_are_symmetric_and_keep_the_half(half, real):
    axis, side = HALVES[half]
    for mesh in real:
        try:
            found = symmetrized(mesh, half)
        except MeshError:
            continue
        assert mirrored_share(found) == 1.0
        low, high = mesh.bounds
        assert (found.bounds[1] <= high + 1e-9).all() and (found.bounds[0] >= low - 1e-9).all()
        outermost = mesh.bounds[(side + 1) // 2, axis]
        assert np.isclose(found.bounds[:, axis], outermost).any()


@pytest.mark.parametrize("half", HALVES)
def test_a_closed_symmetric_mesh_keeps_volume_and_closure(half):
    found = symmetrized(CUBE, half)
    assert volume(found) == pytest.approx(1.0) and topology_report(found).boundary_edges == 0


def test_an_unknown_half_and_an_empty_one_are_refused():
    with pytest.raises(MeshError, match="left, right, back, front"):
        symmetrized(CUBE, "upper")
    flat = Mesh(np.array([[0.0, 0, 0], [0, 1, 0], [0, 0, 1]]), np.array([[0, 1, 2]]))
    with pytest.raises(MeshError, match="has no face"):
        symmetrized(flat, "left")


def test_forms_are_on_the_grid_and_begin_with_the_mesh_itself(real):
    for mesh in real:
        forms = finished_forms(mesh)
        assert forms["written"] is mesh and set(forms) <= {"written", "tidy", *HALVES}
        for name, form in forms.items():
            assert form.num_faces and (name == "written" or np.abs(form.vertices).max() <= 1)
    empty = Mesh(np.zeros((0, 3)), np.zeros((0, 3), dtype=np.int64))
    assert finished_forms(empty) == {"written": empty} and without_floaters(empty).num_faces == 0


def test_figures_are_finite_as_many_and_know_neither_place_nor_size(real):
    for mesh in real:
        found = figures_of(mesh)
        assert found.shape == (NUM_FIGURES,) and np.isfinite(found).all()
        assert np.allclose(found, figures_of(moved(mesh, (3, -1, 2), 2.5)), atol=0.05)
    empty = Mesh(np.zeros((0, 3)), np.zeros((0, 3), dtype=np.int64))
    one = Mesh(np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]), np.array([[0, 1, 2]]))
    assert not figures_of(empty).any() and np.isfinite(figures_of(one)).all()
    assert torch.from_numpy(figures_of(CUBE)).isfinite().all()
