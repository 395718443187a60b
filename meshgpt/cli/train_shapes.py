"""`meshgpt train shapes-autoencoder | shapes-denoiser FIELDS`: shapes to latents and back, and latents from noise."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meshgpt.cli.runs import add_run, check_changes, finish
from meshgpt.cli.settings import changed
from meshgpt.errors import CheckpointError, DataError

if TYPE_CHECKING:
    from meshgpt.shapes.diffusion.process import DiffusionConfig
    from meshgpt.shapes.latent_diffusion import LatentDiffusion
    from meshgpt.shapes.vecset import VectorSetAutoencoder
    from meshgpt.training.field_examples import FieldView

CONDITIONS = ("category", "text", "points")
OBJECTIVES = ("flow", "edm", "v")
PRIMITIVES = "primitives"  # a data set without files
STRETCH = {"autoencoder": 0.2, "denoiser": 0.15}
HELD_OUT = 0.1


def add_parts(parts: argparse._SubParsersAction, shared: argparse.ArgumentParser) -> None:
    autoencoder = parts.add_parser("shapes-autoencoder", parents=[shared], help="shapes as fields to latents and back")
    sizes = "tiny, compact (for real solids), small, or one of the paper, such as kl_d512_m512_l32 (default: small)"
    autoencoder.add_argument("--preset", default="small", help=sizes)
    autoencoder.set_defaults(run=run_autoencoder)
    denoiser = parts.add_parser("shapes-denoiser", parents=[shared], help="latents from noise, and so shapes")
    denoiser.add_argument("--autoencoder", type=Path, required=True, metavar="RUN", help="of shapes-autoencoder")
    sizes = "tiny, small, base, large, or mini, full with time as a token (default: small)"
    denoiser.add_argument("--preset", default="small", help=sizes)
    kinds = "what it can be asked for; categories are those of the data"
    denoiser.add_argument("--condition", nargs="+", choices=CONDITIONS, default=[], metavar="KIND", help=kinds)
    what = "flow matching, EDM or v-prediction (default: flow); --set diffusion.FIELD=VALUE for others"
    denoiser.add_argument("--objective", choices=OBJECTIVES, default="flow", help=what)
    many = "so many encodings of each shape, by other points and augmented (default: 4)"
    denoiser.add_argument("--variants", type=int, default=4, metavar="N", help=many)
    denoiser.set_defaults(run=run_denoiser)
    for part in (autoencoder, denoiser):
        part.add_argument("data", metavar="FIELDS", help=f"of `meshgpt data fields`, or '{PRIMITIVES}': 600 made ones")
        part.add_argument("--categories", nargs="+", metavar="NAME", help="only shapes of these")
        ways = "only shapes that were made solid in these ways: closed winding fill shell"
        part.add_argument("--methods", nargs="+", metavar="WAY", default=(), help=ways)
        part.add_argument("--cloud", type=int, default=512, metavar="N", help="points that are encoded (default: 512)")
        part.add_argument("--no-augment", action="store_true", help="shapes as they are, never stretched or mirrored")
        part.add_argument("--no-val", action="store_true", help="train on all shapes, hold none out")
        add_run(part)


def run_autoencoder(arguments: argparse.Namespace) -> None:
    import torch

    from meshgpt.shapes.vecset import VectorSetAutoencoder, VectorSetConfig, vector_set_preset
    from meshgpt.training.field_examples import FieldView
    from meshgpt.training.field_trainers import VectorSetTrainer
    from meshgpt.training.presets import field_training
    from meshgpt.training.settings import TrainerConfig

    model = vector_set_preset(arguments.preset).to_dict()
    view = {"cloud": arguments.cloud, "volume": 512, "near": 512, **augmentation(arguments, "autoencoder")}
    configs = ((TrainerConfig, field_training("autoencoder", arguments.preset)), (VectorSetConfig, model))
    training, model, view = changed((*configs, (FieldView, view, "view.")), arguments)
    if model["target"] == "distance":
        view["stretch"] = 0.0  # which would make distances wrong
    data, val = datasets(arguments)
    torch.manual_seed(training.get("seed", 0))
    trainer = VectorSetTrainer(
        VectorSetAutoencoder(**model),
        data,
        val_dataset=val,
        view=FieldView.from_dict(view),
        checkpoint_folder=str(arguments.out),
        **training,
    )
    finish(trainer, arguments)
    if trainer.is_main:
        best = "" if trainer.best is None else f", the best of step {trainer.best['step']} in {trainer.best_folder}"
        print(f"IoU on shapes held out{best}" if best else "no shapes were held out")
        print(f"next: meshgpt train shapes-denoiser {arguments.data} --autoencoder {arguments.out} --out ...")


def run_denoiser(arguments: argparse.Namespace) -> None:
    import torch

    from meshgpt.shapes.denoiser_config import DENOISERS
    from meshgpt.shapes.diffusion.process import DiffusionConfig
    from meshgpt.shapes.latent_diffusion import LatentDiffusion, LatentDiffusionConfig
    from meshgpt.shapes.pipeline import ShapePipeline, ShapePipelineConfig
    from meshgpt.training.asked_latents import asked_latents, latents_of_shapes
    from meshgpt.training.field_examples import FieldExamples
    from meshgpt.training.latent_trainer import LatentDiffusionTrainer
    from meshgpt.training.presets import field_training, named
    from meshgpt.training.settings import TrainerConfig

    size = named(DENOISERS, arguments.preset, "denoiser")
    autoencoder, (data, val) = best_autoencoder(arguments.autoencoder), datasets(arguments)
    latent = {"num_latents": autoencoder.config.num_latents, "dim_latent": autoencoder.config.dim_latent}
    fields = {**latent, **size, **condition_fields(arguments.condition, data)}
    process = objective(arguments.objective)
    configs = ((TrainerConfig, field_training("denoiser", arguments.preset)), (LatentDiffusionConfig, fields))
    training, fields, changes = changed((*configs, (DiffusionConfig, process.to_dict(), "diffusion.")), arguments)
    seed = training.get("seed", 0)
    torch.manual_seed(seed)
    model = LatentDiffusion(**{**fields, "diffusion": DiffusionConfig.from_dict(changes)})
    shapes = FieldExamples(data, view_of(arguments, "denoiser"), seed)
    autoencoder.to("cuda" if torch.cuda.is_available() else "cpu")
    latents = latents_of_shapes(autoencoder, shapes, arguments.variants, arguments.out / "latents.safetensors")
    told, plain = arguments.out / "texts", {}
    if val is not None:
        held_out = FieldExamples(val, view_of(arguments, None), seed)
        kept = latents_of_shapes(autoencoder, held_out, 1, arguments.out / "val-latents.safetensors")
        plain = {"val_latents": asked_latents(model, kept, held_out, told, seed, exact=True)}
    training["batch_size"] = min(training["batch_size"], len(latents))
    asked = asked_latents(model, latents, shapes, told, seed)
    trainer = LatentDiffusionTrainer(model, asked, **plain, checkpoint_folder=str(arguments.out), **training)
    finish(trainer, arguments)
    if trainer.is_main:
        averaged, config = (
            LatentDiffusion.from_pretrained(arguments.out),
            ShapePipelineConfig(num_points=arguments.cloud),
        )
        folder = ShapePipeline(autoencoder, averaged, config).save_pretrained(arguments.out / "pipeline")
        print(f"next: meshgpt shapes generate{example(averaged, data)} --model {folder} --view")


def example(model: "LatentDiffusion", data: Any) -> str:
    """What a model could be asked for, as words of a command."""
    categories, kinds = model.config.categories, model.config.kinds
    known = [*categories, *(str(name) for name in data.column("category")), "shape"]
    wishes = {"text": f' "a {next(filter(None, known))}"', "category": f" --category {next(iter(categories), '')}"}
    return "".join(wish for kind, wish in {**wishes, "points": " --points scan.ply"}.items() if kind in kinds)


def objective(name: str) -> "DiffusionConfig":
    from meshgpt.shapes.diffusion.process import EDM_CONFIG, V_CONFIG, DiffusionConfig

    return {"flow": DiffusionConfig(), "edm": EDM_CONFIG, "v": V_CONFIG}[name]


def best_autoencoder(run: Path) -> "VectorSetAutoencoder":
    """The best by validation in a run, else what is in the folder. Raises `CheckpointError` for another model."""
    from meshgpt.checkpoint import CONFIG_FILE, find_model, saved_class
    from meshgpt.shapes.vecset import VectorSetAutoencoder
    from meshgpt.training.field_trainers import BEST

    folder = run / BEST if (run / BEST / CONFIG_FILE).is_file() else find_model(run, VectorSetAutoencoder.part)
    if saved_class(folder) != VectorSetAutoencoder.__name__:
        what = f"--autoencoder {run} holds a {saved_class(folder)}, not a VectorSetAutoencoder"
        raise CheckpointError(f"{what}: train one with `meshgpt train shapes-autoencoder`")
    return VectorSetAutoencoder.from_pretrained(folder)


def condition_fields(kinds: list[str], data: Any) -> dict[str, Any]:
    """The fields of a denoiser's config for `--condition`."""
    fields: dict[str, Any] = {f"condition_on_{kind}": True for kind in kinds if kind != "category"}
    if "category" in kinds:
        names = tuple(sorted({str(name) for name in data.column("category")} - {""}))
        if not names:
            raise DataError("--condition category: no shape of the data has a category")
        fields["categories"] = names
    return fields


