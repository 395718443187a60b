"""Data of which everything is known: a Gaussian with its exact network, and its exact path of an ODE."""

import math

import torch

from meshgpt.shapes.diffusion.parameterizations import Parts, along
from meshgpt.shapes.diffusion.paths import EDM
from meshgpt.shapes.diffusion.process import Diffusion, DiffusionConfig


def process_of(path="linear", parameterization="velocity", times=None, **fields):
    times = times or ("log_normal" if path == "edm" else "uniform")
    return Diffusion(DiffusionConfig(path=path, parameterization=parameterization, times=times, **fields))


def time_of_clock(process, clock):
    """What a network can know of the time."""
    return (8 * clock.double()).exp() if isinstance(process.path, EDM) else clock.double()


class GaussianData:
    """N(mean, std^2 I)."""

    def __init__(self, mean=0.0, std=1.0):
        self.mean, self.std = mean, std

    def draw(self, *shape, seed=0):
        generator = torch.Generator().manual_seed(seed)
        return self.mean + self.std * torch.randn(shape, dtype=torch.float64, generator=generator)

    def network(self, process):
        """The one that no other has a smaller loss than."""

        def answer(scaled, clock):
            at = process.path.at(time_of_clock(process, clock))
            x = scaled
            if process.parameterization.scales_input or isinstance(process.path, EDM):
                x = scaled * along(torch.hypot(process.config.sigma_data * at.alpha, at.sigma), scaled)
            centred = x - along(at.alpha, x) * self.mean
            variance = (self.std * at.alpha).square() + at.sigma.square()
            data = self.mean + along(self.std**2 * at.alpha / variance, x) * centred
            noise = along(at.sigma / variance, x) * centred
            return process.parameterization.of(Parts(data, noise), at, process.config.sigma_data)

        return answer

    def spread(self, process, t):
        """The standard deviation at time t of what the data become."""
        at = process.path.at(torch.tensor([float(t)], dtype=torch.float64))
        return math.hypot(self.std * float(at.alpha), float(at.sigma))

    def carried(self, process, x, start, end):
        """Where the ODE takes x from time `start` to time `end`."""
        before, after = (float(process.path.at(torch.tensor([t], dtype=torch.float64)).alpha) for t in (start, end))
        growth = self.spread(process, end) / self.spread(process, start)
        return after * self.mean + (x - before * self.mean) * growth
