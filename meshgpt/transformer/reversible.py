"""Layers whose inputs are reconstructed from their outputs in the backward pass, so that depth costs no memory."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

Branch = Callable[[Tensor], Tensor]


def run_reversibly(
    x: Float[Tensor, "b n d"],
    branches: Sequence[Branch],
    modules: Sequence[nn.Module],
    shared: Sequence[torch.Tensor] = (),
    keep: bool = False,
) -> Float[Tensor, "b n d"]:
    """Two streams that branches add to in turn, each from the other; their mean (Gomez et al., arXiv:1707.04585).

    `modules`: those that own the parameters of each branch. `shared`: tensors that branches use and that want a
    gradient.
    `keep` runs the same arithmetic and leaves the gradients to autograd, which keeps all activations.
    """
    if keep or not torch.is_grad_enabled():
        one, two = _run(x, branches)
    else:
        parameters = [list(module.parameters()) for module in modules]
        flat = [p for group in parameters for p in group]
        one, two = _Reversible.apply(branches, parameters, len(shared), x, *shared, *flat)  # type: ignore[misc]
    return (one + two) / 2


def _run(x: Tensor, branches: Sequence[Branch]) -> tuple[Tensor, Tensor]:
    one, two = x, x
    for branch in branches:
        one, two = two, one + branch(two)
    return one, two


class _Precision:
    """The autocast of the moment it is made, to be entered again: what is reconstructed must be what was computed.

    Cast weights are never kept: those of a forward pass, which autograd does not see, would hide the weights from it.
    """

    def __init__(self, device: torch.device):
        kinds = [kind for kind in {device.type, "cpu"} if torch.amp.is_autocast_available(kind)]
        self.states = [(kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)) for kind in kinds]

    def __call__(self) -> contextlib.ExitStack:
        stack = contextlib.ExitStack()
        for kind, dtype, enabled in self.states:
            stack.enter_context(torch.autocast(kind, dtype=dtype, enabled=enabled, cache_enabled=False))
        return stack


class _Reversible(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, branches: Any, parameters: Any, num_shared: int, x: Tensor, *others: Tensor) -> Any:
        ctx.precision = _Precision(x.device)
        one = two = x.detach()
        for branch in branches:
            with torch.set_grad_enabled(
                num_shared > 0
            ):  # attention under a mask that wants a gradient rounds otherwise
                one, two = two, one + _branch_of(two, branch, ctx.precision)[1].detach()
        ctx.branches, ctx.parameters, ctx.shared = branches, parameters, others[:num_shared]
        ctx.save_for_backward(one, two)
        return one, two

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (one, two), (grad_one, grad_two) = ctx.saved_tensors, gradients
        parameter_grads: list[Tensor | None] = []
        shared_grads: list[Tensor | None] = [None] * len(ctx.shared)
        for branch, parameters in zip(reversed(ctx.branches), reversed(ctx.parameters), strict=True):
            with torch.enable_grad():
                source, out = _branch_of(one, branch, ctx.precision)
            wanted = [source, *ctx.shared, *parameters]
            found = list(torch.autograd.grad(out, wanted, grad_two.to(out.dtype), allow_unused=True))
            source_grad, *grads = found
            parts, grads = grads[: len(ctx.shared)], grads[len(ctx.shared) :]
            shared_grads = [_sum(*pair) for pair in zip(shared_grads, parts, strict=True)]
            parameter_grads = [*grads, *parameter_grads]
            one, two = two - out.detach(), one
            grad_one, grad_two = grad_two, grad_one + source_grad
        return None, None, None, grad_one + grad_two, *shared_grads, *parameter_grads


def _branch_of(x: Tensor, branch: Branch, precision: _Precision) -> tuple[Tensor, Tensor]:
    """A leaf with the values of `x`, and the branch of it."""
    source = x.detach().requires_grad_()
    with precision():
        return source, branch(source)


def _sum(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    return other if one is None else one if other is None else one + other
