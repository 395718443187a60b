"""`meshgpt tokenize` and `meshgpt detokenize`: a mesh file to a .npy of token ids, and back."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from meshgpt.cli.inputs import named_tokenizer
from meshgpt.errors import CodesError

if TYPE_CHECKING:
    import numpy as np


def add_commands(commands: argparse._SubParsersAction, shared: argparse.ArgumentParser) -> None:
    tokenize = commands.add_parser("tokenize", parents=[shared], help="turn a mesh file into token ids (.npy)")
    tokenize.add_argument("mesh", type=Path, help="obj, glb, gltf, ply, stl or off")
    tokenize.add_argument("-o", "--out", type=Path, help="the .npy file (default: beside the mesh)")
    tokenize.add_argument("--up", default="y", help="the axis of the file that points up (default: y)")
    tokenize.set_defaults(run=run_tokenize)

    detokenize = commands.add_parser("detokenize", parents=[shared], help="turn token ids (.npy) into a mesh file")
    detokenize.add_argument("ids", type=Path, help="a .npy file with one row of whole numbers")
    detokenize.add_argument("-o", "--out", type=Path, help="the mesh file (default: a .glb beside the ids)")
    detokenize.set_defaults(run=run_detokenize)

    for command in (tokenize, detokenize):
        command.add_argument("--model", default="lowpoly", help="a bundled or Hub name, a folder, or 'coordinates'")


def run_tokenize(arguments: argparse.Namespace) -> None:
    import numpy as np

    from meshgpt.mesh.files import read_mesh

    tokenizer = named_tokenizer(arguments.model)
    mesh = read_mesh(arguments.mesh, quads=tokenizer.corners == 4, up=arguments.up)
    ids = tokenizer.encode(mesh).cpu().numpy()
    out = arguments.out or arguments.mesh.with_suffix(".npy")
    with out.open("wb") as file:
        np.save(file, ids)
    faces = len(ids) // tokenizer.tokens_per_face if tokenizer.tokens_per_face else "?"
    print(f"{out}: {len(ids)} ids below {tokenizer.vocab_size} for {faces} faces ({mesh.num_faces} in the file)")


def run_detokenize(arguments: argparse.Namespace) -> None:
    from meshgpt.mesh.files import write_mesh

    tokenizer = named_tokenizer(arguments.model)
    mesh = tokenizer.decode(read_ids(arguments.ids))
    out = write_mesh(mesh, arguments.out or arguments.ids.with_suffix(".glb"))
    print(f"{out}: {mesh.num_faces} faces, {mesh.num_vertices} vertices")


def read_ids(path: Path) -> "np.ndarray":
    """The ids (n,) int64 of a .npy file. Raises `CodesError` for a file that holds anything else."""
    import numpy as np

    try:
        ids = np.load(path, allow_pickle=False)
    except ValueError as error:
        raise CodesError(f"{path}: is no .npy file of numbers ({error})") from error
    if not isinstance(ids, np.ndarray) or ids.ndim != 1 or ids.dtype.kind not in "iu":
        what = f"{ids.dtype} of shape {ids.shape}" if isinstance(ids, np.ndarray) else "an archive"
        raise CodesError(f"{path}: holds {what}, one row of whole numbers is needed")
    return ids.astype(np.int64)
