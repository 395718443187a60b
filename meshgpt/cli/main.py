"""`meshgpt`: the parser of all commands, and how errors end."""

import argparse
import os
import sys
from collections.abc import Sequence

from meshgpt import __version__
from meshgpt.cli import (
    complete,
    data,
    demo,
    doctor,
    evaluate,
    generate,
    imports,
    pictures,
    retopo,
    shapes,
    tokens,
    train,
    tune,
)
from meshgpt.errors import MeshGPTError

GROUPS = (generate, retopo, complete, shapes, demo, data, train, tune, evaluate, tokens, pictures, imports, doctor)
ERROR, INTERRUPTED = 1, 130


def parser() -> argparse.ArgumentParser:
    """The parser; each command leaves the function that runs it in `run`."""
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help="show the whole traceback of an error"
    )
    top = argparse.ArgumentParser(
        prog="meshgpt", description="Meshes as sentences: tokenise, train, generate, look.", parents=[shared]
    )
    top.add_argument("--version", action="version", version=f"meshgpt {__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for group in GROUPS:
        group.add_commands(commands, shared)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and gives the exit status: 0, 1 for an error of ours or of the system, 2 for wrong usage.

    Errors are one line without a traceback unless `--debug` is given.
    """
    arguments = parser().parse_args(argv)
    try:
        arguments.run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # as in `meshgpt doctor | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        return _ended("interrupted", arguments, INTERRUPTED)
    except (MeshGPTError, OSError) as error:
        return _ended(f"{type(error).__name__}: {error}", arguments, ERROR)
    return 0


def _ended(message: str, arguments: argparse.Namespace, status: int) -> int:
    """Prints what ended the command and gives its status; with `--debug` lets the error through."""
    if getattr(arguments, "debug", False):
        raise
    print(f"meshgpt: {message}", file=sys.stderr)
    return status
