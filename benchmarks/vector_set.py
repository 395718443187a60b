"""The autoencoder of vector sets: shapes that were held out, encoded and brought back.

    python benchmarks/vector_set.py primitives                       # ten minutes on a core; boxes, balls, tori, ...
    python benchmarks/vector_set.py primitives --categories chair table torus mug --steps 6000
    meshgpt data fields cc0-lowpoly -o runs/fields \\
        --categories crate block plate column bottle book barrel cup table chair
    python benchmarks/vector_set.py real --data runs/fields --preset compact --steps 8000 --precision bf16   # 52 min.

Of real shapes all categories of the data are learned from, and the simple ones, which are named here, are held out.
Prints the curve of the held-out IoU, and then IoU, Chamfer distance and F-score as JSON. `solid_iou` is of the `solid`
shapes that hold a ball of radius 0.1 in the box from -1 to 1; the others are frames, and vessels of thin walls.
"""

import argparse
import dataclasses
import json
import time
from pathlib import Path

import numpy as np
import torch

from meshgpt.cli.settings import add_changes, changed
from meshgpt.data.field_store import FieldDataset
from meshgpt.data.primitives import PrimitiveDataset
from meshgpt.evaluation.fields import report_fields
from meshgpt.mesh.isosurface import ExtractionConfig
from meshgpt.mesh.picture import contact_sheet, save_png
from meshgpt.mesh.primitives import EASY
from meshgpt.shapes.vecset import VectorSetAutoencoder, VectorSetConfig, vector_set_preset
from meshgpt.training.field_examples import FieldExamples, FieldView
from meshgpt.training.field_trainers import VectorSetTrainer

SIMPLE = ("crate", "block", "plate", "column", "bottle", "book", "barrel", "cup")
BALL = 0.1  # what a shape of no thin walls has room for
DENSE = (2048, 384)  # points and latents, where a model can be told by more of both than it has learned from
SOLIDS = ("closed", "winding")  # of becoming solid, for meshes that are solids


class Timed(VectorSetTrainer):
    """Prints the curve."""

    began = 0.0

    def log(self, **figures: float) -> None:
        super().log(**figures)
        if "val_iou" in figures and self.is_main:
            seconds = f"{time.monotonic() - self.began:6.0f} s  {time.process_time():6.0f} CPU s"
            print(f"step {self.step:6d}  {seconds}  IoU {figures['val_iou']:.4f}", flush=True)


def datasets(options: argparse.Namespace):
    """Shapes to learn from, and shapes held out."""
    if options.kind == "primitives":
        made = [PrimitiveDataset(count, options.categories, seed) for count, seed in ((options.shapes, 0), (60, 1))]
        return made[0], made[1]
    found = FieldDataset(options.data)
    held_out = found.filter(split="val", methods=SOLIDS)
    held_out = held_out.select(np.flatnonzero(np.isin(held_out.column("category"), SIMPLE)))
    print(f"held out are {', '.join(sorted(set(held_out.column('category'))))}", flush=True)
    return found.filter(split="train", methods=(*SOLIDS, "fill")), held_out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("primitives", "real"))
    parser.add_argument("--data", default="runs/fields")
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--categories", nargs="+", default=list(EASY))
    parser.add_argument("--shapes", type=int, default=600)
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--precision", default="no", choices=("no", "bf16"))
    parser.add_argument("--target", default="occupancy", choices=("occupancy", "distance"))
    add_changes(parser)
    parser.add_argument("--points", type=int, default=512, help="of the volume, and as many near the surface, at once")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/vector-set"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    train, val = datasets(options)
    preset = vector_set_preset(options.preset).replace(target=options.target)
    [fields] = changed([(VectorSetConfig, preset.to_dict())], options)
    config = VectorSetConfig.from_dict(fields)
    model = VectorSetAutoencoder(config)
    count = sum(weight.numel() for weight in model.parameters())
    print(f"{len(train)} shapes to learn from, {len(val)} held out; {count / 1e6:.2f} M weights", flush=True)
    real = options.kind == "real"
    view = FieldView(cloud=512, volume=options.points, near=options.points)
    if real:
        view = view.replace(cloud=1024, stretch=0.25, mirror=True, turn=True)
    every = max(options.steps // 10, 1)
    trainer = Timed(
        model, train, val_dataset=val, view=view, num_train_steps=options.steps, batch_size=options.batch_size,
        learning_rate=options.rate, ema_decay=0.999 if real else 0.99,
        mixed_precision=options.precision, val_every=every, val_num_batches=-(-len(val) // options.batch_size),
        checkpoint_every=every, checkpoint_folder=str(options.out), progress=False, log_every=100,
    )  # fmt: skip
    if any((options.out / "checkpoints").glob("*")):
        trainer.resume()
    trainer.began = time.monotonic()
    trainer()
    trainer.restore_best()
    report = report_fields(model, val, cloud=view.cloud, extraction=ExtractionConfig(resolution=64), count=2048)
    print(report)
    figures = {name: value for name, value in dataclasses.asdict(report).items() if name != "iou_of_each"}
    thick = np.array([val[i].volume[:, 3].max() >= BALL for i in range(len(val))])
    figures |= {"solid": int(thick.sum()), "solid_iou": float(np.array(report.iou_of_each)[thick].mean())}
    if config.fewest_latents is not None:
        dense = report_fields(model, val, cloud=DENSE[0], num_latents=DENSE[1])
        figures["dense"] = {"points": DENSE[0], "latents": DENSE[1], "iou": dense.iou}
        figures["dense"]["solid_iou"] = float(np.array(dense.iou_of_each)[thick].mean())
    print(json.dumps({**figures, "best": trainer.best, "cpu_seconds": round(time.process_time())}))
    save_png(sheet(model, val, view), options.out / "held-out.png")


def sheet(model: VectorSetAutoencoder, val, view: FieldView) -> np.ndarray:
    """What came back of some held-out shapes."""
    shown = FieldExamples(val, view.replace(stretch=0.0, mirror=False, turn=False))
    clouds = torch.from_numpy(np.stack([shown.get(i, 0).sample.surface for i in range(min(len(val), 16))]))
    found = model.extract(model.encode(clouds), ExtractionConfig(resolution=64))
    return contact_sheet([item.mesh for item in found if item.mesh.num_faces], size=200, columns=4)


if __name__ == "__main__":
    main()
