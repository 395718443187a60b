"""The cross entropy that never has all scores at once is the plain one."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from meshgpt.transformer import chunked
from meshgpt.transformer.chunked import linear_nats
from meshgpt.transformer.heads import CodeHead

ROWS, CODES, WIDTH = 23, 301, 8


def plain_nats(hidden, weight, bias, targets, may_be_last):
    scores = F.linear(hidden, weight, bias)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    last = torch.where(may_be_last, scores[:, -1], -torch.inf)
    return F.cross_entropy(torch.cat((scores[:, :-1], last[:, None]), dim=1), targets, reduction="none")


def case(dtype=torch.float32):
    """Rows, weights and biases with gradients, targets (the last class where it may be), and where that is."""
    generator = torch.Generator().manual_seed(0)
    sizes = ((ROWS, WIDTH), (CODES, WIDTH), (CODES,))
    parts = [torch.randn(size, generator=generator, dtype=dtype).requires_grad_() for size in sizes]
    targets, may_be_last = torch.randint(0, CODES - 1, (ROWS,), generator=generator), torch.arange(ROWS) % 3 == 0
    targets[0] = CODES - 1
    return parts, targets, may_be_last


def gradients(nats, weights, parts):
    return torch.autograd.grad((nats * weights).sum() if weights is not None else nats.mean(), parts)


@pytest.mark.parametrize("at_once", [1, 5 * CODES, 10**6], ids=["a row", "5 rows", "all rows"])
@pytest.mark.parametrize("weighed", [False, True], ids=["mean", "weighed"])
def test_it_is_the_plain_cross_entropy_in_value_and_gradient(monkeypatch, at_once, weighed):
    monkeypatch.setattr(chunked, "SCORES_AT_ONCE", at_once)
    parts, *told = case()
    weights = torch.linspace(-1, 2, ROWS) if weighed else None
    ours, plain = linear_nats(*parts, *told), plain_nats(*parts, *told)
    torch.testing.assert_close(ours, plain)
    for one, other in zip(gradients(ours, weights, parts), gradients(plain, weights, parts), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("weighed", [False, True], ids=["mean", "weighed"])
def test_its_gradients_are_those_of_differences(monkeypatch, weighed):
    monkeypatch.setattr(chunked, "SCORES_AT_ONCE", 4 * CODES)
    parts, *told = case(torch.float64)
    weights = torch.linspace(-1, 2, ROWS, dtype=torch.float64) if weighed else torch.ones(())
    assert torch.autograd.gradcheck(lambda *parts: (linear_nats(*parts, *told) * weights).sum(), parts, fast_mode=True)


def test_the_gradient_may_be_asked_for_twice():
    parts, *told = case()
    loss = linear_nats(*parts, *told).mean()
    first = torch.autograd.grad(loss, parts, retain_graph=True)
    for one, other in zip(first, torch.autograd.grad(loss, parts), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_under_autocast_it_is_as_near_as_the_plain_one():
    parts, *told = case()
    exact = [plain_nats(*parts, *told), *gradients(plain_nats(*parts, *told), None, parts)]
    with torch.autocast("cpu", torch.bfloat16):
        ours, plain = linear_nats(*parts, *told), plain_nats(*parts, *told)
    assert ours.dtype == torch.float32
    found = [ours, *gradients(ours, None, parts)], [plain, *gradients(plain, None, parts)]
    for one, other, true in zip(*found, exact, strict=True):
        assert one.dtype == true.dtype
        assert (one - true).norm() < 1.2 * (other - true).norm() + 1e-6


def test_narrow_weights_give_narrow_gradients_of_wide_sums():
    parts, *told = case()
    narrow = [part.detach().bfloat16().requires_grad_() for part in parts]
    found = torch.autograd.grad(linear_nats(*narrow, *told).mean(), narrow)
    for one, true in zip(found, gradients(plain_nats(*parts, *told), None, parts), strict=True):
        assert one.dtype == torch.bfloat16
        assert (one.float() - true).norm() < 0.05 * true.norm()


class Largest(TorchDispatchMode):
    """Notes the largest number of elements of any tensor that is made."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        made = [x for x in (out if isinstance(out, (tuple, list)) else (out,)) if isinstance(x, torch.Tensor)]
        self.elements = max([self.elements, *(x.numel() for x in made)])
        return out


@pytest.mark.parametrize("autocast", [False, True])
def test_all_scores_are_never_there_at_once(monkeypatch, autocast):
    monkeypatch.setattr(chunked, "SCORES_AT_ONCE", 4 * CODES)
    parts, *told = case()
    with Largest() as seen, torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        linear_nats(*parts, *told).mean().backward()
    assert seen.elements == CODES * WIDTH  # the weights; ROWS * CODES would be more
    with Largest() as plain:
        plain_nats(*parts, *told).mean().backward()
    assert plain.elements == ROWS * CODES


def test_without_gradients_none_are_made():
    parts, *told = case()
    with torch.no_grad():
        nats = linear_nats(*parts, *told)
    assert not nats.requires_grad
    torch.testing.assert_close(nats, plain_nats(*parts, *told))


def test_no_rows_have_no_gradient():
    parts, targets, may_be_last = case()
    hidden, weight, bias = parts
    nats = linear_nats(hidden[:0], weight, bias, targets[:0], may_be_last[:0])
    assert nats.shape == (0,)
    assert all(not part.any() for part in torch.autograd.grad(nats.sum(), parts))


def test_a_wide_head_says_what_its_log_probabilities_say(monkeypatch):
    monkeypatch.setattr(chunked, "SCORES_AT_ONCE", 4 * CODES)
    torch.manual_seed(0)
    head, (parts, targets, may_end) = CodeHead(CODES - 1, WIDTH, 1), case()
    logits = head.logits(parts[0], may_end)
    nats = head.nats(parts[0], targets, may_end)
    torch.testing.assert_close(nats, -logits.gather(1, targets[:, None])[:, 0])
    weights = list(head.parameters())
    ours, plain = (torch.autograd.grad(x.sum(), weights) for x in (nats, -logits.gather(1, targets[:, None])))
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one, other)
