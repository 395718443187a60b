"""What a loss means: what one would have who knows nothing, who knows the spread of the data, who knows the data.

A flow model whose loss stays at 1.9 has learned next to nothing, at 1.57 that the latents are Gaussian: both are flat
lines. The loss of data N(0, s^2 I) has a closed form for every path and prediction (`floor_loss`): where a and b mix
data and noise into the prediction, s^2 (alpha b - sigma a)^2 / (s^2 alpha^2 + sigma^2) at each time.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from meshgpt.shapes.diffusion.paths import Coefficients, Times
from meshgpt.shapes.diffusion.process import Diffusion

POINTS = 20_000  # of the quadrature over times


def floor_loss(process: Diffusion, std: float = 1.0) -> float:
    """The least mean loss that any network has on data N(0, std^2 I). It is that of knowing the spread alone."""

    def at_time(at: Coefficients) -> Times:
        known = process.parameterization.determinant(at, process.config.sigma_data).square()
        return std**2 * known / (std**2 * at.alpha.square() + at.sigma.square())

    return _mean(process, at_time)


def zero_loss(process: Diffusion, std: float = 1.0) -> float:
    """The mean loss of a network that says 0, as most do before their first step; of data of that deviation."""

    def at_time(at: Coefficients) -> Times:
        a, b = process.parameterization.mixture(at, process.config.sigma_data)
        return std**2 * a.square() + b.square()

    return _mean(process, at_time)


def optimal_loss(process: Diffusion, data: Float[Tensor, "n *shape"], draws: int = 512, seed: int = 0) -> float:
    """The least mean loss on these n rows themselves: that of a network that knows each by heart.

    An estimate from `draws` times, evenly spread, and noise of its own seed. What is left at it is which of the rows
    the noise hides.
    """
    rows = data.detach().flatten(1).double().cpu()
    generator = torch.Generator().manual_seed(seed)
    t = process.times((torch.arange(draws, dtype=torch.float64) + 0.5) / draws)
    at = process.path.at(t)
    chosen = rows[torch.randint(len(rows), (draws,), generator=generator)]
    noise = torch.randn(chosen.shape, dtype=torch.float64, generator=generator)
    x = process.noised(chosen, noise, t)
    sigma = at.sigma.clamp(min=1e-12)
    scores = x @ rows.T * at.alpha[:, None] - 0.5 * rows.square().sum(dim=1) * at.alpha.square()[:, None]
    expected = (scores / sigma.square()[:, None]).softmax(dim=1) @ rows
    error = (chosen - expected).square().mean(dim=1)
    known = process.parameterization.determinant(at, process.config.sigma_data) / sigma
    return float((process.weight(at) * known.square() * error).mean())


def explained_fraction(loss: float, floor: float, optimum: float = 0.0) -> float:
    """How much of what there is to know beyond the spread of the data a loss shows: 0 at the floor, 1 at the optimum.

    Below 0, not even the spread is known.
    """
    return (floor - loss) / (floor - optimum) if floor > optimum else math.nan


def _mean(process: Diffusion, at_time: Callable[[Coefficients], Times]) -> float:
    """The weighted mean over times, by quadrature that is dense at both ends, where integrands may be steep."""
    z = (torch.arange(POINTS, dtype=torch.float64) + 0.5) / POINTS
    u, density = 0.5 - 0.5 * (math.pi * z).cos(), 0.5 * math.pi * (math.pi * z).sin()
    at = process.path.at(process.times(u))
    return float((process.weight(at) * at_time(at) * density).mean())
