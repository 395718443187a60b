"""How well light meshes follow dense ones, and how near the number of faces comes to what was asked for.

    python benchmarks/retopology.py --model runs/transformer/pipeline
    python benchmarks/retopology.py --what budgets --budgets 50 100 150 200

Validation meshes of up to --max-faces faces, each cut into --dense triangles or more, are the input. Compared with it,
by 10,000 points and normalised: the best of --candidates seeds of the model, quadric decimation to as many faces, and
the nearest mesh of the training set; `input` is the input beside other points of itself, the least that can be reached.
For a model that takes no points, decimation goes to the number of faces that the mesh had before it was cut. Budgets:
the share of meshes asked for N faces that have within 20 % of N. Prints one JSON object.
"""

import argparse
import json
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from meshgpt.data.dataset import MeshDataset
from meshgpt.errors import GenerationError
from meshgpt.mesh.mesh import Mesh
from meshgpt.pipeline import BUDGET_TOLERANCE, GeneratedMesh, MeshPipeline
from meshgpt.retopology import Likeness, Retopology, compared, nearest_meshes, retopologize
from meshgpt.wishes import Target

FIGURES = ("chamfer", "hausdorff", "normal_consistency", "signed_normal_consistency", "f_score")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", choices=("both", "retopology", "budgets"), default="both")
    parser.add_argument("--model", default="lowpoly")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--temperature", type=float, help="default: the pipeline's")
    parser.add_argument("--cond-scale", type=float, help="default: the pipeline's")
    parser.add_argument("--data", default="cc0-lowpoly")
    parser.add_argument("--max-faces", type=int, default=200)
    parser.add_argument("--count", type=int, default=40, help="meshes of the validation split")
    parser.add_argument("--dense", type=int, default=5000, help="triangles of each input, at least")
    parser.add_argument("--candidates", type=int, default=8)
    parser.add_argument("--ask-faces", action="store_true", help="for as many faces as the mesh had before it was cut")
    parser.add_argument("--budgets", type=int, nargs="+", default=[50, 100, 150, 200])
    parser.add_argument("--samples", type=int, default=16, help="meshes of each budget")
    parser.add_argument("--budget-candidates", type=int, nargs="+", default=[1], help="of which the best is kept")
    options = parser.parse_args()
    torch.set_num_threads(1)
    pipe = MeshPipeline.from_pretrained(options.model, device=options.device)
    figures: dict[str, Any] = {"model": options.model, "kinds": pipe.transformer.config.kinds}
    if options.what != "budgets":
        figures["retopology"] = measured_retopology(pipe, options)
    if options.what != "retopology":
        figures["budgets"] = measured_budgets(pipe, options)
    print(json.dumps(figures, indent=2))


def sampling(options: argparse.Namespace) -> dict[str, Any]:
    given = {"temperature": options.temperature, "cond_scale": options.cond_scale}
    return {name: value for name, value in given.items() if value is not None}


def measured_retopology(pipe: MeshPipeline, options: argparse.Namespace) -> dict[str, Any]:
    train, val = MeshDataset(options.data).train_and_val()
    val, known = val.filter(max_faces=options.max_faces), nearest_meshes(train)
    chosen = np.unique(np.linspace(0, len(val) - 1, min(options.count, len(val))).round().astype(int))
    made, failed, start = [], 0, time.perf_counter()
    for place, index in enumerate(tqdm(chosen, unit=" meshes")):
        mesh = val.mesh(int(index)).triangulated()
        shape = cut(mesh, options.dense)
        if "points" not in pipe.transformer.config.kinds:
            made.append(compared(Target.of(shape), GeneratedMesh(mesh, 0, torch.zeros(0), "end"), None, True, known))
            continue
        faces, seed = mesh.num_faces if options.ask_faces else None, options.seed + 1000 * place
        try:
            made.append(retopologize(pipe, shape, faces, options.candidates, seed, nearest=known, **sampling(options)))
        except GenerationError as error:
            tqdm.write(f"{val[int(index)].name}: {error}")
            failed += 1
    return {
        "meshes": len(chosen),
        "candidates": options.candidates,
        "seconds_a_mesh": round((time.perf_counter() - start) / len(chosen), 2),
        **summed_up(made, failed, "points" in pipe.transformer.config.kinds),
    }


