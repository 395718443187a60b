"""Augmentation: other meshes of the same kind, right side out, the same for the same seed."""

import pickle
import sys
import time

import numpy as np
import pytest

from meshgpt.data.augment import Augmentation, augment, augmentation_generator
from meshgpt.data.decimate import decimate
from meshgpt.errors import ConfigError, DataError, MissingExtraError
from meshgpt.mesh.canonical import canonicalize
from meshgpt.mesh.mesh import Mesh

STILL = Augmentation(scale=(1.0, 1.0), turns=1, mirror=False)
BOX_FACES = [[0, 2, 3, 1], [4, 5, 7, 6], [0, 1, 5, 4], [2, 6, 7, 3], [0, 4, 6, 2], [1, 3, 7, 5]]


def box(x: float = 1.0, y: float = 2.0, z: float = 3.0) -> Mesh:
    corners = np.array([[i, j, k] for i in (0, x) for j in (0, y) for k in (0, z)])
    return Mesh(corners, BOX_FACES).flipped().triangulated()


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def volume(mesh: Mesh) -> float:
    """Positive where faces are counter-clockwise seen from outside."""
    a, b, c = (mesh.vertices[mesh.faces[:, i]] for i in range(3))
    return float((a * np.cross(b, c)).sum() / 6)


def sphere(faces: int = 2000) -> Mesh:
    n = int(np.sqrt(faces / 2)) + 1
    u, v = np.meshgrid(np.linspace(0, np.pi, n), np.linspace(0, 2 * np.pi, n, endpoint=False), indexing="ij")
    points = np.stack((np.sin(u) * np.cos(v), np.cos(u), np.sin(u) * np.sin(v)), -1).reshape(-1, 3)
    i, j = (a.reshape(-1) for a in np.meshgrid(np.arange(n - 1), np.arange(n), indexing="ij"))
    right = (j + 1) % n
    return Mesh(points, np.stack((i * n + j, i * n + right, (i + 1) * n + right, (i + 1) * n + j), 1)).triangulated()


def test_the_outcome_is_normalised_and_the_faces_stay(tiny_meshes):
    for index, mesh in enumerate(tiny_meshes):
        changed = augment(mesh, Augmentation(jitter=0.01), augmentation_generator(0, 0, index))
        assert np.allclose(changed.bounds, changed.normalized().bounds)
        assert np.abs(changed.vertices).max() == pytest.approx(0.95)
        assert {tuple(sorted(face)) for face in changed.faces} == {tuple(sorted(face)) for face in mesh.faces}


def test_nothing_asked_for_is_normalisation_alone(tiny_meshes):
    for mesh in tiny_meshes[:10]:
        assert np.allclose(augment(mesh, STILL, generator()).vertices, mesh.normalized().vertices)


def test_a_mirrored_mesh_stays_right_side_out():
    config = STILL.replace(mirror=True)
    outcomes = [augment(box(), config, generator(seed)) for seed in range(20)]
    assert all(volume(mesh) > 0 for mesh in outcomes)
    assert 3 < sum(np.array_equal(mesh.faces, box().faces) for mesh in outcomes) < 17
    quads = Mesh([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [2, 0, 0]], [[0, 1, 2, 3], [1, 4, 2, -1]])
    for seed in range(6):
        changed = augment(quads, config, generator(seed))
        mirrored = not np.array_equal(changed.faces, quads.faces)
        assert (changed.faces[1, 3] == -1) and np.allclose(changed.face_normals[:, 2], 1)
        assert mirrored == (changed.vertices[4, 0] < 0)


def test_every_axis_is_scaled_alone_and_within_the_range():
    proportions = []
    for seed in range(50):
        changed = augment(box(1, 1, 1), STILL.replace(scale=(0.75, 1.25)), generator(seed))
        sides = np.ptp(changed.vertices, axis=0)
        assert sides.max() == pytest.approx(1.9) and sides.min() >= 1.9 * 0.75 / 1.25 - 1e-9
        proportions.append(sides)
    assert (np.std(proportions, axis=0) > 0.1).all()


def test_quarter_turns_keep_right_angles_and_the_ground_plane():
    turned = {
        tuple(np.round(np.ptp(augment(box(), STILL.replace(turns=4), generator(seed)).vertices, axis=0), 6))
        for seed in range(20)
    }
    assert len(turned) == 2 and all(sides[1] == pytest.approx(1.9 * 2 / 3, abs=1e-5) for sides in turned)
    flat = augment(box(), STILL.replace(turns=4), generator(3))
    assert all(len(np.unique(flat.vertices[:, axis])) == 2 for axis in range(3))


