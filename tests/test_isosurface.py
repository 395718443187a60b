"""Surfaces out of fields: where they lie, which way they look, and that looking at few points finds the same one."""

import numpy as np
import pytest
import torch

from meshgpt.errors import ConfigError, MeshError, MissingExtraError
from meshgpt.mesh import isosurface
from meshgpt.mesh.isosurface import (
    ExtractionConfig,
    evaluate,
    extract,
    grid_of_field,
    grid_points,
    without_floaters,
)
from meshgpt.mesh.mesh import join
from meshgpt.mesh.topology import components, topology_report
from tests.solids import ball, moved, volume

DENSE = ExtractionConfig(resolution=64, coarse=64)


def sphere(radius, *centre):
    return lambda points: radius - (points - torch.tensor(centre or (0.0, 0.0, 0.0))).norm(dim=-1)


def torus(points):
    ring = torch.stack((points[:, [0, 2]].norm(dim=1) - 0.6, points[:, 1]), dim=1)
    return 0.15 - ring.norm(dim=1)


def table(points):
    """A plate on four thin legs, no two axes alike: 1 inside, 0 outside."""
    x, y, z = points.T
    plate = (x.abs() < 0.9) & ((y - 0.5).abs() < 0.04) & (z.abs() < 0.5)
    legs = ((x.abs() - 0.8).abs() < 0.04) & (y.abs() < 0.5) & ((z.abs() - 0.4).abs() < 0.04)
    return (plate | legs).float() - 0.5


def test_a_sphere_has_its_radius_to_a_tenth_of_a_cell_and_lies_in_the_middle():
    found = extract(sphere(0.7), DENSE)
    assert found.verdict == "surface" and not found.touches_border and found.evaluations == 65**3
    radii = np.linalg.norm(found.mesh.vertices, axis=1)
    assert np.abs(radii - 0.7).max() < 0.1 * 2 / 64
    assert np.allclose(found.mesh.vertices.mean(axis=0), 0, atol=1e-6)
    off = extract(sphere(0.3, 0.4, -0.2, 0.1), DENSE).mesh
    assert np.allclose(off.bounds.mean(axis=0), [0.4, -0.2, 0.1], atol=1e-3)


def test_surfaces_are_closed_and_look_outwards():
    for field, expected in ((sphere(0.7), 4 / 3 * np.pi * 0.7**3), (torus, 2 * np.pi**2 * 0.6 * 0.15**2)):
        mesh = extract(field, DENSE).mesh
        report = topology_report(mesh)
        assert report.watertight and report.consistently_wound
        assert volume(mesh) == pytest.approx(expected, rel=0.02) and volume(mesh) > 0


def test_axes_are_not_exchanged():
    ellipsoid = torch.tensor([0.8, 0.5, 0.2])
    mesh = extract(lambda p: 1 - (p / ellipsoid).norm(dim=1), DENSE).mesh
    assert np.allclose(mesh.bounds[1], ellipsoid, atol=0.01)
    points = grid_points(4).reshape(5, 5, 5, 3)
    assert points[1, 2, 4].tolist() == [-0.5, 0.0, 1.0]


@pytest.mark.parametrize("field", [sphere(0.63), torus, table, sphere(0.2, 0.7, 0.7, 0.7)])
def test_looking_where_the_surface_is_finds_the_same_as_looking_everywhere(field):
    few, all_points = ExtractionConfig(resolution=64, coarse=16), DENSE
    one, other = grid_of_field(field, few), grid_of_field(field, all_points)
    assert ((one.values > 0) == (other.values > 0)).all() and one.evaluations < 0.35 * other.evaluations
    assert (one.values == other.values)[one.known].all()
    few_mesh, whole = extract(field, few).mesh, extract(field, all_points).mesh
    assert np.array_equal(few_mesh.vertices, whole.vertices) and np.array_equal(few_mesh.faces, whole.faces)


def test_at_256_three_percent_of_the_points_are_enough():
    asked = []

    def counted(points):
        asked.append(len(points))
        return torus(points)

    grid = grid_of_field(counted, ExtractionConfig(resolution=256, coarse=32))
    assert sum(asked) == grid.evaluations <= 0.03 * 257**3
    assert max(asked) <= 65536


