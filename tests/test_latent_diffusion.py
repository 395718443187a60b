"""`LatentDiffusion`: losses, conditions, seeds, guidance, training with its gauge, saving, and cached latents."""

import json
import math

import pytest
import torch
from conditioned_toys import letters

from meshgpt.errors import ConditionError, ConfigError, DataError, GenerationError, TrainingError
from meshgpt.shapes.diffusion.process import EDM_CONFIG, V_CONFIG, DiffusionConfig
from meshgpt.shapes.latent_diffusion import LatentDiffusion, LatentDiffusionConfig
from meshgpt.shapes.latents import LatentEncoder, cached_latents, encoded
from meshgpt.text.embedding import CallableEncoder
from meshgpt.training.latent_trainer import LatentDiffusionTrainer, LatentExamples, LatentObjective

SMALL = {"num_latents": 4, "dim_latent": 3, "dim": 32, "depth": 2, "attn_heads": 2, "attn_dim_head": 16}
ASKED = {
    "condition_on_text": True, "text_condition_model_types": ("letters",), "dim_text": 3,
    "categories": ("chair", "table"), "condition_on_points": True, "num_point_latents": 4, "point_encoder_depth": 1,
}  # fmt: skip
PROCESSES = {"flow": DiffusionConfig(), "edm": EDM_CONFIG, "v": V_CONFIG}
LATENTS = 3.0 + 2.0 * torch.randn(8, 4, 3, generator=torch.Generator().manual_seed(5))


def small(loud=True, **fields):
    """A model whose weights that begin at 0 are moved, so that it says something."""
    torch.manual_seed(0)
    model = LatentDiffusion(**{**SMALL, **fields})
    if loud:
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.1 * torch.randn(weight.shape))
    if model.config.condition_on_text:
        model.use_text_encoder(CallableEncoder(letters, dim=3, name="letters"))
    model.fit_latents(LATENTS)
    return model.eval()


def cloud(seed=0):
    return torch.rand(20, 3, generator=torch.Generator().manual_seed(seed)) - 0.5


# latents


