"""Shapes as sets of vectors: what order matters, what bottlenecks do, what is learned, and the scale of latents."""

import numpy as np
import pytest
import torch

from meshgpt.data.primitives import PrimitiveDataset
from meshgpt.errors import ConditionError, ConfigError, DataError
from meshgpt.evaluation.fields import FARTHEST, report_fields, volume_iou
from meshgpt.mesh.isosurface import ExtractionConfig
from meshgpt.shapes.vecset import PRESETS, VectorSetAutoencoder, VectorSetConfig, vector_set_preset
from meshgpt.training.field_examples import FieldBatch, FieldExamples, FieldView
from meshgpt.training.field_objectives import VectorSetObjective, soft_overlap
from meshgpt.training.field_trainers import VectorSetTrainer

SIZES = {"dim": 24, "num_latents": 8, "dim_latent": 4, "depth": 2, "heads": 2, "dim_head": 8, "cross_heads": 2}
KINDS = {
    "kl": {},
    "normalised": {"bottleneck": "normalised"},
    "none": {"bottleneck": "none", "dim_latent": 24},
    "learned": {"queries": "learned"},
    "normals": {"normals": True, "feed_forward": True, "drop_path": 0.1},
    "located": {"bottleneck": "normalised", "located": True, "dim_latent": 7, "jitter": 0.1},
}
VIEW = FieldView(cloud=40, volume=48, near=16)


@pytest.fixture(scope="module")
def shapes():
    return PrimitiveDataset(8, ("ellipsoid", "box"), surface=64, volume=256, near=64)


def model_of(kind="kl", **fields):
    torch.manual_seed(0)
    return VectorSetAutoencoder(**SIZES | KINDS[kind] | fields)


def batch_of(shapes, count=3, view=VIEW):
    examples = FieldExamples(shapes, view)
    return FieldBatch.of([examples[i] for i in range(count)])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("target", ["occupancy", "distance"])
def test_every_weight_learns(shapes, kind, target):
    model, batch = model_of(kind, target=target).train(), batch_of(shapes)
    losses = VectorSetObjective().losses(model, batch)
    losses.loss.backward()
    assert losses.loss.isfinite() and ("divergence" in losses.metrics) == (model.config.bottleneck == "kl")
    without = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert without == []
    latents = model.encode(batch.clouds)
    assert latents.shape == (3, 8, model.config.dim_latent)
    assert model.logits(latents, batch.points).shape == (3, 64)


def test_the_loss_is_that_of_the_paper(shapes):
    model, batch = model_of().eval(), batch_of(shapes)
    losses = VectorSetObjective().losses(model, batch)
    parts = losses.metrics
    assert losses.loss.item() == pytest.approx(
        (parts["volume"] + 0.1 * parts["near"] + 1e-3 * parts["divergence"]).item()
    )
    found = model.posterior(batch.clouds)
    by_hand = 0.5 * (found.mean**2 + found.log_variance.exp() - 1 - found.log_variance).mean()
    assert parts["divergence"].item() == pytest.approx(by_hand.item()) and by_hand > 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_points_and_of_latents_means_nothing(shapes, kind):
    model, batch = model_of(kind).eval(), batch_of(shapes)
    latents = model.encode(batch.clouds)
    mixed = model.encode(batch.clouds[:, torch.randperm(40)])
    assert torch.allclose(latents, mixed, atol=1e-5)
    values = model.logits(latents, batch.points)
    assert torch.allclose(values, model.logits(latents[:, torch.randperm(8)], batch.points), atol=1e-5)
    assert torch.allclose(model.encode(batch.clouds[1:2])[0], latents[1], atol=1e-5)  # nor what else is in the batch


def test_points_are_asked_one_by_one(shapes):
    model, batch = model_of().eval(), batch_of(shapes)
    latents = model.encode(batch.clouds)
    whole = model.logits(latents, batch.points)
    assert torch.allclose(whole[:, 5:9], model.logits(latents, batch.points[:, 5:9]), atol=1e-6)
    assert torch.allclose(model.field(latents, 2)(batch.points[2]), whole[2], atol=1e-6)


def test_bottlenecks_do_what_their_names_say(shapes):
    clouds = batch_of(shapes).clouds
    normal = model_of("normalised").encode(clouds)
    assert normal.mean(dim=-1).abs().max() < 1e-5 and normal.var(dim=-1, unbiased=False).sub(1).abs().max() < 1e-2
    model = model_of("kl")
    mean, drawn = model.encode(clouds), model.encode(clouds, torch.randn(3, 8, 4))
    assert torch.equal(model.encode(clouds), mean) and not torch.allclose(mean, drawn)
    assert torch.equal(model.encode(clouds, torch.zeros(3, 8, 4)), mean)


