"""What a network is asked to say: always a known mixture of data and noise, from which all else follows.

A prediction is p = a data + b noise, with a and b known at each time. Together with x = alpha data + sigma noise that
gives data and noise, and so every other prediction, the velocity of the path and the score.
"""

import dataclasses
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from meshgpt.shapes.diffusion.paths import Coefficients, Times


@dataclasses.dataclass(frozen=True)
class Parts:
    """Data and noise, as a prediction tells them apart."""

    data: Float[Tensor, "b *shape"]
    noise: Float[Tensor, "b *shape"]


@dataclasses.dataclass(frozen=True)
class Parameterization:
    """A kind of prediction. `mixture(coefficients, sigma_data)` gives its (a, b).

    regular: data and velocity follow from it at both ends of a path as well, where alpha or sigma is 0. scales_input:
    the network reads x at variance 1. scale: the error in the loss is of the prediction times this (1 if None).
    """

    name: str
    mixture: Callable[[Coefficients, float], tuple[Times, Times]]
    regular: bool = True
    scales_input: bool = False
    scale: Callable[[Coefficients], Times] | None = None

    def determinant(self, at: Coefficients, sigma_data: float) -> Times:
        """alpha b - sigma a: by how much x and the prediction together know more than x; 0 where they do not."""
        a, b = self.mixture(at, sigma_data)
        return at.alpha * b - at.sigma * a

    def parts(
        self,
        prediction: Float[Tensor, "b *shape"],
        x: Float[Tensor, "b *shape"],
        at: Coefficients,
        sigma_data: float = 1.0,
    ) -> Parts:
        """Data and noise, from x and what is predicted of it."""
        a, b = self.mixture(at, sigma_data)
        inverse = 1 / self.determinant(at, sigma_data)
        data = along(b * inverse, x) * x - along(at.sigma * inverse, x) * prediction
        noise = along(at.alpha * inverse, x) * prediction - along(a * inverse, x) * x
        return Parts(data, noise)

    def of(self, parts: Parts, at: Coefficients, sigma_data: float = 1.0) -> Float[Tensor, "b *shape"]:
        """The prediction that says these parts."""
        a, b = self.mixture(at, sigma_data)
        return along(a, parts.data) * parts.data + along(b, parts.noise) * parts.noise


def along(values: Times, x: Float[Tensor, "b *shape"]) -> Tensor:
    """One number for each row of x, in its precision and with axes to multiply by."""
    return values.to(x.dtype).reshape(-1, *(1,) * (x.ndim - 1))


def _data(at: Coefficients, sigma_data: float) -> tuple[Times, Times]:
    return torch.ones_like(at.alpha), torch.zeros_like(at.alpha)


def _noise(at: Coefficients, sigma_data: float) -> tuple[Times, Times]:
    return torch.zeros_like(at.alpha), torch.ones_like(at.alpha)


def _velocity(at: Coefficients, sigma_data: float) -> tuple[Times, Times]:
    return at.alpha_dot, at.sigma_dot


def _score(at: Coefficients, sigma_data: float) -> tuple[Times, Times]:
    return torch.zeros_like(at.sigma), -1 / at.sigma


def _v(at: Coefficients, sigma_data: float) -> tuple[Times, Times]:
    size = torch.hypot(at.alpha, at.sigma)
    return -at.sigma / size, at.alpha / size


def _preconditioned(at: Coefficients, sigma_data: float) -> tuple[Times, Times]:
    size = torch.hypot(at.sigma, sigma_data * at.alpha)
    return at.sigma / (sigma_data * size), -sigma_data * at.alpha / size


PARAMETERIZATIONS = {
    item.name: item
    for item in (
        Parameterization("velocity", _velocity),  # of the path, alpha' data + sigma' noise (SiT, Equation 4)
        Parameterization("data", _data, regular=False),
        Parameterization("noise", _noise, regular=False),  # DDPM (arXiv:2006.11239, Equation 14)
        # of the score the noise is what the loss compares: -sigma score (SiT, section 2.2)
        Parameterization("score", _score, regular=False, scale=lambda at: at.sigma),
        # alpha noise - sigma data (arXiv:2202.00512, appendix D), divided by what is 1 on variance-preserving paths
        Parameterization("v", _v),
        # F of D = c_skip x + c_out F(c_in x) (arXiv:2206.00364, Table 1). Its plain error is EDM's weighted one.
        Parameterization("edm", _preconditioned, scales_input=True),
    )
}