def test_latents_are_seen_at_mean_0_and_deviation_1_and_come_back():
    model = small()
    seen = model.normalized(LATENTS)
    assert torch.allclose(seen.mean(dim=(0, 1)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(seen.std(dim=(0, 1)), torch.ones(3), atol=1e-4)
    assert torch.allclose(model.restored(seen), LATENTS, atol=1e-5)
    scaled = small(diffusion=DiffusionConfig(sigma_data=0.5))
    assert float(scaled.normalized(LATENTS).std()) == pytest.approx(0.5, rel=0.02)
    assert torch.allclose(scaled.restored(scaled.normalized(LATENTS)), LATENTS, atol=1e-5)


def test_latents_that_cannot_be_are_refused():
    model = small()
    broken = LATENTS.clone()
    broken[2, 0, 0] = math.nan
    for bad, word in [
        (LATENTS[..., :2], r"floats \(b, m, 3\)"),
        (LATENTS[0], "floats"),
        (LATENTS.long(), "int64"),
        (broken, "row 2"),
        (LATENTS[:1, :1], "several"),
    ]:
        with pytest.raises(DataError, match=word):
            model.fit_latents(bad)
    with pytest.raises(TrainingError, match="fit_latents"):
        LatentDiffusion(**SMALL).losses(LATENTS)


# losses


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("kind", ["adaptive", "token"])
def test_a_loss_is_finite_and_every_weight_gets_a_gradient(name, kind):
    experts = {"num_experts": 2, "expert_layers": 1} if kind == "token" else {}
    model = small(kind=kind, diffusion=PROCESSES[name], **ASKED, **experts).train()
    conditions = model.conditions_of(
        texts=["ab", "abc", "b", None] * 2, categories=["chair", "table"] * 4, points=[cloud(i) for i in range(8)]
    )
    torch.manual_seed(4)
    losses = model.losses(LATENTS, conditions)
    losses.loss.backward()
    assert bool(losses.loss.isfinite())
    dead = [key for key, weight in model.named_parameters() if weight.grad is None or not bool(weight.grad.any())]
    assert not dead


def test_a_denoiser_that_says_nothing_has_the_loss_of_it():
    model = small(loud=False)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        losses = model.losses(LATENTS.repeat(200, 1, 1), generator=generator)
    assert float(losses.error) == pytest.approx(2.0, rel=0.05)  # where the Gaussian's floor is pi / 2


def test_training_leaves_conditions_out_and_evaluation_does_not():
    model = small(categories=("chair", "table"), unconditional_prob=1.0)
    conditions = model.conditions_of(categories=["chair"] * 8)
    asked = [model.losses(LATENTS, conditions, torch.Generator().manual_seed(1)).error for _ in range(2)]
    unasked = model.losses(LATENTS, None, torch.Generator().manual_seed(1)).error
    dropped = model.train().losses(LATENTS, conditions, torch.Generator().manual_seed(1)).error
    assert torch.equal(asked[0], asked[1]) and not torch.allclose(asked[0], unasked)
    assert torch.allclose(dropped, unasked)


def test_a_conditioned_model_in_training_wants_conditions():
    model = small(categories=("chair", "table")).train()
    with pytest.raises(ConditionError, match="pass some of categories"):
        model.losses(LATENTS)


# generation


@pytest.mark.parametrize("name", PROCESSES)
def test_what_a_seed_gives_does_not_depend_on_its_batch(name):
    model = small(diffusion=PROCESSES[name], categories=("chair", "table"))
    together = model.generate(categories=["chair", "table", "chair"], seed=[7, 8, 9], num_steps=4)
    alone = model.generate(categories=["table"], seed=8, num_steps=4)
    chunks = model.generate(categories=["chair", "table", "chair"], seed=7, num_steps=4, rows_at_once=2)
    assert together.shape == (3, 4, 3)
    assert torch.allclose(together[1:2], alone, atol=1e-4) and torch.allclose(together, chunks, atol=1e-4)
    assert not torch.allclose(together[0], together[2])


def test_samples_come_out_as_large_as_latents_are():
    model = small(loud=False, diffusion=EDM_CONFIG)  # says 0: the best there is for a Gaussian, with EDM
    drawn = model.generate(200, seed=0)
    assert torch.allclose(drawn.mean(dim=(0, 1)), model.latent_mean, atol=0.3)
    assert torch.allclose(drawn.std(dim=(0, 1)), model.latent_std, rtol=0.1)


def test_each_condition_changes_what_comes_and_guidance_more():
    model = small(**ASKED)
    plain = model.generate(1, seed=0, num_steps=4)
    for given in ({"texts": "abc"}, {"categories": "chair"}, {"points": cloud()}):
        asked = model.generate(seed=0, num_steps=4, **given)
        assert not torch.allclose(asked, plain, atol=1e-4)
        same = model.generate(seed=0, num_steps=4, cond_scale=1.0, **given)
        guided = model.generate(seed=0, num_steps=4, cond_scale=3.0, **given)
        assert torch.equal(asked, same) and not torch.allclose(guided, asked, atol=1e-4)
    unguided = model.generate(categories="chair", seed=0, num_steps=4, cond_scale=0.0)
    assert torch.allclose(unguided, plain, atol=1e-4)
    against = model.generate(texts="abc", negative_texts="zz", cond_scale=2.0, seed=0, num_steps=4)
    assert not torch.allclose(against, model.generate(texts="abc", cond_scale=2.0, seed=0, num_steps=4), atol=1e-4)


def test_each_sample_may_be_guided_away_from_a_text_of_its_own():
    model, options = small(**ASKED), {"texts": ["abc", "ba", "c"], "cond_scale": 2.0, "seed": 0, "num_steps": 3}
    together = model.generate(negative_texts=["x", "yy", "z"], **options)
    assert torch.allclose(
        model.generate(negative_texts=["x", "yy", "z"], rows_at_once=2, **options), together, atol=1e-4
    )
    with pytest.raises(ConditionError, match="2 negative_texts for 3 samples"):
        model.generate(negative_texts=["x", "y"], **options)


@pytest.mark.parametrize("kind", ["adaptive", "token"])
def test_half_precision_is_near(kind):
    experts = {"num_experts": 2, "expert_layers": 1} if kind == "token" else {}
    model = small(kind=kind, categories=("chair", "table"), **experts)
    conditions = model.conditions_of(categories=["chair", "table"] * 4)
    whole = model.losses(LATENTS, conditions, torch.Generator().manual_seed(0)).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = model.losses(LATENTS, conditions, torch.Generator().manual_seed(0)).loss
    assert mixed.dtype == torch.float32 and float(mixed.detach()) == pytest.approx(float(whole.detach()), rel=0.05)
    drawn = model.generate(categories=["chair"], seed=0, num_steps=4)
    half = model.bfloat16().generate(categories=["chair"], seed=0, num_steps=4)
    assert float((half - drawn).abs().mean()) < 0.1 * float(drawn.std())


def test_another_number_of_latents_may_be_asked_for():
    assert small().generate(2, seed=0, num_steps=2, num_latents=7).shape == (2, 7, 3)
    assert small().generate(0, seed=0, num_steps=2).shape == (0, 4, 3)


def test_what_cannot_be_generated_is_refused():
    model = small(categories=("chair", "table"))
    for given, error, word in [
        ({"texts": "a chair"}, ConditionError, "no `texts`"),
        ({"categories": "chiar"}, ConditionError, "did you mean 'chair'"),
        ({"method": "eular"}, GenerationError, "euler, heun"),
        ({"num_stesp": 3}, ConfigError, "did you mean 'num_steps'"),
        ({"rows_at_once": 0}, GenerationError, "at least 1"),
        ({"num_samples": 3, "seed": [1, 2]}, GenerationError, "2 seeds for 3"),
    ]:
        with pytest.raises(error, match=word):
            model.generate(**given)
    with pytest.raises(ConditionError, match="nothing to guide"):
        small().generate(1, cond_scale=2.0)
    with torch.no_grad():
        model.denoiser.project_out.bias.fill_(math.inf)
    with pytest.raises(GenerationError, match="sample 0 of 2 is not finite"):
        model.generate(2, seed=0, num_steps=2)


# saving


@pytest.mark.parametrize("kind", ["adaptive", "token"])
def test_a_model_comes_back_with_its_process_and_the_size_of_its_latents(kind, tmp_path):
    model = small(kind=kind, diffusion=EDM_CONFIG, categories=("chair", "table"))
    model.save_pretrained(tmp_path)
    again = LatentDiffusion.from_pretrained(tmp_path)
    assert again.config == model.config and isinstance(again.config, LatentDiffusionConfig)
    assert torch.equal(again.latent_std, model.latent_std) and int(again.num_fitted) == 8
    options = {"categories": ["table"], "seed": 3, "num_steps": 3, "cond_scale": 2.0}
    assert torch.equal(again.generate(**options), model.generate(**options))


# training


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("flow", "adaptive"),
        pytest.param("edm", "adaptive", marks=pytest.mark.slow),
        pytest.param("flow", "token", marks=pytest.mark.slow),
    ],
)
def test_eight_shapes_are_learned_by_heart(tmp_path, name, kind):
    fields = {"kind": kind, "diffusion": PROCESSES[name], "categories": tuple("abcdefgh"), "unconditional_prob": 0.0}
    model = small(loud=False, **fields)
    conditions = model.conditions_of(categories=list("abcdefgh"))
    often = torch.arange(8).repeat(8)
    trainer = LatentDiffusionTrainer(
        model, LATENTS[often], conditions.select(often), num_train_steps=250, batch_size=64, learning_rate=3e-3,
        ema_decay=0.98, checkpoint_folder=str(tmp_path), progress=False, log_every=50,
    )  # fmt: skip
    figures = trainer()
    assert figures["explained"] > 0.6
    drawn = trainer.ema_model.generate(categories=list("abcdefgh"), seed=1, num_steps=20)
    apart = torch.cdist(drawn[:, None], LATENTS[None]).amin(dim=-1).mean(dim=-1)  # sets have no order
    assert apart.argmin(dim=1).tolist() == list(range(8))
    assert float(apart.diagonal().mean()) < 0.3 * float(apart.mean())


