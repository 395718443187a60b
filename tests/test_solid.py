"""Any mesh becomes a solid: of bodies that are broken in known ways the volume comes back, and the verdict says how."""

import json

import numpy as np
import pytest

from meshgpt.errors import ConfigError, MeshError
from meshgpt.mesh import inside
from meshgpt.mesh import solid as solid_module
from meshgpt.mesh.inside import contains
from meshgpt.mesh.mesh import Mesh, join
from meshgpt.mesh.solid import METHODS, SolidConfig, enclosed_volume, solid
from meshgpt.mesh.topology import components, topology_report
from tests.solids import apart, ball, bowl, box, missing, moved, overlapping, turned, volume

SMALL = SolidConfig(resolution=64)
BALL = ball(0.8, 3)
VOLUME = volume(BALL)


def open_below(mesh):
    return Mesh(mesh.vertices, mesh.faces[mesh.face_normals[:, 1] > -0.9])


BODIES = [
    ("closed", BALL, VOLUME, "closed"),
    ("a tenth of the faces missing", missing(BALL, 0.1), VOLUME, "winding"),
    ("a third of the faces turned round", turned(BALL, 0.3), VOLUME, "closed"),
    ("turned round, and no two joined", apart(turned(BALL, 0.3)), VOLUME, "fill"),
    ("overlapping", *overlapping(), "winding"),
    ("inside out", BALL.flipped(), VOLUME, "closed"),
    ("hollow", join([BALL, ball(0.5, 3).flipped()]), VOLUME - volume(ball(0.5, 3)), "closed"),
    ("open where it stands", open_below(box([0.8, 0.5, 0.3])), 8 * 0.8 * 0.5 * 0.3, "closed"),
]


@pytest.mark.parametrize(("name", "mesh", "expected", "method"), BODIES, ids=[body[0] for body in BODIES])
def test_broken_bodies_keep_their_volume(name, mesh, expected, method):
    made = solid(mesh, SMALL)
    report = topology_report(made.surface)
    assert report.watertight and report.consistently_wound and made.verdict.watertight
    assert volume(made.surface) == pytest.approx(expected, rel=0.03)
    assert made.verdict.method == method and made.verdict.open_share == 0
    assert made.verdict.deviation <= 2 * SMALL.cell


def test_what_is_whole_is_kept_as_it_is_in_its_place_and_size():
    placed = Mesh(BALL.vertices * 7 + [3, 0, -50], BALL.faces)
    made = solid(placed, SMALL)
    assert volume(made.surface) == pytest.approx(volume(placed)) and made.surface.num_faces == BALL.num_faces
    assert np.allclose(made.surface.bounds, placed.bounds)
    assert made.verdict.volume == pytest.approx(enclosed_volume(BALL.normalized()))
    remade = solid(missing(placed, 0.1), SMALL)
    assert np.allclose(remade.surface.bounds, placed.bounds, atol=7 * 2 * SMALL.cell)


def test_the_verdict_tells_what_was_done():
    assert solid(BALL.flipped(), SMALL).verdict.turned and not solid(BALL, SMALL).verdict.turned
    ground = solid(open_below(box([0.8, 0.5, 0.3])), SMALL).verdict
    assert ground.grounded and str(ground).startswith("closed, closed at the ground, volume")
    assert ground.method in METHODS and json.loads(json.dumps(ground.to_dict()))["grounded"] is True
    assert solid(apart(turned(BALL, 0.3)), SMALL).verdict.certainty < 0.5


def test_a_sheet_without_an_inside_is_given_a_thickness_and_nothing_more():
    made = solid(bowl(), SMALL)
    assert made.verdict.method == "shell" and made.verdict.open_share == 1.0 and made.verdict.watertight
    area = bowl().normalized().face_areas.sum()
    assert made.verdict.volume == pytest.approx(area * 2 * SMALL.cell, rel=0.1)
    plane = solid(Mesh([[0, 0, 0], [0, 0, 1], [1, 0, 1], [1, 0, 0]], [[0, 1, 2, 3]]), SMALL)
    assert plane.verdict.method == "shell" and plane.surface.num_faces


def test_a_sheet_beside_a_body_is_not_lost_and_does_not_spoil_it():
    body = ball(0.4, 3)
    sheet = Mesh([[0.2, 0, 0], [0.8, 0, 0], [0.8, 0, 0.6], [0.2, 0, 0.6]], [[0, 1, 2, 3]])
    both = join([moved(body, -0.4, 0, 0), sheet])
    made = solid(both, SMALL)
    assert components(made.surface).max() == 1
    share = 0.36 / both.face_areas.sum()
    assert made.verdict.open_share == pytest.approx(share, abs=0.01) and "are sheets" in str(made.verdict)
    assert contains(made.surface, [[-0.4, 0, 0], [0.5, 0, 0.3], [0.0, 0.5, 0]]).tolist() == [True, True, False]


def test_real_meshes_become_solids(tiny_meshes):
    for mesh in tiny_meshes[:8]:
        made = solid(mesh, SMALL)
        assert made.surface.num_faces and made.verdict.volume > 0 and made.verdict.watertight


def test_the_same_without_libigl(monkeypatch):
    monkeypatch.setattr(solid_module, "SAMPLES", 100)
    monkeypatch.setattr(solid_module, "PROBES", 1000)
    mesh = missing(ball(0.8, 1), 0.05)
    with_it = solid(mesh, SolidConfig(resolution=32))
    monkeypatch.setattr(inside, "libigl", lambda: None)
    without = solid(mesh, SolidConfig(resolution=32))
    assert without.verdict.method == with_it.verdict.method
    assert volume(without.surface) == pytest.approx(volume(with_it.surface), rel=1e-3)


def test_what_has_no_surface_is_refused():
    for mesh in (Mesh([], []), Mesh([[0, 0, 0], [1, 0, 0], [2, 0, 0]], [[0, 1, 2]])):
        with pytest.raises(MeshError, match="has no area"):
            solid(mesh)
    for fields, said in (
        ({"resolution": 100}, "power of two"),
        ({"certainty": 0.0}, "certainty"),
        ({"wall": 0.0}, "w"),
    ):
        with pytest.raises(ConfigError, match=said):
            SolidConfig(**fields)
    for fields in ({"least": 1.0}, {"shell": -1.0}, {"lost": 0.0}):
        with pytest.raises(ConfigError, match=next(iter(fields))):
            SolidConfig(**fields)