@pytest.mark.slow
def test_at_256_the_mesh_is_that_of_all_points():
    few, dense = (extract(torus, ExtractionConfig(resolution=256, coarse=coarse)) for coarse in (32, 256))
    assert few.evaluations <= 0.03 * dense.evaluations == 0.03 * 257**3
    assert np.array_equal(few.mesh.vertices, dense.mesh.vertices) and np.array_equal(few.mesh.faces, dense.mesh.faces)


def test_what_is_smaller_than_a_coarse_cell_is_found_where_distances_are_given():
    small = sphere(0.03, 0.33, 0.02, 0.02)
    missed = extract(small, ExtractionConfig(resolution=128, coarse=8))
    assert missed.verdict == "outside" and missed.mesh.num_faces == 0
    found = extract(small, ExtractionConfig(resolution=128, coarse=8, lipschitz=1.0))
    assert found.verdict == "surface" and found.evaluations < 0.02 * 129**3
    assert volume(found.mesh) == pytest.approx(4 / 3 * np.pi * 0.03**3, rel=0.2)  # two cells across


def test_fields_without_a_surface_say_so():
    nothing = extract(lambda p: p[:, 0] * 0 - 1, ExtractionConfig(resolution=32))
    assert (nothing.verdict, nothing.mesh.num_faces, nothing.touches_border) == ("outside", 0, False)
    everything = extract(lambda p: p[:, 0] * 0 + 1, ExtractionConfig(resolution=32))
    assert everything.verdict == "inside" and everything.touches_border
    assert np.allclose(everything.mesh.bounds, [[-1] * 3, [1] * 3], atol=1e-5)
    assert volume(everything.mesh) == pytest.approx(8, rel=1e-3)


def test_a_shape_that_leaves_the_box_is_closed_there_and_says_so():
    found = extract(sphere(0.8, 0.5, 0.0, 0.0), ExtractionConfig(resolution=32))
    assert found.touches_border and topology_report(found.mesh).watertight
    assert found.mesh.bounds[1, 0] == pytest.approx(1.0, abs=1e-4)
    wider = extract(sphere(0.8, 0.5, 0.0, 0.0), ExtractionConfig(resolution=32, bound=1.5))
    assert not wider.touches_border and wider.mesh.bounds[1, 0] == pytest.approx(1.3, abs=0.02)


def test_the_level_is_where_the_surface_lies():
    found = extract(sphere(0.7), DENSE.replace(level=0.2)).mesh
    assert np.allclose(np.linalg.norm(found.vertices, axis=1), 0.5, atol=0.004)


def test_small_parts_are_removed_on_request():
    def field(points):
        return torch.maximum(sphere(0.6)(points), sphere(0.05, 0.8, 0.8, 0.8)(points))

    both = extract(field, DENSE)
    assert both.removed == 0 and components(both.mesh).max() == 1
    one = extract(field, DENSE.replace(keep_share=0.01))
    assert one.removed == 1 and components(one.mesh).max() == 0 and one.mesh.num_faces > 0
    bodies = join([ball(0.5, 2), moved(ball(0.4, 2), 1, 0, 0)])
    assert without_floaters(bodies)[1] == 0 and without_floaters(join([]))[1] == 0


def test_bad_fields_and_settings_are_refused():
    with pytest.raises(MeshError, match="is nan at .*: .* not finite"):
        extract(lambda p: p[:, 0] / 0 * 0, ExtractionConfig(resolution=32))
    with pytest.raises(MeshError, match=r"one number a point, got \(10, 1\) for 10 points"):
        evaluate(lambda p: p[:, :1], torch.zeros(10, 3))
    assert evaluate(sphere(1.0), torch.zeros(0, 3)).shape == (0,)
    for fields, said in (
        ({"resolution": 100}, "power of two"),
        ({"resolution": 16}, "power of two"),
        ({"coarse": 1, "resolution": 1}, "at least 2"),
        ({"chunk": 0}, "chunk"),
        ({"bound": 0.0}, "bound"),
        ({"keep_share": 1.0}, "keep_share"),
        ({"lipschitz": 0.0}, "lipschitz"),
    ):
        with pytest.raises(ConfigError, match=said):
            ExtractionConfig(**fields)


def test_a_missing_package_names_the_extra(monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(isosurface, "import_module", missing)
    with pytest.raises(MissingExtraError, match=r"scikit-image.*meshgpt\[fields\]"):
        extract(sphere(0.5), ExtractionConfig(resolution=32))
