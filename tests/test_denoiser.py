"""The two denoisers of latent sets and their bricks: sets, conditions, gradients, beginnings."""

import dataclasses

import pytest
import torch

from meshgpt.errors import ConfigError
from meshgpt.nn.embedding import TimeEmbedding
from meshgpt.nn.experts import MixtureOfExperts
from meshgpt.nn.latents import SetAttention
from meshgpt.nn.normalization import AdaptiveNorm
from meshgpt.shapes.denoiser import denoiser
from meshgpt.shapes.denoiser_config import DENOISERS, DenoiserConfig
from meshgpt.transformer.conditioning import Context

SMALL = {"num_latents": 5, "dim_latent": 3, "dim": 16, "depth": 3, "attn_heads": 2, "attn_dim_head": 8}
KINDS = {
    "adaptive": {},
    "token": {"kind": "token"},
    "experts": {"kind": "token", "num_experts": 3, "expert_layers": 2, "experts_per_token": 2},
}


def small(name, **fields):
    """A denoiser that says something: weights that begin at 0 are moved."""
    torch.manual_seed(0)
    model = denoiser(DenoiserConfig(**{**SMALL, **KINDS[name], **fields}))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn(weight.shape))
    return model


def inputs(rows=4, latents=5):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(rows, latents, 3, generator=generator), torch.linspace(-0.9, 0.9, rows)


def context_of(rows=4, tokens=6, width=16):
    generator = torch.Generator().manual_seed(2)
    mask = torch.ones(rows, tokens, dtype=torch.bool)
    mask[-1] = False
    return Context(
        torch.randn(rows, tokens, width, generator=generator), mask, torch.randn(rows, width, generator=generator)
    )


@pytest.mark.parametrize("name", KINDS)
def test_latents_in_another_order_give_the_answers_in_that_order(name):
    model, (x, clock), order = small(name), inputs(), torch.tensor([3, 0, 4, 1, 2])
    assert torch.allclose(model(x, clock).values[:, order], model(x[:, order], clock).values, atol=1e-5)


@pytest.mark.parametrize("name", KINDS)
def test_a_row_does_not_depend_on_its_batch(name):
    model, (x, clock), context = small(name, categories=("a", "b")), inputs(), context_of()
    together = model(x, clock, context).values
    one = torch.tensor([2])
    assert torch.allclose(together[one], model(x[one], clock[one], context.select(one)).values, atol=1e-5)


@pytest.mark.parametrize("name", KINDS)
def test_a_set_of_another_size_is_taken_too(name):
    x, clock = inputs(latents=9)
    assert small(name)(x, clock).values.shape == (4, 9, 3)


@pytest.mark.parametrize("name", KINDS)
def test_every_weight_gets_a_gradient(name):
    model, (x, clock) = small(name, categories=("a", "b")), inputs(rows=16)
    result = model(x, clock, context_of(rows=16))
    (result.values.square().mean() + 0.01 * result.balance).backward()
    dead = [key for key, weight in model.named_parameters() if weight.grad is None or not bool(weight.grad.any())]
    assert not dead


@pytest.mark.parametrize("name", KINDS)
def test_time_and_conditions_are_heard(name):
    model, (x, clock), context = small(name, categories=("a", "b")), inputs(), context_of()
    said = model(x, clock, context).values
    assert not torch.allclose(said, model(x, clock + 0.05, context).values, atol=1e-4)
    other = dataclasses.replace(context, tokens=context.tokens + 0.5)
    assert not torch.allclose(said[0], model(x, clock, other).values[0], atol=1e-4)


@pytest.mark.parametrize("name", KINDS)
def test_what_is_masked_is_not_seen_even_where_nothing_else_is(name):
    model, (x, clock), context = small(name, categories=("a", "b")), inputs(), context_of()
    other = dataclasses.replace(
        context, tokens=context.tokens * context.mask[..., None] + 9.0 * ~context.mask[..., None]
    )
    assert torch.equal(model(x, clock, context).values, model(x, clock, other).values)


@pytest.mark.parametrize("name", KINDS)
def test_before_the_first_step_a_denoiser_says_nothing(name):
    model = denoiser(DenoiserConfig(**SMALL, **KINDS[name]))
    assert not bool(model(*inputs()).values.any())


