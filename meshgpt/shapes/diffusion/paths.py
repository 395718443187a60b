"""Paths from noise to data: x_t = alpha(t) data + sigma(t) noise, with noise ~ N(0, I).

Time runs from `noise_time` to `data_time`. It is 0 and 1 on Linear, GVP and VP, as in SiT (arXiv:2401.08740, section
2); libraries in which it runs from 1 to 0 are converted where their numbers come in, never here. On EDM it is sigma.
"""

import dataclasses
import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

Times = Float[Tensor, " b"]  # float64: near the data, sigma is a small difference of times


@dataclasses.dataclass(frozen=True)
class Coefficients:
    """What a path is at b times: alpha and sigma, and their derivatives by time."""

    alpha: Times
    sigma: Times
    alpha_dot: Times
    sigma_dot: Times


class NoisePath(ABC):
    """How much data and how much noise there is at each time."""

    noise_time: float = 0.0
    data_time: float = 1.0

    @abstractmethod
    def at(self, t: Times) -> Coefficients:
        """The coefficients at times t."""

    @abstractmethod
    def time_of(self, ratio: Times) -> Times:
        """The times at which sigma / alpha is `ratio`, from 0 for data to infinity for noise."""

    @abstractmethod
    def interval(self, regular: bool, training: bool = False) -> tuple[float, float]:
        """(first, last) time, from the noise to the data, between which models learn and sample.

        regular: velocity and data can be computed from what the model says at both ends of the path too. Where they
        cannot, or the path itself has an infinite derivative, a little is left out (SiT, appendix A).
        """

    def clock(self, t: Times) -> Times:
        """What networks are told of the time, within [-1, 1]."""
        return t

    def progress(self, t: Times) -> Times:
        """The share of the time from noise to data, in [0, 1]."""
        return (t - self.noise_time) / (self.data_time - self.noise_time)


@dataclasses.dataclass(frozen=True)
class Linear(NoisePath):
    """alpha = t, sigma = 1 - t: rectified flow, or flow matching by optimal transport (arXiv:2210.02747)."""

    eps: float = 1e-3

    def at(self, t: Times) -> Coefficients:
        one = torch.ones_like(t)
        return Coefficients(t, 1 - t, one, -one)

    def time_of(self, ratio: Times) -> Times:
        return 1 / (1 + ratio)

    def interval(self, regular: bool, training: bool = False) -> tuple[float, float]:
        return (0.0, 1.0) if regular else (self.eps, 1 - self.eps)


@dataclasses.dataclass(frozen=True)
class GVP(NoisePath):
    """alpha = sin(pi t / 2), sigma = cos(pi t / 2), which keeps the variance of data at 1 (SiT, Equation 9)."""

    eps: float = 1e-3

    def at(self, t: Times) -> Coefficients:
        rate = math.pi / 2
        sine, cosine = (rate * t).sin(), (rate * t).cos()
        return Coefficients(sine, cosine, rate * cosine, -rate * sine)

    def time_of(self, ratio: Times) -> Times:
        return torch.atan2(torch.ones_like(ratio), ratio) * 2 / math.pi

    def interval(self, regular: bool, training: bool = False) -> tuple[float, float]:
        return (0.0, 1.0) if regular else (self.eps, 1 - self.eps)


@dataclasses.dataclass(frozen=True)
class VP(NoisePath):
    """The variance-preserving diffusion with noise that grows linearly (arXiv:2011.13456, Equation 11), towards data.

    log alpha = -(beta_max - beta_min) (1 - t)^2 / 4 - beta_min (1 - t) / 2. Of DDPM's thousand steps with betas from
    1e-4 to 0.02 this is the limit.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    eps: float = 1e-3
    training_eps: float = 1e-5

    def at(self, t: Times) -> Coefficients:
        back = 1 - t
        log_alpha = -0.25 * (self.beta_max - self.beta_min) * back**2 - 0.5 * self.beta_min * back
        rate = 0.5 * (self.beta_max - self.beta_min) * back + 0.5 * self.beta_min
        alpha, sigma = log_alpha.exp(), (-torch.expm1(2 * log_alpha)).sqrt()
        return Coefficients(alpha, sigma, rate * alpha, -rate * alpha**2 / sigma)

    def time_of(self, ratio: Times) -> Times:
        least, growth = self.beta_min / 2, self.beta_max - self.beta_min
        log_ratio = 0.5 * torch.log1p(ratio**2)
        return 1 - 2 * log_ratio / (least + (least**2 + growth * log_ratio).sqrt())

    def interval(self, regular: bool, training: bool = False) -> tuple[float, float]:
        eps = self.training_eps if training else self.eps
        return (0.0 if regular else eps, 1 - eps)


@dataclasses.dataclass(frozen=True)
class EDM(NoisePath):
    """alpha = 1, sigma = t: noise is added to data that stay as large as they are (arXiv:2206.00364, section 3)."""

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    data_time = 0.0

    @property
    def noise_time(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.sigma_max

    def at(self, t: Times) -> Coefficients:
        one = torch.ones_like(t)
        return Coefficients(one, t, torch.zeros_like(t), one)

    def time_of(self, ratio: Times) -> Times:
        return ratio

    def interval(self, regular: bool, training: bool = False) -> tuple[float, float]:
        return (self.sigma_max, self.sigma_min)

    def clock(self, t: Times) -> Times:
        """ln(sigma) / 8; the paper has a quarter, and sinusoids of other frequencies."""
        return t.log() / 8
