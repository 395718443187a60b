"""The layers of a stack in as few operations as they need, for writing: the same weights, read step after step.

At one position a stack does little but read its weights, and what each small operation costs besides counts. So the
layers of an `x_transformers.Decoder` are taken apart once: matrices that read the same vectors lie side by side,
queries and keys are turned together, and no module stands between. This is for the options that most models have;
`DecoderRun` knows them all.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from meshgpt.transformer.cache import StackCache
from meshgpt.transformer.config import StackSpec

Products = Callable[[Tensor], Tensor]  # of vectors with one or several matrices side by side: (... i) to (... o)


@dataclass(frozen=True)
class Pass:
    """What all layers of one pass share. turn: (b n 1 1 d/2), by which channels are turned, as complex numbers."""

    cache: StackCache
    turn: Tensor | None
    mask: Tensor | None
    is_causal: bool
    context_mask: Tensor | None


@dataclass(frozen=True)
class Matrices:
    """Linear layers that read the same vectors, as one."""

    weight: Tensor
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


@dataclass(frozen=True)
class Attention:
    """x + attention to the positions so far, all that the cache holds."""

    scale: Tensor  # of the norm
    to_qkv: Products
    to_out: Products
    heads: int

    def __call__(self, x: Tensor, now: Pass) -> Tensor:
        read = wide(self.to_qkv(F.layer_norm(x, self.scale.shape, self.scale)))
        qkv = read.view(*x.shape[:2], 3, self.heads, -1)
        if now.turn is not None:
            turned = turned_by(qkv[:, :, :2], now.turn)
            q, k = turned.unbind(2)
        else:
            q, k = qkv[:, :, 0], qkv[:, :, 1]
        keys, values = now.cache.write(k.transpose(1, 2), qkv[:, :, 2].transpose(1, 2))
        out = F.scaled_dot_product_attention(q.transpose(1, 2), keys, values, now.mask, is_causal=now.is_causal)
        return x + self.to_out(out.transpose(1, 2).flatten(2).to(x.dtype))


@dataclass(frozen=True)
class CrossAttention:
    """x + attention to what is asked, whose keys and values the cache knows."""

    scale: Tensor
    to_q: Products
    to_out: Products
    heads: int

    def __call__(self, x: Tensor, now: Pass) -> Tensor:
        q = wide(self.to_q(F.layer_norm(x, self.scale.shape, self.scale))).unflatten(-1, (self.heads, -1))
        keys, values = cast(tuple[Tensor, Tensor], now.cache.context())
        out = F.scaled_dot_product_attention(q.transpose(1, 2), keys, values, now.context_mask)
        return x + self.to_out(out.transpose(1, 2).flatten(2).to(x.dtype))


@dataclass(frozen=True)
class FeedForward:
    """x + a gated layer (GLU, Shazeer, arXiv:2002.05202, with GELU)."""

    scale: Tensor
    to_both: Products
    to_out: Products

    def __call__(self, x: Tensor, now: Pass) -> Tensor:
        up, gate = self.to_both(F.layer_norm(x, self.scale.shape, self.scale)).chunk(2, dim=-1)
        return x + self.to_out(F.gelu(gate).mul_(up))


@dataclass(frozen=True)
class LeanLayers:
    """All layers of a decoder, and its last norm."""

    layers: tuple[Attention | CrossAttention | FeedForward, ...]
    last: Tensor

    def __call__(self, x: Float[Tensor, "b n d"], now: Pass) -> Float[Tensor, "b n d"]:
        for layer in self.layers:
            x = layer(x, now)
        return F.layer_norm(x, self.last.shape, self.last)


def is_lean(spec: StackSpec, x: Tensor, bias: Tensor | None) -> bool:
    """Whether `lean` knows all that is asked of a stack for the next positions `x`."""
    more = spec.reversible or spec.value_residual or spec.adaptive_norm or spec.num_mem_kv > 0
    known = x.dtype in (torch.float32, torch.float64) or (x.dtype == torch.bfloat16 and x.device.type == "cpu")
    return known and not more and spec.num_residual_streams == 1 and bias is None and not torch.is_grad_enabled()


def lean(decoder: nn.Module, kinds: tuple[str, ...], heads: int) -> LeanLayers:
    """The layers of an `x_transformers.Decoder`, of kinds "a", "c" and "f"."""
    layers = []
    for kind, (norms, block, _) in zip(kinds, cast(Any, decoder).layers, strict=True):
        scale = norm_scale(norms[0])
        if kind == "f":
            glu, out = block.ff[0], block.ff[2]
            layers.append(FeedForward(scale, beside(glu.proj), beside(out)))
        elif kind == "c":
            layers.append(CrossAttention(scale, beside(block.to_q), beside(block.to_out), heads))
        else:
            to_qkv = beside(block.to_q, block.to_k, block.to_v)
            layers.append(Attention(scale, to_qkv, beside(block.to_out), heads))
    return LeanLayers(tuple(layers), norm_scale(cast(Any, decoder).final_norm))


def beside(*layers: Any) -> Products:
    """Linear layers, or layers of one kind that stand for them, as one."""
    if not isinstance(layers[0], nn.Linear):
        return cast(Any, type(layers[0])).beside(layers)  # such as an `Int8Linear`
    if len(layers) == 1:
        return Matrices(layers[0].weight, layers[0].bias)
    assert all(layer.bias is None for layer in layers)
    return Matrices(torch.cat([layer.weight for layer in layers]), None)


def norm_scale(norm: Any) -> Tensor:
    """What a layer norm of the package multiplies by."""
    return norm.gamma + float(norm.unit_offset)


def turned_by(x: Float[Tensor, "b n two h d"], turn: Tensor) -> Float[Tensor, "b n two h d"]:
    """Neighbouring channels in pairs, turned as complex numbers; `rotate` of the stack says the same."""
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turn).flatten(-2)


def turn_of(angles: Float[Tensor, "b n r"], dim_head: int) -> Tensor:
    """The complex numbers (b n 1 1 dim_head/2) of rotary angles, given for each channel; channels without one stay."""
    own = F.pad(angles[..., ::2], (0, (dim_head - angles.shape[-1]) // 2))
    return torch.polar(torch.ones_like(own), own)[:, :, None, None]


def wide(x: Tensor) -> Tensor:
    """In float32 or wider: on a CPU attention to few positions is several times slower in fewer bits."""
    return x.float() if x.dtype == torch.bfloat16 else x
