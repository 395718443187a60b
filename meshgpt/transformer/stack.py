"""A stack of attention, feed-forward and recurrence layers, trained in parallel and run step by step with a cache.

Attention and feed-forward layers are those of an `x_transformers.Decoder`, which runs them in training. Step by step,
the same weights run here, because that package's cache concatenates and rotates all keys again at each step.
"""

import torch
import torch.nn.functional as F
from einops import rearrange, reduce, repeat
from jaxtyping import Float, Int
from torch import Tensor, nn
from x_transformers import Decoder
from x_transformers.x_transformers import Attention

from meshgpt.transformer.cache import StackCache
from meshgpt.transformer.config import StackSpec

ROTARY_BASE = 10_000.0


class Stack(nn.Module):
    """The layers of a `StackSpec`; `forward` over whole sequences, `step` over the next tokens with a cache."""

    def __init__(self, spec: StackSpec):
        super().__init__()
        self.spec = spec
        self.parts = nn.ModuleList(_decoder(spec, kinds) for kinds in _runs(spec.layers))
        self.rotary_dim = max(spec.dim_head // 2, min(32, spec.dim_head)) // 2 * 2 if spec.rotary else 0

    def forward(self, x: Float[Tensor, "b n d"], bias: torch.Tensor | None = None) -> Float[Tensor, "b n d"]:
        """Causal over all n positions. `bias`: (b h n n), added to the attention scores."""
        angles = self.angles(torch.arange(x.shape[1], device=x.device)[None])
        for part in self.parts:
            x = part(x, rotary_pos_emb=None if angles is None else (angles, 1.0), attn_bias=bias)
        return x

    def step(
        self, x: Float[Tensor, "b n d"], cache: StackCache, bias: torch.Tensor | None = None
    ) -> Float[Tensor, "b n d"]:
        """The same for the next n tokens of each row, after those that `cache` holds; advances the cache."""
        n = x.shape[1]
        angles = self.angles(cache.positions(n))
        mask = _step_mask(cache, n, self.spec.num_mem_kv)
        layer = 0
        for part in self.parts:
            run = DecoderRun(part, angles, mask, bias, cache, layer)
            x, layer = run(x), run.layer
        cache.advance(n)
        return x

    def angles(self, positions: Int[Tensor, "b n"]) -> torch.Tensor | None:
        """Rotary angles (b n rotary_dim) in float32, neighbouring channels in pairs (Su et al., arXiv:2104.09864)."""
        if not self.rotary_dim:
            return None
        channel = torch.arange(0, self.rotary_dim, 2, device=positions.device, dtype=torch.float32)
        frequencies = ROTARY_BASE ** (-channel / self.rotary_dim)
        return (positions[..., None].float() * frequencies).repeat_interleave(2, dim=-1)


def _runs(kinds: tuple[str, ...]) -> list[tuple[str, ...]]:
    return [kinds]


def _decoder(spec: StackSpec, kinds: tuple[str, ...]) -> Decoder:
    return Decoder(
        dim=spec.dim,
        depth=len(kinds),
        heads=spec.heads,
        custom_layers=tuple({"attention": "a", "feedforward": "f"}[kind] for kind in kinds),
        attn_dim_head=spec.dim_head,
        attn_flash=spec.flash,
        attn_dropout=spec.dropout,
        attn_num_mem_kv=spec.num_mem_kv,
        ff_glu=True,
        ff_mult=spec.ff_mult,
        ff_dropout=spec.dropout,
        add_value_residual=spec.value_residual,
        num_residual_streams=spec.num_residual_streams,
        verbose=False,
    )


class DecoderRun:
    """One pass through the layers of a Decoder by our own arithmetic."""

    def __init__(
        self, decoder: Decoder, angles: Tensor | None, mask: Tensor | None, bias: Tensor | None,
        cache: StackCache | None = None, layer: int = 0,
    ):  # fmt: skip
        self.decoder, self.bias, self.cache, self.layer = decoder, bias, cache, layer
        self.rotation = None if angles is None else (angles.cos()[:, None], angles.sin()[:, None])
        self.mask = mask
        self.first_values: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        decoder, streams = self.decoder, self.decoder.num_residual_streams
        if streams > 1:
            x = rearrange(x[:, None] + decoder.stream_emb[None, :, None], "b s n d -> (b s) n d")
        for kind, (norms, block, residual) in zip(decoder.layer_types, decoder.layers, strict=True):
            x, kept, residual_options = residual.prepare(x)
            x = norms[0](x)
            x = self.attend(block, x) if kind == "a" else block(x)
            x = residual(x, kept, **residual_options)
        if streams > 1:
            x = reduce(x, "(b s) n d -> b n d", "sum", s=streams)
        return decoder.final_norm(x)

    def attend(self, block: Attention, x: Tensor) -> Tensor:
        q, k, v = (
            rearrange(to(x), "b n (h d) -> b h n d", h=block.heads) for to in (block.to_q, block.to_k, block.to_v)
        )
        if self.decoder.add_value_residual:
            if self.first_values is None:
                self.first_values = v
            else:
                v = self.first_values.lerp(v, block.to_value_residual_mix(x))
        if self.rotation is not None:
            q, k = rotate(q, *self.rotation), rotate(k, *self.rotation)
        if self.cache is not None:
            k, v = self.cache.write(self.layer, k, v)
            self.layer += 1
        if block.num_mem_kv:
            k, v = (
                torch.cat((repeat(m, "h n d -> b h n d", b=x.shape[0]), t), dim=2)
                for m, t in ((block.mem_k, k), (block.mem_v, v))
            )
        causal = self.mask is None and x.shape[1] > 1
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask, is_causal=causal)
        return block.to_out(rearrange(out, "b h n d -> b n (h d)"))


def rotate(x: Float[Tensor, "b h n d"], cos: torch.Tensor, sin: torch.Tensor) -> Float[Tensor, "b h n d"]:
    """Turns neighbouring channels of the first `cos.shape[-1]` by their angles; the rest stays."""
    turned, rest = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
    first, second = rearrange(turned, "... (d r) -> ... d r", r=2).unbind(dim=-1)
    quarter = rearrange(torch.stack((-second, first), dim=-1), "... d r -> ... (d r)")
    return torch.cat(((turned * cos + quarter * sin).to(x.dtype), rest), dim=-1)


def _step_mask(cache: StackCache, n: int, num_mem_kv: int) -> Tensor | None:
    """(b 1 n m), True where a key may be seen; None where a plain or a causal attention says the same."""
    simple = cache.shared_length is not None and (n == 1 or (cache.shared_length == 0 and not num_mem_kv))
    if simple:
        return None
    keys = torch.arange(cache.max_length + n, device=cache.lengths.device)
    mask = keys <= cache.positions(n)[:, :, None]
    return rearrange(F.pad(mask, (num_mem_kv, 0), value=True), "b n m -> b 1 n m")
