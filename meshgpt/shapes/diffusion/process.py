"""A path, what is predicted on it, when, and how errors weigh: all that diffusion and flow matching differ in."""

import dataclasses
from collections.abc import Callable
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from meshgpt.config import Config
from meshgpt.shapes.diffusion.parameterizations import PARAMETERIZATIONS, Parameterization, Parts, along
from meshgpt.shapes.diffusion.paths import EDM, GVP, VP, Coefficients, Linear, NoisePath, Times
from meshgpt.shapes.diffusion.times import LogitNormal, LogNormal, TimeDensity, Uniform

Network = Callable[[Tensor, Tensor], Tensor]  # (x (b *shape), clock (b), in [-1, 1]) -> prediction (b *shape)
PATHS = ("linear", "gvp", "vp", "edm")
DENSITIES = ("uniform", "logit_normal", "log_normal")
WEIGHTINGS = ("none", "velocity", "likelihood")
MARGIN = 1e-7  # quantiles are not asked for closer to 0 and 1


@dataclasses.dataclass(frozen=True)
class DiffusionConfig(Config):
    """Which process. The default is flow matching; `EDM_CONFIG` and `V_CONFIG` are the other two in common use.

    path: linear, gvp, vp, edm. parameterization: velocity, data, noise, score, v, edm. times: uniform, logit_normal,
    log_normal, each with the fields of its name. weighting: none, velocity (as if the error were that of the velocity),
    likelihood (arXiv:2101.09258, Equation 8). sigma_data: the standard deviation of the data.
    """

    path: str = "linear"
    parameterization: str = "velocity"
    times: str = "uniform"
    weighting: str = "none"
    sigma_data: float = 1.0
    beta_min: float = 0.1  # of vp
    beta_max: float = 20.0
    sigma_min: float = 0.002  # of edm
    sigma_max: float = 80.0
    logit_mean: float = 0.0
    logit_std: float = 1.0
    shift_scale: float = 1.0
    log_mean: float = -1.2
    log_std: float = 1.2

    def validate(self) -> None:
        known = {"path": PATHS, "parameterization": PARAMETERIZATIONS, "times": DENSITIES, "weighting": WEIGHTINGS}
        for field, names in known.items():
            self.require(getattr(self, field) in names, field, f"be one of {', '.join(names)}")
        for field in ("sigma_data", "beta_min", "sigma_min", "logit_std", "log_std", "shift_scale"):
            self.require(getattr(self, field) > 0, field, "be positive")
        self.require(self.beta_max >= self.beta_min, "beta_max", f"not be below beta_min = {self.beta_min}")
        self.require(self.sigma_max > self.sigma_min, "sigma_max", f"be above sigma_min = {self.sigma_min}")


EDM_CONFIG = DiffusionConfig(path="edm", parameterization="edm", times="log_normal")  # arXiv:2206.00364, Table 1
V_CONFIG = DiffusionConfig(path="vp", parameterization="v")  # arXiv:2202.00512