def test_located_latents_tell_where_they_are_and_points_look_at_what_is_near(shapes):
    model, batch = model_of("located").eval(), batch_of(shapes)
    latents = model.encode(batch.clouds)
    apart = torch.cdist(latents[..., :3], batch.clouds[..., :3]).amin(dim=-1)
    assert apart.max() < 2e-3  # each is at a point of its cloud
    model.near_latents.log_fall.data.fill_(6.0)
    tokens, place = model.tokens(latents[:1]), latents[:1, 3:4, :3]
    near, other = ((torch.cdist(place, latents[:1, :, :3])[0, 0]).argsort()[k] for k in (0, -1))
    before = model.values(tokens, latents[:1], place)
    changes = []
    for row in (near, other):
        changed = tokens.clone()
        changed[0, row] += 1.0
        changes.append((model.values(changed, latents[:1], place) - before).abs().item())
    assert changes[0] > 1e-3 and changes[1] < 1e-6


def test_latents_without_a_width_are_jittered_in_training_alone(shapes):
    model, batch = model_of("located"), batch_of(shapes)
    found = model.posterior(batch.clouds)
    assert torch.allclose((0.5 * found.log_variance).exp().mean(dim=(0, 1)), torch.tensor([0.01] * 3 + [0.1] * 4))
    objective = VectorSetObjective()
    model.train()
    assert objective.losses(model, batch).loss != objective.losses(model, batch).loss
    model.eval()
    assert objective.losses(model, batch).loss == objective.losses(model, batch).loss


def test_a_batch_of_training_has_any_number_of_latents_in_range_and_all_are_decoded(shapes):
    model, batch, seen = model_of("located", fewest_latents=3), batch_of(shapes), set()
    gather = model.posterior
    model.posterior = lambda clouds, number=None: seen.add(number) or gather(clouds, number)
    for _ in range(40):
        assert VectorSetObjective().losses(model.train(), batch).loss.isfinite()
    assert seen <= set(range(3, 9)) and len(seen) > 3
    seen.clear()
    VectorSetObjective().losses(model.eval(), batch)
    assert seen == {None} and model.encode(batch.clouds).shape[1] == 8


def test_the_overlap_is_one_of_what_was_found_and_weighs_what_it_lacks(shapes):
    inside = torch.tensor([[1.0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]])
    sure = 40 * (2 * inside - 1)
    assert torch.allclose(soft_overlap(sure, inside), torch.tensor([1.0, 1, 0]))
    assert torch.allclose(soft_overlap(-sure, inside), torch.zeros(3), atol=1e-6)
    half = soft_overlap(torch.zeros(1, 4, requires_grad=True), inside[:1])
    assert half.item() == pytest.approx(1 / 3)  # one of 2 + 2 - 1
    batch = batch_of(shapes)
    plain, weighed = (
        VectorSetObjective().losses(model_of(overlap_weight=weight).eval(), batch).loss.item() for weight in (0.0, 2.0)
    )
    values = model_of().eval().logits(model_of().eval().encode(batch.clouds), batch.points)
    lacking = sum(
        1 - soft_overlap(values[:, part], batch.inside[:, part]).mean() for part in (slice(48), slice(48, 64))
    )
    assert weighed - plain == pytest.approx(2 * lacking.item(), rel=1e-4)


def test_the_keenest_head_begins_as_steep_as_was_asked():
    model = model_of("located", steepest=300.0)
    for near in (model.near_cloud, model.near_latents):
        assert near.log_fall.exp().max().item() == pytest.approx(300.0)


def test_settings_that_contradict_each_other_are_refused():
    for fields, why in (
        ({"fewest_latents": 9}, r"fewest_latents must lie in \[1, num_latents\] \(8\)"),
        ({"fewest_latents": 0}, "fewest_latents"),
        ({"fewest_latents": 4, "queries": "learned"}, "learned queries"),
        ({"overlap_weight": -1.0}, "overlap_weight must not be negative"),
        ({"overlap_weight": 1.0, "target": "distance"}, "overlap_weight must be 0 where distances"),
        ({"steepest": 0.0}, "steepest must be above 0"),
    ):
        with pytest.raises(ConfigError, match=why):
            model_of(**fields)


def test_latents_are_scaled_by_what_was_measured_and_the_measure_is_saved(shapes, tmp_path):
    model = model_of().eval()
    latents = 3 * torch.randn(50, 8, 4) + torch.tensor([1.0, 0, -1, 5])
    assert torch.equal(model.standardized(latents), latents)
    model.measure_latents(latents)
    scaled = model.standardized(latents).flatten(0, 1)
    assert scaled.mean(dim=0).abs().max() < 1e-4 and (scaled.std(dim=0) - 1).abs().max() < 1e-4
    assert torch.allclose(model.restored(model.standardized(latents)), latents, atol=1e-5)
    model.save_pretrained(tmp_path)
    again = VectorSetAutoencoder.from_pretrained(tmp_path)
    assert torch.equal(again.latent_std, model.latent_std) and again.config == model.config
    clouds = batch_of(shapes).clouds
    assert torch.equal(again.encode(clouds), model.encode(clouds))


