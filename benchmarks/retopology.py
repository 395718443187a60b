"""How well light meshes follow dense ones, and how near the number of faces comes to what was asked for.

    python benchmarks/retopology.py --model runs/transformer/pipeline
    python benchmarks/retopology.py --what scans --count 16 --ask-faces
    python benchmarks/retopology.py --what budgets --budgets 50 100 150 200

Validation meshes of up to --max-faces faces, each cut into --dense triangles or more, are the input. Compared with it,
by 10,000 points and normalised: the best of --candidates seeds of the model, the best that a search of --search begun
meshes finds, quadric decimation to as many faces, and the nearest mesh of the training set; each as it is and with its
vertices fitted to the input (`fit_to_surface`), which helps whatever it is given. `input` is the input beside other
points of itself, the least that can be reached. For a model that takes no points, decimation goes to the number of
faces that the mesh had before it was cut. Budgets: the share of meshes asked for N faces that have within 20 % of N.
Scans: the same meshes given dense; decimated to half of their faces; as 4,096 points with normals; and as 4,096 points
without, moved by normally distributed noise of 0.01 along each axis (the longest side is 1.9). What the model makes of
each is compared with the mesh itself, not with the scan. Prints one JSON object.
"""

import argparse
import json
import math
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from meshgpt.data.dataset import MeshDataset
from meshgpt.data.decimate import decimate
from meshgpt.data.nearest import NearestMeshes
from meshgpt.errors import GenerationError
from meshgpt.mesh.camera import Camera
from meshgpt.mesh.clouds import PointCloud
from meshgpt.mesh.mesh import Mesh
from meshgpt.mesh.picture import contact_sheet, save_png
from meshgpt.mesh.topology import topology_report
from meshgpt.pipeline import BUDGET_TOLERANCE, GeneratedMesh, MeshPipeline, faults
from meshgpt.retopology import (
    Likeness,
    best_fitted,
    compared,
    fitted_to,
    likeness,
    nearest_meshes,
    written_for,
)
from meshgpt.wishes import Target

FIGURES = ("chamfer", "hausdorff", "normal_consistency", "signed_normal_consistency", "f_score")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", choices=("both", "retopology", "budgets", "scans"), default="both")
    parser.add_argument("--model", default="lowpoly-points")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--temperature", type=float, help="default: the pipeline's")
    parser.add_argument("--cond-scale", type=float, help="default: the pipeline's")
    parser.add_argument("--data", default="cc0-lowpoly")
    parser.add_argument("--max-faces", type=int, default=200)
    parser.add_argument("--count", type=int, default=40, help="meshes of the validation split")
    parser.add_argument("--dense", type=int, default=5000, help="triangles of each input, at least")
    parser.add_argument("--candidates", type=int, default=8)
    parser.add_argument("--search", type=int, default=0, help="so many begun meshes at once; 0: no search")
    parser.add_argument("--picture", help="a PNG of the first meshes and what was made of them")
    parser.add_argument("--ask-faces", action="store_true", help="for as many faces as the mesh had before it was cut")
    parser.add_argument("--budgets", type=int, nargs="+", default=[50, 100, 150, 200])
    parser.add_argument("--samples", type=int, default=16, help="meshes of each budget")
    parser.add_argument("--no-early-end", action="store_true", help="no mesh may end before 0.8 of its budget")
    parser.add_argument("--budget-candidates", type=int, nargs="+", default=[1], help="of which the best is kept")
    options = parser.parse_args()
    torch.set_num_threads(1)
    pipe = MeshPipeline.from_pretrained(options.model, device=options.device)
    figures: dict[str, Any] = {"model": options.model, "kinds": pipe.transformer.config.kinds}
    if options.what in ("both", "retopology"):
        figures["retopology"] = measured_retopology(pipe, options)
    if options.what == "scans":
        figures["scans"] = measured_scans(pipe, options)
    if options.what in ("both", "budgets"):
        figures["budgets"] = measured_budgets(pipe, options)
    print(json.dumps(figures, indent=2))


def measured_scans(pipe: MeshPipeline, options: argparse.Namespace) -> dict[str, Any]:
    """By the kind of scan, figures of what the model makes of it as written and fitted, beside the mesh itself."""
    val = MeshDataset(options.data).split("val").filter(max_faces=options.max_faces)
    chosen = np.unique(np.linspace(0, len(val) - 1, min(options.count, len(val))).round().astype(int))
    rows: dict[str, dict[str, list[Likeness]]] = {}
    for place, index in enumerate(tqdm(chosen, unit=" meshes")):
        mesh = val.mesh(int(index)).triangulated().normalized()
        truth = Target.of(mesh)
        for name, scan in scans_of(mesh, options.dense, np.random.default_rng(place)).items():
            target, faces = Target.of(scan), mesh.num_faces if options.ask_faces else None
            search = options.search or None
            written = written_for(
                pipe, target, faces, options.candidates, options.seed + 1000 * place, search, **sampling(options)
            )
            best, fitted = best_fitted(written, target, faces)
            found = {"written": best.mesh, "fitted": fitted}
            for way, made in found.items():
                rows.setdefault(name, {}).setdefault(way, []).append(likeness(way, truth, made))
    return {name: {way: averaged(items) for way, items in ways.items()} for name, ways in rows.items()}


