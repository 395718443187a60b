"""What the stacks are told of the mesh around the next code, where a code means little without the ones before it."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from meshgpt.nn.precision import dtype_of

FREQUENCIES = (1, 2, 4, 8, 16, 32)  # half turns over the grid
PLACE_FEATURES = 3 + 6 + 1  # of each place
FACT_FEATURES = 3 * 3  # of each row of facts
NEARBY = 12.0  # bins; differences are told on this scale and on that of the grid


class SurroundingsEmbedding(nn.Module):
    """Vectors (..., coarse) and (..., fine) for places (..., m, 3), bins in 0 .. bins - 1 or -1 for none.

    Told are each place itself and its step from the last of the first three, the one that a code starts from. Behind
    `num_places` of them stand `num_facts` rows of small numbers, 0 or more, of which each means something else.
    """

    def __init__(self, num_places: int, num_facts: int, bins: int, widths: tuple[int, ...]):
        super().__init__()
        self.num_places, self.bins = num_places, bins
        self.frequencies = math.pi * torch.tensor(FREQUENCIES)
        features = num_places * PLACE_FEATURES + 9 * 2 * len(FREQUENCIES) + num_facts * FACT_FEATURES
        self.read = nn.Sequential(nn.Linear(features, 2 * max(widths)), nn.SiLU())
        self.to_coarse, self.to_fine = (nn.Linear(2 * max(widths), width) for width in widths)

    def coarse(self, places: Int[Tensor, "*n m 3"]) -> Float[Tensor, "*n d"]:
        return self.to_coarse(self.told(places))

    def fine(self, places: Int[Tensor, "*n m 3"]) -> Float[Tensor, "*n d"]:
        return self.to_fine(self.told(places))

    def told(self, places: Int[Tensor, "*n m 3"]) -> Float[Tensor, "*n e"]:
        """What both read of places."""
        facts, places = places[..., self.num_places :, :].flatten(-2), places[..., : self.num_places, :]
        known = torch.cat((facts == 1, facts == 2, facts.clamp(min=0).log1p()), dim=-1)
        there = (places >= 0).any(dim=-1, keepdim=True).float()
        centred = ((places + 0.5) / self.bins * 2 - 1) * there
        step = (places - places[..., 2:3, :]) * (there * there[..., 2:3, :])
        turns = centred[..., :3, :].flatten(-2)[..., None] * self.frequencies.to(places.device)
        waves = torch.stack((turns.sin(), turns.cos()), dim=-1).flatten(-3)
        each = torch.cat((centred, step / self.bins, (step / NEARBY).clamp(-1, 1), there), dim=-1).flatten(-2)
        return self.read(torch.cat((each, waves, known), dim=-1).to(dtype_of(self)))
