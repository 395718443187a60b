"""A feed-forward layer of many, of which each position uses a few."""

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from meshgpt.nn.attention import FeedForward
from meshgpt.nn.normalization import RMSNorm


@dataclass(frozen=True)
class Routed:
    """What the experts made of a set, and how unevenly they were asked: 1 where all alike, their number at most."""

    values: Float[Tensor, "b n d"]
    balance: Float[Tensor, ""]


class MixtureOfExperts(nn.Module):
    """`top_k` of `num_experts` feed-forward layers for each position, weighed by their softmax, beside one for all.

    As in DeepSeekMoE (arXiv:2401.06066, section 3), with the balance loss of the Switch transformer (arXiv:2101.03961,
    Equation 4). No position is ever left out, so the result does not depend on the batch.
    """

    def __init__(self, dim: int, num_experts: int = 8, top_k: int = 2, mult: float = 4.0):
        super().__init__()
        self.top_k = top_k
        self.norm = RMSNorm(dim)
        self.router = nn.Linear(dim, num_experts, bias=False)
        self.experts = nn.ModuleList(FeedForward(dim, mult, prenorm=False) for _ in range(num_experts))
        self.shared = FeedForward(dim, mult, prenorm=False)

    def forward(self, x: Float[Tensor, "b n d"]) -> Routed:
        rows = rearrange(self.norm(x), "b n d -> (b n) d")
        shares = self.router(rows).float().softmax(dim=-1)
        weights, chosen = shares.topk(self.top_k, dim=-1)
        out = self.shared(rows)
        for number, expert in enumerate(self.experts):  # those that nobody asks take part too, for their gradient of 0
            where, place = (chosen == number).nonzero(as_tuple=True)
            answer = expert(rows[where]) * weights[where, place, None].to(rows.dtype)
            out = out.index_add(0, where, answer.to(out.dtype))
        asked = torch.nn.functional.one_hot(chosen, len(self.experts)).float().mean(dim=(0, 1))
        balance = len(self.experts) * (asked * shares.mean(dim=0)).sum()
        return Routed(rearrange(out, "(b n) d -> b n d", b=len(x)), balance)
