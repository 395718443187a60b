"""`meshgpt retopo`: a dense mesh or a scan becomes a light mesh, beside decimation and the nearest known mesh."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from meshgpt.cli.generate import add_machine, given, load
from meshgpt.errors import GenerationInterrupted, MeshFileError

if TYPE_CHECKING:
    from meshgpt.mesh.mesh import Mesh

PARTICLES = 12  # of the search that is made where nothing else is asked for
SAMPLING = ("temperature", "top_p", "min_p", "cond_scale")


def add_commands(commands: argparse._SubParsersAction, shared: argparse.ArgumentParser) -> None:
    retopo = commands.add_parser("retopo", parents=[shared], help="make a light mesh of a dense one or of a scan")
    retopo.add_argument("shape", type=Path, help="a mesh (obj glb gltf ply stl off) or a cloud (ply xyz npy pts csv)")
    retopo.add_argument("-o", "--out", type=Path, help="the light mesh (default: NAME-light.glb beside the input)")
    retopo.add_argument("--faces", type=int, help="how many it should have (default: as the model sees fit)")
    help = f"so many begun meshes at once, of which those that follow the shape go on ({PARTICLES})"
    retopo.add_argument("--search", type=int, metavar="N", help=help)
    help = "in place of a search: so many meshes, each on its own, of which the best is kept"
    retopo.add_argument("--candidates", "--seeds", type=int, metavar="N", help=help)
    retopo.add_argument("--no-fit", action="store_true", help="leave the vertices where the model put them")
    retopo.add_argument("--seed", type=int, help="candidate i is written with SEED + i (default: drawn, and told)")
    retopo.add_argument("--model", default="lowpoly-points", help="a bundled model, a folder or a Hub name")
    retopo.add_argument("--up", default="y", help="the axis of the file that points up (default: y)")
    retopo.add_argument("--temperature", type=float, help="below 1 is safer, above 1 wilder; 0 takes the likeliest")
    retopo.add_argument("--top-p", type=float, help="choose among the codes that make up this probability")
    retopo.add_argument("--min-p", type=float, help="choose among codes of this share of the likeliest one's")
    retopo.add_argument("--cond-scale", type=float, help="above 1: keep closer to the shape (default: of the model)")
    add_machine(retopo)
    retopo.add_argument("--nearest", metavar="DATA", default="cc0-lowpoly", help="where to look for a like mesh")
    retopo.add_argument("--no-nearest", action="store_true", help="look for none")
    retopo.add_argument("--report", type=Path, metavar="JSON", help="write the figures to this file")
    retopo.add_argument("--picture", type=Path, metavar="PNG", help="draw the input and the results side by side")
    retopo.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    from meshgpt.mesh.picture import save_png
    from meshgpt.mesh.shape_files import read_shape
    from meshgpt.retopology import retopologize

    out = checked_output(arguments)
    shape = read_shape(arguments.shape, arguments.up)
    pipe = load(arguments)
    nearest = None if arguments.no_nearest else arguments.nearest
    options = {"nearest": nearest, "seed": arguments.seed, "progress": True, **given(arguments, SAMPLING)}
    options |= {"search": particles(arguments), "fit": not arguments.no_fit, **given(arguments, ("candidates",))}
    try:
        made = retopologize(pipe, shape, arguments.faces, **options)
    except GenerationInterrupted as interrupt:
        keep_best(interrupt, arguments, out)
        raise
    write(made.mesh, made.generated.seed, arguments, out)
    cut = made.generated.stopped_by
    print(f"{arguments.shape}: {shape}\n{out}: {made.mesh}" + ("" if cut == "end" else f", cut off by {cut}"))
    print(f"{made.table()}\nlengths are in normalised coordinates: the longest side of the input is 1.9")
    if arguments.report:
        figures = {"input": str(arguments.shape), "output": str(out), "model": str(arguments.model), **made.to_dict()}
        arguments.report.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
        print(f"figures: {arguments.report}")
    if arguments.picture:
        print(f"picture: {save_png(made.picture(), arguments.picture)}")


def particles(arguments: argparse.Namespace) -> int | None:
    """Of the search; None where candidates are wanted in its place."""
    return PARTICLES if arguments.search is None and arguments.candidates is None else arguments.search


def checked_output(arguments: argparse.Namespace) -> Path:
    """Where the light mesh goes. Raises `MeshFileError` for what cannot be written, before anybody waits for it."""
    from meshgpt.mesh.files import FORMATS

    out = arguments.out or arguments.shape.with_name(f"{arguments.shape.stem}-light.glb")
    if out.suffix.lower().lstrip(".") not in FORMATS:
        raise MeshFileError(f"{out}: cannot be written, its extension is none of {', '.join(FORMATS)}")
    if out.exists() and arguments.shape.exists() and out.samefile(arguments.shape):
        raise MeshFileError(f"{out} is the input, which would be lost: name another file with -o")
    for path in filter(None, (out, arguments.report, arguments.picture)):
        path.parent.mkdir(parents=True, exist_ok=True)
    return out


def keep_best(interrupt: GenerationInterrupted, arguments: argparse.Namespace, out: Path) -> None:
    """At Ctrl-C the best of the candidates so far is kept, cut off or not."""
    from meshgpt.pipeline import faults

    written = [item for item in interrupt.written if item.mesh.num_faces]
    if written:
        best = min(written, key=lambda item: faults(item, arguments.faces))
        path = write(best.mesh, best.seed, arguments, out)
        print(f"{path}: the best of {len(written)} so far, {best.mesh.num_faces} faces")


def write(mesh: "Mesh", seed: int, arguments: argparse.Namespace, out: Path) -> Path:
    """The mesh in the axes of the file that was read, with what it came from."""
    from meshgpt.mesh.files import turned_back, write_mesh

    metadata = {"generator": "meshgpt", "model": str(arguments.model), "weights": arguments.weights, "seed": seed}
    metadata |= {"follows": arguments.shape.name, **given(arguments, ("faces", "search", *SAMPLING))}
    return write_mesh(turned_back(mesh, arguments.up), out, metadata=metadata)
