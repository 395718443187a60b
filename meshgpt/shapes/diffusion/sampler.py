"""From noise to data by a process and what a network says: ODE, SDE, churn, guidance. It knows tensors only."""

import dataclasses
import math
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from meshgpt.config import Config
from meshgpt.errors import GenerationError
from meshgpt.shapes.diffusion.parameterizations import along
from meshgpt.shapes.diffusion.paths import EDM, Times
from meshgpt.shapes.diffusion.process import Diffusion, Network
from meshgpt.shapes.diffusion.solvers import STEPS, dopri5, euler_step, heun_step

METHODS = (*STEPS, "ddim", "dopri5")
SPACINGS = ("uniform", "karras")
DIFFUSIONS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "constant": lambda sigma, rate, done: torch.ones_like(sigma),
    "sbdm": lambda sigma, rate, done: rate,
    "sigma": lambda sigma, rate, done: sigma,
    "linear": lambda sigma, rate, done: 1 - done,
    "decreasing": lambda sigma, rate, done: 0.25 * (1 + (math.pi * done).cos()).square(),
    "increasing_decreasing": lambda sigma, rate, done: (math.pi * done).sin().square(),
}


@runtime_checkable
class NoiseSource(Protocol):
    """Where normal numbers come from; `NoiseStreams` is one."""

    def normal(self, *shape: int) -> Tensor: ...


@dataclasses.dataclass(frozen=True)
class Sampler(Config):
    """How a sample is drawn, fields that `generate` takes as keywords.

    method: euler, heun, midpoint, rk4, ddim (a step with data and noise as predicted, arXiv:2010.02502), dopri5 (steps
    by its tolerances). num_steps: between noise and data, the last one, where the path is left before its end, straight
    to the predicted data. spacing: uniform in time, or karras (EDM, Equation 5); None: karras on EDM and where a
    prediction says nothing at an end of the path, since steps have to be small there, else uniform. churn: noise added
    again, of at most that many steps' worth (EDM, Algorithm 2), where sigma / alpha lies within `churn_range`.
    diffusion: of an SDE (SiT, section 2.4), by euler or heun: constant, sbdm, sigma, linear, decreasing,
    increasing_decreasing, times `diffusion_strength`; None: the ODE.
    """

    method: str = "heun"
    num_steps: int = 18
    spacing: str | None = None
    rho: float = 7.0  # of karras
    sigma_min: float = 0.002  # the ends of karras on other paths than EDM, as sigma / alpha
    sigma_max: float = 80.0
    churn: float = 0.0
    churn_range: tuple[float, ...] = (0.0, 1e9)
    churn_noise: float = 1.0
    diffusion: str | None = None
    diffusion_strength: float = 1.0
    last_step: float = 0.04  # of an SDE on a path from 0 to 1
    tolerances: tuple[float, ...] = (1e-5, 1e-5)  # of dopri5: absolute, relative; on EDM x is large at first

    def validate(self) -> None:
        self.require(self.method in METHODS, "method", f"be one of {', '.join(METHODS)}")
        self.require(self.num_steps >= 2, "num_steps", "be at least 2")
        self.require(self.spacing in (None, *SPACINGS), "spacing", f"be one of {', '.join(SPACINGS)}")
        self.require(self.diffusion in (None, *DIFFUSIONS), "diffusion", f"be one of {', '.join(DIFFUSIONS)}")
        for field in ("churn", "churn_noise", "diffusion_strength"):
            self.require(getattr(self, field) >= 0, field, "not be negative")
        for field in ("rho", "sigma_min", "last_step"):
            self.require(getattr(self, field) > 0, field, "be positive")
        self.require(self.sigma_max > self.sigma_min, "sigma_max", f"be above sigma_min = {self.sigma_min}")
        self.require(self.diffusion is None or self.churn == 0, "churn", "be 0 with an SDE, which adds noise itself")
        stochastic = self.method in ("euler", "heun") or self.diffusion is None
        self.require(stochastic, "method", "be euler or heun for an SDE")
        self.require(
            self.method != "dopri5" or self.churn == 0, "churn", "be 0 with dopri5, which has no steps of ours"
        )
        for field in ("churn_range", "tolerances"):
            self.require(len(getattr(self, field)) == 2, field, "be two numbers")

    def require(self, condition: bool, field: str, must: str) -> None:
        if not condition:
            raise GenerationError(f"{field} must {must}, got {getattr(self, field)!r}")

    def times(self, process: Diffusion) -> Float[Tensor, " k"]:
        """The times of the steps, float64, from the noise towards the data."""
        path = process.path
        first, last = path.interval(process.regular and self.diffusion is None)
        if self.diffusion is not None and not isinstance(path, EDM):
            last = path.data_time - self.last_step
        fails = self.diffusion is None and not process.regular
        spacing = self.spacing or ("karras" if isinstance(path, EDM) or fails else "uniform")
        jumps = spacing == "karras" or last != path.data_time
        share = torch.linspace(0, 1, self.num_steps + (not jumps), dtype=torch.float64)
        if spacing == "uniform":
            return first + (last - first) * share
        if isinstance(path, EDM):
            high, low = path.sigma_max, path.sigma_min
        else:
            high, low = self.sigma_max, self.sigma_min
        roots = high ** (1 / self.rho) + share * (low ** (1 / self.rho) - high ** (1 / self.rho))
        return path.time_of(roots**self.rho)