def scans_of(mesh: Mesh, dense: int, rng: np.random.Generator) -> dict[str, Mesh | PointCloud]:
    """Of a normalised mesh."""
    cloud = PointCloud.from_mesh(mesh, 4096, rng)
    return {
        "dense": cut(mesh, dense),
        "decimated": decimate(mesh, max(mesh.num_faces // 2, 4)),
        "points": cloud,
        "noisy points": PointCloud(cloud.points + rng.normal(scale=0.01, size=cloud.points.shape)),
    }


def sampling(options: argparse.Namespace) -> dict[str, Any]:
    given = {"temperature": options.temperature, "cond_scale": options.cond_scale}
    return {name: value for name, value in given.items() if value is not None}


def measured_retopology(pipe: MeshPipeline, options: argparse.Namespace) -> dict[str, Any]:
    train, val = MeshDataset(options.data).train_and_val()
    val, known = val.filter(max_faces=options.max_faces), nearest_meshes(train)
    chosen = np.unique(np.linspace(0, len(val) - 1, min(options.count, len(val))).round().astype(int))
    made, seconds = [], Counter[str]()
    for place, index in enumerate(tqdm(chosen, unit=" meshes")):
        mesh = val.mesh(int(index)).triangulated()
        target = Target.of(cut(mesh, options.dense))
        rows, spent = rows_of(pipe, target, mesh, known, options.seed + 1000 * place, options)
        made.append(rows)
        seconds.update(spent)
        tqdm.write(f"{val[int(index)].name}: {', '.join(f'{row} {rows[row].report.chamfer:.4f}' for row in rows)}")
    if options.picture:
        save_png(drawn(made[:8]), options.picture)
    return {
        "meshes": len(chosen),
        "candidates": options.candidates,
        "search": options.search,
        "cpu_seconds_a_mesh": {name: round(spent / len(chosen), 2) for name, spent in seconds.items()},
        **summed_up(made),
    }


def rows_of(
    pipe: MeshPipeline, target: Target, mesh: Mesh, known: NearestMeshes, seed: int, options: argparse.Namespace
) -> tuple[dict[str, Likeness], dict[str, float]]:
    """What could stand for a shape, by the name of its row, and the time of the model, the search, and all fits."""
    found, spent = {}, {}
    if "points" in pipe.transformer.config.kinds:
        faces = mesh.num_faces if options.ask_faces else None
        for name, search in (("model", None), ("search", options.search)) if options.search else (("model", None),):
            start = time.process_time()
            try:
                found[name] = written_for(pipe, target, faces, options.candidates, seed, search, **sampling(options))
            except GenerationError as error:
                tqdm.write(str(error))
            spent[name] = time.process_time() - start
    best = {name: min(written, key=faults) for name, written in found.items()}
    one = best.get("model", GeneratedMesh(mesh, 0, torch.zeros(0), "end"))
    made, start = compared(target, one, None, True, known), time.process_time()
    rows = {"input": made.itself, **{name: likeness(name, target, item.mesh) for name, item in best.items()}}
    fitted = {f"{name}_fitted": best_fitted(written, target)[1] for name, written in found.items()}
    for item in filter(None, (made.decimated, made.nearest)):
        rows[item.name], fitted[f"{item.name}_fitted"] = item, fitted_to(target, item.mesh)
    spent["fits"] = time.process_time() - start
    return {**rows, **{name: likeness(name, target, mesh) for name, mesh in fitted.items()}}, spent


def drawn(made: Sequence[dict[str, Likeness]]) -> np.ndarray:
    """(h, w, 3): a row a shape, a column for each thing that could stand for it."""
    names = list(dict.fromkeys(name for rows in made for name in rows))
    nothing = Mesh(np.zeros((0, 3)), np.zeros((0, 3), dtype=np.int64))
    strips = []
    for rows in made:
        meshes = [rows[name].mesh if name in rows else nothing for name in names]
        strips.append(contact_sheet(meshes, len(names), 192, names, Camera().fitted(rows["input"].mesh)))
    return np.concatenate(strips)


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


def summed_up(made: Sequence[dict[str, Likeness]]) -> dict[str, Any]:
    """Mean and median of each figure; of what the model wrote, how often it is ahead of others in Chamfer distance."""
    names = list(dict.fromkeys(name for rows in made for name in rows))
    figures: dict[str, Any] = {name: averaged([rows[name] for rows in made if name in rows]) for name in names}
    fits = [rows["decimated"].note != "goes no further" for rows in made if "decimated" in rows]
    figures["decimated"]["reaches_the_budget"] = round(float(np.mean(fits)), 3)
    for mine in (name for name in names if name.startswith(("model", "search"))):
        for other in (name for name in names if name.startswith(("nearest", "decimated"))):
            both = [(rows[mine], rows[other]) for rows in made if mine in rows and other in rows]
            ahead = sum(one.report.chamfer < two.report.chamfer for one, two in both)
            figures[mine][f"ahead_of_{other}"] = round(ahead / len(made), 3)
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
            asked |= {"min_faces": math.ceil(faces * (1 - BUDGET_TOLERANCE))} if options.no_early_end else {}
            written = pipe.generate(**asked, **sampling(options))
            counts = np.array([item.mesh.num_faces for item in written])
            reports = [topology_report(item.mesh) for item in written]
            rows[faces] = {
                "within_20_percent": round(float(np.mean(abs(counts / faces - 1) <= BUDGET_TOLERANCE)), 3),
                "median_faces": float(np.median(counts)),
                "open_edges": round(float(np.mean([one.boundary_edges / max(one.edges, 1) for one in reports])), 3),
                "ended_by_the_model": round(float(np.mean([item.stopped_by == "end" for item in written])), 3),
            }
    return figures


if __name__ == "__main__":
    main()
