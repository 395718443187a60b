"""Smoothing takes small waves out of a surface, and nothing else."""

import numpy as np
import pytest

from meshgpt.errors import ConfigError, MeshError
from meshgpt.mesh.isosurface import ExtractionConfig, extract
from meshgpt.mesh.mesh import Mesh, join
from meshgpt.mesh.smoothing import smoothed
from meshgpt.mesh.topology import topology_report
from tests.solids import ball, volume


def rippled(points):
    """A ball of radius 0.6 with waves of two or three cells of a grid of 32 along one axis."""
    return 0.6 - points.norm(dim=1) + 0.02 * (points[:, 1] * 48).sin()


def unevenness(mesh):
    return np.linalg.norm(mesh.vertices, axis=1).std()


def test_ripples_go_and_volume_and_faces_stay():
    rough = extract(rippled, ExtractionConfig(resolution=32)).mesh
    smooth = smoothed(rough)
    assert unevenness(smooth) < 0.6 * unevenness(rough)
    assert volume(smooth) == pytest.approx(volume(rough), rel=0.01)
    assert np.array_equal(smooth.faces, rough.faces) and topology_report(smooth).watertight


def test_a_field_is_smoothed_as_its_surface_is():
    found = extract(rippled, ExtractionConfig(resolution=32, smooth=4)).mesh
    assert np.array_equal(found.vertices, smoothed(extract(rippled, ExtractionConfig(resolution=32)).mesh, 4).vertices)


def test_a_flat_sheet_stays_flat_and_what_is_of_no_face_stays():
    flat = Mesh([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [5, 5, 5]], [[0, 1, 2, 3]])
    made = smoothed(flat, 3)
    assert (made.vertices[:4, 2] == 0).all() and made.vertices[4].tolist() == [5, 5, 5]
    assert smoothed(flat, 0) is flat and smoothed(Mesh([], []), 3).num_faces == 0


def test_order_and_other_parts_do_not_matter():
    one, other = ball(0.5), ball(0.2)
    both = smoothed(join([one, other]), 5).vertices
    assert np.allclose(both, np.concatenate([smoothed(one, 5).vertices, smoothed(other, 5).vertices]))
    turned = Mesh(one.vertices, one.faces[::-1, ::-1])
    assert np.allclose(smoothed(turned, 5).vertices, smoothed(one, 5).vertices)


def test_less_than_never_is_refused():
    with pytest.raises(MeshError, match="0 times or more often, got -1"):
        smoothed(ball(0.5), -1)
    with pytest.raises(ConfigError, match="smooth must not be negative"):
        ExtractionConfig(smooth=-1)
