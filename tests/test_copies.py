"""Copies of a training mesh are found in every form in which training saw it; other meshes are not."""

import numpy as np
import pytest

from meshgpt.evaluation.copies import CopyFinder
from meshgpt.mesh.mesh import Mesh


@pytest.fixture(scope="module")
def finder(tiny_dataset):
    return CopyFinder(tiny_dataset)


def moved(mesh, matrix=None, shift=0.0, noise=0.0):
    vertices = mesh.vertices @ np.asarray(matrix if matrix is not None else np.eye(3)) + shift
    return Mesh(vertices + noise * np.random.default_rng(0).standard_normal(vertices.shape), mesh.faces)


def test_a_training_mesh_itself_is_an_exact_copy_wherever_it_stands(finder, tiny_meshes):
    copy = finder.find(moved(tiny_meshes[5], 3 * np.eye(3), shift=2.0))
    assert copy.index == 5 and copy.exact and copy.distance < 1e-6


@pytest.mark.parametrize(
    "matrix",
    [
        np.diag([0.75, 1.25, 1.0]),
        [[0, 0, -1], [0, 1, 0], [1, 0, 0]],
        np.diag([-1, 1, -1]),
        np.diag([-1, 1, 1]),
        [[0, 0, 1.2], [0, 1, 0], [0.8, 0, 0]],
    ],
)
def test_a_stretched_turned_or_mirrored_training_mesh_is_a_copy_but_not_an_exact_one(finder, tiny_meshes, matrix):
    copy = finder.find(moved(tiny_meshes[5], matrix, noise=1e-4))
    assert copy.index == 5 and not copy.exact


def test_a_mesh_that_differs_in_shape_is_no_copy(finder, tiny_meshes):
    mesh = tiny_meshes[5]
    bent = Mesh(mesh.vertices + 0.4 * np.sin(3 * mesh.vertices[:, [1, 2, 0]]), mesh.faces)
    assert finder.find(bent) is None


def test_a_mesh_of_no_faces_or_no_thickness_is_handled(finder):
    assert finder.find(Mesh(np.zeros((1, 3)), np.zeros((0, 3), dtype=np.int64))) is None
    assert finder.find(Mesh([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2]])) is None
