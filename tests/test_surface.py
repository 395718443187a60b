"""Points on surfaces and distances between them: against the definitions, and on shapes whose answer is known."""

import numpy as np
import pytest

from meshgpt.errors import MeshError
from meshgpt.mesh.clouds import PointCloud
from meshgpt.mesh.frame import Frame
from meshgpt.mesh.mesh import Mesh
from meshgpt.mesh.surface import compare_surfaces, nearest_mesh, point_distances, sample_surface

# Two squares side by side, of areas 1 and 3, the first a quad, the second two triangles; and a face without area.
PLATE = Mesh(
    [[0, 0, 0], [0, 0, 1], [1, 0, 1], [1, 0, 0], [4, 0, 1], [4, 0, 0]],
    [[0, 1, 2, 3], [3, 2, 4, -1], [3, 4, 5, -1], [0, 3, 5, -1]],
)
CUBE = Mesh(
    np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) * 0.95,
    [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]],
)


def moved(mesh, *by):
    return Mesh(mesh.vertices + np.array(by), mesh.faces)


def test_points_are_spread_evenly_over_the_area_and_lie_on_the_surface():
    points, normals = sample_surface(PLATE, 40_000, np.random.default_rng(0))
    assert points.shape == normals.shape == (40_000, 3) and points.dtype == np.float64
    assert (points[:, 1] == 0).all() and (normals == [0, 1, 0]).all()
    counts, _, _ = np.histogram2d(points[:, 0], points[:, 2], bins=(16, 4), range=((0, 4), (0, 1)))
    assert abs(counts - 625).max() < 5 * 25  # 64 cells of 625 expected: five standard deviations


def test_points_lie_on_faces_with_the_normal_of_that_face(tiny_meshes):
    for mesh in tiny_meshes[:4]:
        points, normals = sample_surface(mesh, 200, 0)
        planes = mesh.face_normals[:, None] * (points[None] - mesh.vertices[mesh.faces[:, 0]][:, None])
        on_plane = abs(planes.sum(axis=2)) < 1e-9
        same = (abs(mesh.face_normals[:, None] - normals[None]) < 1e-6).all(axis=2)
        assert (on_plane & same).any(axis=0).all()


def test_the_count_is_exact_and_the_seed_decides():
    for count in (0, 1, 7):
        assert len(sample_surface(CUBE, count, 0)[0]) == count
    one, again, other = (sample_surface(CUBE, 50, seed) for seed in (3, np.random.default_rng(3), 4))
    assert np.array_equal(one[0], again[0]) and np.array_equal(one[1], again[1])
    assert not np.array_equal(one[0], other[0])


@pytest.mark.parametrize("scale", [1e-180, 1.0, 1e150])
def test_the_size_of_a_mesh_does_not_matter(scale):
    points, normals = sample_surface(Mesh(CUBE.vertices * scale, CUBE.faces), 30, 0)
    assert np.allclose(points / scale, sample_surface(CUBE, 30, 0)[0])
    assert np.allclose(np.linalg.norm(normals, axis=1), 1)


def test_a_mesh_without_surface_is_refused():
    with pytest.raises(MeshError, match="without faces"):
        sample_surface(Mesh([[0, 0, 0]], []), 5, 0)
    line = Mesh([[0, 0, 0], [1, 0, 0], [2, 0, 0]], [[0, 1, 2]])
    for mesh in (line, Mesh(np.zeros((3, 3)), [[0, 1, 2]])):
        with pytest.raises(MeshError, match="all 1 of its triangles are without area"):
            sample_surface(mesh, 5, 0)
    with pytest.raises(MeshError, match="cannot take -1 points"):
        sample_surface(CUBE, -1, 0)


def test_the_report_is_that_of_the_definitions():
    rng = np.random.default_rng(0)
    (p, n), (q, m) = ((rng.uniform(-1, 1, (count, 3)), rng.standard_normal((count, 3))) for count in (150, 220))
    report = compare_surfaces(PointCloud(p, n), PointCloud(q, m), threshold=0.2)
    distances = np.linalg.norm(p[:, None] - q[None], axis=2)
    to_q, to_p = distances.min(axis=1), distances.min(axis=0)
    unit_n, unit_m = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (n, m))
    one = (unit_n * unit_m[distances.argmin(axis=1)]).sum(axis=1)
    two = (unit_m * unit_n[distances.argmin(axis=0)]).sum(axis=1)
    precision, recall = (to_q <= 0.2).mean(), (to_p <= 0.2).mean()
    assert report.chamfer == pytest.approx((to_q.mean() + to_p.mean()) / 2)
    assert report.chamfer_squared == pytest.approx((to_q**2).mean() + (to_p**2).mean())
    assert report.hausdorff == pytest.approx(max(to_q.max(), to_p.max()))
    assert report.normal_consistency == pytest.approx((abs(one).mean() + abs(two).mean()) / 2)
    assert report.signed_normal_consistency == pytest.approx((one.mean() + two.mean()) / 2)
    assert report.f_score == pytest.approx(2 * precision * recall / (precision + recall))
    assert report.threshold == 0.2


def test_nearest_points_are_those_of_the_full_table():
    rng = np.random.default_rng(1)
    p, q = rng.standard_normal((90, 3)), rng.standard_normal((70, 3))
    distances, indices = point_distances(p, q)
    table = np.linalg.norm(p[:, None] - q[None], axis=2)
    assert np.allclose(distances, table.min(axis=1)) and np.array_equal(indices, table.argmin(axis=1))
    with pytest.raises(MeshError, match="among none"):
        point_distances(p, q[:0])