def test_the_log_tells_how_much_is_explained(tmp_path):
    model = small(loud=False)
    trainer = LatentDiffusionTrainer(
        model, LATENTS, num_train_steps=2, batch_size=8, checkpoint_folder=str(tmp_path), progress=False, log_every=1,
        val_latents=LATENTS, val_every=2,
    )  # fmt: skip
    trainer()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert {"loss", "error", "explained"} <= lines[0].keys() and "val_explained" in lines[-1]
    floor, optimum = trainer.objective.floor, trainer.objective.optimum
    assert floor == pytest.approx(math.pi / 2, rel=1e-6) and 0 < optimum < floor
    assert lines[0]["explained"] == pytest.approx((floor - lines[0]["error"]) / (floor - optimum))
    assert LatentDiffusion.from_pretrained(tmp_path).config == model.config


def test_the_trainer_takes_the_size_of_latents_from_all_of_them(tmp_path):
    model = LatentDiffusion(**SMALL)
    LatentDiffusionTrainer(model, LATENTS, batch_size=4, checkpoint_folder=str(tmp_path), progress=False)
    assert int(model.num_fitted) == 8 and torch.allclose(model.latent_mean, LATENTS.mean(dim=(0, 1)))


def test_latents_and_conditions_must_be_as_many():
    model = small(categories=("chair", "table"))
    with pytest.raises(DataError, match="conditions of 2 rows for 8"):
        LatentExamples(LATENTS, model.conditions_of(categories=["chair", "table"]))
    with pytest.raises(DataError, match="n at least 1"):
        LatentExamples(LATENTS[:0])