def cut(mesh: Mesh, least: int) -> Mesh:
    """The same surface of `least` triangles or more, of like size: long edges are halved, with all faces along them.

    Cutting triangles in four instead would keep their slivers, on which decimation gets stuck.
    """
    vertices, faces = mesh.vertices, mesh.faces
    while len(faces) < least:
        ends = np.sort(np.stack((faces, np.roll(faces, -1, axis=1)), axis=2), axis=2)  # edge i: corner i to i + 1
        edges, numbers = np.unique(ends.reshape(-1, 2), axis=0, return_inverse=True)
        numbers = numbers.reshape(-1, 3)
        lengths = np.linalg.norm(vertices[edges[:, 0]] - vertices[edges[:, 1]], axis=1)
        rank = np.argsort(np.argsort(lengths, kind="stable"))
        place = rank[numbers].argmax(axis=1)
        longest = numbers[np.arange(len(faces)), place]
        shared = np.bincount(numbers.ravel()) == np.bincount(longest, minlength=len(edges))
        halved = shared & (lengths >= 0.7 * lengths.max())  # longest of all faces along it: no other edge is touched
        middle = len(vertices) + np.cumsum(halved) - 1
        vertices = np.concatenate((vertices, vertices[edges[halved]].mean(axis=1)))
        hit = halved[longest]
        turned = np.take_along_axis(faces, (place[:, None] + np.arange(3)) % 3, axis=1)[hit]
        (first, second, third), new = turned.T, middle[longest[hit]]
        halves = (np.stack((first, new, third), axis=1), np.stack((new, second, third), axis=1))
        faces = np.concatenate((faces[~hit], *halves))
    return Mesh(vertices, faces)


def summed_up(made: Sequence[Retopology], failed: int, with_model: bool) -> dict[str, Any]:
    """Mean and median of each figure; for a model also how often it is ahead of the others in Chamfer distance."""
    rows = {
        "input": [item.itself for item in made],
        "model": [item.result for item in made if with_model],
        "decimated": [item.decimated for item in made],
        "nearest": [item.nearest for item in made],
    }
    figures: dict[str, Any] = {name: averaged([item for item in row if item]) for name, row in rows.items()}
    fits = [item.decimated is not None and item.decimated.note != "goes no further" for item in made]
    figures["decimated"]["reaches_the_budget"] = round(float(np.mean(fits)), 3)
    if not with_model:
        return {**figures, "model": "takes no points"}
    figures["failed"] = failed
    figures["ended_by_the_model"] = round(np.mean([item.generated.stopped_by == "end" for item in made]).item(), 3)
    for name in ("nearest", "decimated"):
        pairs = [(item.report, getattr(item, name)) for item in made]
        ahead = sum(other is None or mine.chamfer < other.report.chamfer for mine, other in pairs)
        figures[f"ahead_of_{name}"] = round(ahead / max(len(made) + failed, 1), 3)
    return figures


def averaged(row: Sequence[Likeness]) -> dict[str, Any]:
    figures: dict[str, Any] = {"meshes": len(row)}
    for name in FIGURES if row else ():
        values = [getattr(item.report, name) for item in row]
        figures[name] = {"mean": round(float(np.mean(values)), 4), "median": round(float(np.median(values)), 4)}
    if row:
        figures["faces"] = {"mean": round(float(np.mean([item.mesh.num_faces for item in row])), 1)}
        figures["open_edges"] = {"mean": round(float(np.mean([item.open_edges for item in row])), 3)}
    return figures


def measured_budgets(pipe: MeshPipeline, options: argparse.Namespace) -> dict[str, Any] | str:
    if not pipe.transformer.config.takes("num_faces"):
        return "takes no number of faces"
    figures = {}
    for candidates in options.budget_candidates:
        figures[f"candidates {candidates}"] = rows = {}
        for faces in tqdm(options.budgets, unit=" budgets"):
            asked = {"faces": faces, "seed": options.seed, "num_meshes": options.samples, "candidates": candidates}
            written = pipe.generate(**asked, **sampling(options))
            counts = np.array([item.mesh.num_faces for item in written])
            rows[faces] = {
                "within_20_percent": round(float(np.mean(abs(counts / faces - 1) <= BUDGET_TOLERANCE)), 3),
                "median_faces": float(np.median(counts)),
                "ended_by_the_model": round(float(np.mean([item.stopped_by == "end" for item in written])), 3),
            }
    return figures


if __name__ == "__main__":
    main()
