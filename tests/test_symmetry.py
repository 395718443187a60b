"""Mirror images are found wherever the mesh stands and whatever it is large."""

import numpy as np
import pytest

from meshgpt.mesh.mesh import Mesh
from meshgpt.mesh.symmetry import STEPS, mirrored_share


def strip(vertices):
    """A mesh that uses all of them."""
    return Mesh(np.asarray(vertices, dtype=float), np.arange(len(vertices) - 2)[:, None] + np.arange(3))


def by_hand(vertices):
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    step, shares = (high - low).max() / STEPS, []
    for axis in (0, 2):
        image = vertices.copy()
        image[:, axis] = low[axis] + high[axis] - image[:, axis]
        apart = np.abs(image[:, None] - vertices[None]).max(axis=2).min(axis=1)
        shares.append((apart < 0.5 * step).mean())
    return max(shares)


@pytest.mark.parametrize("axis", [0, 2])
@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (300.0, -40.0), (1e-3, 5.0)])
def test_things_that_are_alike_left_and_right_are_symmetric(axis, scale, shift):
    half = np.random.default_rng(0).random((20, 3))
    image = half.copy()
    image[:, axis] *= -1
    whole = np.concatenate((half, image)) * scale + shift
    assert mirrored_share(strip(whole)) == 1


def test_the_share_counts_what_has_an_image():
    rng = np.random.default_rng(1)
    half = rng.random((30, 3)) * [1, 1, 0.3]
    image = half[:15] * [-1, 1, 1]
    whole = np.concatenate((half, image, [[1, 0, 0], [-1, 0, 0]]))
    assert 32 / 47 <= mirrored_share(strip(whole)) <= by_hand(whole) + 0.1 < 1
    assert by_hand(whole) >= 32 / 47


def test_up_and_down_are_not_alike_and_nothing_has_no_image():
    half = np.random.default_rng(2).random((40, 3))
    assert mirrored_share(strip(np.concatenate((half, half * [1, -1, 1])))) < 0.3
    assert mirrored_share(Mesh(np.zeros((0, 3)), np.zeros((0, 3), dtype=int))) == 0
    assert mirrored_share(strip(np.ones((3, 3)))) == 1
