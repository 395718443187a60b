"""Bidirectional attention over long face sequences: local windows, and linear in the length."""

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from meshgpt.nn.normalization import RMSNorm


class LocalAttention(nn.Module):
    """Each position attends to its own window and to the one on either side."""

    def __init__(self, dim: int, heads: int = 8, dim_head: int = 32, window: int = 64):
        super().__init__()
        self.heads, self.window = heads, window
        self.norm = RMSNorm(dim)
        self.to_qkv = nn.Linear(dim, 3 * heads * dim_head, bias=False)
        self.to_out = nn.Linear(heads * dim_head, dim, bias=False)

    def forward(self, x: Float[Tensor, "b n d"], mask: Bool[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        length, w = x.shape[1], self.window
        extra = w if length == 0 else -length % w
        qkv = nn.functional.pad(self.to_qkv(self.norm(x)), (0, 0, 0, extra))
        q, k, v = rearrange(qkv, "b (c w) (t h d) -> t b c h w d", t=3, w=w, h=self.heads)
        seen = rearrange(nn.functional.pad(mask, (0, extra)), "b (c w) -> b c 1 1 w", w=w)
        keys, values, seen = (self._with_neighbours(t) for t in (k, v, seen.transpose(-1, -2)))
        seen = seen.transpose(-1, -2) | torch.eye(3 * w, dtype=torch.bool, device=x.device)[w : 2 * w]
        out = nn.functional.scaled_dot_product_attention(q, keys, values, attn_mask=seen)
        return self.to_out(rearrange(out, "b c h w d -> b (c w) (h d)")[:, :length])

    @staticmethod
    def _with_neighbours(x: Tensor) -> Tensor:
        """(b, windows, h, w, d) -> (b, windows, h, 3 w, d): the window before, its own, the one after."""
        padded = nn.functional.pad(x, (0, 0, 0, 0, 0, 0, 1, 1))
        return torch.cat((padded[:, :-2], padded[:, 1:-1], padded[:, 2:]), dim=-2)


class LinearAttention(nn.Module):
    """Attention with the feature map elu(x) + 1 (arXiv:2006.16236, Equation 7), not causal: linear in the length."""

    def __init__(self, dim: int, heads: int = 8, dim_head: int = 16):
        super().__init__()
        self.heads = heads
        self.norm = RMSNorm(dim)
        self.to_qkv = nn.Linear(dim, 3 * heads * dim_head, bias=False)
        self.to_out = nn.Linear(heads * dim_head, dim, bias=False)

    def forward(self, x: Float[Tensor, "b n d"], mask: Bool[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        q, k, v = rearrange(self.to_qkv(self.norm(x)), "b n (t h d) -> t b h n d", t=3, h=self.heads)
        q, k = nn.functional.elu(q) + 1, (nn.functional.elu(k) + 1) * mask[:, None, :, None]
        summary = torch.einsum("bhnd,bhne->bhde", k, v)
        weight = torch.einsum("bhnd,bhd->bhn", q, k.sum(dim=2)).clamp(min=1e-6)
        out = torch.einsum("bhnd,bhde->bhne", q, summary) / weight[..., None]
        return self.to_out(rearrange(out, "b h n d -> b n (h d)"))


class FeedForward(nn.Module):
    """Gated feed-forward layer (GEGLU, arXiv:2002.05202) with RMSNorm before it, if not told otherwise."""

    def __init__(self, dim: int, mult: float = 4.0, prenorm: bool = True):
        super().__init__()
        inner = int(dim * mult * 2 / 3)
        self.norm = RMSNorm(dim) if prenorm else nn.Identity()
        self.to_hidden = nn.Linear(dim, 2 * inner)
        self.to_out = nn.Linear(inner, dim)

    def forward(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        value, gate = self.to_hidden(self.norm(x)).chunk(2, dim=-1)
        return self.to_out(value * nn.functional.gelu(gate))


class FaceAttentionBlock(nn.Module):
    """Linear attention (optional), local attention and a feed-forward layer, each on a residual path."""

    def __init__(self, dim: int, heads: int, dim_head: int, window: int, use_linear: bool, dropout: float = 0.0):
        super().__init__()
        self.linear = LinearAttention(dim, heads) if use_linear else None
        self.local = LocalAttention(dim, heads, dim_head, window)
        self.feed_forward = FeedForward(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "b n d"], mask: Bool[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        if self.linear is not None:
            x = x + self.dropout(self.linear(x, mask))
        x = x + self.dropout(self.local(x, mask))
        return x + self.dropout(self.feed_forward(x))
