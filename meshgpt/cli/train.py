"""`meshgpt train tokenizer | transformer DATA`: a preset, a data set, and a folder for the run."""

import argparse
import dataclasses
import difflib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meshgpt.cli.inputs import named_tokenizer
from meshgpt.errors import ConfigError, DataError, TrainingError

if TYPE_CHECKING:
    from meshgpt.config import Config
    from meshgpt.data.augment import Augmentation
    from meshgpt.data.dataset import MeshDataset
    from meshgpt.training.trainer import Trainer


def add_commands(commands: argparse._SubParsersAction, shared: argparse.ArgumentParser) -> None:
    train = commands.add_parser("train", help="train a tokenizer, or a transformer on its tokens")
    parts = train.add_subparsers(title="models", metavar="MODEL", required=True)
    tokenizer = parts.add_parser("tokenizer", parents=[shared], help="meshes to tokens and back")
    tokenizer.set_defaults(run=run_tokenizer)
    transformer = parts.add_parser("transformer", parents=[shared], help="writes tokens, and so meshes")
    transformer.add_argument("--tokenizer", default="lowpoly", help="a run, a bundled or Hub name, or 'coordinates'")
    transformer.set_defaults(run=run_transformer)
    for part in (tokenizer, transformer):
        part.add_argument("data", help="a data set: folder, .zip, .npz or a bundled name")
        part.add_argument("--out", "-o", type=Path, required=True, help="folder of the run")
        part.add_argument("--preset", default="small", help="tiny, small or base (default: small)")
        part.add_argument("--resume", action="store_true", help="go on with the run in OUT, bit for bit")
        part.add_argument("--max-faces", type=int, help="leave longer meshes out")
        part.add_argument("--no-augment", action="store_true", help="meshes as they are, never stretched or turned")
        part.add_argument("--no-val", action="store_true", help="train on all meshes, hold none out")
        part.add_argument(
            "--set", action="append", default=[], metavar="FIELD=VALUE", dest="changes", help="a field of the preset"
        )


def run_tokenizer(arguments: argparse.Namespace) -> None:
    import torch

    from meshgpt.tokenizers.autoencoder import MeshAutoencoder
    from meshgpt.tokenizers.autoencoder_config import MeshAutoencoderConfig
    from meshgpt.training.mesh_trainers import MeshAutoencoderTrainer
    from meshgpt.training.presets import preset

    chosen = preset("tokenizer", arguments.preset)
    model, training = changed(chosen.model, chosen.training, MeshAutoencoderConfig, arguments.changes)
    data, val = datasets(arguments)
    torch.manual_seed(training.get("seed", 0))
    trainer = MeshAutoencoderTrainer(
        MeshAutoencoder(**model),
        data,
        val_dataset=val,
        augment=augmentation(arguments),
        checkpoint_folder=str(arguments.out),
        **training,
    )
    finish(trainer, arguments)
    print(f"next: meshgpt train transformer {arguments.data} --tokenizer {arguments.out} --out ...")


def run_transformer(arguments: argparse.Namespace) -> None:
    import torch

    from meshgpt.pipeline import MeshPipeline
    from meshgpt.training.mesh_trainers import MeshTransformerTrainer
    from meshgpt.training.presets import preset
    from meshgpt.transformer.config import MeshTransformerConfig
    from meshgpt.transformer.transformer import MeshTransformer

    chosen = preset("transformer", arguments.preset)
    model, training = changed(chosen.model, chosen.training, MeshTransformerConfig, arguments.changes)
    data, val = datasets(arguments)
    tokenizer = named_tokenizer(arguments.tokenizer)
    torch.manual_seed(training.get("seed", 0))
    trainer = MeshTransformerTrainer(
        MeshTransformer(tokenizer, **model),
        data,
        val_dataset=val,
        augment=augmentation(arguments),
        num_variants=1 if arguments.no_augment else chosen.num_variants,
        checkpoint_folder=str(arguments.out),
        **training,
    )
    finish(trainer, arguments)
    if trainer.is_main:
        folder = MeshPipeline(tokenizer, trainer.ema_model).to("cpu").save_pretrained(arguments.out / "pipeline")
        print(f"next: meshgpt generate --model {folder} --view")


def finish(trainer: "Trainer", arguments: argparse.Namespace) -> None:
    """Trains to the last step, from the newest checkpoint if `--resume` says so, and prints the last figures."""
    if arguments.resume and not trainer.resume():
        raise TrainingError(f"{arguments.out} has no checkpoint to resume from: leave --resume out to begin there")
    figures = trainer()
    shown = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
    print(f"{arguments.out}: step {trainer.step}, {shown}")


def datasets(arguments: argparse.Namespace) -> "tuple[MeshDataset, MeshDataset | None]":
    """What is trained on and what is held out: the splits of the data set, or a tenth of its families."""
    from meshgpt.data.dataset import MeshDataset

    data = MeshDataset(arguments.data)
    data = data if arguments.max_faces is None else data.filter(max_faces=arguments.max_faces)
    if not len(data):
        raise DataError(f"no mesh of {arguments.data} has at most {arguments.max_faces} faces")
    return (data, None) if arguments.no_val else data.train_and_val()


def augmentation(arguments: argparse.Namespace) -> "Augmentation | None":
    from meshgpt.data.augment import Augmentation

    return None if arguments.no_augment else Augmentation()


def changed(
    model: dict[str, Any], training: dict[str, Any], model_config: "type[Config]", changes: list[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The keywords of a preset with each FIELD=VALUE put where it belongs. An unknown field raises `ConfigError`."""
    from meshgpt.training.settings import TrainerConfig

    model, training = dict(model), dict(training)
    known = {field.name: training for field in dataclasses.fields(TrainerConfig)}
    known |= {field.name: model for field in dataclasses.fields(model_config)}
    for change in changes:
        name, equals, text = change.partition("=")
        if not equals or name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            advice = f"did you mean '{near[0]}'?" if near else f"fields: {', '.join(sorted(known))}"
            raise ConfigError(f"--set {change}: " + (advice if equals else "write FIELD=VALUE"))
        known[name][name] = value_of(text)
    return model, training


def value_of(text: str) -> Any:
    """A number, list, true, false or null as JSON has them; any other text as it is."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
