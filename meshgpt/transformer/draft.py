"""An extra head that guesses codes without any stack, so that the stacks can look at several of them in one pass."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from meshgpt.nn.precision import dtype_of
from meshgpt.transformer.spelling import SpeltEmbedding

COMMON = 1024  # codes that are guessed, at most
AHEAD = 5  # codes that may lie between what the coarse stack has read and the one to be guessed


class Draft(nn.Module):
    """Scores of the commonest codes from the next one's surroundings, the code before, and an older word of the stack.

    The score of a code is the sum of those of its digits, of the hints that name them, and of its own. In the manner of
    the heads of Medusa (Cai et al., arXiv:2401.10774), which see no code that they guessed themselves; this one does.
    """

    common: Tensor

    def __init__(self, digits: Int[Tensor, "v d"], hints: int, widths: tuple[int, int], dim: int):
        """`widths`: of what is told of surroundings, and of what the coarse stack says."""
        super().__init__()
        self.register_buffer("common", torch.full((min(COMMON, len(digits)),), -1))
        self.code = SpeltEmbedding(digits, 2 * dim)
        self.told, self.plan = nn.Linear(widths[0], 2 * dim), nn.Linear(widths[1], 2 * dim, bias=False)
        self.read = nn.Sequential(nn.Linear(2 * dim, dim), nn.SiLU(), nn.LayerNorm(dim))
        self.spelt = nn.Linear(dim, self.code.table.num_embeddings)
        self.own = nn.Linear(dim, len(self.common) + 1)  # the last: of any other code, and of the end
        self.hinted = nn.Linear(dim, digits.shape[1] * hints)
        for weight in (*self.own.parameters(), *self.hinted.parameters()):
            nn.init.zeros_(weight)

    @property
    def is_ready(self) -> bool:
        """Whether it knows which codes are common."""
        return bool(self.common[0] >= 0)

    def learn_common(self, counts: Int[Tensor, " v"]) -> None:
        """How often each code is said where it will learn; the commonest are those that it guesses from then on."""
        self.common.copy_(counts.to(self.common.device).argsort(descending=True, stable=True)[: len(self.common)])

    def forward(
        self,
        told: Float[Tensor, "m e"],
        before: Int[Tensor, " m"],
        plan: Float[Tensor, "m f"],
        hints: Int[Tensor, "m p c"],
    ) -> Float[Tensor, "m c1"]:
        """Scores of the common codes and, last, of anything else. `before`: the code said last, -1 for none."""
        said = self.code(before.clamp(min=0)) * (before >= 0)[:, None]
        read = self.read(F.silu(self.told(told) + self.plan(plan) + said.to(told.dtype)))
        added = torch.where(hints >= 0, self.hinted(read).unflatten(-1, hints.shape[1:]), 0.0).flatten(1)
        at = (hints.clamp(min=0) + self.code.begins[:, None]).flatten(1)
        digits = self.spelt(read).scatter_add(1, at, added)
        at = self.code.digits[self.common]
        scores, spelt = self.own(read), digits.index_select(1, at.flatten()).view(len(read), *at.shape)
        scores[:, :-1] += spelt.sum(dim=-1)
        return scores

    def loss(
        self,
        told: Float[Tensor, "b n e"],
        codes: Int[Tensor, "b n1"],
        plans: Float[Tensor, "b n f"],
        hints: Int[Tensor, "b n p c"],
        targets: Int[Tensor, "b n"],
    ) -> Float[Tensor, ""]:
        """Nats a code, where the coarse stack has not read the last 1 to `AHEAD` codes; one number for the batch.

        told, hints: before each code; codes: the codes padded -1; plans: before each code; targets: -1 for none.
        """
        behind = 1 + int(torch.randint(AHEAD, ()))
        old = F.pad(plans, (0, 0, behind, 0), mode="constant")[:, : plans.shape[1]]
        old[:, :behind] = plans[:, :1]
        before = F.pad(codes, (1, 0), value=-1)[:, : plans.shape[1]]
        there = targets >= 0
        scores = self(told[there].to(dtype_of(self)), before[there], old[there].to(dtype_of(self)), hints[there])
        return F.cross_entropy(scores.float(), self._classes()[targets[there]])

    def _classes(self) -> Int[Tensor, " v1"]:
        """The class of each code and, last, of the end."""
        classes = self.common.new_full((len(self.code.digits) + 1,), len(self.common))
        classes[self.common] = torch.arange(len(self.common), device=classes.device)
        return classes
