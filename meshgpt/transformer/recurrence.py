"""A gated linear recurrence: a layer whose memory of the past has one size, however long the past is."""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn


def gated_scan(gates: Float[Tensor, "b n d"], values: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
    """h_t = gates_t * h_(t-1) + values_t for all t at once, h_0 = 0, in log2(n) passes (Hillis and Steele, 1986)."""
    reach = 1
    while reach < values.shape[1]:
        values = torch.cat((values[:, :reach], values[:, reach:] + gates[:, reach:] * values[:, :-reach]), dim=1)
        gates = torch.cat((gates[:, :reach], gates[:, reach:] * gates[:, :-reach]), dim=1)
        reach *= 2
    return values


class Recurrence(nn.Module):
    """x + q * h with h_t = sigmoid(a_t) * h_(t-1) + v_t, each channel by itself (GateLoop, Katsch, arXiv:2311.01927,
    with real gates and without its matrix state)."""

    def __init__(self, dim: int):
        super().__init__()
        self.norm = nn.RMSNorm(dim)
        self.to_qva = nn.Linear(dim, 3 * dim, bias=False)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        return x + self._read(x, None)[0]

    def step(self, x: Float[Tensor, "b n d"], state: torch.Tensor | None) -> tuple[Tensor, Float[Tensor, "b n d"]]:
        """The same for the next n positions; `state` (b d) is h behind the last one. Gives h after each of the n."""
        read, states = self._read(x, state)
        return x + read, states

    def _read(self, x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        q, values, gates = rearrange(self.to_qva(self.norm(x)), "b n (three d) -> three b n d", three=3)
        gates = gates.sigmoid()
        if state is not None:
            values = torch.cat((values[:, :1] + gates[:, :1] * state[:, None], values[:, 1:]), dim=1)
        states = gated_scan(gates, values)
        return q * states, states
