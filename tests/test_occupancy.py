"""Occupancy networks: what they are told by, what they learn, what is kept, and what comes out of them."""

import numpy as np
import pytest
import torch

from meshgpt.data.primitives import PrimitiveDataset
from meshgpt.errors import CheckpointError, ConditionError, ConfigError, DataError
from meshgpt.mesh.primitives import make_primitive
from meshgpt.mesh.sampling import sample_volume
from meshgpt.mesh.topology import topology_report
from meshgpt.nn.conditional import ConditionalBatchNorm, Gaussian, ResidualBlock
from meshgpt.shapes.encoders import voxelized
from meshgpt.shapes.occupancy import OccupancyField, OccupancyNetwork
from meshgpt.training.field_examples import FieldBatch, FieldExamples, FieldView, PointBlocks
from meshgpt.training.field_objectives import OccupancyObjective, condition_of, overlap
from meshgpt.training.field_trainers import OccupancyFieldTrainer, OccupancyNetworkTrainer

SIZES = {"dim": 16, "num_blocks": 2, "dim_condition": 8, "dim_encoder": 8, "voxel_resolution": 8}
KINDS = {"points": {}, "voxels": {}, "index": {"num_shapes": 6}, "embedding": {"dim_embedding": 3}, "none": {}}
VIEW = FieldView(cloud=32, volume=48, near=16)
QUIET = {"progress": False, "checkpoint_every": 10**6, "log_every": 50}


@pytest.fixture(scope="module")
def shapes():
    return PrimitiveDataset(6, ("ellipsoid", "box", "mug"), surface=64, volume=128, near=64)


def batch_of(shapes, view=VIEW):
    examples = FieldExamples(shapes, view, embeddings=np.eye(6, 3))
    return FieldBatch.of([examples[i] for i in range(3)])


def test_a_small_network_learns_a_ball_and_the_best_of_the_run_is_kept(tmp_path):
    points = sample_volume(8000, 0)
    inside = np.linalg.norm(points, axis=1) < 0.7
    torch.manual_seed(0)
    model = OccupancyField(dim=32, depth=2)
    settings = {"num_train_steps": 160, "val_every": 40, "checkpoint_folder": str(tmp_path), **QUIET}
    trainer = OccupancyFieldTrainer(model, points, inside, block=512, learning_rate=1.5e-2, **settings)
    figures = trainer()
    assert figures["val_iou"] > 0.85 and trainer.best["loss"] <= figures["val_loss"] + 1e-9
    torch.nn.init.zeros_(model.layers[-1].weight)
    trainer.restore_best()
    [found] = model.extract(resolution=32, coarse=16)
    radii = np.linalg.norm(found.mesh.vertices, axis=1)
    assert abs(radii.mean() - 0.7) < 0.03 and topology_report(found.mesh).watertight
    again = OccupancyField.from_pretrained(trainer.best_folder)
    assert torch.equal(again(torch.ones(1, 3)), model(torch.ones(1, 3)))


def test_only_a_better_model_replaces_the_best(tmp_path):
    points = sample_volume(100, 0)
    settings = {"num_train_steps": 1, "checkpoint_folder": str(tmp_path), **QUIET}
    trainer = OccupancyFieldTrainer(OccupancyField(dim=4), points, points[:, 0] > 0, **settings)
    with pytest.raises(CheckpointError):
        trainer.restore_best()
    assert trainer.best is None
    for loss, kept in ((0.5, 0.5), (0.7, 0.5), (0.4, 0.4)):
        trainer.log(val_loss=loss)
        assert trainer.best["loss"] == kept
    network = OccupancyNetworkTrainer(OccupancyNetwork(**SIZES), PrimitiveDataset(20), checkpoint_folder=str(tmp_path))
    network.log(val_loss=0.1)
    assert network.best["loss"] == 0.4
    network.best_folder.joinpath("score.json").unlink()
    network.log(val_iou=0.5)
    network.log(val_iou=0.4)
    assert network.best == {"step": 0, "iou": 0.5}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("decoder", ["batch-norm", "simple"])
def test_every_weight_learns_whatever_the_condition(shapes, kind, decoder):
    torch.manual_seed(0)
    model = OccupancyNetwork(condition=kind, decoder=decoder, dim_latent=4, **KINDS[kind], **SIZES)
    for weight in model.parameters():  # what begins at zero would hide what is behind it
        torch.nn.init.normal_(weight, std=0.3)
    batch, objective = batch_of(shapes), OccupancyObjective()
    losses = objective.losses(model, batch)
    losses.loss.backward()
    assert losses.loss.isfinite() and set(losses.metrics) == {"iou", "entropy", "divergence"}
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in model.parameters())
    latents = model.eval().encode(condition_of(model.config, batch), 3)
    assert model.logits(latents, batch.points).shape == batch.points.shape[:2]


