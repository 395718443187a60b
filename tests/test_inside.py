"""Inside and outside, distances, points near surfaces and along sharp edges: against shapes whose answer is known."""

import numpy as np
import pytest
import torch

from meshgpt.errors import MeshError
from meshgpt.mesh import farthest, inside
from meshgpt.mesh.farthest import farthest_points
from meshgpt.mesh.inside import contains, signed_distances, surface_distances, winding_numbers
from meshgpt.mesh.mesh import Mesh, join
from meshgpt.mesh.sampling import sample_near, sample_sharp_edges, sample_volume
from tests.solids import ball, box


@pytest.fixture(params=["libigl", "numpy"])
def either_way(request, monkeypatch):
    """The test runs with libigl and without."""
    if request.param == "numpy":
        monkeypatch.setattr(inside, "libigl", lambda: None)
    return request.param


def box_distances(points, half):
    """Positive inside a box of these half sides, by the formula."""
    beyond = np.abs(points) - half
    outside = np.linalg.norm(np.maximum(beyond, 0), axis=1)
    return -(outside + np.minimum(beyond.max(axis=1), 0))


def test_distances_to_a_box_are_those_of_the_formula_and_positive_inside(either_way):
    points = sample_volume(3000, 0)
    half = np.array([0.9, 0.3, 0.05])
    assert np.allclose(signed_distances(box(half), points), box_distances(points, half), atol=1e-9)
    assert signed_distances(box(half), [[0, 0, 0]])[0] == pytest.approx(0.05)
    assert np.array_equal(contains(box(half), points), box_distances(points, half) > 0)


def test_libigl_and_numpy_agree_on_real_meshes(tiny_meshes, monkeypatch):
    pytest.importorskip("igl")
    points = sample_volume(1500, 1)
    for mesh in (m.normalized() for m in tiny_meshes[:6]):
        fast, near = winding_numbers(mesh, points), surface_distances(mesh, points)
        assert np.abs(fast - winding_numbers(mesh, points, exact=True)).max() < 0.05
        with monkeypatch.context() as patch:
            patch.setattr(inside, "libigl", lambda: None)
            assert np.allclose(surface_distances(mesh, points), near, atol=1e-9)
            decided = np.abs(fast - 0.5) > 0.05
            assert np.array_equal(contains(mesh, points)[decided], (fast > 0.5)[decided])


def test_winding_numbers_count_bodies_and_know_the_winding(either_way):
    one = box([0.5, 0.5, 0.5])
    two = join([one, Mesh(one.vertices + [0.5, 0, 0], one.faces)])
    points = np.array([[0.25, 0.1, 0.0], [-0.25, 0.1, 0], [0.9, 0.1, 0.1], [0, 0.9, 0]])
    assert np.allclose(winding_numbers(two, points), [2, 1, 1, 0], atol=0.02)
    assert np.allclose(winding_numbers(one.flipped(), points), [-1, -1, 0, 0], atol=0.02)


def test_what_has_no_points_or_no_faces(either_way):
    empty = Mesh([], [])
    assert winding_numbers(empty, np.zeros((2, 3))).tolist() == [0, 0] and not contains(empty, np.zeros((1, 3))).any()
    assert len(surface_distances(box([1, 1, 1]), np.zeros((0, 3)))) == 0
    with pytest.raises(MeshError, match="without faces"):
        surface_distances(empty, np.zeros((1, 3)))
    with pytest.raises(MeshError, match=r"shape \(n, 3\), got shape \(3,\)"):
        contains(box([1, 1, 1]), np.zeros(3))
    with pytest.raises(MeshError, match="point 1 is .*nan.*finite"):
        signed_distances(box([1, 1, 1]), np.array([[0, 0, 0], [0, np.nan, 0]]))


def test_points_of_sharp_edges_lie_on_the_edges_of_a_cube():
    for mesh in (box([0.5, 0.5, 0.5]), box([0.5, 0.5, 0.5]).flipped()):
        points, normals = sample_sharp_edges(mesh, 500, 0)
        on_two_sides = (np.abs(np.abs(points) - 0.5) < 1e-6).sum(axis=1)
        assert (on_two_sides >= 2).all() and points.shape == normals.shape == (500, 3)
        assert np.allclose(np.sort(np.abs(normals), axis=1), [0, np.sqrt(0.5), np.sqrt(0.5)])  # halfway between sides
    soup = box([0.5, 0.5, 0.5])  # vertices of its own for each face, and one face turned round
    turned = soup.faces.copy()
    turned[0] = turned[0, ::-1]
    soup = Mesh(soup.vertices[turned].reshape(-1, 3), np.arange(3 * len(turned)).reshape(-1, 3))
    assert np.isin(np.abs(sample_sharp_edges(soup, 200, 0)[0]).round(9), 0.5).sum(axis=1).min() >= 2


def test_a_smooth_ball_has_no_sharp_edge_and_a_sheet_has_its_border():
    assert sample_sharp_edges(ball(0.5, 3), 100, 0)[0].shape == (0, 3)
    sheet = Mesh([[0, 0, 0], [0, 0, 1], [1, 0, 1], [1, 0, 0]], [[0, 1, 2, 3]])
    points, normals = sample_sharp_edges(sheet, 100, 0)
    assert ((np.abs(points[:, ::2] - 0.5) > 0.5 - 1e-9).any(axis=1)).all() and (normals == [0, 1, 0]).all()
    with pytest.raises(MeshError, match="-1 points"):
        sample_sharp_edges(sheet, -1, 0)
    with pytest.raises(MeshError, match="without faces"):
        sample_sharp_edges(Mesh([], []), 1, 0)


def test_points_near_a_surface_are_as_far_as_the_spreads_say_and_stay_in_the_box():
    surface = np.tile([[0.0, 0.0, 0.0], [1.0, 0, 0]], (500, 1))
    points = sample_near(surface, 20_000, 0, spreads=(0.01, 0.1))
    across = points[:, 1:]
    assert across[:10_000].std() == pytest.approx(0.01, rel=0.05)
    assert across[10_000:].std() == pytest.approx(0.1, rel=0.05)
    assert np.abs(points).max() <= 1.0 and (points[:, 0] == 1.0).any()
    assert np.abs(sample_volume(1000, 0)).max() <= 1 and np.abs(sample_volume(1000, 0)).max(axis=0).min() > 0.98
    with pytest.raises(MeshError, match="no point is given"):
        sample_near(surface[:0], 4, 0)


def test_the_quick_farthest_points_are_the_same_points(monkeypatch):
    pytest.importorskip("torch_quickfps")
    points = torch.rand(3, 300, 6, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(3, 300, dtype=torch.bool)
    calls = []
    quickly = farthest._quickly
    monkeypatch.setattr(farthest, "_quickly", lambda *a: calls.append(1) or quickly(*a))
    assert torch.equal(farthest_points(points, mask, 40, quick=True), farthest_points(points, mask, 40))
    assert len(calls) == 1
    mask[0, 200:] = False  # a shorter cloud, and one with fewer places than are asked for: the slow way
    assert torch.equal(farthest_points(points, mask, 40, quick=True), farthest_points(points, mask, 40))
    same = torch.zeros(1, 50, 3)
    seen = torch.ones(1, 50, dtype=torch.bool)
    assert torch.equal(farthest_points(same, seen, 5, quick=True), farthest_points(same, seen, 5))
    assert len(calls) == 1
    monkeypatch.setattr(farthest, "_quickfps", lambda: None)
    assert farthest_points(points, mask, 4, quick=True).shape == (3, 4)
