"""Attention that sees a window back, over many positions at once: in blocks of a window, each beside the one before.

Scores take n * window numbers, not n * n (sliding window attention, Beltagy et al., arXiv:2004.05150, section 3.1; for
meshes Hao et al., Meshtron, arXiv:2412.09548).
"""

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Shaped
from torch import Tensor


def query_blocks(x: Shaped[Tensor, "b h n d"], window: int) -> Shaped[Tensor, "b_blocks h w d"]:
    """The positions in blocks of `window`, those of one row after another; the last is filled up with zeros."""
    return rearrange(F.pad(x, (0, 0, 0, -x.shape[2] % window)), "b h (m w) d -> (b m) h w d", w=window)


def key_blocks(x: Shaped[Tensor, "b h n d"], window: int) -> Shaped[Tensor, "b_blocks h w2 d"]:
    """The same, each block behind the one before it; zeros before the first."""
    blocks = rearrange(F.pad(x, (0, 0, window, -x.shape[2] % window)), "b h (m w) d -> b m h w d", w=window)
    return rearrange(torch.cat((blocks[:, :-1], blocks[:, 1:]), dim=3), "b m h w d -> (b m) h w d")


def from_blocks(x: Float[Tensor, "b_blocks h w d"], batch: int, n: int) -> Float[Tensor, "{batch} h {n} d"]:
    """The n positions of each row, of query blocks."""
    return rearrange(x, "(b m) h w d -> b h (m w) d", b=batch)[:, :, :n]


def block_mask(batch: int, n: int, window: int, device: torch.device) -> Bool[Tensor, "b_blocks 1 {window} w2"]:
    """True where a position may see another: itself and the window - 1 before it."""
    query = torch.arange(window, device=device)[:, None]
    key = torch.arange(2 * window, device=device) - window
    seen = (key <= query) & (key > query - window)
    blocks = torch.arange(-(-n // window), device=device)[:, None, None]
    seen = seen & ((blocks > 0) | (key >= 0))
    return repeat(seen, "m w k -> (b m) 1 w k", b=batch)