class Diffusion:
    """The process that a `DiffusionConfig` names. Samples lie along the first axis of tensors; t is (b), float64."""

    def __init__(self, config: DiffusionConfig | None = None):
        self.config = config or DiffusionConfig()
        self.parameterization: Parameterization = PARAMETERIZATIONS[self.config.parameterization]
        self.path, self.density = _path(self.config), _density(self.config)

    @property
    def regular(self) -> bool:
        return self.parameterization.regular

    @cached_property
    def training_interval(self) -> tuple[float, float]:
        return self.path.interval(self.regular, training=True)

    # learning

    def times(self, u: Times) -> Times:
        """The times at quantiles u, in (0, 1), of the density that is learned from."""
        return self.density.quantile(u.double().clamp(MARGIN, 1 - MARGIN), self.path, self.training_interval)

    def draw(
        self, data: Float[Tensor, "b *shape"], generator: torch.Generator | None = None
    ) -> tuple[Times, Float[Tensor, "b *shape"]]:
        """Times and noise for each row of the data, where these are; drawn where the generator is."""
        where = data.device if generator is None else generator.device
        u = torch.rand(len(data), dtype=torch.float64, device=where, generator=generator)
        noise = torch.randn(data.shape, dtype=data.dtype, device=where, generator=generator)
        return self.times(u.to(data.device)), noise.to(data.device)

    def losses(
        self, network: Network, data: Float[Tensor, "b *shape"], t: Times, noise: Float[Tensor, "b *shape"]
    ) -> Float[Tensor, " b"]:
        """The weighted squared error of what the network says of each noised row, a mean over its numbers."""
        at, parts = self.path.at(t), Parts(data, noise)
        x = self.noised(data, noise, t)
        target = self.parameterization.of(parts, at, self.config.sigma_data)
        error = (self.predict(network, x, t) - target).float().square().flatten(1).mean(dim=1)
        return error * self.weight(at).to(error.dtype)

    def weight(self, at: Coefficients) -> Times:
        """By which the squared error of the prediction is multiplied."""
        rule, kind = self.config.weighting, self.parameterization
        if rule == "none":
            return torch.ones_like(at.alpha) if kind.scale is None else kind.scale(at).square()
        own = kind.determinant(at, self.config.sigma_data)
        if rule == "velocity":  # errors of two kinds of prediction are as their determinants
            return (PARAMETERIZATIONS["velocity"].determinant(at, self.config.sigma_data) / own).square()
        return self.diffusion_rate(at) * (at.alpha / (at.sigma * own)).square()

    def diffusion_rate(self, at: Coefficients) -> Times:
        """|(alpha' / alpha) sigma^2 - sigma sigma'|: half the squared rate of its diffusion (SiT)."""
        return at.sigma / at.alpha * PARAMETERIZATIONS["velocity"].determinant(at, self.config.sigma_data).abs()

    # what a prediction says

    def noised(
        self, data: Float[Tensor, "b *shape"], noise: Float[Tensor, "b *shape"], t: Times
    ) -> Float[Tensor, "b *shape"]:
        at = self.path.at(t)
        return along(at.alpha, data) * data + along(at.sigma, noise) * noise

    def predict(self, network: Network, x: Float[Tensor, "b *shape"], t: Times) -> Float[Tensor, "b *shape"]:
        """What the network says of x at times t; it reads x at variance 1 where the path or the prediction wants it."""
        if self.parameterization.scales_input or isinstance(self.path, EDM):
            at = self.path.at(t)
            scaled = x / along(torch.hypot(self.config.sigma_data * at.alpha, at.sigma), x)
        else:
            scaled = x
        return network(scaled, self.path.clock(t).to(x.dtype))

    def parts(self, prediction: Float[Tensor, "b *shape"], x: Float[Tensor, "b *shape"], t: Times) -> Parts:
        """Data and noise that a prediction tells apart in x."""
        return self.parameterization.parts(prediction, x, self.path.at(t), self.config.sigma_data)

    def convert(
        self, prediction: Float[Tensor, "b *shape"], x: Float[Tensor, "b *shape"], t: Times, into: str
    ) -> Float[Tensor, "b *shape"]:
        """The same prediction as another kind: velocity, data, noise, score, v or edm."""
        parts = self.parts(prediction, x, t)
        return PARAMETERIZATIONS[into].of(parts, self.path.at(t), self.config.sigma_data)


def _path(config: DiffusionConfig) -> NoisePath:
    if config.path == "vp":
        return VP(config.beta_min, config.beta_max)
    if config.path == "edm":
        return EDM(config.sigma_min, config.sigma_max)
    return GVP() if config.path == "gvp" else Linear()


def _density(config: DiffusionConfig) -> TimeDensity:
    if config.times == "logit_normal":
        return LogitNormal(config.logit_mean, config.logit_std, config.shift_scale)
    return LogNormal(config.log_mean, config.log_std) if config.times == "log_normal" else Uniform()
