"""A model whose matrices are read in fewer bits while it writes on a CPU, where reading them takes most of the time."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import no_type_check

import torch
from jaxtyping import Float
from torch import Tensor, nn

from meshgpt.errors import ConfigError

KINDS = ("int8", "bfloat16")
LEAST = 1e-12  # a row of zeros is scaled by this
SMALL = 4096  # weights; a layer with fewer is read in no time, and stays as it is


class Int8Linear(nn.Module):
    """A linear layer in whole numbers of 8 bits, weights and what they meet, each row by a scale of its own.

    Not for training.
    """

    rows: Tensor
    scales: Tensor
    bias: Tensor | None

    def __init__(self, layer: nn.Linear):
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        weight = layer.weight.detach().float()
        scales = row_scales(weight)
        self.register_buffer("rows", (weight / scales).round().to(torch.int8), persistent=False)
        self.register_buffer("scales", scales[:, 0] / 127, persistent=False)
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach().float(), persistent=False)

    def forward(self, x: Float[Tensor, "*n i"]) -> Float[Tensor, "*n o"]:
        return self.beside([self])(x)

    @staticmethod
    def beside(layers: Sequence["Int8Linear"]) -> "WholeNumbers":
        """Several that read the same vectors, as one."""
        if len(layers) == 1:
            return WholeNumbers(layers[0].rows, layers[0].scales, layers[0].bias)
        assert all(layer.bias is None for layer in layers)
        rows, scales = (torch.cat([getattr(layer, name) for layer in layers]) for name in ("rows", "scales"))
        return WholeNumbers(rows, scales, None)


@dataclass(frozen=True)
class WholeNumbers:
    """x W^T + b with rows of W in 8 bits (o i) and x as well; a 127th of what each row of W is to be scaled by."""

    rows: Tensor
    scales: Tensor
    bias: Tensor | None

    def __call__(self, x: Float[Tensor, "*n i"]) -> Float[Tensor, "*n o"]:
        flat = x.flatten(0, -2).float()
        most = flat.abs().amax(dim=1, keepdim=True).clamp_(min=LEAST)
        whole = (flat * (127 / most)).round_().to(torch.int8)
        out = torch._int_mm(whole, self.rows.T) * self.scales  # type: ignore[attr-defined]
        out = out.mul_(most) if self.bias is None else torch.addcmul(self.bias, out, most)
        return out.view(*x.shape[:-1], len(self.rows)).to(x.dtype)


def row_scales(x: Float[Tensor, "n i"]) -> Float[Tensor, "n 1"]:
    """What the largest number of each row is 127 of."""
    return x.abs().amax(dim=1, keepdim=True).clamp(min=LEAST) / 127


@no_type_check
def compressed(model, kind: str):
    """A copy of a model for writing on a CPU: "int8" or "bfloat16" matrices; all else stays as it is.

    It cannot be trained or saved. Its likelihoods differ a little from those of the model. Raises `ConfigError` for
    another kind, and for a model elsewhere than on a CPU.
    """
    if kind not in KINDS:
        raise ConfigError(f"weights can be read as {' or '.join(KINDS)}, not as {kind!r}")
    if model.device.type != "cpu":
        raise ConfigError(f"matrices in fewer bits are for writing on a CPU, this model is on {model.device}")
    smaller = copy.deepcopy(model).eval().requires_grad_(False)
    if kind == "bfloat16":
        return smaller.bfloat16()
    for parent in list(smaller.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is nn.Linear and layer.weight.numel() >= SMALL:
                setattr(parent, name, Int8Linear(layer))
    return smaller
