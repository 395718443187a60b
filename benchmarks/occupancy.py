"""Occupancy networks: single shapes, and real meshes by 300 noisy points of their surface.

    python benchmarks/occupancy.py shapes         # the example, for a torus, a chair and a mug
    python benchmarks/occupancy.py conditional    # 200 meshes of cc0-lowpoly; beside it, as many weights told nothing

Prints one JSON object.
"""

import argparse
import json
import re
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from meshgpt.data.dataset import MeshDataset
from meshgpt.data.field_store import FieldDataset
from meshgpt.data.fields import FieldConfig, build_fields
from meshgpt.mesh.solid import SolidConfig
from meshgpt.shapes.occupancy import OccupancyNetwork
from meshgpt.training.field_examples import FieldView
from meshgpt.training.field_trainers import OccupancyNetworkTrainer

EXAMPLE = Path(__file__).parent.parent / "examples" / "11_shape_as_a_field.py"


def single(options: argparse.Namespace) -> dict:
    results = {}
    for shape in ("torus", "chair", "mug"):
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        command = [sys.executable, str(EXAMPLE), "--shape", shape, "--out", str(options.out / shape)]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found = re.search(r"after (\d+) evaluations; IoU on the grid ([\d.]+)", said)
        assert found is not None
        seconds = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
        results[shape] = {"iou": float(found[2]), "evaluations": int(found[1]), "cpu_seconds": round(seconds, 1)}
    return results


def meshes(options: argparse.Namespace) -> tuple[FieldDataset, FieldDataset]:
    """200 real meshes to learn from, 40 of other families to validate on."""
    dataset, rng = MeshDataset("cc0-lowpoly").filter(max_faces=800), np.random.default_rng(0)
    parts = [dataset.split(name) for name in ("train", "val")]
    chosen = [part[rng.permutation(len(part))[:count]] for part, count in zip(parts, (200, 40), strict=True)]
    config = FieldConfig(surface=2048, sharp=0, volume=4096, near=2048, solid=SolidConfig(resolution=64))
    made = [
        build_fields(part, options.out / name, config, workers=0, progress=False)
        for part, name in zip(chosen, ("fields-train", "fields-val"), strict=True)
    ]
    return made[0], made[1]


def conditional(options: argparse.Namespace) -> dict:
    train, val = meshes(options)
    results: dict = {"solids": train.methods, "refused": len(train.refused)}
    sizes = {"dim_condition": 128, "dim_encoder": 128, "num_blocks": 3}
    told = OccupancyNetwork(dim=96, **sizes)
    limit, dim = weights(told), 96
    while weights(OccupancyNetwork(condition="none", dim=dim + 8, **sizes)) <= limit:
        dim += 8
    for name, condition, width in (("300 points", "points", 96), ("nothing", "none", dim)):
        torch.manual_seed(0)
        model, start = OccupancyNetwork(condition=condition, dim=width, **sizes), time.process_time()
        trainer = OccupancyNetworkTrainer(
            model, train, val_dataset=val, view=FieldView(cloud=300, noise=0.005, volume=512, near=256),
            num_train_steps=options.steps, batch_size=10, learning_rate=options.rate, ema_decay=0.0, val_every=200,
            val_num_batches=4, checkpoint_every=200, progress=False, checkpoint_folder=str(options.out / condition),
        )  # fmt: skip
        trainer()
        spent = round(time.process_time() - start)
        results[name] = {"val_iou": trainer.best, "weights": weights(model), "cpu_seconds": spent}
    return results


def weights(model: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("shapes", "conditional"))
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--out", type=Path, default=Path("runs/occupancy"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(json.dumps(single(options) if options.kind == "shapes" else conditional(options), indent=1))


if __name__ == "__main__":
    main()