def test_equal_surfaces_are_as_far_apart_as_their_points_are_dense():
    area, count = CUBE.face_areas.sum(), 5000
    report = compare_surfaces(CUBE, CUBE.triangulated(), count)
    assert report.chamfer == pytest.approx(np.sqrt(area / count) / 2, rel=0.1)
    assert report.f_score == pytest.approx(compare_surfaces(CUBE, CUBE, count).f_score, abs=0.02)
    assert report.normal_consistency is not None and report.normal_consistency > 0.95


def test_a_known_distance_is_found():
    sheet = Mesh([[-1, 0, -1], [-1, 0, 1], [1, 0, 1], [1, 0, -1]], [[0, 1, 2, 3]])
    report = compare_surfaces(sheet, moved(sheet, 0, 0.5, 0), 20_000)
    assert report.chamfer == pytest.approx(0.5, abs=1e-3) and report.hausdorff == pytest.approx(0.5, abs=5e-3)
    assert report.chamfer_squared == pytest.approx(0.5, abs=1e-3)  # twice 0.5 squared
    assert report.f_score == 0 and report.normal_consistency == 1


def test_faces_wound_the_other_way_show_in_the_signed_consistency_alone():
    report = compare_surfaces(CUBE, CUBE.flipped(), 2000)
    assert report.normal_consistency is not None and report.signed_normal_consistency is not None
    assert report.normal_consistency > 0.95 and report.signed_normal_consistency < -0.9


def test_comparing_is_reproducible_and_symmetric_up_to_the_draw():
    one, two = CUBE, moved(CUBE, 0.3, 0, 0)
    assert compare_surfaces(one, two, 500, seed=4) == compare_surfaces(one, two, 500, seed=4)
    assert compare_surfaces(one, two, 500, seed=4) != compare_surfaces(one, two, 500, seed=5)
    there, back = compare_surfaces(one, two, 4000), compare_surfaces(two, one, 4000)
    assert there.chamfer == pytest.approx(back.chamfer, rel=0.05)


def test_clouds_without_normals_have_no_normal_consistency():
    bare = PointCloud(CUBE.vertices)
    report = compare_surfaces(CUBE, bare, 100)
    assert report.normal_consistency is None and report.signed_normal_consistency is None
    assert "normal" not in str(report) and "Chamfer" in str(report)
    unknown = PointCloud(CUBE.vertices, np.zeros((8, 3)))
    assert compare_surfaces(CUBE, unknown, 100).normal_consistency is None
    half = PointCloud(CUBE.vertices, np.array([[0, 1, 0]] * 4 + [[0, 0, 0]] * 4))
    assert compare_surfaces(half, half).normal_consistency == 1
    assert "normal consistency" in str(compare_surfaces(CUBE, CUBE, 100))


def test_a_large_cloud_is_thinned_to_the_count():
    dense, thin = PointCloud.from_mesh(CUBE, 5000, 0), PointCloud.from_mesh(CUBE, 300, 1)
    report = compare_surfaces(dense, thin, 300)
    assert report.chamfer == pytest.approx(np.sqrt(CUBE.face_areas.sum() / 300) / 2, rel=0.15)


def test_what_is_no_surface_is_refused():
    with pytest.raises(MeshError, match="got ndarray"):
        compare_surfaces(CUBE, CUBE.vertices)
    with pytest.raises(MeshError, match="without faces"):
        compare_surfaces(CUBE, Mesh([], []))


def test_the_nearest_mesh_is_the_mesh_itself_among_real_ones(tiny_meshes):
    meshes = [mesh.normalized() for mesh in tiny_meshes[:20]]
    for index in (0, 7, 19):
        found = nearest_mesh(meshes[index], meshes, count=500)
        assert found.index == index and found.chamfer < 0.1
    clouds = [PointCloud.from_mesh(mesh, 500, 1) for mesh in meshes]
    assert nearest_mesh(PointCloud.from_mesh(meshes[7], 300, 2), clouds).index == 7


def test_the_nearest_mesh_has_the_smallest_chamfer_of_all():
    others = [moved(CUBE, 0.4, 0, 0), moved(CUBE, 0.1, 0, 0), moved(CUBE, 0, 0.9, 0)]
    found = nearest_mesh(CUBE, others, count=1000)
    assert found.index == 1
    assert found.chamfer == pytest.approx(compare_surfaces(CUBE, others[1], 1000).chamfer)
    with pytest.raises(MeshError, match="among none"):
        nearest_mesh(CUBE, [])


def test_a_frame_normalises_as_a_mesh_does_and_puts_back(tiny_meshes):
    mesh = moved(Mesh(tiny_meshes[3].vertices * 17, tiny_meshes[3].faces), 5, -3, 40)
    frame = Frame.of(mesh.bounds)
    assert np.array_equal(frame.normalize(mesh.vertices), mesh.normalized().vertices)
    assert np.allclose(frame.restore_mesh(mesh.normalized()).vertices, mesh.vertices)
    point = Frame.of([[3, 4, 5]])
    assert point.normalize(np.array([[3.0, 4, 6]])).tolist() == [[0, 0, 1]]
    for wrong in ([], [[1, 2]], [1, 2, 3]):
        with pytest.raises(MeshError, match="a frame needs points"):
            Frame.of(wrong)
