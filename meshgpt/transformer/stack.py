"""A stack of attention, feed-forward and recurrence layers, trained in parallel and run step by step with a cache.

Attention and feed-forward layers are those of an `x_transformers.Decoder`, which runs them in training. Step by step,
the same weights run here, because that package's cache concatenates and rotates all keys again at each step.
"""

import itertools
import warnings
from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange, reduce, repeat
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from meshgpt.transformer.cache import StackCache
from meshgpt.transformer.conditioning import Context
from meshgpt.transformer.config import StackSpec
from meshgpt.transformer.fixed import FixedCache
from meshgpt.transformer.lean import LeanLayers, Pass, is_lean, lean, turn_of, wide
from meshgpt.transformer.recurrence import Recurrence
from meshgpt.transformer.reversible import run_reversibly
from meshgpt.transformer.window import block_mask, from_blocks, key_blocks, query_blocks

with warnings.catch_warnings():  # the package compiles parts of itself with a deprecated function of torch
    warnings.simplefilter("ignore", DeprecationWarning)
    from x_transformers import Decoder
    from x_transformers.x_transformers import Attention

ROTARY_BASE = 10_000.0
LAYER_LETTERS = {"attention": "a", "cross_attention": "c", "feedforward": "f"}


class Stack(nn.Module):
    """The layers of a `StackSpec`; `forward` over whole sequences, `step` over the next tokens with a cache."""

    def __init__(self, spec: StackSpec):
        super().__init__()
        self.spec = spec
        runs = [tuple(run) for _, run in itertools.groupby(spec.layers, key=lambda kind: kind == "recurrence")]
        self.parts = nn.ModuleList()
        for run in runs:
            self.parts.extend([Recurrence(spec.dim) for _ in run] if run[0] == "recurrence" else [_decoder(spec, run)])
        self.rotary_dim = max(spec.dim_head // 2, min(32, spec.dim_head)) // 2 * 2 if spec.rotary else 0

    def forward(
        self, x: Float[Tensor, "b n d"], bias: torch.Tensor | None = None, context: Context | None = None
    ) -> Float[Tensor, "b n d"]:
        """Causal over all n positions. `bias`: (b h n n), added to the attention scores. `context`: what is asked.

        Where `blocks(n)`, the bias is one of blocks, (b * blocks, h, window, 2 * window), as `block_mask` has them.
        """
        angles = self.angles(torch.arange(x.shape[1], device=x.device)[None])
        blocks = self.blocks(x.shape[1])
        ours = self.spec.reversible or (self.spec.checkpointing and self.training) or blocks > 0
        for part in self.parts:
            if isinstance(part, Recurrence):
                again = self.training and (self.spec.reversible or self.spec.checkpointing)
                x = checkpoint(part, x, use_reentrant=False) if again else part(x)
            elif ours:
                mask = self._block_mask(x, blocks)
                x = DecoderRun(cast(Decoder, part), self.spec, angles, mask, bias, context, blocks=blocks)(x)
            else:
                asked = _asked(cast(Decoder, part), self.spec, context)
                x = part(x, rotary_pos_emb=None if angles is None else (angles, 1.0), attn_bias=bias, **asked)
        return x

    def step(
        self,
        x: Float[Tensor, "b n d"],
        cache: StackCache,
        bias: torch.Tensor | None = None,
        context: Context | None = None,
    ) -> Float[Tensor, "b n d"]:
        """The same for the next n tokens of each row, after those that `cache` holds; advances the cache.

        `bias`: (b h n m), for the m positions that `cache.span(n)` names, or one of blocks where `blocks(n, cache)`.
        """
        if isinstance(cache, FixedCache):
            return cache.run(x, lambda inputs: self._step_fixed(inputs, cache))
        assert cache.window == self.spec.window, "a cache remembers as much as its stack sees"
        cache.start_pass(x.shape[1])
        angles, blocks = self.angles(cache.positions(x.shape[1])), self.blocks(x.shape[1], cache)
        mask = self._block_mask(x, blocks) if blocks else _step_mask(cache, x.shape[1], self.spec.num_mem_kv)
        now = None
        if not blocks and is_lean(self.spec, x, bias) and (cache.contexts or not self.spec.crosses):
            turn = None if angles is None else turn_of(angles, self.spec.dim_head)
            now = Pass(cache, turn, mask, mask is None and x.shape[1] > 1, self._context_mask(context))
        for index, part in enumerate(self.parts):
            if isinstance(part, Recurrence):
                x, states = part.step(x, cache.state())
                cache.put_states(states)
            elif now is not None:
                x = self._lean(index, cache)(x, now)
            else:
                x = DecoderRun(cast(Decoder, part), self.spec, angles, mask, bias, context, cache, blocks)(x)
        cache.advance(x.shape[1])
        return x

    def _step_fixed(self, x: Float[Tensor, "b n d"], cache: FixedCache) -> Float[Tensor, "b n d"]:
        """The same in shapes that stay; nothing but the stores changes."""
        cache.start_layers()
        angles = self.angles(cache.slots(x.shape[1]))
        turn = None if angles is None else turn_of(angles, self.spec.dim_head)
        now = Pass(cache, turn, cache.mask(x.shape[1]), False, cache.context_mask)
        for index in range(len(self.parts)):
            x = self._lean(index, cache)(x, now)
        return x

    def step_tree(
        self,
        x: Float[Tensor, "b n d"],
        cache: StackCache,
        depths: Int[Tensor, " n"],
        seen: Tensor,
        context: Context | None = None,
    ) -> Float[Tensor, "b n d"]:
        """The same for n tokens of which several may stand at one position, for a stack that `is_plain`.

        depths: how many of them come before each. seen (n n): True where one follows upon another, or is it. All rows
        hold the same number of positions; what is written stands behind them until `cache.keep` says what of it stays.
        """
        cache.start_pass(x.shape[1])
        angles = self.angles(cache.lengths[:, None] + depths)
        mask = F.pad(seen.to(x.device), (cache.max_length, 0), value=True)[None, None]
        turn = None if angles is None else turn_of(angles, self.spec.dim_head)
        now = Pass(cache, turn, mask, False, self._context_mask(context))
        for index in range(len(self.parts)):
            x = self._lean(index, cache)(x, now)
        return x

    @property
    def is_plain(self) -> bool:
        """Whether it has none but layers that `lean` knows."""
        more = self.spec.reversible or self.spec.value_residual or self.spec.adaptive_norm or self.spec.num_mem_kv > 0
        recurrent = any(isinstance(part, Recurrence) for part in self.parts)
        return not more and not recurrent and self.spec.num_residual_streams == 1

    def _lean(self, index: int, cache: StackCache) -> LeanLayers:
        """One part taken apart, once for a cache and those that follow it."""
        if index not in cache.lean:
            decoder = cast(Decoder, self.parts[index])
            cache.lean[index] = lean(decoder, _letters(decoder), self.spec.heads)
        return cache.lean[index]

    def _context_mask(self, context: Context | None) -> Tensor | None:
        """(b 1 1 m), True where what is asked may be seen, behind memory that always may."""
        if context is None:
            return None
        return F.pad(context.mask, (self.spec.cross_num_mem_kv, 0), value=True)[:, None, None]

    def blocks(self, n: int, cache: StackCache | None = None) -> int:
        """The window, where n positions that follow nothing reach beyond it and are attended to in blocks; else 0."""
        begins = cache is None or cache.shared_length == 0
        return self.spec.window if begins and 0 < self.spec.window < n else 0

    def _block_mask(self, x: Tensor, blocks: int) -> Tensor | None:
        if not blocks:
            return None
        mask = block_mask(x.shape[0], x.shape[1], blocks, x.device)
        return F.pad(mask, (self.spec.num_mem_kv, 0), value=True)

    def angles(self, positions: Int[Tensor, "b n"]) -> torch.Tensor | None:
        """Rotary angles (b n rotary_dim) in float32, neighbouring channels in pairs (Su et al., arXiv:2104.09864)."""
        if not self.rotary_dim:
            return None
        channel = torch.arange(0, self.rotary_dim, 2, device=positions.device, dtype=torch.float32)
        frequencies = ROTARY_BASE ** (-channel / self.rotary_dim)
        return (positions[..., None].float() * frequencies).repeat_interleave(2, dim=-1)


def _decoder(spec: StackSpec, kinds: tuple[str, ...]) -> Decoder:
    return Decoder(
        dim=spec.dim,
        depth=len(kinds),
        heads=spec.heads,
        custom_layers=tuple(LAYER_LETTERS[kind] for kind in kinds),
        cross_attend="cross_attention" in kinds,
        cross_attn_num_mem_kv=spec.cross_num_mem_kv,
        use_adaptive_rmsnorm=spec.adaptive_norm,
        attn_dim_head=spec.dim_head,
        attn_flash=spec.flash,
        attn_dropout=spec.dropout,
        attn_num_mem_kv=spec.num_mem_kv,
        attn_project_out=True,  # one head may have another width than the stack
        ff_glu=True,
        ff_mult=spec.ff_mult,
        ff_dropout=spec.dropout,
        add_value_residual=spec.value_residual,
        num_residual_streams=spec.num_residual_streams,
        verbose=False,
    )


def _letters(decoder: Decoder) -> tuple[str, ...]:
    """The kind of each layer, by its letter."""
    return cast(tuple[str, ...], decoder.layer_types)


def _asked(decoder: Decoder, spec: StackSpec, context: Context | None) -> dict[str, Tensor]:
    """What a decoder of the package is told of the conditions."""
    if context is None:
        return {}
    crosses = {"context": context.tokens, "context_mask": context.mask} if "c" in _letters(decoder) else {}
    return crosses | ({"condition": context.vector} if spec.adaptive_norm else {})


class DecoderRun:
    """One pass through the layers of a Decoder by our own arithmetic: with a cache, checkpointed, or reversibly."""

    def __init__(
        self,
        decoder: Decoder,
        spec: StackSpec,
        angles: Tensor | None,
        mask: Tensor | None,
        bias: Tensor | None,
        context: Context | None = None,
        cache: StackCache | None = None,
        blocks: int = 0,
    ):
        self.decoder, self.spec, self.context, self.cache, self.blocks = decoder, spec, context, cache, blocks
        self.rotation = None if angles is None else (angles.cos()[:, None], angles.sin()[:, None])
        self.mask = _with_bias(mask, bias, spec.num_mem_kv)

    def __call__(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        decoder, streams = self.decoder, self.spec.num_residual_streams
        if self.spec.reversible:
            return self.norm(decoder.final_norm, self._reversible(x))
        if streams > 1:
            x = rearrange(x[:, None] + cast(Tensor, decoder.stream_emb)[None, :, None], "b s n d -> (b s) n d")
        values: tuple[Tensor | None, Tensor | None] = (None, None)
        for index in range(len(decoder.layers)):
            if self.spec.checkpointing and decoder.training and self.cache is None:
                x, values = checkpoint(self.layer, index, x, values, use_reentrant=False)  # type: ignore[misc]
            else:
                x, values = self.layer(index, x, values)
        if streams > 1:
            x = reduce(x, "(b s) n d -> b n d", "sum", s=streams)
        return self.norm(decoder.final_norm, x)

    def norm(self, norm: nn.Module, x: Tensor) -> Tensor:
        """A norm of the package, which may want to know what is asked."""
        return norm(x, condition=cast(Context, self.context).vector) if self.spec.adaptive_norm else norm(x)

    def layer(
        self, index: int, x: Tensor, values: tuple[Tensor | None, Tensor | None]
    ) -> tuple[Tensor, tuple[Tensor | None, Tensor | None]]:
        """One layer with its residual path.

        `values` are those of the first attention and of the first cross-attention, which later ones may mix in.
        """
        norms, block, residual = self.decoder.layers[index]  # type: ignore[misc]
        x, kept, residual_options = residual.prepare(x)
        x, (own, cross) = self.norm(norms[0], x), values
        if not isinstance(block, Attention):
            out = block(x)
        elif _letters(self.decoder)[index] == "c":
            out, cross = self.attend_to_context(block, x, cross)
        else:
            out, own = self.attend(block, x, own)
        return residual(out, kept, **residual_options), (own, cross)

    def _reversible(self, x: Tensor) -> Tensor:
        branches = [self._branch(index) for index in range(len(self.decoder.layers))]
        modules = [nn.ModuleList(layer) for layer in self.decoder.layers]  # type: ignore[arg-type]
        asked = () if self.context is None else (self.context.tokens, self.context.vector)
        shared = [t for t in (self.mask, *asked) if t is not None and t.requires_grad]
        return run_reversibly(x, branches, modules, shared, keep=self.cache is not None or not self.decoder.training)

    def _branch(self, index: int):
        norms, block, _ = self.decoder.layers[index]  # type: ignore[misc]
        if not isinstance(block, Attention):
            return lambda x: block(self.norm(norms[0], x))
        attend = self.attend_to_context if _letters(self.decoder)[index] == "c" else self.attend
        return lambda x: attend(block, self.norm(norms[0], x), None)[0]

    def attend_to_context(self, block: Attention, x: Tensor, first: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Cross-attention; the keys and values of the context are computed once for a cache."""
        context = cast(Context, self.context)
        q = rearrange(block.to_q(x), "b n (h d) -> b h n d", h=block.heads)
        known = None if self.cache is None else self.cache.context()
        if known is None:
            to_kv = (block.to_k, block.to_v)
            k, own = (rearrange(to(context.tokens), "b m (h d) -> b h m d", h=block.heads) for to in to_kv)
            v = first.lerp(own, 0.5) if self.spec.value_residual and first is not None else own
            first = own if first is None else first
            memory = [repeat(m, "h n d -> b h n d", b=len(x)) for m in (block.mem_k, block.mem_v)]
            k, v = (torch.cat(pair, dim=2) for pair in zip(memory, (k, v), strict=True))
            if self.cache is not None:
                self.cache.put_context(*((wide(k), wide(v)) if x.device.type == "cpu" else (k, v)))
        else:
            k, v = known
        mask = rearrange(F.pad(context.mask, (block.num_mem_kv, 0), value=True), "b m -> b 1 1 m")
        dropout = self.spec.dropout if self.decoder.training else 0.0
        out = F.scaled_dot_product_attention(q.to(k.dtype), k, v, attn_mask=mask, dropout_p=dropout)
        return block.to_out(rearrange(out, "b h n d -> b n (h d)").to(x.dtype)), first

    def attend(self, block: Attention, x: Tensor, first: Tensor | None) -> tuple[Tensor, Tensor]:
        to_qkv = (block.to_q, block.to_k, block.to_v)
        q, k, v = (rearrange(to(x), "b n (h d) -> b h n d", h=block.heads) for to in to_qkv)
        own = v
        if self.spec.value_residual and first is not None:
            v = first.lerp(v, block.to_value_residual_mix(x))
        if self.rotation is not None:
            q, k = rotate(q, *self.rotation), rotate(k, *self.rotation)
        if self.cache is not None and x.device.type == "cpu":
            q, k, v = wide(q), wide(k), wide(v)
        if self.cache is not None:
            kept = self.cache.write(k, v)
            k, v = (k, v) if self.blocks else kept
        if self.blocks:
            q, k, v = query_blocks(q, self.blocks), key_blocks(k, self.blocks), key_blocks(v, self.blocks)
        if block.num_mem_kv:
            memory = (repeat(m, "h n d -> b h n d", b=len(k)) for m in (block.mem_k, block.mem_v))
            k, v = (torch.cat(pair, dim=2) for pair in zip(memory, (k, v), strict=True))
        mask = self.mask
        if mask is None and block.num_mem_kv and q.shape[2] > 1:
            seen = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=x.device)
            mask = seen.tril(k.shape[2] - q.shape[2])
        mask = mask if mask is None or mask.dtype == torch.bool else mask.to(q.dtype)
        dropout = self.spec.dropout if self.decoder.training else 0.0
        causal = mask is None and q.shape[2] > 1
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal)
        out = from_blocks(out, x.shape[0], x.shape[1]) if self.blocks else out
        return block.to_out(rearrange(out, "b h n d -> b n (h d)").to(x.dtype)), own if first is None else first


def rotate(x: Float[Tensor, "b h n d"], cos: torch.Tensor, sin: torch.Tensor) -> Float[Tensor, "b h n d"]:
    """Turns neighbouring channels of the first `cos.shape[-1]` by their angles; the rest stays."""
    turned, rest = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
    first, second = rearrange(turned, "... (d r) -> ... d r", r=2).unbind(dim=-1)
    quarter = rearrange(torch.stack((-second, first), dim=-1), "... d r -> ... (d r)")
    return torch.cat(((turned * cos + quarter * sin).to(x.dtype), rest), dim=-1)


def _with_bias(mask: Tensor | None, bias: Tensor | None, num_mem_kv: int) -> Tensor | None:
    """One thing to add to or to mask the scores with; memory positions get no bias."""
    if bias is None:
        return mask
    n, m = bias.shape[-2:]
    seen = (
        torch.ones(n, m, dtype=torch.bool, device=bias.device).tril(m - n) if mask is None else mask[..., num_mem_kv:]
    )
    return F.pad(bias.masked_fill(~seen, -torch.inf), (num_mem_kv, 0))


def _step_mask(cache: StackCache, n: int, num_mem_kv: int) -> Tensor | None:
    """(b 1 n m), True where a key may be seen; None where a plain or a causal attention says the same."""
    if cache.shared_length is not None and (n == 1 or cache.shared_length == 0):
        return None
    keys, own = torch.arange(*cache.span(n), device=cache.lengths.device), cache.slots(n)[:, :, None]
    mask = keys <= own
    mask = mask & (keys > own - cache.window) if cache.window else mask
    return rearrange(F.pad(mask, (num_mem_kv, 0), value=True), "b n m -> b 1 n m")
