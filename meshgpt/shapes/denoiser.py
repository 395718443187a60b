"""Transformers that say, of a set of noised latents, what a diffusion asks: two kinds, one interface.

`denoiser(x (b m dl), clock (b), context)` gives `Denoised`. Latents have no order and get no positions: latents in
another order give the answers in that order, and one model takes sets of any size.
"""

import dataclasses

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from meshgpt.nn.attention import FeedForward
from meshgpt.nn.embedding import TimeEmbedding
from meshgpt.nn.experts import MixtureOfExperts
from meshgpt.nn.latents import SetAttention
from meshgpt.nn.normalization import AdaptiveNorm, RMSNorm
from meshgpt.shapes.denoiser_config import DenoiserConfig
from meshgpt.transformer.conditioning import Context


@dataclasses.dataclass(frozen=True)
class Denoised:
    """What is said of the latents, and how unevenly experts were asked (0 where there are none)."""

    values: Float[Tensor, "b m d"]
    balance: Float[Tensor, ""]


@dataclasses.dataclass(frozen=True)
class Read:
    """What a layer attends to beside the set, and where there is something; never nothing at all."""

    tokens: Float[Tensor, "b n e"]
    mask: Bool[Tensor, "b n"]

    @classmethod
    def of(cls, context: Context) -> "Read":
        """The tokens of a context behind the sum of them all, which is there for rows of which nothing is asked too."""
        there = context.mask.new_ones(len(context.mask), 1)
        tokens = torch.cat((context.vector[:, None], context.tokens.to(context.vector.dtype)), dim=1)
        return cls(tokens, torch.cat((there, context.mask), dim=1))


def attention(config: DenoiserConfig, cross: bool = False, prenorm: bool = True) -> SetAttention:
    """A layer of the config's shape."""
    shape = (config.dim, config.attn_heads, config.attn_dim_head)
    return SetAttention(*shape, config.dim if cross else None, config.qk_norm, prenorm)


def closed(layer: nn.Linear) -> nn.Linear:
    """The layer, saying 0 for now."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class AdaptiveBlock(nn.Module):
    """Self-attention, attention to what is asked, and a feed-forward layer, each between an adaptive norm and gate."""

    def __init__(self, config: DenoiserConfig):
        super().__init__()
        crosses = config.is_conditioned
        self.norms = nn.ModuleList(AdaptiveNorm(config.dim, config.dim) for _ in range(3 if crosses else 2))
        self.attention = attention(config, prenorm=False)
        self.cross = attention(config, cross=True, prenorm=False) if crosses else None
        self.feed_forward = FeedForward(config.dim, config.ff_mult, prenorm=False)

    def forward(self, x: Float[Tensor, "b m d"], vector: Float[Tensor, "b d"], read: Read | None) -> Tensor:
        normed, gate = self.norms[0](x, vector)
        x = x + gate * self.attention(normed)
        if self.cross is not None and read is not None:
            normed, gate = self.norms[1](x, vector)
            x = x + gate * self.cross(normed, read.tokens, read.mask)
        normed, gate = self.norms[-1](x, vector)
        return x + gate * self.feed_forward(normed)


class AdaptiveDenoiser(nn.Module):
    """The set transformer of 3DShape2VecSet (arXiv:2301.11445, section 6.2), of which norms and gates follow the time.

    Unlike there, layers have gates, all begin as nothing, and what is asked has a part in the norms as well.
    """

    def __init__(self, config: DenoiserConfig):
        super().__init__()
        self.time = TimeEmbedding(config.dim)
        self.project_in = nn.Linear(config.dim_latent, config.dim)
        self.blocks = nn.ModuleList(AdaptiveBlock(config) for _ in range(config.depth))
        self.norm = AdaptiveNorm(config.dim, config.dim, gated=False)
        self.project_out = closed(nn.Linear(config.dim, config.dim_latent))

    def forward(
        self, x: Float[Tensor, "b m d"], clock: Float[Tensor, " b"], context: Context | None = None
    ) -> Denoised:
        vector = self.time(clock) if context is None else self.time(clock) + context.vector
        read = None if context is None else Read.of(context)
        hidden = self.project_in(x)
        for block in self.blocks:
            hidden = block(hidden, vector, read)
        return Denoised(self.project_out(self.norm(hidden, vector)[0]), x.new_zeros(()))


class TokenBlock(nn.Module):
    """Self-attention, attention to what is asked, and a feed-forward layer or experts; a skip enters at the start."""

    def __init__(self, config: DenoiserConfig, skips: bool, experts: bool):
        super().__init__()
        self.merge = nn.Sequential(nn.Linear(2 * config.dim, config.dim), nn.LayerNorm(config.dim)) if skips else None
        self.attention = attention(config)
        self.cross = attention(config, cross=True) if config.is_conditioned else None
        shape = (config.num_experts, config.experts_per_token, config.ff_mult)
        self.experts = MixtureOfExperts(config.dim, *shape) if experts else None
        self.feed_forward = None if experts else FeedForward(config.dim, config.ff_mult)

    def forward(self, x: Float[Tensor, "b n d"], skip: torch.Tensor | None, read: Read | None) -> Denoised:
        if self.merge is not None:
            assert skip is not None
            x = self.merge(torch.cat((skip, x), dim=-1))
        x = x + self.attention(x)
        if self.cross is not None and read is not None:
            x = x + self.cross(x, read.tokens, read.mask)
        if self.experts is not None:
            routed = self.experts(x)
            return Denoised(x + routed.values, routed.balance)
        assert self.feed_forward is not None
        return Denoised(x + self.feed_forward(x), x.new_zeros(()))


class TokenDenoiser(nn.Module):
    """The denoiser of Hunyuan3D 2.1 (arXiv:2506.15442): time is a token, and layers of the halves are joined by skips.

    As in U-ViT (arXiv:2209.12152). Norms are root-mean-square ones, and the last layer begins as nothing.
    """

    def __init__(self, config: DenoiserConfig):
        super().__init__()
        self.time = TimeEmbedding(config.dim)
        self.project_in = nn.Linear(config.dim_latent, config.dim)
        depth, with_experts = config.depth, config.depth - config.expert_layers if config.num_experts else config.depth
        self.blocks = nn.ModuleList(
            TokenBlock(config, skips=number >= depth - depth // 2, experts=number >= with_experts)
            for number in range(depth)
        )
        self.norm = RMSNorm(config.dim)
        self.project_out = closed(nn.Linear(config.dim, config.dim_latent))

    def forward(
        self, x: Float[Tensor, "b m d"], clock: Float[Tensor, " b"], context: Context | None = None
    ) -> Denoised:
        read = None if context is None else Read.of(context)
        hidden = torch.cat((self.time(clock)[:, None], self.project_in(x)), dim=1)
        skips, balances = [], []
        for number, block in enumerate(self.blocks):
            skip = skips.pop() if block.merge is not None else None
            result = block(hidden, skip, read)
            hidden = result.values
            balances += [result.balance] if block.experts is not None else []
            if number < len(self.blocks) // 2:
                skips.append(hidden)
        balance = torch.stack(balances).mean() if balances else x.new_zeros(())
        return Denoised(self.project_out(self.norm(hidden[:, 1:])), balance)


def denoiser(config: DenoiserConfig) -> AdaptiveDenoiser | TokenDenoiser:
    """The denoiser that the config names."""
    return TokenDenoiser(config) if config.kind == "token" else AdaptiveDenoiser(config)
