"""The pictures of the README, made by the bundled model: meshes from texts, light meshes for dense ones, completions.

    python tools/make_pictures.py --out docs/images

Needs the extras [pictures], [text] and [mesh]. The seeds are fixed: the same weights give the same pictures.
"""

import argparse
from pathlib import Path

import numpy as np

import meshgpt
from meshgpt.cli.generate import JUDGED_CANDIDATES
from meshgpt.cli.retopo import PARTICLES
from meshgpt.evaluation.judge import ShapeJudge
from meshgpt.retopology import retopologize

TEXTS = ("a crate", "a wooden table", "a bottle", "a fence", "a stone wall", "a tree", "a sword", "a chair")
SHOWN = 16  # meshes that nothing asks for
FOLLOWED = 4  # validation meshes that are followed
FACES = (40, 160)


def unasked(pipe: meshgpt.MeshPipeline) -> np.ndarray:
    """What the first seeds give, nothing chosen; as `meshgpt demo` shows it."""
    return meshgpt.contact_sheet([item.mesh for item in pipe.generate(seed=0, num_meshes=SHOWN)], columns=4)


def texts(pipe: meshgpt.MeshPipeline) -> np.ndarray:
    """As `meshgpt generate TEXT` chooses them."""
    written = pipe.generate(list(TEXTS), seed=0, candidates=JUDGED_CANDIDATES, judge=ShapeJudge())
    return meshgpt.contact_sheet([item.mesh for item in written], columns=4, titles=TEXTS)


def followed(pipe: meshgpt.MeshPipeline, meshes: list[meshgpt.Mesh]) -> np.ndarray:
    """Above the shapes, below what `meshgpt retopo` writes for points on them, asked for as many faces."""
    options = {"seed": 0, "search": PARTICLES, "decimated": False, "nearest": None}
    found = [retopologize(pipe, mesh, mesh.num_faces, **options) for mesh in meshes]
    captions = [f"{mesh.num_faces} faces" for mesh in meshes] + [f"written: {item.mesh.num_faces}" for item in found]
    return meshgpt.contact_sheet([*meshes, *(item.mesh for item in found)], columns=len(meshes), titles=captions)


def completed(pipe: meshgpt.MeshPipeline, meshes: list[meshgpt.Mesh]) -> np.ndarray:
    """In each row a mesh, the half that was kept, and two ways to go on."""
    tiles, titles = [], []
    for mesh in meshes:
        written = pipe.complete(mesh, keep=0.5, num_meshes=2, seed=0)
        tiles += [mesh, pipe.begun(mesh, 0.5), *(item.mesh for item in written)]
        titles += ["a mesh", "kept", "seed 0", "seed 1"]
    return meshgpt.contact_sheet(tiles, columns=4, titles=titles)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="lowpoly")
    parser.add_argument("--points-model", default="lowpoly-points")
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    options = parser.parse_args()
    pipe = meshgpt.MeshPipeline.from_pretrained(options.model)
    follower = meshgpt.MeshPipeline.from_pretrained(options.points_model)
    val = meshgpt.MeshDataset("cc0-lowpoly").split("val").filter(min_faces=FACES[0], max_faces=FACES[1])
    chosen = [val.mesh(index) for index in np.linspace(0, len(val) - 1, FOLLOWED + 2).astype(int)]
    for name, picture in (
        ("contact_sheet", lambda: unasked(pipe)),
        ("texts", lambda: texts(pipe)),
        ("points", lambda: followed(follower, chosen[:FOLLOWED])),
        ("completion", lambda: completed(pipe, chosen[FOLLOWED:])),
    ):
        print(meshgpt.save_png(picture(), options.out / f"{name}.png"))


if __name__ == "__main__":
    main()
