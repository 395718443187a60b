"""Layers taken apart for writing: the same numbers as from layers that are whole, whatever is asked of a stack."""

import pytest
import torch

from meshgpt.transformer import stack as stacks
from meshgpt.transformer.cache import empty_cache
from meshgpt.transformer.conditioning import Context
from meshgpt.transformer.config import StackSpec
from meshgpt.transformer.lean import is_lean, turn_of, turned_by
from meshgpt.transformer.stack import Stack, rotate

PLAIN, CROSSED = ("attention", "feedforward") * 2, ("attention", "cross_attention", "feedforward") * 2
SPECS = {
    "plain": {"layers": PLAIN},
    "without rotation": {"layers": PLAIN, "rotary": False},
    "crossed": {"layers": CROSSED, "cross_num_mem_kv": 2},
    "window": {"layers": PLAIN, "window": 3},
    "recurrence": {"layers": ("recurrence", *PLAIN, "recurrence")},
    "one head": {"layers": PLAIN, "heads": 1},
}


def make(**options):
    torch.manual_seed(0)
    stack = Stack(StackSpec(**{"dim": 24, "heads": 2, "dim_head": 12, "ff_mult": 2.0, **options})).eval()
    with torch.no_grad():
        for weight in stack.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return stack


def stepped(stack, x, context):
    """Three positions at once, rows cut to lengths of their own, then one by one, then two, of fewer rows."""
    cache, out = empty_cache(len(x), x.device, capacity=4, window=stack.spec.window), []
    with torch.no_grad():
        out.append(stack.step(x[:, :3], cache, context=context))
        cache.set_lengths(torch.tensor([3, 2, 1]))
        for place in range(3, 6):
            out.append(stack.step(x[:, place : place + 1], cache, context=context))
        cache = cache.select(torch.tensor([0, 2]))
        context = None if context is None else context.select(torch.tensor([0, 2]))
        out.append(stack.step(x[[0, 2], 6:8], cache, context=context))
    return out


@pytest.mark.parametrize("options", SPECS.values(), ids=SPECS.keys())
def test_a_step_is_the_same_with_layers_taken_apart(options, monkeypatch):
    stack, x = make(**options), torch.randn(3, 8, 24)
    context = None
    if stack.spec.crosses:
        mask = torch.tensor([[True, True], [True, False], [False, False]])
        context = Context(torch.randn(3, 2, 24), mask, torch.randn(3, 24))
    apart = stepped(stack, x, context)
    monkeypatch.setattr(stacks, "is_lean", lambda *_: False)
    for one, other in zip(apart, stepped(stack, x, context), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_the_layers_are_taken_apart_once_for_a_cache_and_its_rows():
    stack, x = make(layers=PLAIN), torch.randn(2, 1, 24)
    cache = empty_cache(2, x.device)
    with torch.no_grad():
        stack.step(x, cache)
        known = cache.lean[0]
        cache = cache.select(torch.tensor([1]))
        stack.step(x[:1], cache)
    assert cache.lean[0] is known


def test_training_and_what_few_models_ask_for_take_the_long_way():
    x = torch.randn(1, 1, 24)
    assert not is_lean(make(layers=PLAIN).spec, x, None)  # gradients
    with torch.no_grad():
        assert is_lean(make(layers=PLAIN).spec, x, None) and is_lean(make(layers=PLAIN).spec, x.bfloat16(), None)
        assert not is_lean(make(layers=PLAIN).spec, x, torch.zeros(1, 2, 1, 1))
        assert not is_lean(make(layers=PLAIN).spec, x.half(), None)
        for options in ({"reversible": True}, {"value_residual": True}, {"num_mem_kv": 1}, {"num_residual_streams": 2}):
            assert not is_lean(make(layers=PLAIN, **options).spec, x, None)


def test_turning_complex_numbers_is_turning_channels():
    x, angles = torch.randn(2, 3, 1, 4, 12), torch.randn(2, 3, 4).repeat_interleave(2, dim=-1)
    turned = turned_by(x, turn_of(angles, 12))[:, :, 0].transpose(1, 2)
    said = rotate(x[:, :, 0].transpose(1, 2), angles.cos()[:, None], angles.sin()[:, None])
    torch.testing.assert_close(turned, said)


def test_bfloat16_models_remember_in_float32():
    stack = make(layers=CROSSED, cross_num_mem_kv=1).bfloat16()
    context = Context(torch.randn(2, 2, 24).bfloat16(), torch.ones(2, 2).bool(), torch.randn(2, 24).bfloat16())
    cache = empty_cache(2, torch.device("cpu"))
    with torch.no_grad():
        out = stack.step(torch.randn(2, 1, 24).bfloat16(), cache, context=context)
    assert out.dtype == torch.bfloat16
    assert {store.dtype for store in (*cache.keys, *cache.values, *cache.contexts[0])} == {torch.float32}
