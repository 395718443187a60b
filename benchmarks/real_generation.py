"""Shapes of real categories from noise: latent diffusion over the sets of an autoencoder of real solids.

    meshgpt data fields cc0-lowpoly -o runs/fields \\
        --categories crate block plate column bottle book barrel cup table chair
    python benchmarks/vector_set.py real --data runs/fields --preset compact --steps 8000 \\
        --precision bf16 --out runs/real
    python benchmarks/real_generation.py --data runs/fields --autoencoder runs/real/best --latents 96 --out runs/shapes

Shapes that the autoencoder does not bring back are left out. Each other one is encoded several times: other points,
mirrored, with its axes scaled a little. Samples of each category in turn become meshes, and the bundled recognizer says
which of the categories they look most like. Beside its accuracy on them stands that on held-out meshes as their authors
made them, and on what the autoencoder makes of those it brings back. Nearest: the mean IoU with the nearest training
shape, as decoded; that of held-out shapes. Prints one JSON object, and writes a picture of the first samples and the
model, as `meshgpt shapes generate --model` reads it.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from latent_generation import PROCESSES, decoded_occupancy, grid, nearest
from torch import Tensor

from meshgpt.data.dataset import MeshDataset
from meshgpt.data.field_store import FieldDataset
from meshgpt.evaluation.evaluate import EVALUATORS
from meshgpt.evaluation.fields import report_fields
from meshgpt.evaluation.recognition import ShapeRecognizer
from meshgpt.mesh.isosurface import ExtractionConfig
from meshgpt.mesh.mesh import Mesh
from meshgpt.mesh.picture import contact_sheet, save_png
from meshgpt.shapes.denoiser_config import DENOISERS
from meshgpt.shapes.latent_diffusion import LatentDiffusion
from meshgpt.shapes.latents import encoded
from meshgpt.shapes.pipeline import ShapePipeline, ShapePipelineConfig
from meshgpt.shapes.vecset import VectorSetAutoencoder
from meshgpt.training.field_examples import FieldExamples, FieldView
from meshgpt.training.latent_trainer import LatentDiffusionTrainer

CATEGORIES = ("barrel", "bottle", "column", "crate", "plate", "table")
SOLID = ("closed", "winding", "fill")  # ways of becoming solid: all but sheets that were given a thickness


def latents_of(
    autoencoder: VectorSetAutoencoder, data: FieldDataset, view: FieldView, views: int, number: int | None
) -> Float[Tensor, "n m d"]:
    """Of all shapes as they are seen first, then of all as they are seen next, ...; so many latents of each."""
    examples = FieldExamples(data, view)
    clouds = [examples.get(i, epoch).sample.surface for epoch in range(views) for i in range(len(data))]
    return encoded(autoencoder, [(some, None, number) for some in torch.from_numpy(np.stack(clouds)).split(16)])


def brought_back(autoencoder: VectorSetAutoencoder, data: FieldDataset, cloud: int, least_iou: float) -> FieldDataset:
    """The shapes that the autoencoder can tell: what is torn when decoded is nothing to learn from."""
    found = np.array(report_fields(autoencoder, data, cloud=cloud).iou_of_each)
    return data.select(np.flatnonzero(found >= least_iou))


def recognized(recognizer: ShapeRecognizer, meshes: list[Mesh], names: list[str], among: tuple[str, ...]) -> list[bool]:
    """Whether each mesh looks more like what it should be than like the other categories."""
    columns = [recognizer.config.categories.index(name) for name in among]
    found = recognizer.recognize(meshes)
    best = found.logits[:, columns].argmax(dim=1)
    return [bool(seen) and among[int(i)] == name for i, seen, name in zip(best, found.seen, names, strict=True)]


def by_category(right: list[bool], names: list[str]) -> dict[str, float]:
    return {
        name: round(float(np.mean([r for r, n in zip(right, names, strict=True) if n == name])), 3)
        for name in dict.fromkeys(names)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="of `meshgpt data fields`")
    parser.add_argument("--meshes", default="cc0-lowpoly", help="what those are fields of")
    parser.add_argument("--autoencoder", type=Path, required=True)
    parser.add_argument("--process", choices=PROCESSES, default="flow")
    parser.add_argument("--preset", choices=DENOISERS, default="small")
    parser.add_argument("--categories", nargs="+", default=list(CATEGORIES))
    parser.add_argument("--cloud", type=int, default=1024)
    parser.add_argument("--least-iou", type=float, default=0.75, help="with which the autoencoder brings a shape back")
    parser.add_argument("--views", type=int, default=16, help="of each training shape")
    parser.add_argument("--latents", type=int, help="of a set (default: as many as the autoencoder has)")
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--each", type=int, default=16, help="samples of each category")
    parser.add_argument("--num-steps", type=int, default=18, help="of the sampler")
    parser.add_argument("--cond-scale", type=float, default=2.5)
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--out", type=Path, default=Path("runs/shapes"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    among = tuple(options.categories)
    data = FieldDataset(options.data).filter(categories=among, methods=SOLID)
    autoencoder = VectorSetAutoencoder.from_pretrained(options.autoencoder)
    parts = (data.filter(split=name) for name in ("train", "val"))
    train, held_out = (brought_back(autoencoder, part, options.cloud, options.least_iou) for part in parts)
    plain = FieldView(cloud=options.cloud, volume=1, near=0)
    moved = plain.replace(stretch=0.15, mirror=True)
    latents = latents_of(autoencoder, train, moved, options.views, options.latents)
    names = [str(name) for name in train.column("category")] * options.views
    model, figures, seconds = trained(options, among, latents, names)
    asked = [name for _ in range(options.each) for name in among]
    drawn = model.generate(categories=asked, seed=0, num_steps=options.num_steps, cond_scale=options.cond_scale)
    settings = ShapePipelineConfig(
        num_points=options.cloud, num_steps=options.num_steps, cond_scale=options.cond_scale, resolution=96
    )
    ShapePipeline(autoencoder, model, settings).save_pretrained(options.out / "pipeline", dtype="bfloat16")
    known, unknown = (latents_of(autoencoder, part, plain, 1, options.latents) for part in (train, held_out))
    extraction = ExtractionConfig(resolution=options.resolution, keep_share=0.01)
    meshes, again = ([found.mesh for found in autoencoder.extract(rows, extraction)] for rows in (drawn, unknown))
    shown = [mesh for mesh in meshes[:48] if mesh.num_faces]
    save_png(contact_sheet(shown, size=150, columns=len(among)), options.out / "samples.png")
    recognizer = ShapeRecognizer.from_pretrained(EVALUATORS)
    real = MeshDataset(options.meshes).filter(categories=among).split("val")
    real_names, again_names = ([str(name) for name in part.column("category")] for part in (real, held_out))
    right = recognized(recognizer, meshes, asked, among)
    right_real = recognized(recognizer, [real.mesh(i) for i in range(len(real))], real_names, among)
    right_again = recognized(recognizer, again, again_names, among)
    points = grid(24)
    shapes, learned, others = (decoded_occupancy(autoencoder, rows, points) for rows in (drawn, known, unknown))
    (iou, near), (iou_held_out, _) = nearest(shapes, learned), nearest(others, learned)
    print(json.dumps({
        "training shapes": len(train), "loss": figures["error"], "explained": figures["explained"],
        "samples": len(asked), "accuracy": round(float(np.mean(right)), 4), "of each": by_category(right, asked),
        "real held-out meshes": len(real), "accuracy on them": round(float(np.mean(right_real)), 4),
        "of each of them": by_category(right_real, real_names),
        "accuracy on their reconstructions": round(float(np.mean(right_again)), 4),
        "nearest": round(float(iou.mean()), 4), "nearest of shapes held out": round(float(iou_held_out.mean()), 4),
        "distinct": round(len(set(near.tolist())) / len(near), 3), "empty": sum(not mesh.num_faces for mesh in meshes),
        "cpu seconds of training": seconds, "cpu seconds": round(time.process_time()),
    }, indent=2))  # fmt: skip


def trained(
    options: argparse.Namespace, among: tuple[str, ...], latents: Float[Tensor, "n m d"], names: list[str]
) -> tuple[LatentDiffusion, dict[str, float], int]:
    """The averaged model, its last figures, and the CPU seconds that it took."""
    started = time.process_time()
    model = LatentDiffusion(
        num_latents=latents.shape[1], dim_latent=latents.shape[2], categories=among,
        diffusion=PROCESSES[options.process], **DENOISERS[options.preset],
    )  # fmt: skip
    trainer = LatentDiffusionTrainer(
        model, latents, model.conditions_of(categories=names), num_train_steps=options.steps,
        batch_size=options.batch_size, learning_rate=options.rate, ema_decay=0.995, progress=False,
        log_every=max(options.steps // 10, 1), checkpoint_every=options.steps,
        checkpoint_folder=str(options.out / "run"),
    )  # fmt: skip
    if any((options.out / "run" / "checkpoints").glob("*")):
        trainer.resume()
    figures = trainer()
    return trainer.ema_model, figures, round(time.process_time() - started)  # type: ignore[return-value]


if __name__ == "__main__":
    main()
