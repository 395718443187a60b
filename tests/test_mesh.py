"""One mesh: what is checked, cleaned, normalised."""

import numpy as np
import pytest
import torch

from meshgpt.errors import MeshError
from meshgpt.mesh.mesh import Mesh, distinct_rows, first_occurrences, join, reverse_winding, sort_faces

CUBE = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], dtype=float)
CUBE_QUADS = np.array([[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]])


def test_arrays_tensors_and_lists_give_the_same_mesh():
    one = Mesh(CUBE, CUBE_QUADS)
    two = Mesh(torch.tensor(CUBE), torch.tensor(CUBE_QUADS))
    three = Mesh(CUBE.tolist(), CUBE_QUADS.tolist())
    for mesh in (one, two, three):
        assert mesh.vertices.dtype == np.float64 and mesh.faces.dtype == np.int64
        assert np.array_equal(mesh.vertices, CUBE) and np.array_equal(mesh.faces, CUBE_QUADS)
    assert repr(one) == "Mesh(8 vertices, 6 quads)"


def test_an_empty_mesh_is_a_mesh():
    mesh = Mesh([], [])
    assert mesh.num_vertices == mesh.num_faces == 0
    assert np.array_equal(mesh.bounds, np.zeros((2, 3)))
    assert mesh.normalized().cleaned().num_faces == 0


@pytest.mark.parametrize(
    ("vertices", "faces", "says"),
    [
        (np.zeros((4, 2)), [[0, 1, 2]], r"\(nv, 3\), got shape \(4, 2\)"),
        ([["a", "b", "c"]], [[0, 0, 0]], "must be numbers"),
        ([[0, 0, 0], [0, np.nan, 0], [1, 0, 0]], [[0, 1, 2]], "vertex 1 is .*finite"),
        ([[0, 0, 0], [0, np.inf, 0], [1, 0, 0]], [[0, 1, 2]], "vertex 1 is .*finite"),
        (CUBE, [[0, 1, 8]], "face 0 refers to vertex 8, but the mesh has 8 vertices"),
        (CUBE, [[0, 1, 2], [0, -1, 2]], "face 1 refers to vertex -1"),
        (CUBE, [[0, 1]], r"\(nf, 3\) or \(nf, 4\), got shape \(1, 2\)"),
        (CUBE, [[0.0, 1.0, 2.0]], "faces must be integers"),
    ],
)
def test_what_is_no_mesh_is_refused_with_the_place(vertices, faces, says):
    with pytest.raises(MeshError, match=says):
        Mesh(vertices, faces)


def test_a_triangle_among_quads_has_its_last_corner_missing():
    mesh = Mesh(CUBE, [[0, 1, 3, 2], [4, 6, 7, -1]])
    assert mesh.triangulated().num_faces == 3
    assert np.allclose(mesh.face_areas, [1.0, 0.5])


def test_normals_point_outside_and_areas_are_right():
    mesh = Mesh(CUBE, CUBE_QUADS)
    centres = mesh.vertices[mesh.faces].mean(axis=1)
    assert np.allclose(mesh.face_areas, 1.0)
    assert ((centres - 0.5) * mesh.face_normals).sum(axis=1) == pytest.approx(np.full(6, 0.5))
    assert np.allclose(mesh.flipped().face_normals, -mesh.face_normals)
    assert np.array_equal(reverse_winding(reverse_winding(mesh.faces)), mesh.faces)


def test_triangulation_keeps_area_winding_and_order():
    mesh = Mesh(CUBE * [1, 2, 3], CUBE_QUADS)
    triangles = mesh.triangulated()
    assert triangles.corners == 3 and triangles.num_faces == 12
    assert np.allclose(triangles.face_areas.reshape(6, 2).sum(axis=1), mesh.face_areas)
    assert np.allclose(triangles.face_normals[::2], mesh.face_normals)
    assert triangles.triangulated() is triangles


def test_a_quad_is_cut_along_its_shorter_diagonal():
    kite = Mesh([[0, 0, 0], [1, 2, 0], [0, 9, 0], [-1, 2, 0]], [[0, 1, 2, 3]])
    assert all({1, 3} <= set(face) for face in kite.triangulated().faces.tolist())


def test_normalizing_uses_only_vertices_of_faces():
    mesh = Mesh([*CUBE.tolist(), [100, 100, 100]], CUBE_QUADS).normalized()
    assert np.allclose(mesh.bounds, [[-0.95] * 3, [0.95] * 3])


def test_grounding_puts_the_lowest_point_at_zero():
    low, high = Mesh(CUBE + 5, CUBE_QUADS).grounded().bounds
    assert low[1] == 0 and np.allclose((low + high)[[0, 2]], 0)


def test_cleaning_merges_and_drops_and_is_idempotent():
    vertices = [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 0], [9, 9, 9], [0, 0, 1]]
    faces = [[0, 1, 2], [1, 2, 3], [2, 1, 0], [0, 3, 1], [0, 1, 5]]
    mesh = Mesh(vertices, faces).cleaned()
    assert mesh.num_vertices == 4
    assert mesh.num_faces == 3  # one duplicate after rotation and one degenerate face are gone, the flipped one stays
    again = mesh.cleaned()
    assert np.array_equal(again.faces, mesh.faces) and np.array_equal(again.vertices, mesh.vertices)


def test_a_quad_with_two_equal_neighbours_becomes_a_triangle():
    mesh = Mesh([[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 0]], [[0, 1, 2, 3]]).cleaned()
    assert mesh.faces.shape == (1, 4) and mesh.faces[0, 3] == -1
    assert mesh.face_areas == pytest.approx([0.5])


@pytest.mark.parametrize("count", [0, 1, 200])
def test_distinct_rows_are_those_of_numpy(count):
    rows = np.random.default_rng(0).integers(-2, 3, (count, 3)) * 0.3 + 0.0
    first, inverse = distinct_rows(rows)
    expected, places, numbers = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    assert np.array_equal(rows[first], expected) and np.array_equal(first, places)
    assert np.array_equal(inverse, numbers.reshape(-1)) and np.array_equal(rows[first][inverse], rows)


@pytest.mark.parametrize("low", [-1, 0, -5])
@pytest.mark.parametrize("high", [4, 2**20, 2**40])
@pytest.mark.parametrize("corners", [3, 4])
def test_faces_are_sorted_as_rows_whether_they_fit_into_one_number_or_not(low, high, corners):
    rng = np.random.default_rng(0)
    faces = rng.choice([low, 0, 1, high - 1, high], (300, corners))
    assert np.array_equal(sort_faces(faces), np.lexsort(faces.T[::-1]))
    expected = np.sort(np.unique(faces, axis=0, return_index=True)[1])
    assert np.array_equal(first_occurrences(faces), expected)


def test_minus_zero_is_zero():
    mesh = Mesh([[0.0, 0, 0], [-0.0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 2, 3], [1, 2, 3]]).cleaned()
    assert mesh.num_vertices == 3 and mesh.num_faces == 1 and not np.signbit(mesh.vertices).any()


def test_joining_keeps_all_parts():
    cube = Mesh(CUBE, CUBE_QUADS)
    both = join([cube, cube.triangulated()])
    assert both.num_vertices == 16 and both.num_faces == 18 and both.corners == 4
    assert both.face_areas.sum() == pytest.approx(12.0)
    assert join([]).num_faces == 0
