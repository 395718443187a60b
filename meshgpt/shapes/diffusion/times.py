"""How often each time is learned from. A density is its quantile function, so that means over it need no luck."""

import dataclasses
from abc import ABC, abstractmethod

import torch

from meshgpt.shapes.diffusion.paths import NoisePath, Times


class TimeDensity(ABC):
    """A distribution of times."""

    @abstractmethod
    def quantile(self, u: Times, path: NoisePath, interval: tuple[float, float]) -> Times:
        """The times below which the share u of all lie, counted from the noise; u in (0, 1)."""


@dataclasses.dataclass(frozen=True)
class Uniform(TimeDensity):
    """Every time of the interval alike."""

    def quantile(self, u: Times, path: NoisePath, interval: tuple[float, float]) -> Times:
        first, last = interval
        return first + (last - first) * u


@dataclasses.dataclass(frozen=True)
class LogitNormal(TimeDensity):
    """t = sigmoid(mean + std N), the middle more often than the ends (arXiv:2403.03206, section 3.1), then shifted.

    With r = sqrt(shift_scale) the shift is t -> r t / (1 + (r - 1) t): towards the data for a shift above 1. As in the
    code that made it known it is the root that counts: a shift_scale of 9 shifts by 3.
    """

    mean: float = 0.0
    std: float = 1.0
    shift_scale: float = 1.0

    def quantile(self, u: Times, path: NoisePath, interval: tuple[float, float]) -> Times:
        t = torch.sigmoid(self.mean + self.std * torch.special.ndtri(u))
        shift = self.shift_scale**0.5
        first, last = interval
        return first + (last - first) * shift * t / (1 + (shift - 1) * t)


@dataclasses.dataclass(frozen=True)
class LogNormal(TimeDensity):
    """ln(sigma / alpha) = mean + std N (EDM, Table 1), on any path; the interval does not cut it."""

    mean: float = -1.2
    std: float = 1.2

    def quantile(self, u: Times, path: NoisePath, interval: tuple[float, float]) -> Times:
        return path.time_of((self.mean + self.std * torch.special.ndtri(1 - u)).exp())
