"""Attention over sets: a few latent vectors that look at many, or at each other. Nothing here knows of an order."""

import math

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from meshgpt.nn.attention import FeedForward
from meshgpt.nn.normalization import RMSNorm


class SetAttention(nn.Module):
    """Attention of a set to itself, or to another one of width `dim_context`; both are normalised before.

    With `qk_norm` queries and keys of each head are normalised as well, which bounds the scores (arXiv:2010.04245).
    Without `prenorm` the set is read as it comes, where an adaptive norm has gone before.
    """

    def __init__(
        self,
        dim: int,
        heads: int = 8,
        dim_head: int = 64,
        dim_context: int | None = None,
        qk_norm: bool = False,
        prenorm: bool = True,
    ):
        super().__init__()
        self.heads = heads
        self.norm = RMSNorm(dim) if prenorm else nn.Identity()
        self.q_norm = RMSNorm(dim_head) if qk_norm else None
        self.k_norm = RMSNorm(dim_head) if qk_norm else None
        self.context_norm = None if dim_context is None else RMSNorm(dim_context)
        self.to_q = nn.Linear(dim, heads * dim_head, bias=False)
        self.to_kv = nn.Linear(dim_context or dim, 2 * heads * dim_head, bias=False)
        self.to_out = nn.Linear(heads * dim_head, dim, bias=False)

    def forward(
        self,
        x: Float[Tensor, "b m d"],
        context: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        bias: torch.Tensor | None = None,
    ) -> Float[Tensor, "b m d"]:
        """context: (b, n, dc), only where it was announced. mask: (b, n), True where there is something to look at;
        a row that is all False looks at everything, which keeps its numbers finite. bias: (b, h, m, n), in place of a
        mask, is added to the scores."""
        x = self.norm(x)
        source = x if self.context_norm is None else self.context_norm(context)
        q = rearrange(self.to_q(x), "b m (h d) -> b h m d", h=self.heads)
        k, v = rearrange(self.to_kv(source), "b n (t h d) -> t b h n d", t=2, h=self.heads)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        seen = _visible(mask) if bias is None else bias.to(q)
        out = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        return self.to_out(rearrange(out, "b h m d -> b m (h d)"))


def _visible(mask: Bool[Tensor, "b n"] | None) -> Tensor | None:
    return None if mask is None else (mask | ~mask.any(dim=1, keepdim=True))[:, None, None]


class Nearness(nn.Module):
    """Has what lies near in space count for more: scores of attention fall with the square of the distance.

    Each head has a fall of its own, which is learned; at first they go evenly, in powers, from `least` to `most`.
    """

    def __init__(self, heads: int, least: float = 1.0, most: float = 64.0):
        super().__init__()
        self.log_fall = nn.Parameter(torch.linspace(math.log(least), math.log(most), heads))

    def forward(self, places: Float[Tensor, "b m 3"], others: Float[Tensor, "b n 3"]) -> Float[Tensor, "b h m n"]:
        squares = (places[:, :, None] - others[:, None]).square().sum(dim=-1)
        return -self.log_fall.exp()[:, None, None] * squares[:, None]


class SetBlock(nn.Module):
    """Attention and a gated feed-forward layer, each on a residual path; across two sets if `dim_context` is given."""

    def __init__(self, dim: int, heads: int = 8, dim_head: int = 64, dim_context: int | None = None):
        super().__init__()
        self.attention = SetAttention(dim, heads, dim_head, dim_context)
        self.feed_forward = FeedForward(dim)

    def forward(
        self,
        x: Float[Tensor, "b m d"],
        context: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        bias: torch.Tensor | None = None,
    ) -> Float[Tensor, "b m d"]:
        x = x + self.attention(x, context, mask, bias)
        return x + self.feed_forward(x)
