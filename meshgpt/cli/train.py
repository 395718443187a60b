"""`meshgpt train tokenizer | transformer DATA`: a preset, a data set, and a folder for the run.

`train shapes-autoencoder | shapes-denoiser FIELDS` are in `train_shapes`.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meshgpt.cli import train_shapes
from meshgpt.cli.inputs import named_tokenizer
from meshgpt.cli.runs import add_run, check_changes, finish
from meshgpt.cli.settings import add_changes, changed
from meshgpt.errors import CheckpointError, ConfigError, DataError

if TYPE_CHECKING:
    import numpy as np

    from meshgpt.data.augment import Augmentation
    from meshgpt.data.dataset import MeshDataset
    from meshgpt.tokenizers.tokenizer import MeshTokenizer
    from meshgpt.transformer.transformer import MeshTransformer

CRITIC_WEIGHT = 0.3  # of a logit beside the nats of `doubt`
BALANCE = ("none", "category", "source", "faces")
CONDITIONS = {
    "text": "condition_on_text",
    "category": "categories",
    "faces": "condition_on_faces",
    "points": "condition_on_points",
}


def add_commands(commands: argparse._SubParsersAction, shared: argparse.ArgumentParser) -> None:
    train = commands.add_parser("train", help="train a tokenizer, a transformer on its tokens, or models of fields")
    parts = train.add_subparsers(title="models", metavar="MODEL", required=True)
    tokenizer = parts.add_parser("tokenizer", parents=[shared], help="meshes to tokens and back")
    tokenizer.set_defaults(run=run_tokenizer)
    transformer = parts.add_parser("transformer", parents=[shared], help="writes tokens, and so meshes")
    which = "patches (the default), coordinates, half-edges or strips; a run, a bundled or Hub name for a learned one"
    transformer.add_argument("--tokenizer", default="patches", help=which)
    kinds = "what it can be asked for; points are of the surface, categories those of the data"
    transformer.add_argument("--condition", nargs="+", choices=CONDITIONS, default=[], metavar="KIND", help=kinds)
    begin = "begin with the weights of a transformer, which may take other conditions: a run, bundled or Hub name"
    transformer.add_argument("--init", metavar="MODEL", help=begin)
    pieces = "learn from pieces of at most N faces of long meshes, with a window of N faces (or --set window=...)"
    transformer.add_argument("--piece-faces", type=int, metavar="N", help=pieces)
    transformer.set_defaults(run=run_transformer)
    for part in (tokenizer, transformer):
        part.add_argument("data", help="a data set: folder, .zip, .npz or a bundled name")
        part.add_argument("--preset", default="small", help="tiny, small or base (default: small)")
        part.add_argument("--max-faces", type=int, help="leave longer meshes out")
        part.add_argument("--no-augment", action="store_true", help="meshes as they are, never stretched or turned")
        balance = "draw meshes so that every category, source or size is seen equally often (default: none)"
        part.add_argument("--balance", choices=BALANCE, default="none", help=balance)
        part.add_argument("--no-val", action="store_true", help="train on all meshes, hold none out")
        add_run(part)
    critic = parts.add_parser("critic", parents=[shared], help="tells what a pipeline writes from real meshes")
    critic.add_argument("pipeline", help="a pipeline folder, a Hub name, or a bundled name such as lowpoly")
    critic.add_argument("data", help="a data set of real meshes: folder, .zip, .npz or a bundled name")
    critic.add_argument("--max-faces", type=int, help="leave longer meshes out")
    critic.add_argument("--no-val", action="store_true", help="learn from all meshes but a fifth, whatever their split")
    weight = "of its logit in the choice among candidates, beside their form (default: %(default)s)"
    critic.add_argument("--weight", type=float, default=CRITIC_WEIGHT, help=weight)
    critic.add_argument("-o", "--out", type=Path, required=True, help="folder of the pipeline with its critic")
    add_changes(critic)
    critic.set_defaults(run=run_critic)
    train_shapes.add_parts(parts, shared)


def run_critic(arguments: argparse.Namespace) -> None:
    from meshgpt.critic import MeshCritic, MeshCriticConfig
    from meshgpt.pipeline import MeshPipeline
    from meshgpt.training.critics import CriticTraining, train_critic

    training, model = changed(((CriticTraining, {}), (MeshCriticConfig, {})), arguments)
    if arguments.weight <= 0:
        raise ConfigError(f"--weight must be above 0, got {arguments.weight:g}")
    data, val = datasets(arguments)
    pipeline = MeshPipeline.from_pretrained(arguments.pipeline)
    critic = train_critic(pipeline, data, val, CriticTraining.from_dict(training), MeshCritic(**model))
    config = pipeline.config.replace(retouch=True, critic_weight=arguments.weight)
    folder = MeshPipeline(pipeline.tokenizer, pipeline.transformer, config, critic).save_pretrained(arguments.out)
    print(f"a real mesh before a written one in {critic.config.accuracy:.1%} of pairs that it did not learn from")
    print(f"next: meshgpt generate --model {folder} --view")


def run_tokenizer(arguments: argparse.Namespace) -> None:
    import torch

    from meshgpt.tokenizers.autoencoder import MeshAutoencoder
    from meshgpt.tokenizers.autoencoder_config import MeshAutoencoderConfig
    from meshgpt.training.mesh_trainers import MeshAutoencoderTrainer
    from meshgpt.training.presets import preset
    from meshgpt.training.settings import TrainerConfig

    chosen = preset("tokenizer", arguments.preset)
    training, model = changed(((TrainerConfig, chosen.training), (MeshAutoencoderConfig, chosen.model)), arguments)
    data, val = datasets(arguments)
    torch.manual_seed(training.get("seed", 0))
    trainer = MeshAutoencoderTrainer(
        MeshAutoencoder(**model),
        data,
        val_dataset=val,
        weights=weights(data, arguments.balance),
        augment=augmentation(arguments),
        checkpoint_folder=str(arguments.out),
        **training,
    )
    finish(trainer, arguments)
    print(f"next: meshgpt train transformer {arguments.data} --tokenizer {arguments.out} --out ...")


def run_transformer(arguments: argparse.Namespace) -> None:
    import torch

    from meshgpt.mesh.clouds import CloudAugmentation
    from meshgpt.pipeline import MeshPipeline
    from meshgpt.text.captions import CaptionWriter
    from meshgpt.training.asked import CLOUDS
    from meshgpt.training.mesh_trainers import MeshTransformerTrainer
    from meshgpt.training.presets import preset
    from meshgpt.training.settings import TrainerConfig
    from meshgpt.transformer.config import MeshTransformerConfig
    from meshgpt.transformer.transformer import MeshTransformer
    from meshgpt.transformer.warm_start import initialise_from

    chosen = preset("transformer", arguments.preset)
    data, val = datasets(arguments)
    tokenizer = named_tokenizer(arguments.tokenizer)
    fields = {**chosen.model_for(tokenizer), **condition_fields(arguments.condition, data)}
    fields |= {} if arguments.piece_faces is None else {"window": arguments.piece_faces}
    configs = ((TrainerConfig, chosen.training), (MeshTransformerConfig, fields))
    asking = ((CaptionWriter, {}, "captions."), (CloudAugmentation, {}, "clouds."))
    training, model, captions, clouds = changed((*configs, *asking), arguments)
    torch.manual_seed(training.get("seed", 0))
    transformer = MeshTransformer(tokenizer, **model)
    if arguments.init is not None:
        report = initialise_from(transformer, beginning(arguments.init, tokenizer))
        print(f"{arguments.init}: {report.summary}")
    trainer = MeshTransformerTrainer(
        transformer,
        data,
        val_dataset=val,
        weights=weights(data, arguments.balance),
        augment=augmentation(arguments),
        num_variants=1 if arguments.no_augment else chosen.num_variants,
        captions=CaptionWriter.from_dict(captions) if captions else None,
        piece_faces=arguments.piece_faces,
        clouds=CloudAugmentation.from_dict({**CLOUDS.to_dict(), **clouds}) if clouds else None,
        checkpoint_folder=str(arguments.out),
        **training,
    )
    finish(trainer, arguments)
    if trainer.is_main:
        averaged = MeshTransformer.from_pretrained(arguments.out, tokenizer)
        folder = MeshPipeline(tokenizer, averaged).save_pretrained(arguments.out / "pipeline")
        print(f"next: meshgpt generate --model {folder} --view")


def beginning(name: str, tokenizer: "MeshTokenizer") -> "MeshTransformer":
    """The transformer that `--init` names, told what its own tokenizer tells where that lies beside it."""
    from meshgpt.checkpoint import find_model
    from meshgpt.tokenizers.patch import PatchTokenizer
    from meshgpt.transformer.transformer import MeshTransformer

    for folder in (name, Path(name) / "pipeline") if isinstance(tokenizer, PatchTokenizer) else ():
        try:
            own = PatchTokenizer.from_pretrained(find_model(folder, PatchTokenizer.part))
        except CheckpointError:
            continue
        return MeshTransformer.from_pretrained(name, own)
    return MeshTransformer.from_pretrained(name, tokenizer)


def condition_fields(kinds: list[str], data: "MeshDataset") -> dict[str, Any]:
    """The fields of a transformer's config for `--condition`."""
    if "category" in kinds and not data.categories:
        raise DataError(f"--condition category: no mesh of {data!r} has a category")
    fields = {CONDITIONS[kind]: True for kind in kinds if kind != "category"}
    return {**fields, "categories": tuple(data.categories)} if "category" in kinds else fields


def datasets(arguments: argparse.Namespace) -> "tuple[MeshDataset, MeshDataset | None]":
    """What is trained on and what is held out: the splits of the data set, or a tenth of its families."""
    from meshgpt.data.dataset import MeshDataset

    check_changes(arguments)
    data = MeshDataset(arguments.data)
    data = data if arguments.max_faces is None else data.filter(max_faces=arguments.max_faces)
    if not len(data):
        raise DataError(f"no mesh of {arguments.data} has at most {arguments.max_faces} faces")
    return (data, None) if arguments.no_val else data.train_and_val()


def weights(data: "MeshDataset", balance: str) -> "np.ndarray | None":
    """How often each mesh is drawn for `--balance`."""
    return None if balance == "none" else data.balanced_weights((balance,))


def augmentation(arguments: argparse.Namespace) -> "Augmentation | None":
    from meshgpt.data.augment import Augmentation

    return None if arguments.no_augment else Augmentation()
