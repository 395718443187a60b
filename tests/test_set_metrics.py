"""Metrics of sets of meshes: each is what its definition says, written out with loops."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from meshgpt.errors import DataError
from meshgpt.evaluation.chamfer import by_distances, by_trees, chamfer_matrix
from meshgpt.evaluation.clouds import in_sphere, surface_clouds
from meshgpt.evaluation.frechet import frechet_distance, kernel_distance
from meshgpt.evaluation.set_metrics import compare_sets, coverage, jensen_shannon, one_nn_accuracy
from meshgpt.mesh.mesh import Mesh

NOTHING = Mesh(np.zeros((0, 3)), np.zeros((0, 3), dtype=int))


def clouds(count, points=12, seed=0, shift=0.0):
    return torch.rand(count, points, 3, generator=torch.Generator().manual_seed(seed)) - 0.5 + shift


def chamfer(one, other):
    """The definition, in float64."""
    squares = [[float(((p.double() - q.double()) ** 2).sum()) for q in other] for p in one]
    return np.min(squares, axis=1).mean() + np.min(squares, axis=0).mean()


def table(a, b):
    return np.array([[chamfer(one, other) for other in b] for one in a])


# distances


def test_chamfer_distances_are_the_definition_both_ways():
    a, b = clouds(3), clouds(4, points=9, seed=1)
    for matrix in (chamfer_matrix(a, b), by_trees(a, b), by_distances(a, b), by_distances(a, b, at_once=110)):
        assert matrix.shape == (3, 4) and np.allclose(matrix, table(a, b), rtol=1e-5, atol=0)


def test_distances_within_a_set_are_symmetric_and_zero_to_oneself():
    a = clouds(4)
    for matrix in (by_trees(a), by_distances(a)):
        assert np.allclose(matrix, table(a, a), rtol=1e-5) and torch.equal(matrix, matrix.T)
        assert (matrix.diagonal() == 0).all()


def test_small_distances_far_from_the_middle_do_not_drown_in_rounding():
    a = clouds(1) / 2**12 + 0.5  # sums of squares would leave nothing of them in float32
    b = a + 2**-20
    exact = chamfer(a[0], b[0])
    assert exact < 1e-11
    assert float(by_distances(a, b)) == pytest.approx(exact, rel=1e-5)
    assert float(by_trees(a, b)) == pytest.approx(exact, rel=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
def test_an_accelerator_gives_the_same():
    a, b = clouds(5, 256), clouds(4, 200, seed=1)
    assert torch.allclose(chamfer_matrix(a, b, "cuda"), chamfer_matrix(a, b), rtol=1e-5)
    assert compare_sets(a[:4], b[:, :200], device="cuda").mmd == pytest.approx(compare_sets(a[:4], b).mmd, rel=1e-5)


@pytest.mark.parametrize("bad", [torch.zeros(3, 3), torch.zeros(2, 0, 3), torch.zeros(2, 5, 2)])
def test_clouds_of_another_shape_are_refused(bad):
    with pytest.raises(DataError, match="clouds are"):
        chamfer_matrix(clouds(2), bad)


# sets


def brute(generated, reference):
    """MMD, COV and 1-NNA with nothing but loops."""
    across = table(generated, reference)
    mmd = np.mean([min(across[g][r] for g in range(len(generated))) for r in range(len(reference))])
    covered = {min(range(len(reference)), key=lambda r: across[g][r]) for g in range(len(generated))}
    both = [*generated, *reference]
    right = 0
    for i, one in enumerate(both):
        near = min((j for j in range(len(both)) if j != i), key=lambda j: chamfer(one, both[j]))
        right += (near < len(generated)) == (i < len(generated))
    return mmd, len(covered) / len(reference), right / len(both)


@pytest.mark.parametrize("shift", [0.0, 0.05, 3.0])
def test_metrics_of_sets_are_their_definitions(shift):
    generated, reference = clouds(6, seed=2, shift=shift), clouds(6, seed=3)
    found = compare_sets(generated, reference)
    assert (found.mmd, found.coverage, found.one_nn_accuracy) == pytest.approx(brute(generated, reference), rel=1e-5)


def test_a_set_beside_itself_and_one_far_away():
    a = clouds(5)
    same = compare_sets(a, a)
    assert (same.mmd, same.coverage, same.one_nn_accuracy, same.jsd) == (0, 1, 0, 0)  # its double is the nearest
    far = compare_sets(clouds(5, seed=1, shift=9.0), a)
    assert far.one_nn_accuracy == 1 and far.mmd > 100


def test_what_is_known_of_the_reference_need_not_be_measured_again():
    a, b = clouds(4), clouds(4, seed=1)
    assert compare_sets(a, b) == compare_sets(a, b, chamfer_matrix(b))


def test_one_answer_for_everything_covers_one_shape():
    across = torch.tensor([[1.0, 2.0, 3.0]] * 3)
    assert coverage(across) == 1 / 3
    among = 1 - torch.eye(3)
    assert one_nn_accuracy(0 * among, across, among.double() + 9) == pytest.approx(3 / 6)  # the real ones are all wrong


@pytest.mark.parametrize("counts", [(3, 4), (0, 0)])
def test_sets_of_different_size_are_refused(counts):
    with pytest.raises(DataError, match="of one size"):
        compare_sets(clouds(counts[0]), clouds(counts[1]))


# where points lie


def brute_jsd(a, b, cells):
    line = [-1 + 2 * i / (cells - 1) for i in range(cells)]
    nodes = [(x, y, z) for x in line for y in line for z in line if x * x + y * y + z * z <= 1]
    shares = []
    for some in (a, b):
        counts = dict.fromkeys(nodes, 0)
        for cloud in some.double():
            moved = cloud - cloud.mean(dim=0)
            for point in moved / moved.norm(dim=1).max():
                counts[min(nodes, key=lambda node: math.dist(node, point.tolist()))] += 1
        shares.append([count / sum(counts.values()) for count in counts.values()])
    middle = [(p + q) / 2 for p, q in zip(*shares, strict=True)]
    parts = [sum(p * math.log2(p / m) for p, m in zip(share, middle, strict=True) if p) for share in shares]
    return sum(parts) / 2


def test_jensen_shannon_divergence_is_its_definition():
    a, b = clouds(3, seed=4), clouds(2, 15, seed=5) * torch.tensor([1.0, 0.3, 0.6])
    assert jensen_shannon(a, b, cells=7) == pytest.approx(brute_jsd(a, b, 7), abs=1e-9)
    assert jensen_shannon(a, b) == jensen_shannon(b, a) > jensen_shannon(a, b, cells=3) >= 0


def test_place_and_size_do_not_matter_to_it():
    a = clouds(3, 40)
    assert jensen_shannon(a, 4 * a + 7) < 0.02


# features


def test_frechet_distance_of_normal_distributions():
    generator = np.random.default_rng(0)
    a, b = generator.standard_normal((40, 3)), generator.standard_normal((30, 3)) @ np.diag([1, 2, 0.5]) + 1
    covariances = np.cov(a.T), np.cov(b.T)
    cross = np.real(np.asarray(sqrtm(covariances[0] @ covariances[1])))
    wanted = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(sum(covariances) - 2 * cross)
    assert frechet_distance(torch.tensor(a), torch.tensor(b)) == pytest.approx(wanted, rel=1e-9)
    assert frechet_distance(torch.tensor(a), torch.tensor(a)) == pytest.approx(0, abs=1e-9)
    line = torch.tensor([[0.0], [2.0]]), torch.tensor([[5.0], [9.0]])  # means 1 and 7, deviations sqrt(2) and sqrt(8)
    assert frechet_distance(*line) == pytest.approx(36 + 2 + 8 - 2 * 4)


def test_fewer_rows_than_columns_are_no_trouble():
    a = torch.rand(4, 32, generator=torch.Generator().manual_seed(0))
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9) and frechet_distance(a, a + 1) == pytest.approx(32)


def test_kernel_distance_is_its_definition():
    a, b = clouds(1, 5)[0], clouds(1, 7, seed=1)[0] + 0.2
    k = lambda x, y: (float(x.double() @ y.double()) / 3 + 1) ** 3  # noqa: E731
    within = [np.mean([k(x, y) for i, x in enumerate(s) for j, y in enumerate(s) if i != j]) for s in (a, b)]
    assert kernel_distance(a, b) == pytest.approx(sum(within) - 2 * np.mean([k(x, y) for x in a for y in b]), rel=1e-9)


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
def test_features_of_another_shape_are_refused(distance):
    for a, b in ((torch.zeros(3, 2), torch.zeros(3, 4)), (torch.zeros(1, 2), torch.zeros(3, 2)), (torch.zeros(3),) * 2):
        with pytest.raises(DataError, match="features are"):
            distance(a, b)


# points


def test_points_are_on_the_surface_in_a_box_of_side_1_and_each_mesh_has_its_own_stream(tiny_meshes):
    some = surface_clouds(tiny_meshes[:3], 500, seed=1)
    assert some.shape == (3, 500, 3) and some.dtype == torch.float32 and 0.4 < some.abs().max() <= 0.5 + 1e-6
    again = surface_clouds([NOTHING, tiny_meshes[1]], 500, seed=1)
    assert torch.equal(again[1], some[1]) and not again[0].any()
    assert not torch.equal(surface_clouds(tiny_meshes[1:2], 500, seed=1)[0], some[1])


def test_in_the_sphere(tiny_meshes):
    some = in_sphere(surface_clouds([*tiny_meshes[:2], NOTHING], 200))
    assert np.allclose(some.norm(dim=-1).amax(dim=1), [1, 1, 0], atol=1e-6)
    assert some.mean(dim=1).abs().max() < 1e-6
    assert torch.equal(surface_clouds([*tiny_meshes[:2], NOTHING], 200, normalise="sphere"), some)