def test_different_conditions_give_different_shapes(shapes):
    torch.manual_seed(0)
    model = OccupancyNetwork(condition="index", num_shapes=6, **SIZES)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    model.eval()
    points = batch_of(shapes).points[:1].expand(2, -1, -1)
    one, other = model.logits(model.encode(torch.tensor([0, 1])), points)
    assert not torch.allclose(one, other)
    alone = model.logits(model.encode(torch.tensor([1])), points[:1])[0]
    assert torch.allclose(other, alone, atol=1e-5)  # whatever else is in the batch


def test_the_order_of_the_points_of_a_cloud_does_not_matter(shapes):
    model = OccupancyNetwork(**SIZES).eval()
    cloud = batch_of(shapes).clouds
    assert torch.allclose(model.encode(cloud), model.encode(cloud[:, torch.randperm(32)]), atol=1e-6)


def test_a_drawn_variable_is_its_most_likely_value_unless_noise_is_given(shapes):
    model = OccupancyNetwork(condition="none", dim_latent=4, **SIZES).eval()
    assert model.encode(batch_size=2).tolist() == [[0.0] * 4] * 2
    assert model.encode(noise=torch.ones(1, 4)).tolist() == [[1.0] * 4]
    normal = Gaussian(torch.zeros(3, 5), torch.zeros(3, 5))
    assert normal.kl().sum() == 0 and Gaussian(torch.ones(1, 1), torch.zeros(1, 1)).kl().item() == 0.5
    assert torch.equal(normal.sample(torch.ones(3, 5)), torch.ones(3, 5))


def test_blocks_begin_as_their_straight_path():
    x = torch.randn(2, 7, 6)
    assert torch.allclose(ResidualBlock(6)(x), x + ResidualBlock(6).second.bias * 0, atol=1)
    norm = ConditionalBatchNorm(6, 3)
    plain = torch.nn.functional.batch_norm(x.flatten(0, 1), None, None, training=True).view_as(x)
    assert torch.allclose(norm(x, torch.randn(2, 3)), plain, atol=1e-5)


def test_voxels_hold_the_points_that_lie_in_them():
    cloud = torch.tensor([[[-1.0, -0.01, 0.99], [0.01, 1.0, -1.0]]])
    found = voxelized(cloud, 8).nonzero().tolist()
    assert found == [[0, 0, 3, 7], [0, 4, 7, 0]]


def test_an_untrained_model_gives_an_empty_or_a_full_field_and_says_so():
    model = OccupancyNetwork(condition="none", **SIZES).eval()
    for bias, verdict in ((-5.0, "outside"), (5.0, "inside")):
        torch.nn.init.zeros_(model.decoder.to_logit.weight)
        torch.nn.init.constant_(model.decoder.to_logit.bias, bias)
        [found] = model.extract(model.encode(batch_size=1), resolution=16, coarse=8)
        assert found.verdict == verdict


def test_a_view_shows_other_points_every_epoch_and_the_same_ones_again(shapes):
    examples = FieldExamples(shapes, VIEW, seed=1)
    one, again, later = examples.get(2, 0).sample, examples.get(2, 0).sample, examples.get(2, 1).sample
    assert np.array_equal(one.volume, again.volume) and not np.array_equal(one.volume, later.volume)
    assert len(np.unique(one.volume, axis=0)) == 48
    noisy = FieldExamples(shapes, VIEW.replace(noise=0.01), seed=1).get(2, 0).sample
    assert 0.005 < (noisy.surface - one.surface)[:, :3].std() < 0.02 and np.array_equal(noisy.volume, one.volume)


def test_stretching_keeps_signs_and_normals_right():
    shapes = PrimitiveDataset(2, ("box",), surface=64, volume=128, near=64)
    view = FieldView(cloud=64, volume=128, near=64, stretch=0.3, mirror=True)
    plain, moved = shapes[0], view(shapes[0], np.random.default_rng(1))
    order = np.argsort(moved.volume[:, 3])
    factors = moved.volume[order, :3] / plain.volume[np.argsort(plain.volume[:, 3]), :3]
    assert np.allclose(factors, factors[0], rtol=1e-3) and not np.allclose(np.abs(factors[0]), 1)
    assert np.abs(moved.surface[:, :3]).max() == pytest.approx(np.abs(plain.surface[:, :3]).max())
    inner = moved.surface[:, :3] - 0.01 * moved.surface[:, 3:6]
    assert (make_primitive("box", np.random.default_rng((0, 0)))(inner / factors[0]) > 0).all()


