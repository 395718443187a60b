"""`meshgpt tokenize` and `meshgpt detokenize`: a mesh file to a .npy of token ids, and back; a report on tokenizers."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from meshgpt.cli.inputs import LOSSLESS, named_tokenizer
from meshgpt.errors import CodesError, MeshFileError

if TYPE_CHECKING:
    import numpy as np

DEFAULT = "lowpoly"


def add_commands(commands: argparse._SubParsersAction, shared: argparse.ArgumentParser) -> None:
    tokenize = commands.add_parser(
        "tokenize", parents=[shared], help="turn a mesh file into token ids (.npy), or compare tokenizers"
    )
    tokenize.add_argument("mesh", type=Path, nargs="?", help="obj, glb, gltf, ply, stl or off")
    tokenize.add_argument("-o", "--out", type=Path, help="the .npy file (default: beside the mesh)")
    tokenize.add_argument("--up", default="y", help="the axis of the file that points up (default: y)")
    tokenize.add_argument("--report", metavar="DATA", help="instead, what tokenizers make of the meshes of a data set")
    tokenize.add_argument("--split", help="of the data set of --report (default: all of it)")
    tokenize.set_defaults(run=run_tokenize)

    detokenize = commands.add_parser("detokenize", parents=[shared], help="turn token ids (.npy) into a mesh file")
    detokenize.add_argument("ids", type=Path, help="a .npy file with one row of whole numbers")
    detokenize.add_argument("-o", "--out", type=Path, help="the mesh file (default: a .glb beside the ids)")
    detokenize.set_defaults(run=run_detokenize)

    for command in (tokenize, detokenize):
        names = ", ".join(LOSSLESS)
        command.add_argument("--model", help=f"a bundled or Hub name, a folder, or one of {names} (default: lowpoly)")


def run_tokenize(arguments: argparse.Namespace) -> None:
    if arguments.report is not None:
        return run_report(arguments)
    if arguments.mesh is None:
        raise MeshFileError("no mesh file is named: give one, or --report with a data set")
    import numpy as np

    from meshgpt.mesh.files import read_mesh

    tokenizer = named_tokenizer(arguments.model or DEFAULT)
    mesh = read_mesh(arguments.mesh, quads=tokenizer.corners == 4, up=arguments.up)
    ids = tokenizer.encode(mesh).cpu().numpy()
    out = arguments.out or arguments.mesh.with_suffix(".npy")
    with out.open("wb") as file:
        np.save(file, ids)
    faces = tokenizer.decode(ids).num_faces
    print(f"{out}: {len(ids)} ids below {tokenizer.vocab_size} for {faces} faces ({mesh.num_faces} in the file)")


def run_report(arguments: argparse.Namespace) -> None:
    from meshgpt.data.dataset import MeshDataset
    from meshgpt.evaluation.tokenizer_report import table, tokenizer_report

    data = MeshDataset(arguments.report)
    data = data if arguments.split is None else data.split(arguments.split)
    names = list(LOSSLESS) if arguments.model is None else [arguments.model]
    meshes = [data.mesh(index) for index in range(len(data))]
    print(table([(name, tokenizer_report(named_tokenizer(name), meshes)) for name in names]))


def run_detokenize(arguments: argparse.Namespace) -> None:
    from meshgpt.mesh.files import write_mesh

    tokenizer = named_tokenizer(arguments.model or DEFAULT)
    mesh = tokenizer.decode(read_ids(arguments.ids))
    out = write_mesh(mesh, arguments.out or arguments.ids.with_suffix(".glb"))
    print(f"{out}: {mesh.num_faces} faces, {mesh.num_vertices} vertices")


def read_ids(path: Path) -> "np.ndarray":
    """The ids (n,) int64 of a .npy file. Raises `CodesError` for a file that holds anything else."""
    import numpy as np

    try:
        ids = np.load(path, allow_pickle=False)
    except ValueError as error:
        raise CodesError(
            f"{path}: is no .npy file of numbers; `meshgpt tokenize MESH -o FILE.npy` writes one"
        ) from error
    if not isinstance(ids, np.ndarray) or ids.ndim != 1 or ids.dtype.kind not in "iu":
        what = f"{ids.dtype} of shape {ids.shape}" if isinstance(ids, np.ndarray) else "an archive"
        raise CodesError(f"{path}: holds {what}, one row of whole numbers is needed")
    return ids.astype(np.int64)
