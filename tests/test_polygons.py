"""Polygons become triangles that cover them exactly, wound as they were."""

import time

import numpy as np
import pytest

from meshgpt.mesh.mesh import Mesh
from meshgpt.mesh.polygons import Polygons, faces_from_polygons, fan_triangles, strip_triangles, triangulate_polygon

L_SHAPE = np.array([[0, 0, 0], [2, 0, 0], [2, 1, 0], [1, 1, 0], [1, 2.5, 0], [0, 2.5, 0]], dtype=float)  # area 3.5
SQUARE_WITH_HOLE = np.array(
    [[0, 0, 0], [4, 0, 0], [4, 4, 0], [0, 4, 0], [0, 0, 0], [1, 1, 0], [1, 2, 0], [2, 2, 0], [2, 1, 0], [1, 1, 0]],
    dtype=float,
)  # area 15; a double edge joins the hole to the outline


def vectors(points: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Area vectors (n, 3) of triangles."""
    a, b, c = (points[triangles[:, i]] for i in range(3))
    return np.cross(b - a, c - a) / 2


def polygon_vector(points: np.ndarray) -> np.ndarray:
    return np.cross(points, np.roll(points, -1, axis=0)).sum(axis=0) / 2


def assert_covers(points: np.ndarray, triangles: np.ndarray, rel: float = 1e-9) -> None:
    """The triangles have the area of the polygon together, and each is wound like it."""
    whole = polygon_vector(points)
    parts = vectors(points, triangles)
    assert np.linalg.norm(parts, axis=1).sum() == pytest.approx(np.linalg.norm(whole), rel=rel)
    assert (parts @ whole >= -1e-12 * (whole @ whole)).all()
    assert set(triangles.reshape(-1)) <= set(range(len(points)))


def star(count: int, seed: int) -> np.ndarray:
    """A simple polygon around the origin, counter-clockwise in the plane z = 0, with many dents."""
    random = np.random.default_rng(seed)
    angles = (np.arange(count) + random.uniform(0.1, 0.9, count)) * 2 * np.pi / count
    radii = random.uniform(0.2, 1, count)
    return np.stack((radii * np.cos(angles), radii * np.sin(angles), 0 * angles), axis=1)


def spiral(turns: int, count: int) -> np.ndarray:
    angles = np.linspace(0, 2 * np.pi * turns, count)
    inner, outer = (np.stack((r * np.cos(angles), r * np.sin(angles), 0 * r), 1) for r in (angles + 1, angles + 3))
    return np.concatenate((outer, inner[::-1]))


@pytest.mark.parametrize("count", [5, 6, 7, 8, 9, 12, 20, 33, 100])
def test_dented_polygons_are_covered_exactly(count):
    for seed in range(12):
        points = star(count, seed)
        triangles = triangulate_polygon(points)
        assert triangles.shape == (count - 2, 3)
        assert_covers(points, triangles)


def test_an_l_has_the_area_of_an_l_from_every_corner():
    for start in range(6):
        points = np.roll(L_SHAPE, start, axis=0)
        assert_covers(points, triangulate_polygon(points))


def test_a_spiral_and_a_hole_joined_by_a_double_edge_are_covered():
    for points in (spiral(3, 60), SQUARE_WITH_HOLE):
        for start in range(0, len(points), 1 + len(points) // 10):
            turned = np.roll(points, start, axis=0)
            assert_covers(turned, triangulate_polygon(turned))


def test_winding_and_area_are_kept_in_every_plane_and_direction():
    random = np.random.default_rng(0)
    for seed in range(20):
        turn = np.linalg.qr(random.normal(size=(3, 3)))[0]  # also mirrors
        points = star(9, seed) @ turn.T * 10.0 ** random.integers(-6, 7) + random.normal(size=3)
        assert_covers(points, triangulate_polygon(points), rel=1e-6)
        assert_covers(points[::-1], triangulate_polygon(points[::-1]), rel=1e-6)


def test_corners_on_a_straight_edge_make_no_empty_triangles():
    square = np.array([[0, 0, 0], [1, 0, 0], [2, 0, 0], [2, 1, 0], [2, 2, 0], [1, 2, 0], [0, 2, 0], [0, 1, 0]], float)
    triangle = np.array([[0, 0, 0], [1, 0, 0], [2, 0, 0], [1, 1, 0]], dtype=float)
    for points in (square, triangle):
        for start in range(len(points)):
            turned = np.roll(points, start, axis=0)
            triangles = triangulate_polygon(turned)
            assert_covers(turned, triangles)
            assert (np.linalg.norm(vectors(turned, triangles), axis=1) > 1e-3).all()


def test_a_bent_polygon_keeps_its_outline():
    points = star(8, 3)
    points[:, 2] = np.random.default_rng(1).uniform(-0.2, 0.2, 8)
    triangles = triangulate_polygon(points)
    edges = np.concatenate([triangles[:, [i, (i + 1) % 3]] for i in range(3)]).tolist()
    assert sorted(edge for edge in edges if edge[::-1] not in edges) == sorted([i, (i + 1) % 8] for i in range(8))
    assert vectors(points, triangles).sum(axis=0) == pytest.approx(polygon_vector(points))


def test_a_quad_is_cut_along_its_shorter_diagonal_and_inside():
    kite = np.array([[0, 0, 0], [1, -0.5, 0], [4, 0, 0], [1, 0.5, 0]])
    dart = np.array([[0, 0, 0], [2, -1, 0], [0.5, 0, 0], [2, 1, 0]])  # its third corner is a dent
    assert_covers(kite, triangulate_polygon(kite))
    assert all({1, 3} <= set(triangle) for triangle in triangulate_polygon(kite).tolist())
    for start in range(4):
        points = np.roll(dart, start, axis=0)
        assert_covers(points, triangulate_polygon(points))


def test_a_mesh_of_quads_is_cut_as_its_polygons_are():
    darts = np.concatenate([np.roll([[0, 0, 0], [2, -1, 0], [0.5, 0, 0], [2, 1, 0]], i, axis=0) for i in range(4)])
    mesh = Mesh(np.concatenate((darts, np.random.default_rng(0).normal(size=(40, 3)))), np.arange(56).reshape(-1, 4))
    triangles = mesh.triangulated()
    assert triangles.face_areas[:8].sum() == pytest.approx(4 * 0.5)
    cut = faces_from_polygons(Polygons(mesh.vertices, np.arange(56), np.full(14, 4)))
    assert sorted(map(sorted, cut.tolist()))[:8] == sorted(map(sorted, triangles.faces.tolist()))[:8]


def test_a_square_is_always_cut_from_its_first_corner():
    square = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], dtype=float)
    for start in range(4):
        noisy = np.roll(square, start, axis=0) + np.random.default_rng(start).normal(size=(4, 3)) * 1e-12
        assert triangulate_polygon(noisy).tolist() == [[0, 1, 2], [0, 2, 3]]


@pytest.mark.parametrize(
    "points",
    [
        np.zeros((7, 3)),
        np.linspace(0, 1, 9)[:, None] * np.ones(3),
        np.array([[0, 0, 0], [2, 2, 0], [2, 0, 0], [0, 2, 0], [1, 1, 0]], dtype=float),
        np.stack((np.cos(np.arange(5) * 4 * np.pi / 5), np.sin(np.arange(5) * 4 * np.pi / 5), np.zeros(5)), axis=1),
        np.random.default_rng(0).normal(size=(60, 3)),
        np.random.default_rng(0).integers(0, 3, size=(60, 3)).astype(float),
        np.random.default_rng(1).normal(size=(12, 3)) * 1e300,
    ],
    ids=["one point", "a line", "crossing", "pentagram", "tangle", "tangle on a grid", "huge"],
)
def test_polygons_that_are_none_still_end_as_triangles(points):
    with np.errstate(all="ignore"):
        triangles = triangulate_polygon(points)
    assert triangles.shape == (len(points) - 2, 3)
    assert triangles.min() >= 0 and triangles.max() < len(points)


def test_large_and_many_polygons_take_no_long_time():
    start = time.perf_counter()
    assert_covers(star(1000, 0), triangulate_polygon(star(1000, 0)))
    stars = np.concatenate([star(9, seed) for seed in range(2000)])
    faces = faces_from_polygons(Polygons(stars, np.arange(len(stars)), np.full(2000, 9)))
    assert len(faces) == 2000 * 7
    assert time.perf_counter() - start < 20  # about 1.5 alone on a slow core


def test_faces_keep_the_order_of_their_polygons():
    points = np.concatenate((star(5, 0), star(3, 1), star(4, 2), L_SHAPE))
    faces = faces_from_polygons(Polygons(points, np.arange(18), np.array([5, 3, 4, 6])))
    owners = np.searchsorted([5, 8, 12, 18], faces[:, 0], side="right")
    assert owners.tolist() == [0] * 3 + [1] + [2] * 2 + [3] * 4


def test_quads_are_kept_on_request_beside_triangles_and_cut_polygons():
    corners, sizes = np.array([0, 1, 2, 0, 1, 2, 3, 0, 1, 2, 4, 5]), np.array([3, 4, 5])
    faces = faces_from_polygons(Polygons(L_SHAPE, corners, sizes), quads=True)
    assert faces[0].tolist() == [0, 1, 2, -1]
    assert faces[1].tolist() == [0, 1, 2, 3]
    assert faces.shape == (5, 4) and (faces[2:, 3] == -1).all()


def test_a_corner_that_repeats_its_neighbour_is_dropped_and_what_is_too_small_vanishes():
    points = np.concatenate((L_SHAPE, L_SHAPE[:1]))  # vertex 6 lies on vertex 0
    corners = np.array([0, 0, 1, 2, 0, 1, 2, 6, 0, 6, 1, 0, 1, 0, 1])
    faces = faces_from_polygons(Polygons(points, corners, np.array([4, 4, 3, 4])))
    assert [sorted(face) for face in faces.tolist()] == [[0, 1, 2], [0, 1, 2]]
    assert faces_from_polygons(Polygons(points, corners[:0], corners[:0])).shape == (0, 3)
    assert faces_from_polygons(Polygons(points, corners[:0], np.array([0, 0])), quads=True).shape == (0, 4)


def test_strips_and_fans_are_wound_one_way():
    grid = np.array([[0, 0, 0], [0, 1, 0], [1, 0, 0], [1, 1, 0], [2, 0, 0], [2, 1, 0]], dtype=float)
    assert (vectors(grid, strip_triangles(np.arange(6)))[:, 2] < 0).all()
    ring = np.stack((np.cos(np.arange(6)), np.sin(np.arange(6)), np.zeros(6)), axis=1)
    assert (vectors(ring, fan_triangles(np.arange(6)))[:, 2] > 0).all()
    assert fan_triangles(np.arange(2)).shape == strip_triangles(np.arange(1)).shape == (0, 3)