@dataclasses.dataclass(frozen=True)
class Flow:
    """A process with what a network says on it."""

    process: Diffusion
    network: Network

    def data(self, x: Tensor, t: Times) -> Tensor:
        """The data that x comes from, as predicted: their mean given x."""
        return self.process.parts(self.process.predict(self.network, x, t), x, t).data

    def velocity(self, x: Tensor, t: Times) -> Tensor:
        return self.process.convert(self.process.predict(self.network, x, t), x, t, "velocity")

    def ddim_step(self, x: Tensor, t: Times, after: Times) -> Tensor:
        """To another time with data and noise as predicted: exact where the network says the same all the way."""
        parts = self.process.parts(self.process.predict(self.network, x, t), x, t)
        return self.process.noised(parts.data, parts.noise, after)


@torch.no_grad()
def sample(
    process: Diffusion,
    network: Network,
    source: NoiseSource,
    shape: tuple[int, ...],
    sampler: Sampler | None = None,
    device: torch.device | str = "cpu",
) -> Float[Tensor, "b *shape"]:
    """As many samples as `source` has streams, each of `shape`, by the process's reverse.

    network: (x (b *shape), clock (b)) -> what the process's parameterization says; guided, see `guided`.
    """
    sampler, flow = sampler or Sampler(), Flow(process, network)
    times = sampler.times(process).to(device)
    x = source.normal(*shape).to(device)
    x = float(process.path.at(times[:1]).sigma) * x
    if sampler.method == "dopri5":
        x = dopri5(flow.velocity, x, float(times[0]), float(times[-1]), sampler.tolerances)
    else:
        for t, after in zip(times[:-1], times[1:], strict=True):
            x = _step(sampler, flow, source, x, t.expand(len(x)), after.expand(len(x)))
    return x if float(times[-1]) == process.path.data_time else flow.data(x, times[-1].expand(len(x)))


def _step(sampler: Sampler, flow: Flow, source: NoiseSource, x: Tensor, t: Times, after: Times) -> Tensor:
    if sampler.diffusion is not None:
        return sde_step(sampler, flow, source, x, t, after)
    if sampler.churn > 0:
        x, t = _churned(sampler, flow.process, source, x, t)
    if sampler.method == "ddim":
        return flow.ddim_step(x, t, after)
    return STEPS[sampler.method](flow.velocity, x, t, after)


def _churned(sampler: Sampler, process: Diffusion, source: NoiseSource, x: Tensor, t: Times) -> tuple[Tensor, Times]:
    """x with a little noise more, and the earlier time at which that much belongs to it (EDM, Algorithm 2)."""
    at = process.path.at(t)
    ratio = at.sigma / at.alpha
    low, high = sampler.churn_range
    if not low <= float(ratio[0]) <= high:
        return x, t
    more = ratio * (1 + min(sampler.churn / sampler.num_steps, math.sqrt(2) - 1))
    before = process.path.time_of(more)
    alpha = process.path.at(before).alpha
    fresh = source.normal(*x.shape[1:]).to(x) * sampler.churn_noise
    x = along(alpha / at.alpha, x) * x + along(alpha * (more.square() - ratio.square()).sqrt(), x) * fresh
    return x, before


def sde_step(sampler: Sampler, flow: Flow, source: NoiseSource, x: Tensor, t: Times, after: Times) -> Tensor:
    """A step of dx = (velocity + w score) dt + sqrt(2 w dt) noise, in the direction of time (SiT, Equation 5)."""
    process, strength, form = flow.process, sampler.diffusion_strength, DIFFUSIONS[sampler.diffusion or ""]

    def diffusion(t: Times) -> Times:
        at = process.path.at(t)
        return strength * form(at.sigma, process.diffusion_rate(at), process.path.progress(t))

    def drift(x: Tensor, t: Times) -> Tensor:
        prediction = process.predict(flow.network, x, t)
        score = process.convert(prediction, x, t, "score")
        return process.convert(prediction, x, t, "velocity") + along(diffusion(t) * direction, x) * score

    direction = (after - t).sign()
    fresh = along((2 * diffusion(t) * (after - t).abs()).sqrt(), x) * source.normal(*x.shape[1:]).to(x)
    if sampler.method == "euler":
        return euler_step(drift, x, t, after) + fresh
    return heun_step(drift, x + fresh, t, after)


def guided(network: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], scale: float) -> Network:
    """One network of two answers, asked and unasked: u + scale (c - u) (arXiv:2207.12598, Equation 6).

    At scale 1 it says what it does when asked, at 0 what it does unasked.
    """

    def answer(x: Tensor, clock: Tensor) -> Tensor:
        asked, unasked = network(x, clock)
        return unasked + scale * (asked - unasked)

    return answer
