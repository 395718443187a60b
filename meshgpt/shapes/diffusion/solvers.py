"""Steps along an ordinary differential equation dx/dt = velocity(x, t), in either direction of time."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from meshgpt.shapes.diffusion.parameterizations import along
from meshgpt.shapes.diffusion.paths import Times

Velocity = Callable[[Tensor, Tensor], Tensor]  # (x (b *shape), t (b)) -> (b *shape)
State = Float[Tensor, "b *shape"]


def euler_step(velocity: Velocity, x: State, t: Times, after: Times) -> State:
    """One evaluation, order 1."""
    return x + along(after - t, x) * velocity(x, t)


def heun_step(velocity: Velocity, x: State, t: Times, after: Times) -> State:
    """Two evaluations, order 2: the mean of the velocities at both ends (EDM, Algorithm 1)."""
    step, first = along(after - t, x), velocity(x, t)
    return x + step * 0.5 * (first + velocity(x + step * first, after))


def midpoint_step(velocity: Velocity, x: State, t: Times, after: Times) -> State:
    """Two evaluations, order 2: the velocity half way."""
    step = along(after - t, x)
    return x + step * velocity(x + 0.5 * step * velocity(x, t), 0.5 * (t + after))


def rk4_step(velocity: Velocity, x: State, t: Times, after: Times) -> State:
    """Four evaluations, order 4: the classical method of Runge and Kutta."""
    step, middle = along(after - t, x), 0.5 * (t + after)
    first = velocity(x, t)
    second = velocity(x + 0.5 * step * first, middle)
    third = velocity(x + 0.5 * step * second, middle)
    fourth = velocity(x + step * third, after)
    return x + step / 6 * (first + 2 * second + 2 * third + fourth)


STEPS = {"euler": euler_step, "heun": heun_step, "midpoint": midpoint_step, "rk4": rk4_step}


def integrate(velocity: Velocity, x: State, times: Float[Tensor, " k"], method: str = "heun") -> State:
    """x carried from times[0] to times[-1], one step of `method` between any two; backwards where times fall."""
    for t, after in zip(times[:-1], times[1:], strict=True):
        x = STEPS[method](velocity, x, t.expand(len(x)), after.expand(len(x)))
    return x


# Dormand and Prince (1980): nodes, stages, and the difference between the weights of orders 5 and 4
_NODES = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
_STAGES = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)


def dopri5(
    velocity: Velocity,
    x: State,
    start: float,
    end: float,
    tolerances: tuple[float, ...] = (1e-5, 1e-5),
    max_steps: int = 1000,
) -> State:
    """x carried from `start` to `end` in steps as long as the tolerances (absolute, relative) allow; order 5.

    Each row has steps of its own, so that its result does not depend on its batch. After `max_steps` the last step goes
    to the end, whatever its error.
    """
    times = torch.full((len(x),), start, dtype=torch.float64, device=x.device)
    sizes = torch.full_like(times, (end - start) / 20)
    for number in range(max_steps):
        left = end - times
        if not bool(left.any()):
            break
        last = number == max_steps - 1
        steps = left if last else torch.where(sizes.abs() < left.abs(), sizes, left)
        moved, error = _dopri5_step(velocity, x, times, steps)
        allowed = tolerances[0] + tolerances[1] * torch.maximum(x.abs(), moved.abs())
        ratio = (error / allowed).double().square().flatten(1).mean(dim=1).sqrt()
        taken = (ratio <= 1) | last
        x = torch.where(along(taken.to(x.dtype), x) > 0, moved, x)
        times = torch.where(taken, torch.where(steps == left, end, times + steps), times)
        sizes = torch.where(left == 0, sizes, steps * (0.9 * ratio.clamp(min=1e-6) ** -0.2).clamp(0.2, 5.0))
    return x


def _dopri5_step(velocity: Velocity, x: State, t: Times, step: Times) -> tuple[State, State]:
    """(x after the step, by order 5; its difference to order 4)."""
    size, slopes, reached = along(step, x), [], x
    for node, weights in zip(_NODES, _STAGES, strict=True):
        reached = x + size * sum((w * k for w, k in zip(weights, slopes, strict=True)), torch.zeros_like(x))
        slopes.append(velocity(reached, t + node * step))
    return reached, size * sum((w * k for w, k in zip(_ERROR, slopes, strict=True)), torch.zeros_like(x))