def test_any_angle_turns_about_y_only():
    changed = augment(box(), STILL.replace(turns=0), generator(1))
    assert len(np.unique(changed.vertices[:, 1])) == 2 and len(np.unique(changed.vertices[:, 0].round(9))) == 4
    assert volume(changed) > 0


def test_jitter_and_shift_stay_within_the_grid(tiny_meshes):
    config = Augmentation(jitter=0.02, shift=0.05)
    for index, mesh in enumerate(tiny_meshes[:20]):
        changed = augment(mesh, config, generator(index))
        assert np.abs(changed.vertices).max() <= 1
    still = augment(box(), STILL.replace(shift=0.05), generator())
    assert 0 < np.abs(still.bounds.mean(axis=0)).max() <= 0.05


def test_planes_of_symmetry_survive(tiny_meshes):
    mesh = box()
    for seed in range(8):
        changed = augment(mesh, Augmentation(), generator(seed))
        grid = canonicalize(changed).vertices
        assert np.array_equal(grid.min(axis=0), 127 - grid.max(axis=0))


def test_seed_epoch_and_index_decide_everything():
    def outcome(*numbers: int) -> bytes:
        return augment(sphere(200), Augmentation(jitter=0.01), augmentation_generator(*numbers)).vertices.tobytes()

    assert outcome(7, 1, 0) == outcome(7, 1, 0)
    assert len({outcome(7, 1, 0), outcome(7, 1, 1), outcome(7, 2, 0), outcome(8, 1, 0)}) == 4


def test_an_augmentation_is_a_callable_config_that_travels():
    config = Augmentation.from_json(Augmentation(scale=(0.9, 1.1)).to_json())
    assert config == pickle.loads(pickle.dumps(config)) == Augmentation(scale=(0.9, 1.1))
    assert np.array_equal(config(box(), generator()).vertices, augment(box(), config, generator()).vertices)


def test_a_mesh_without_faces_comes_back():
    empty = Mesh([], [])
    assert augment(empty, Augmentation(), generator()) is empty


@pytest.mark.parametrize(
    ("field", "value"),
    [("scale", (1.2, 0.8)), ("scale", (0.0, 1.0)), ("turns", -1), ("jitter", 0.9), ("shift", 0.2), ("decimate", 2.0)]
    + [("decimate_to", 0.0)],
)
def test_impossible_values_are_named(field, value):
    with pytest.raises(ConfigError, match=rf"Augmentation.{field} must .*, got "):
        Augmentation(**{field: value})


def test_it_is_fast():
    mesh, config, rng = sphere(200), Augmentation(), generator()
    augment(mesh, config, rng)
    times = []
    for _ in range(50):
        start = time.process_time()
        augment(mesh, config, rng)
        times.append(time.process_time() - start)
    assert sorted(times)[len(times) // 4] < 2e-3  # ten times what it takes on an idle machine


# decimation


def test_decimation_keeps_place_size_and_winding():
    mesh = sphere(2000)
    mesh = Mesh(mesh.vertices * 30 + 5, mesh.faces)
    reduced = decimate(mesh, 300)
    assert 150 < reduced.num_faces <= 300
    assert np.allclose(reduced.bounds, mesh.bounds, atol=3)
    assert np.sign(volume(reduced)) == np.sign(volume(mesh)) != 0
    assert decimate(reduced, 5000) is reduced


def test_a_mesh_of_duplicate_faces_is_cleaned_before_it_is_decimated():
    twice = Mesh(box().vertices, np.concatenate((box().faces, box().faces)))
    assert decimate(twice, 12).num_faces == 12


def test_decimation_as_augmentation_takes_faces_away():
    config = STILL.replace(decimate=1.0, decimate_to=0.25)
    counts = [augment(sphere(800), config, generator(seed)).num_faces for seed in range(5)]
    assert max(counts) <= sphere(800).num_faces and 100 < min(counts) < 700
    assert augment(sphere(800), STILL.replace(decimate=0.0), generator()).num_faces == sphere(800).num_faces


def test_decimation_to_nothing_is_refused():
    with pytest.raises(DataError, match="cannot be decimated to 2 faces; ask for 4 at least"):
        decimate(box(), 2)


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "fast_simplification", None)
    with pytest.raises(MissingExtraError, match=r"decimation needs .*fast-simplification.*meshgpt\[mesh\]"):
        decimate(sphere(800), 100)