def test_turned_shapes_are_turned_as_a_whole_and_never_mirrored():
    shape, view = PrimitiveDataset(1, ("box",), surface=64, volume=128, near=64)[0], FieldView(64, 128, 64, turn=True)
    seen, order = set(), np.argsort(shape.volume[:, 3])
    for seed in range(60):
        moved = view(shape, np.random.default_rng(seed))
        again = np.argsort(moved.volume[:, 3])
        rotation = np.linalg.lstsq(shape.volume[order, :3], moved.volume[again, :3], rcond=None)[0]
        assert np.allclose(shape.volume[order, :3] @ rotation, moved.volume[again, :3], atol=1e-4)
        assert np.linalg.det(rotation) == pytest.approx(1, abs=1e-3)
        inner = (moved.surface[:, :3] - 0.01 * moved.surface[:, 3:6]) @ rotation.T
        assert (make_primitive("box", np.random.default_rng((0, 0)))(inner) > 0).all()
        seen.add(tuple(rotation.round().astype(int).flatten()))
    assert len(seen) > 15  # of 24


def test_the_mean_overlap_is_that_of_the_definition():
    found = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]]).bool()
    true = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]).bool()
    assert overlap(found, true).item() == pytest.approx((1 / 3 + 1 + 0) / 3)


def test_what_does_not_fit_is_refused(shapes, tmp_path):
    batch = batch_of(shapes)
    with pytest.raises(ConditionError, match="needs points"):
        OccupancyNetwork(**SIZES).encode()
    with pytest.raises(ConditionError, match="takes no condition"):
        OccupancyNetwork(condition="none", **SIZES).encode(batch.clouds)
    with pytest.raises(ConditionError, match=r"points \(b, p, 3\).*shape \(3, 2\)"):
        OccupancyNetwork(**SIZES).encode(torch.zeros(3, 2))
    with pytest.raises(ConditionError, match=r"voxels \(b, 8, 8, 8\)"):
        OccupancyNetwork(condition="voxels", **SIZES).encode(torch.zeros(1, 4, 4, 4))
    with pytest.raises(ConditionError, match="numbered 0 to 5, got 2 to 9"):
        OccupancyNetwork(condition="index", num_shapes=6, **SIZES).encode(torch.tensor([2, 9]))
    with pytest.raises(ConditionError, match="whole numbers"):
        OccupancyNetwork(condition="index", num_shapes=6, **SIZES).encode(torch.zeros(2))
    model = OccupancyNetwork(condition="embedding", dim_embedding=3, **SIZES)
    with pytest.raises(ConditionError, match=r"\(b, 3\)"):
        model.encode(torch.zeros(2, 4))
    examples = FieldExamples(shapes, VIEW)
    with pytest.raises(ConditionError, match="give them to FieldExamples"):
        OccupancyObjective().losses(model, FieldBatch.of([examples[0]]))
    with pytest.raises(ConditionError, match="FieldView.cloud"):
        bare = FieldBatch.of([FieldExamples(shapes, VIEW.replace(cloud=0))[0]])
        OccupancyObjective().losses(OccupancyNetwork(**SIZES), bare)
    with pytest.raises(DataError, match="equally many points"):
        FieldBatch.of([examples[0], FieldExamples(shapes, VIEW.replace(near=8))[1]])
    with pytest.raises(DataError, match="65 surface points are wanted of shapes that have 64"):
        FieldExamples(shapes, VIEW.replace(cloud=65))[0]
    with pytest.raises(DataError, match="6 shapes, but 2 embeddings"):
        FieldExamples(shapes, VIEW, embeddings=np.zeros((2, 3)))


def test_points_without_meaning_are_refused():
    for points, inside, said in (
        (np.zeros((3, 2)), np.zeros(3), r"\(3, 2\)"),
        (np.zeros((3, 3)), np.zeros(2), r"\(2,\)"),
        (np.zeros((0, 3)), np.zeros(0), "nothing to learn"),
        (np.full((3, 3), np.nan), np.zeros(3), "not all of them finite"),
    ):
        with pytest.raises(DataError, match=said):
            PointBlocks(points, inside)
    blocks = PointBlocks(np.random.default_rng(0).random((10, 3)), np.zeros(10), block=4)
    seen = torch.cat([blocks.get(i, 3).points for i in range(len(blocks))])
    assert len(blocks) == 3 and len(seen) == 12 and len(seen.unique(dim=0)) == 10


@pytest.mark.parametrize(
    "wrong",
    [{"condition": "cow"}, {"decoder": "x"}, {"dim": 0}, {"dim_latent": -1}, {"voxel_resolution": 9}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_settings_that_cannot_be_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        OccupancyNetwork(**wrong)


def test_more_settings_that_cannot_be():
    for condition, field in (("index", "num_shapes"), ("embedding", "dim_embedding")):
        with pytest.raises(ConfigError, match=field):
            OccupancyNetwork(condition=condition)
    for wrong in ({"dim": 0}, {"depth": -1}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            OccupancyField(**wrong)
    for wrong in ({"cloud": -1}, {"stretch": 1.0}, {"volume": 0, "near": 0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            FieldView(**wrong)
