"""Diffusion and flow matching against what is known: floors, orders of solvers, eight Gaussians, eight shapes.

    python benchmarks/diffusion.py                      all of it, some minutes of one core
    python benchmarks/diffusion.py --only gaussians --steps 3000

floors: the loss that the exact network attains on a Gaussian, over the closed form. orders: the power of the step's
size with which the error of each solver falls. gaussians: samples of a small network trained on eight Gaussians in the
plane, their squared MMD over that of two sets of true samples, and the share of the rarest and the commonest mode.
shapes: eight sets of latents learned by heart; how far samples are from their own set, over how far from all. Prints
one JSON object; the exit status is 1 where something is not as it must be.
"""

import argparse
import json
import math
import sys
import tempfile
import time

import torch
from torch import Tensor, nn

from meshgpt.nn.embedding import TimeEmbedding
from meshgpt.shapes.diffusion.floors import floor_loss
from meshgpt.shapes.diffusion.parameterizations import Parts, along
from meshgpt.shapes.diffusion.paths import EDM
from meshgpt.shapes.diffusion.process import EDM_CONFIG, PATHS, V_CONFIG, Diffusion, DiffusionConfig
from meshgpt.shapes.diffusion.sampler import Flow, Sampler, sample
from meshgpt.shapes.diffusion.solvers import STEPS, integrate
from meshgpt.shapes.diffusion.streams import NoiseStreams
from meshgpt.shapes.latent_diffusion import LatentDiffusion
from meshgpt.training.latent_trainer import LatentDiffusionTrainer

PROCESSES = {
    "linear, velocity": DiffusionConfig(),
    "linear, velocity, logit-normal": DiffusionConfig(times="logit_normal"),
    "gvp, velocity": DiffusionConfig(path="gvp"),
    "gvp, noise": DiffusionConfig(path="gvp", parameterization="noise"),
    "vp, velocity": DiffusionConfig(path="vp"),
    "vp, v": V_CONFIG,
    "edm": EDM_CONFIG,
}
ORDERS = {"euler": 1, "heun": 2, "midpoint": 2, "rk4": 4}
STD, MEAN = 0.5, 0.7  # of the Gaussian whose answers are known


def exact_network(process: Diffusion):
    """What no network beats on data N(MEAN, STD^2)."""

    def answer(scaled: Tensor, clock: Tensor) -> Tensor:
        t = (8 * clock.double()).exp() if isinstance(process.path, EDM) else clock.double()
        at = process.path.at(t)
        x = scaled * along(torch.hypot(at.alpha, at.sigma), scaled) if isinstance(process.path, EDM) else scaled
        centred, variance = x - along(at.alpha, x) * MEAN, (STD * at.alpha).square() + at.sigma.square()
        parts = Parts(MEAN + along(STD**2 * at.alpha / variance, x) * centred, along(at.sigma / variance, x) * centred)
        return process.parameterization.of(parts, at, 1.0)

    return answer


def floors(rows: int = 100_000) -> dict:
    """Attained over closed form, at as many evenly spread times."""
    found, generator = {}, torch.Generator().manual_seed(0)
    z = (torch.arange(rows, dtype=torch.float64) + 0.5) / rows
    u, density = 0.5 - 0.5 * (math.pi * z).cos(), 0.5 * math.pi * (math.pi * z).sin()
    for name, config in PROCESSES.items():
        process = Diffusion(config)
        data, noise = torch.randn(2, rows, 8, dtype=torch.float64, generator=generator)
        network = exact_network(process)
        losses = process.losses(network, MEAN + STD * data, process.times(u), noise)
        attained, floor = float((losses * density).mean()), floor_loss(process, STD)
        found[name] = {"floor at 1": round(floor_loss(process), 4), "attained / floor": round(attained / floor, 4)}
    return found