def augmentation(arguments: argparse.Namespace, model: str | None) -> dict[str, Any]:
    """The fields of a view that change shapes; none for no model."""
    return {} if arguments.no_augment or model is None else {"stretch": STRETCH[model], "mirror": True}


def view_of(arguments: argparse.Namespace, model: str | None) -> "FieldView":
    """What is seen of a shape that is encoded."""
    from meshgpt.training.field_examples import FieldView

    return FieldView(cloud=arguments.cloud, volume=1, near=0, **augmentation(arguments, model))


def datasets(arguments: argparse.Namespace) -> tuple[Any, Any]:
    """Shapes to learn from and shapes held out: the splits of the data, or a tenth of it; None where none are.

    Raises `DataError` where nothing is left to learn from.
    """
    import numpy as np

    from meshgpt.data.field_store import FieldDataset
    from meshgpt.data.primitives import PrimitiveDataset
    from meshgpt.mesh.primitives import EASY

    check_changes(arguments)
    if arguments.data == PRIMITIVES and not Path(PRIMITIVES).exists():
        made, held_out = (
            PrimitiveDataset(count, arguments.categories or EASY, seed) for count, seed in ((600, 0), (60, 1))
        )
        return made, None if arguments.no_val else held_out
    found = FieldDataset(arguments.data).filter(categories=arguments.categories, methods=arguments.methods)
    held_out = found.column("split") == "val"
    if not held_out.any():
        order = np.random.default_rng(0).permutation(len(found))
        held_out[order[: round(HELD_OUT * len(found))]] = True
    if not len(found) or (held_out.all() and not arguments.no_val):
        raise DataError(f"{arguments.data}: {len(found)} shapes are as wanted, none of them to learn from")
    if arguments.no_val or not held_out.any():
        return found, None
    return found.select(np.flatnonzero(~held_out)), found.select(np.flatnonzero(held_out))
