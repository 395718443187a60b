"""`meshgpt import-checkpoint`: weights of meshgpt-pytorch become a model of this package."""

import argparse
from pathlib import Path

from meshgpt.cli.inputs import named_tokenizer
from meshgpt.cli.settings import add_changes, changed
from meshgpt.errors import ConfigError


def add_commands(commands: argparse._SubParsersAction, shared: argparse.ArgumentParser) -> None:
    command = commands.add_parser(
        "import-checkpoint", parents=[shared], help="read weights of meshgpt-pytorch; nothing in the file is executed"
    )
    command.add_argument("part", choices=("transformer", "autoencoder"), help="what the file holds")
    command.add_argument("file", type=Path, help="a .pt or .safetensors file")
    command.add_argument("-o", "--out", type=Path, required=True, help="folder for the model")
    command.add_argument("--tokenizer", default="lowpoly", help="of a transformer: the one whose codes it writes")
    command.add_argument("--attn-heads", type=int, help="of a transformer, where the file does not show it")
    add_changes(command)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    from meshgpt.tokenizers.autoencoder import MeshAutoencoder
    from meshgpt.tokenizers.autoencoder_config import MeshAutoencoderConfig
    from meshgpt.transformer.import_checkpoint import import_autoencoder, import_transformer

    if arguments.part == "transformer":
        if arguments.changes:
            what = f"--set {arguments.changes[0]}: a transformer's fields are read from the file"
            raise ConfigError(f"{what}; --set is for an autoencoder")
        tokenizer = named_tokenizer(arguments.tokenizer)
        model, report = import_transformer(arguments.file, tokenizer, arguments.attn_heads)
    else:
        [keywords] = changed([(MeshAutoencoderConfig, {})], arguments)
        model = MeshAutoencoder(**keywords)
        report = import_autoencoder(arguments.file, model)
    print(report)
    print(f"saved to {model.save_pretrained(arguments.out)}")
