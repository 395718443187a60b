"""What all training commands share: the folder of a run, resuming, and how a run ends."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from meshgpt.cli.settings import add_changes
from meshgpt.errors import ConfigError, TrainingError

if TYPE_CHECKING:
    from meshgpt.training.trainer import Trainer


def add_run(part: argparse.ArgumentParser) -> None:
    part.add_argument("--out", "-o", type=Path, required=True, help="folder of the run")
    part.add_argument("--resume", action="store_true", help="go on with the run in OUT, bit for bit")
    add_changes(part)


def check_changes(arguments: argparse.Namespace) -> None:
    """Raises `ConfigError` for a `--set` of what another argument names."""
    if any(change.startswith("checkpoint_folder=") for change in arguments.changes):
        raise ConfigError("--set checkpoint_folder: the folder of a run is named by --out")


def finish(trainer: "Trainer", arguments: argparse.Namespace) -> None:
    """Trains to the last step, from the newest checkpoint if `--resume` says so, and prints the last figures."""
    if arguments.resume and not trainer.resume():
        raise TrainingError(f"{arguments.out} has no checkpoint to resume from: leave --resume out to begin there")
    figures = trainer()
    shown = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
    print(f"{arguments.out}: step {trainer.step}, {shown}")
