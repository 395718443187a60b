"""Statistics and novelty of sets of meshes."""

import numpy as np
import pytest

from meshgpt.data.nearest import NearestMeshes
from meshgpt.evaluation.copies import NEAR, CopyFinder
from meshgpt.evaluation.novelty import novelty
from meshgpt.evaluation.validity import mesh_statistics
from meshgpt.mesh.mesh import Mesh

CORNERS = [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]
TETRAHEDRON = Mesh(CORNERS, [[0, 2, 1], [0, 1, 3], [1, 2, 3], [0, 3, 2]])
NOTHING = Mesh(np.zeros((0, 3)), np.zeros((0, 3), dtype=int))
TURNED = Mesh(CORNERS, [[0, 1, 2], [0, 1, 3], [1, 2, 3], [0, 3, 2]])  # one face the wrong way
OPEN = Mesh(CORNERS, [[0, 2, 1], [0, 1, 3], [1, 2, 3]])
FAN = Mesh([*CORNERS, [1, 1, 1]], [[0, 1, 2], [1, 0, 3], [0, 1, 4]])  # three faces around one edge
TWICE = Mesh(CORNERS, [[0, 1, 2], [1, 2, 0]])
FOLDED = Mesh(CORNERS, [[0, 1, 2], [0, 1, 1]])


def test_every_fault_is_counted_where_it_is():
    found = mesh_statistics([TETRAHEDRON, NOTHING, TURNED, OPEN])
    assert (found.meshes, found.vertices, found.faces, found.faces_median) == (4, 3.0, 2.75, 3.5)
    assert (found.empty, found.watertight, found.badly_wound) == (0.25, 0.5, 0.25)
    assert found.boundary_edges == pytest.approx((0 + 0 + 3 / 6) / 3)
    assert found.inconsistent_edges == pytest.approx((0 + 3 / 6 + 0) / 3)
    rest = mesh_statistics([FAN, TWICE, FOLDED])
    assert (rest.nonmanifold, rest.duplicate, rest.degenerate) == pytest.approx((1 / 3,) * 3)
    assert rest.nonmanifold_edges == pytest.approx((1 / 7) / 3)


def test_nothing_has_no_faults():
    assert set(mesh_statistics([]).to_dict().values()) == {0}


def test_training_meshes_are_copies_and_others_have_their_nearest(tiny_dataset):
    training = tiny_dataset[:12]
    held_out = [tiny_dataset.mesh(index) for index in range(20, 24)]
    stretched = Mesh(training.mesh(3).vertices * [1, 1.2, 1], training.mesh(3).faces)
    tools = NearestMeshes(training), CopyFinder(training)
    found = novelty([training.mesh(5), stretched, *held_out, NOTHING], *tools)
    assert found.copies == pytest.approx(2 / 7) and found.exact == pytest.approx(1 / 7) and found.threshold == NEAR
    told = found.to_dict()
    assert told["nearest_index"][0] == 5 and told["nearest"][-1] is None
    distances = [each.chamfer for each in found.nearest if each is not None]
    assert told["nearest_quantiles"]["50"] == pytest.approx(np.median(distances))


def test_novelty_of_nothing_is_unknown(tiny_dataset):
    training = tiny_dataset[:2]
    found = novelty([], NearestMeshes(training), CopyFinder(training))
    assert found.copies == 0 and found.to_dict()["nearest_quantiles"]["50"] is None
