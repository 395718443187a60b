"""Shapes of a category from noise: latent diffusion over the sets of an autoencoder of primitives.

    python benchmarks/vector_set.py primitives --out runs/vector-set            # the autoencoder, ten minutes on a core
    python benchmarks/latent_generation.py --autoencoder runs/vector-set --process flow
    python benchmarks/latent_generation.py --autoencoder runs/vector-set --process edm --samples 512

Samples of each category in turn are decoded on a grid and compared with the training shapes, whose occupancy is known
exactly. Accuracy: how often the nearest training shape (by IoU) is of the category asked for; the same of shapes held
out. Nearest: the mean IoU with it, and that of shapes held out. Distinct: different nearest shapes, a share of samples.
Prints one JSON object.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from meshgpt.data.primitives import PrimitiveDataset
from meshgpt.mesh.primitives import EASY
from meshgpt.shapes.denoiser_config import DENOISERS
from meshgpt.shapes.diffusion.process import EDM_CONFIG, V_CONFIG, DiffusionConfig
from meshgpt.shapes.latent_diffusion import LatentDiffusion
from meshgpt.shapes.latents import encoded
from meshgpt.shapes.vecset import VectorSetAutoencoder
from meshgpt.training.latent_trainer import LatentDiffusionTrainer

PROCESSES = {"flow": DiffusionConfig(), "edm": EDM_CONFIG, "v": V_CONFIG}


def grid(side: int) -> Float[Tensor, "n 3"]:
    """The centres of the cells of [-1, 1]^3, x first."""
    axis = (torch.arange(side) + 0.5) / side * 2 - 1
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).reshape(-1, 3)


def latents_of(autoencoder: VectorSetAutoencoder, data: PrimitiveDataset, cloud: int) -> Float[Tensor, "n m d"]:
    clouds = torch.from_numpy(np.stack([data[i].surface[:cloud] for i in range(len(data))]))
    return encoded(autoencoder, clouds.split(16))


def true_occupancy(data: PrimitiveDataset, points: Float[Tensor, "n 3"]) -> Float[Tensor, "b n"]:
    return torch.stack([(data.primitive(i).torch_field(points) > 0).float() for i in range(len(data))])


@torch.no_grad()
def decoded_occupancy(
    autoencoder: VectorSetAutoencoder, latents: Float[Tensor, "b m d"], points: Float[Tensor, "n 3"]
) -> Float[Tensor, "b n"]:
    rows = [torch.cat([autoencoder.logits(row[None], part[None])[0] for part in points.split(8192)]) for row in latents]
    return (torch.stack(rows) > 0).float()


def nearest(shapes: Float[Tensor, "b n"], among: Float[Tensor, "k n"]) -> tuple[Tensor, Tensor]:
    """(IoU with, number of) the nearest of `among` for each shape; an empty one is near nothing."""
    both = shapes @ among.T
    union = shapes.sum(dim=1)[:, None] + among.sum(dim=1) - both
    found = (both / union.clamp(min=1)).max(dim=1)
    return found.values, found.indices


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--autoencoder", type=Path, required=True)
    parser.add_argument("--process", choices=PROCESSES, default="flow")
    parser.add_argument("--kind", choices=("adaptive", "token"), default="adaptive")
    parser.add_argument("--preset", choices=DENOISERS, default="small")
    parser.add_argument("--categories", nargs="+", default=list(EASY))
    parser.add_argument("--shapes", type=int, default=600, help="to learn from")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--num-steps", type=int, default=18, help="of the sampler")
    parser.add_argument("--cond-scale", type=float, default=1.0)
    parser.add_argument("--side", type=int, default=32, help="of the grid")
    parser.add_argument("--out", type=Path, default=None, help="the run's folder; not kept if not given")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    started = time.process_time()
    train, held_out = (PrimitiveDataset(n, options.categories, s) for n, s in ((options.shapes, 0), (60, 1)))
    autoencoder = VectorSetAutoencoder.from_pretrained(options.autoencoder)
    latents = latents_of(autoencoder, train, 512)
    size = {**DENOISERS[options.preset], "kind": options.kind}
    model = LatentDiffusion(
        num_latents=latents.shape[1], dim_latent=latents.shape[2], categories=tuple(options.categories),
        diffusion=PROCESSES[options.process], **size,
    )  # fmt: skip
    asked = model.conditions_of(categories=[str(name) for name in train.column("category")])
    with tempfile.TemporaryDirectory() as folder:
        trainer = LatentDiffusionTrainer(
            model, latents, asked, num_train_steps=options.steps, batch_size=min(options.batch_size, len(latents)),
            learning_rate=options.rate, ema_decay=0.995, checkpoint_folder=str(options.out or folder), progress=False,
            log_every=max(options.steps // 10, 1), checkpoint_every=options.steps,
        )  # fmt: skip
        figures = trainer()
    trained = time.process_time()
    names = [options.categories[i % len(options.categories)] for i in range(options.samples)]
    drawn = trainer.ema_model.generate(  # type: ignore[operator]
        categories=names, seed=0, num_steps=options.num_steps, cond_scale=options.cond_scale
    )
    points, known = grid(options.side), train.column("category")
    learned = true_occupancy(train, points)
    shapes, others = decoded_occupancy(autoencoder, drawn.cpu(), points), true_occupancy(held_out, points)
    (iou, near), (iou_held_out, near_held_out) = nearest(shapes, learned), nearest(others, learned)
    right = known[near.numpy()] == np.array(names, dtype=object)
    real = known[near_held_out.numpy()] == held_out.column("category")
    print(json.dumps({
        "loss": figures["error"], "explained": figures["explained"], "floor": trainer.objective.floor,
        "accuracy": float(right.mean()), "accuracy of shapes held out": float(real.mean()),
        "accuracy of each": {name: float(right[[n == name for n in names]].mean()) for name in options.categories},
        "nearest": float(iou.mean()), "nearest of shapes held out": float(iou_held_out.mean()),
        "distinct": len(set(near.tolist())) / len(near), "empty": int((shapes.sum(dim=1) == 0).sum()),
        "cpu seconds of training": round(trained - started), "cpu seconds": round(time.process_time() - started),
    }, indent=2))  # fmt: skip


if __name__ == "__main__":
    main()