def test_a_batch_joins_what_is_asked():
    model = small(**ASKED)
    examples = LatentExamples(LATENTS[:2], model.conditions_of(texts=["a", "abc"], points=[cloud(), cloud()[:7]]))
    batch = LatentObjective(1.0).collate([examples[0], examples[1]])
    assert batch.latents.shape == (2, 4, 3) and batch.conditions.text_mask.sum(dim=1).tolist() == [1, 3]
    assert batch.conditions.point_mask.sum(dim=1).tolist() == [20, 7]
    assert LatentObjective(1.0).weight(batch) == 2.0


# cached latents


class Doubling(torch.nn.Module):
    """An encoder; in training it would add something."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def encode(self, points):
        self.calls += 1
        return 2 * points + (1 if self.training else 0)


def test_latents_are_encoded_in_evaluation_mode_and_the_encoder_keeps_its_own():
    encoder = Doubling().train()
    assert isinstance(encoder, LatentEncoder)
    found = encoded(encoder, [LATENTS[:5], (LATENTS[5:],)])
    assert torch.equal(found, 2 * LATENTS) and encoder.training


def test_latents_that_do_not_fit_are_named_with_their_batch():
    for batches, word in [
        ([], "no batch"),
        ([LATENTS, LATENTS[:, :2]], "batch 1: .* the first were"),
        ([LATENTS * math.inf], "batch 0: the latents of row 0"),
    ]:
        with pytest.raises(DataError, match=word):
            encoded(Doubling(), batches)


def test_cached_latents_are_made_once_for_each_key(tmp_path):
    encoder, path = Doubling(), tmp_path / "deep" / "latents.safetensors"

    def make():
        return encoded(encoder, [LATENTS])

    first = cached_latents(path, "weights 1", make)
    assert torch.equal(cached_latents(path, "weights 1", make), first) and encoder.calls == 1
    cached_latents(path, "weights 2", make)
    assert encoder.calls == 2 and [item.name for item in path.parent.iterdir()] == ["latents.safetensors"]