def test_a_few_shapes_are_learned(shapes, tmp_path):
    torch.manual_seed(0)
    model = VectorSetAutoencoder(dim=48, num_latents=16, dim_latent=8, depth=1, heads=3, dim_head=16, cross_heads=3)
    settings = {"num_train_steps": 120, "batch_size": 4, "learning_rate": 4e-3, "ema_decay": 0.0, "val_every": 40}
    settings |= {"progress": False, "checkpoint_folder": str(tmp_path), "checkpoint_every": 1000}
    two = PrimitiveDataset(4, ("ellipsoid", "box"), surface=128, volume=1024, near=256)
    view = FieldView(cloud=128, volume=256, near=64)
    trainer = VectorSetTrainer(model, two, val_dataset=two, view=view, **settings)
    trainer()
    assert trainer.best["iou"] > 0.4  # that of an untrained model is 0.05
    trainer.restore_best()
    report = report_fields(model, two, cloud=128, extraction=ExtractionConfig(resolution=16, coarse=16), count=500)
    assert report.iou > 0.4 and report.empty < 4 and report.chamfer < FARTHEST and "IoU" in str(report)


def test_empty_results_count_as_the_worst_there_is(shapes):
    model = model_of().eval()
    torch.nn.init.zeros_(model.to_value.weight)
    torch.nn.init.constant_(model.to_value.bias, -1.0)
    report = report_fields(model, FieldExamplesOnly(shapes, 2), 40, ExtractionConfig(resolution=16, coarse=8), count=50)
    assert (report.iou, report.chamfer, report.f_score, report.empty) == (0.0, FARTHEST, 0.0, 2)
    assert volume_iou(np.array([-1.0, -1]), np.array([-1.0, -2])) == 1.0
    with pytest.raises(DataError, match="no shapes"):
        report_fields(model, FieldExamplesOnly(shapes, 0))


class FieldExamplesOnly:
    """The first few of a data set."""

    def __init__(self, dataset, count):
        self.dataset, self.count = dataset, count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return self.dataset[index]


def test_presets_are_those_of_the_paper_and_small_ones():
    paper = vector_set_preset("kl_d512_m512_l8")
    assert (paper.dim, paper.num_latents, paper.dim_latent, paper.depth, paper.cross_heads) == (512, 512, 8, 24, 1)
    assert {f"kl_d512_m512_l{c}" for c in (512, 64, 32, 16, 8, 4, 2, 1)} < set(PRESETS)
    assert vector_set_preset("ae_d128_m512").bottleneck == "none"
    weights = sum(weight.numel() for weight in VectorSetAutoencoder(vector_set_preset("tiny")).parameters())
    assert weights < 10**6
    with pytest.raises(ConfigError, match="did you mean 'tiny'"):
        vector_set_preset("tini")
    with pytest.raises(ConfigError, match="there are: kl_d512"):
        vector_set_preset("qqqq")


def test_what_does_not_fit_is_refused(shapes, tmp_path):
    with pytest.raises(ConditionError, match=r"clouds \(b, p, 3\)"):
        model_of().encode(torch.zeros(5, 3))
    with pytest.raises(ConditionError, match=r"clouds \(b, p, 7\)"):
        model_of("normals").encode(torch.zeros(1, 5, 3))
    with pytest.raises(ConditionError, match="a point at least"):
        model_of().encode(torch.zeros(1, 0, 3))
    with pytest.raises(ConfigError, match="stretch must be 0 for a model of distances"):
        VectorSetTrainer(
            model_of(target="distance"), shapes, view=FieldView(stretch=0.1), checkpoint_folder=str(tmp_path)
        )
    for wrong in (
        {"dim": 0},
        {"cross_heads": 5},
        {"bottleneck": "x"},
        {"queries": "x"},
        {"target": "x"},
        {"depth": -1},
        {"near_weight": -0.1},
        {"drop_path": 1.0},
        {"located": True},
        {"jitter": -0.1},
    ):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            VectorSetConfig(**wrong)
    with pytest.raises(ConfigError, match="dim_latent must be dim"):
        VectorSetConfig(bottleneck="none")


def test_a_shape_can_be_told_by_more_latents_than_in_training():
    clouds = torch.rand(2, 40, 3)
    model = model_of().eval()
    own, more = model.encode(clouds), model.encode(clouds, num_latents=20)
    assert more.shape[1] == 20 and torch.allclose(more[:, : own.shape[1]], own, atol=1e-5)  # farthest points first
    assert model.logits(more, clouds).shape == (2, 40) and torch.equal(model.encode(clouds, num_latents=8), own)
    with pytest.raises(ConditionError, match="num_latents of this model must be 1 at least, got 0"):
        model.encode(clouds, num_latents=0)
    with pytest.raises(ConditionError, match="must be 8, as many as it has learned queries, got 20"):
        model_of(queries="learned").encode(clouds, num_latents=20)


def test_clouds_of_any_count_are_read():
    model = model_of().eval()
    few = model.encode(torch.rand(2, 5, 3))  # fewer points than latents: points are repeated
    assert few.shape == (2, 8, 4) and few.isfinite().all()
    assert model.encode(torch.zeros(1, 9, 3)).isfinite().all()  # all at one place
