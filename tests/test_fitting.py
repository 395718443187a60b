"""The vertices of a light mesh moved onto a surface: nearer, never farther, and no face turned over."""

import numpy as np
import pytest

from meshgpt.errors import ConfigError, MeshError
from meshgpt.mesh.clouds import PointCloud
from meshgpt.mesh.fitting import FitConfig, fit_to_surface
from meshgpt.mesh.mesh import Mesh
from meshgpt.mesh.surface import compare_surfaces

QUICK = FitConfig(points=800, compared=2000, steps=3)
PLACE = np.array([5.0, -2.0, 30.0])
QUADS = Mesh(
    [[x, y, z] for x in (-0.9, 0.9) for y in (-0.9, 0.9) for z in (-0.9, 0.9)],
    [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]],
)
CUBE = QUADS.triangulated()


def ball(cuts):
    """A sphere: an octahedron of which every triangle is cut into four, `cuts` times."""
    vertices = np.concatenate((np.eye(3), -np.eye(3)))
    upper = np.array([[0, 1, 2], [1, 3, 2], [3, 4, 2], [4, 0, 2]])
    faces = np.concatenate((upper, np.where(upper == 2, 5, upper)[:, ::-1]))
    for _ in range(cuts):
        corners = vertices[faces]
        middle = (corners + np.roll(corners, -1, axis=1)) / 2
        first, second, third = corners.transpose(1, 0, 2)
        one, two, three = middle.transpose(1, 0, 2)
        parts = [(first, one, three), (one, second, two), (three, two, third), (one, two, three)]
        corners = np.concatenate([np.stack(part, axis=1) for part in parts]).reshape(-1, 3)
        mesh = Mesh(corners / np.linalg.norm(corners, axis=1, keepdims=True), np.arange(len(corners)).reshape(-1, 3))
        mesh = Mesh(mesh.vertices.round(9), mesh.faces).cleaned()
        vertices, faces = mesh.vertices, mesh.faces
    return Mesh(vertices, faces)


def worn(mesh, amount, seed=0):
    """The mesh with its vertices astray."""
    return Mesh(mesh.vertices + amount * np.random.default_rng(seed).standard_normal(mesh.vertices.shape), mesh.faces)


def chamfer(mesh, shape):
    return compare_surfaces(mesh, shape, QUICK.compared).chamfer


@pytest.mark.parametrize("shape", [CUBE, QUADS, ball(3)], ids=["cube", "quads", "ball"])
def test_a_mesh_astray_comes_back_to_the_surface(shape):
    light = worn(ball(2) if shape.num_faces > 12 else shape, 0.06)
    fitted = fit_to_surface(light, shape, QUICK)
    assert np.array_equal(fitted.faces, light.faces)
    itself, before, after = (chamfer(mesh, shape) for mesh in (shape, light, fitted))
    assert after - itself < 0.35 * (before - itself)


def test_place_and_size_change_nothing():
    light = worn(CUBE, 0.05)
    fitted = fit_to_surface(light, CUBE, QUICK)
    moved = [Mesh(mesh.vertices * 8 + PLACE, mesh.faces) for mesh in (light, CUBE)]
    assert np.allclose(fit_to_surface(*moved, QUICK).vertices, fitted.vertices * 8 + PLACE, atol=1e-3)


def test_it_depends_on_nothing_but_its_arguments():
    light = worn(CUBE, 0.05)
    one, _, other = (fit_to_surface(light, CUBE, QUICK), np.random.rand(3), fit_to_surface(light, CUBE, QUICK))
    assert np.array_equal(one.vertices, other.vertices)


@pytest.mark.parametrize("seed", range(4))
def test_no_face_is_turned_over_or_lost_and_nothing_gets_worse(seed, tiny_meshes):
    light, shape = (tiny_meshes[(5 * seed + step) % len(tiny_meshes)].triangulated().normalized() for step in (0, 1))
    fitted = fit_to_surface(light, shape, QUICK)
    assert np.isfinite(fitted.vertices).all() and chamfer(fitted, shape) <= chamfer(light, shape)
    cosines = np.einsum("nd,nd->n", light.face_normals, fitted.face_normals)
    assert (cosines[light.face_areas > 1e-6] > QUICK.turn - 1e-6).all()
    assert (fitted.face_areas[light.face_areas > 1e-6] > 0).all()


def test_a_mesh_that_cannot_come_nearer_is_returned_as_it_is():
    assert fit_to_surface(CUBE, CUBE, QUICK) is CUBE


def test_a_cloud_with_normals_without_and_of_few_points_is_a_surface_too():
    light, cloud = worn(CUBE, 0.05), PointCloud.from_mesh(CUBE, 3000, 0)
    for aim in (cloud, PointCloud(cloud.points)):
        fitted = fit_to_surface(light, aim, QUICK)
        assert chamfer(fitted, CUBE) - chamfer(CUBE, CUBE) < 0.5 * (chamfer(light, CUBE) - chamfer(CUBE, CUBE))
    few = PointCloud(cloud.points[:8])
    assert chamfer(fit_to_surface(light, few, QUICK), few) <= chamfer(light, few)


def test_vertices_of_no_face_and_faces_without_area_are_let_be():
    vertices = np.concatenate((worn(CUBE, 0.05).vertices, [[0.1, 0.2, 0.3]]))
    light = Mesh(vertices, np.concatenate((CUBE.faces, [[0, 1, 1]])))
    fitted = fit_to_surface(light, CUBE, QUICK)
    assert np.allclose(fitted.vertices[-1], light.vertices[-1], atol=1e-3)
    assert chamfer(fitted, CUBE) < chamfer(light, CUBE)


def test_what_cannot_be_fitted_is_refused():
    with pytest.raises(MeshError, match="has no area"):
        fit_to_surface(Mesh(np.zeros((3, 3)), [[0, 1, 2]]), CUBE)
    with pytest.raises(ConfigError, match="points"):
        FitConfig(points=0)
    with pytest.raises(ConfigError, match="stiffness"):
        FitConfig(stiffness=(1.0, 0.0))
    with pytest.raises(ConfigError, match="turn"):
        FitConfig(turn=1.0)
