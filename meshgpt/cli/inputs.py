"""What is named on the command line: mesh files, folders with all that lies in them, tokenizers."""

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from meshgpt.errors import DataError, MeshFileError

if TYPE_CHECKING:
    from meshgpt.mesh.mesh import Mesh
    from meshgpt.tokenizers.tokenizer import MeshTokenizer

# Tokenizers that learn nothing, by the names they have here.
LOSSLESS = {
    "coordinates": "CoordinateTokenizer",
    "patches": "PatchTokenizer",
    "half-edges": "HalfEdgeTokenizer",
    "strips": "StripTokenizer",
}


def add_inputs(command: argparse.ArgumentParser) -> None:
    """The arguments that `named_meshes` needs."""
    command.add_argument("inputs", nargs="+", type=Path, metavar="PATH", help="mesh files, and folders of them")
    command.add_argument("--up", default="y", help="the axis of the files that points up (default: y)")
    command.add_argument("--quads", action="store_true", help="keep faces of four corners")


def named_meshes(arguments: argparse.Namespace) -> dict[str, "Mesh"]:
    """{name: mesh} in the order given. A bad file within a folder is reported and left out.

    Raises `MeshFileError` for one given by name, and `DataError` where nothing is left.
    """
    from meshgpt.mesh.files import read_mesh

    meshes = {}
    for path, given in mesh_files(arguments.inputs):
        try:
            meshes[_free_name(path, meshes)] = read_mesh(path, quads=arguments.quads, up=arguments.up)
        except MeshFileError as error:
            if given:
                raise
            print(f"left out: {error}", file=sys.stderr)
    if not meshes:
        raise DataError(f"no mesh in {', '.join(str(path) for path in arguments.inputs)}")
    return meshes


def mesh_files(paths: Iterable[Path]) -> Iterator[tuple[Path, bool]]:
    """Every mesh file of `paths` with whether it was given by name; those of a folder sorted, by their extension."""
    from meshgpt.mesh.files import FORMATS

    for path in paths:
        if not path.is_dir():
            yield path, True
        else:
            files = (file for file in sorted(path.rglob("*")) if file.is_file())
            yield from ((file, False) for file in files if file.suffix.lower().lstrip(".") in FORMATS)


def _free_name(path: Path, taken: Iterable[str]) -> str:
    """The stem of the file, or more of the path where another file has the same."""
    parts = path.with_suffix("").parts
    names = ("/".join(parts[-count:]) for count in range(1, len(parts) + 1))
    return next((name for name in names if name not in taken), str(path))


def named_tokenizer(name: str) -> "MeshTokenizer":
    """The tokenizer of a run, a folder, a bundled or Hub model, or one of `LOSSLESS`.

    Raises `CheckpointError` for a model that is no tokenizer.
    """
    if name in LOSSLESS and not Path(name).exists():
        from meshgpt import tokenizers

        return getattr(tokenizers, LOSSLESS[name])()
    from meshgpt.pipeline import load_tokenizer

    return load_tokenizer(name)