def test_the_layers_of_the_adaptive_denoiser_begin_as_nothing():
    model, (x, _) = denoiser(DenoiserConfig(**SMALL)), inputs()
    hidden = model.project_in(x)
    assert torch.equal(model.blocks[0](hidden, torch.randn(4, 16), None), hidden)


def test_first_layers_of_the_token_denoiser_reach_the_last_ones():
    model, seen = small("token"), []
    assert [block.merge is not None for block in model.blocks] == [False, False, True]
    model.blocks[-1].merge.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    first = []
    model.blocks[0].register_forward_hook(lambda module, args, out: first.append(out.values))
    model(*inputs())
    assert torch.equal(seen[0][..., :16], first[0])


# bricks


def test_normalised_queries_and_keys_bound_the_scores():
    torch.manual_seed(0)
    layer, x = SetAttention(8, 2, 4, qk_norm=True, prenorm=False), torch.randn(1, 5, 8)
    direction = layer(1000 * x) / 1000
    assert torch.allclose(direction, layer(x), atol=1e-5)  # how large the set is does not sharpen what it looks at


def test_an_adaptive_norm_begins_as_a_plain_one_behind_a_closed_gate():
    norm, x = AdaptiveNorm(8, 4), torch.randn(2, 3, 8)
    normed, gate = norm(x, torch.randn(2, 4))
    assert torch.equal(normed, torch.nn.functional.layer_norm(x, (8,))) and not bool(gate.any())
    assert bool((AdaptiveNorm(8, 4, gated=False)(x, torch.randn(2, 4))[1] == 1).all())


def test_near_times_have_near_vectors_and_far_ones_do_not():
    torch.manual_seed(0)
    embed = TimeEmbedding(16)
    here, near, far = embed(torch.tensor([0.3, 0.3001, -0.7]))
    assert (here - near).norm() < 0.1 * (here - far).norm()


def test_experts_are_weighed_as_the_router_says():
    torch.manual_seed(0)
    layer, x = MixtureOfExperts(8, num_experts=4, top_k=2), torch.randn(2, 3, 8)
    rows = layer.norm(x)
    shares = layer.router(rows).softmax(dim=-1)
    weights, chosen = shares.topk(2, dim=-1)
    expected = layer.shared(rows)
    for b in range(2):
        for n in range(3):
            for weight, number in zip(weights[b, n], chosen[b, n], strict=True):
                expected[b, n] += weight * layer.experts[int(number)](rows[b, n])
    assert torch.allclose(layer(x).values, expected, atol=1e-5)


def test_balance_is_1_where_experts_are_asked_alike_and_more_where_not():
    layer, x = MixtureOfExperts(8, num_experts=4, top_k=1), torch.randn(1, 400, 8)
    with torch.no_grad():
        layer.router.weight.mul_(0.01)
    assert float(layer(x).balance.detach()) == pytest.approx(1, abs=0.05)
    with torch.no_grad():
        layer.router.weight.zero_()
        layer.router.weight[0] = 50.0
    ones = torch.ones(1, 10, 8)
    assert float(layer(ones).balance.detach()) == pytest.approx(4, abs=0.01)


def test_an_expert_that_nobody_asks_has_a_gradient_of_zero():
    layer, ones = MixtureOfExperts(8, num_experts=4, top_k=1), torch.ones(1, 3, 8)
    layer(ones).values.sum().backward()
    assert all(weight.grad is not None for weight in layer.parameters())


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"kind": "unet"}, "adaptive, token"),
        ({"depth": 0}, "at least 1"),
        ({"balance_weight": -1.0}, "not be negative"),
        ({"ff_mult": 0.0}, "be positive"),
        ({"num_experts": 4}, "kind 'adaptive'"),
        ({"kind": "token", "num_experts": 1}, "experts_per_token = 2"),
        ({"categories": ("a", "a")}, "different names"),
        ({"unconditional_prob": 2.0}, "lie in"),
        ({"condition_on_text": True, "text_condition_model_types": ("unheard/of",)}, "dim_text"),
    ],
)
def test_a_denoiser_that_cannot_be_is_refused(fields, word):
    with pytest.raises(ConfigError, match=word):
        DenoiserConfig(**{**SMALL, **fields})


@pytest.mark.parametrize("name", DENOISERS)
def test_sizes_by_name_are_configs(name):
    assert DenoiserConfig(num_latents=64, dim_latent=8, **DENOISERS[name]).dims == (DENOISERS[name]["dim"],)
