"""`meshgpt complete`: the lower part of a mesh is kept, the rest written anew."""

import argparse
import secrets
from pathlib import Path

from meshgpt.cli.generate import (
    GUIDANCE,
    SAMPLING,
    Saving,
    add_output,
    add_sampling,
    add_wishes,
    check_output,
    described,
    given,
    load,
    save_page,
    wished,
    written_down,
)


def add_commands(commands: argparse._SubParsersAction, shared: argparse.ArgumentParser) -> None:
    complete = commands.add_parser("complete", parents=[shared], help="keep the lower part of a mesh, write the rest")
    complete.add_argument("begun", type=Path, metavar="MESH", help="obj, glb, gltf, ply, stl or off")
    complete.add_argument("--keep", type=float, default=0.5, help="share of the faces, the lowest (default: 0.5)")
    complete.add_argument("--up", default="y", help="the axis of the file that points up (default: y)")
    complete.add_argument("--text", help="what it should become, for a model that was trained with texts")
    add_output(complete)
    add_wishes(complete)
    add_sampling(complete)
    complete.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    from meshgpt.mesh.files import read_mesh

    check_output(arguments.out, arguments.format)
    mesh = read_mesh(arguments.begun, up=arguments.up)
    pipe = load(arguments)
    wishes, begun = wished(arguments, pipe), pipe.begun(mesh, arguments.keep)
    options = {**wishes, **given(arguments, SAMPLING + GUIDANCE)}
    low, high = mesh.normalized().bounds[:, 1]
    share = (begun.bounds[1, 1] - low) / max(high - low, 1e-12)
    print(
        f"{arguments.begun}: {begun.num_faces} of {mesh.num_faces} faces are kept, the lower {share:.0%} of its height"
    )
    kept = {"completes": arguments.begun.name, "kept_faces": begun.num_faces}
    settings = {"model": str(arguments.model), "weights": arguments.weights, **kept, **written_down(options)}
    saving = Saving(arguments.out, arguments.format, settings, asked=described(wishes), up=arguments.up)
    seed = secrets.randbelow(2**31) if arguments.seed is None else arguments.seed
    saving.generate(
        pipe.complete, mesh=mesh, keep=arguments.keep, seed=seed, num_meshes=arguments.num_meshes, **options
    )
    if arguments.view:
        title = f"meshgpt {arguments.model}: {arguments.begun.name} completed"
        print(f"look at them: {save_page(saving.saved, arguments.out / 'index.html', title)}")