def orders() -> dict:
    """The power of the step with which errors fall, from 32 steps to 64, on each path."""
    found = {}
    x = torch.randn(1, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for path in PATHS:
        flow_process = Diffusion(DiffusionConfig(path=path))
        flow, (start, end) = (
            Flow(flow_process, exact_network(flow_process)),
            (2.0, 0.3) if path == "edm" else (0.1, 0.7),
        )
        truth = integrate(flow.velocity, x, torch.linspace(start, end, 1001, dtype=torch.float64), "rk4")
        for method in STEPS:
            errors = []
            for steps in (32, 64):
                times = torch.linspace(start, end, steps + 1, dtype=torch.float64)
                errors.append(float((integrate(flow.velocity, x, times, method) - truth).abs().max()))
            found.setdefault(method, {})[path] = round(math.log2(errors[0] / errors[1]), 2)
    return found


class Plane(nn.Module):
    """A small network of points in the plane and the time."""

    def __init__(self, dim: int = 256):
        super().__init__()
        self.read, self.time = nn.Linear(2, dim), TimeEmbedding(dim)
        self.layers = nn.ModuleList(nn.Linear(dim, dim) for _ in range(3))
        self.out = nn.Linear(dim, 2)

    def forward(self, x: Tensor, clock: Tensor) -> Tensor:
        hidden = self.read(x) + self.time(clock)
        for layer in self.layers:
            hidden = hidden + nn.functional.silu(layer(nn.functional.silu(hidden)))
        return self.out(hidden)


def eight_gaussians(count: int, generator: torch.Generator) -> Tensor:
    """Points of variance 1 in the plane."""
    angle = torch.randint(8, (count,), generator=generator) * (math.pi / 4)
    centres = torch.stack((angle.cos(), angle.sin()), dim=1)
    return 1.4 * centres + 0.1 * torch.randn(count, 2, generator=generator)


def squared_mmd(first: Tensor, second: Tensor) -> float:
    """Unbiased, of a sum of Gaussian kernels of five widths."""

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        squares = torch.cdist(a, b).square()
        return torch.stack([(-squares / (2 * width**2)).exp() for width in (0.1, 0.25, 0.5, 1.0, 2.0)]).mean(dim=0)

    def within(a: Tensor) -> Tensor:
        return (kernel(a, a).sum() - len(a)) / (len(a) * (len(a) - 1))

    return float(within(first) + within(second) - 2 * kernel(first, second).mean())


def trained(process: Diffusion, steps: int, batch: int = 512) -> tuple[nn.Module, float]:
    """The averaged network after so many steps, and its last mean loss."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    network, average, losses = Plane(), Plane(), []
    average.load_state_dict(network.state_dict())
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps)
    for _ in range(steps):
        data = eight_gaussians(batch, generator)
        loss = process.losses(network, data, *process.draw(data, generator)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 0.01)  # pyright: ignore
    return average, sum(losses[-200:]) / len(losses[-200:])


def gaussians(steps: int, samples: int = 2000) -> dict:
    """Of each process: the loss, MMD over that of true samples, shares of modes, samples on one."""
    truth = [eight_gaussians(samples, torch.Generator().manual_seed(number)) for number in range(10, 16)]
    noise = sum(abs(squared_mmd(a, b)) for a, b in zip(truth[::2], truth[1::2], strict=True)) / 3
    found: dict = {"MMD of true samples": round(noise, 6)}
    centres = (
        torch.stack([torch.tensor([math.cos(i * math.pi / 4), math.sin(i * math.pi / 4)]) for i in range(8)]) * 1.4
    )
    for name, config in PROCESSES.items():
        start, process = time.process_time(), Diffusion(config)
        network, loss = trained(process, steps)
        drawn = sample(process, network, NoiseStreams(0, samples), (2,), Sampler(num_steps=30))
        distance, mode = torch.cdist(drawn, centres).min(dim=1)
        shares = torch.bincount(mode, minlength=8) / samples
        found[name] = {
            "loss": round(loss, 4), "floor": round(floor_loss(process), 4),
            "MMD": round(squared_mmd(drawn, truth[0]), 6),
            "on a mode": round(float((distance < 0.4).float().mean()), 4),
            "rarest": round(float(shares.min()), 4), "commonest": round(float(shares.max()), 4),
            "cpu seconds": round(time.process_time() - start, 1),
        }  # fmt: skip
        print(name, found[name], file=sys.stderr, flush=True)
    return found


def shapes(steps: int) -> dict:
    """Eight sets of 32 latents of width 8, each asked for by its class."""
    latents, found = torch.randn(8, 32, 8, generator=torch.Generator().manual_seed(0)), {}
    size = {"num_latents": 32, "dim_latent": 8, "dim": 64, "depth": 3, "attn_heads": 2, "attn_dim_head": 32}
    for kind in ("adaptive", "token"):
        for name, config in (("flow", DiffusionConfig()), ("edm", EDM_CONFIG)):
            torch.manual_seed(0)
            model = LatentDiffusion(**size, kind=kind, diffusion=config, categories=tuple("abcdefgh"))
            often, start = torch.arange(8).repeat(4), time.process_time()
            with tempfile.TemporaryDirectory() as folder:
                trainer = LatentDiffusionTrainer(
                    model, latents[often], model.conditions_of(categories=list("abcdefgh")).select(often),
                    num_train_steps=steps, batch_size=32, learning_rate=2e-3, ema_decay=0.99, checkpoint_folder=folder,
                    progress=False, log_every=100, checkpoint_every=steps,
                )  # fmt: skip
                figures = trainer()
            drawn = trainer.ema_model.generate(categories=list("abcdefgh") * 4, seed=0, num_steps=25)  # type: ignore[operator]
            apart = torch.cdist(drawn[:, None], latents[None]).amin(dim=-1).mean(dim=-1)
            own = torch.arange(8).repeat(4)
            found[f"{kind}, {name}"] = {
                "loss": round(figures["error"], 4), "explained": round(figures["explained"], 4),
                "nearest is the one asked for": round(float((apart.argmin(dim=1) == own).float().mean()), 4),
                "own / all": round(float(apart.gather(1, own[:, None]).mean() / apart.mean()), 4),
                "cpu seconds": round(time.process_time() - start, 1),
            }  # fmt: skip
            print(f"{kind}, {name}", found[f"{kind}, {name}"], file=sys.stderr, flush=True)
    return found


def failures(results: dict) -> list[str]:
    """What is not as it must be."""
    found = [name for name, row in results.get("floors", {}).items() if abs(row["attained / floor"] - 1) > 0.01]
    for method, row in results.get("orders", {}).items():
        found += [f"{method} on {path}" for path, order in row.items() if order < ORDERS[method] - 0.2]
    rows = {name: row for name, row in results.get("gaussians", {}).items() if isinstance(row, dict)}
    found += [name for name, row in rows.items() if not (row["rarest"] > 0.08 and row["commonest"] < 0.17)]
    limit = 3 * results.get("gaussians", {}).get("MMD of true samples", 0.0)
    found += [f"MMD of {name}" for name, row in rows.items() if row["MMD"] > limit]
    found += [name for name, row in results.get("shapes", {}).items() if row["nearest is the one asked for"] < 0.95]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", choices=("floors", "orders", "gaussians", "shapes"))
    parser.add_argument("--steps", type=int, default=3000, help="of training on eight Gaussians")
    parser.add_argument("--shape-steps", type=int, default=400, help="of training on eight shapes")
    options = parser.parse_args()
    torch.set_num_threads(1)
    parts = {
        "floors": floors,
        "orders": orders,
        "gaussians": lambda: gaussians(options.steps),
        "shapes": lambda: shapes(options.shape_steps),
    }
    results = {name: part() for name, part in parts.items() if options.only in (None, name)}
    results["failures"] = failures(results)
    print(json.dumps(results, indent=2))
    return 1 if results["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
