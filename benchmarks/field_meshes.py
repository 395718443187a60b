"""Meshes out of fields: smoothed or not, told by more latents than in training, and light ones.

    python benchmarks/field_meshes.py smooth --data runs/fields     # solids held out, and shapes of the bundled prior
    python benchmarks/field_meshes.py latents --data runs/fields    # solids held out
    python benchmarks/field_meshes.py rounds                        # shapes of the bundled prior
    python benchmarks/field_meshes.py light                         # shapes of the bundled prior

The data are those of `benchmarks/vector_set.py real`, and so are the solids that are held out. Smooth: how far the
surfaces of held-out solids are from the real ones (Chamfer distance, F-score, normals) without smoothing and with it,
and of samples how many the bundled recognizer takes for what was asked for, both times of the same fields. Latents:
IoU, of all and of the `solid` ones, which have no thin walls. Rounds: samples as they are, and encoded and brought
back: how many are recognized, and by how many degrees faces bend. Light: open edges and distance of what the mesh
transformer makes of dense meshes, and of as many faces by decimation. Prints one JSON object; `--picture` draws them.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from real_generation import recognized
from vector_set import BALL, SIMPLE, SOLIDS

from meshgpt.cli.shapes import Decimation, Lightening
from meshgpt.data.field_store import FieldDataset
from meshgpt.evaluation.evaluate import EVALUATORS
from meshgpt.evaluation.fields import volume_iou
from meshgpt.evaluation.recognition import ShapeRecognizer
from meshgpt.mesh.clouds import PointCloud
from meshgpt.mesh.isosurface import ExtractionConfig, evaluate
from meshgpt.mesh.mesh import Mesh
from meshgpt.mesh.picture import contact_sheet, save_png
from meshgpt.mesh.smoothing import smoothed
from meshgpt.mesh.surface import compare_surfaces
from meshgpt.mesh.topology import face_graph
from meshgpt.pipeline import MeshPipeline
from meshgpt.shapes.pipeline import ShapePipeline

COMPARED = 2048
FIGURES = ("chamfer", "f_score", "normal_consistency")


def held_out(options: argparse.Namespace) -> FieldDataset:
    found = FieldDataset(options.data).filter(split="val", methods=SOLIDS)
    return found.select(np.flatnonzero(np.isin(found.column("category"), SIMPLE)))


def encoded(pipe: ShapePipeline, sample, seed: int, num_latents: int | None = None) -> torch.Tensor:
    rows = np.random.default_rng(seed).permutation(len(sample.surface))[: pipe.config.num_points]
    with torch.no_grad():
        return pipe.autoencoder.encode(torch.from_numpy(sample.surface[np.sort(rows)])[None], num_latents=num_latents)


def latents(pipe: ShapePipeline, options: argparse.Namespace) -> dict:
    data, results = held_out(options), {}
    samples = [data[i] for i in range(len(data))]
    thick = np.array([sample.volume[:, 3].max() >= BALL for sample in samples])
    for count in options.counts:
        ious = []
        for index, sample in enumerate(samples):
            field = pipe.autoencoder.field(encoded(pipe, sample, index, count))
            values = evaluate(field, torch.from_numpy(sample.volume[:, :3].copy()))
            ious.append(volume_iou(values, sample.volume[:, 3]))
        figures = np.array(ious)
        results[count] = {"iou": round(figures.mean(), 4), "solid_iou": round(figures[thick].mean(), 4)}
    return {"shapes": len(samples), "solid": int(thick.sum()), "latents": results}


def smooth(pipe: ShapePipeline, options: argparse.Namespace) -> dict:
    data, rows, shown = held_out(options), [], []
    extraction = ExtractionConfig(resolution=64, keep_share=0.005)
    for index in range(len(data)):
        [found] = pipe.autoencoder.extract(encoded(pipe, data[index], index), extraction)
        even = data[index].surface[data[index].surface[:, 6] == 0]
        real = PointCloud(even[:, :3], even[:, 3:6])
        both = [found.mesh, smoothed(found.mesh, options.steps)]
        reports = [compare_surfaces(mesh, real, COMPARED) for mesh in both]
        rows.append([[getattr(report, name) for name in FIGURES] for report in reports])
        shown += both
    means = np.mean(rows, axis=0).round(4).tolist()
    names = ("as extracted", "smoothed")
    results: dict = {name: dict(zip(FIGURES, mean, strict=True)) for name, mean in zip(names, means, strict=True)}
    asked = list(pipe.categories) * options.each
    made = [each.mesh for each in pipe.generate(category=asked, seed=0, smooth=0, rounds=0)] if asked else []
    recognizer = ShapeRecognizer.from_pretrained(EVALUATORS)
    for name, meshes in zip(names, (made, [smoothed(mesh, options.steps) for mesh in made]), strict=True):
        right = recognized(recognizer, meshes, asked, pipe.categories)
        results[name] |= {"samples": len(asked), "accuracy": round(float(np.mean(right)), 4)}
        shown += meshes
    if options.picture is not None:
        save_png(contact_sheet(shown, 8, 160, None, wireframe=False), options.picture)
    return results


def rounds(pipe: ShapePipeline, options: argparse.Namespace) -> dict:
    asked, results, shown = list(pipe.categories) * options.each, {}, []
    recognizer = ShapeRecognizer.from_pretrained(EVALUATORS)
    for count in options.rounds:
        meshes = [each.mesh for each in pipe.generate(category=asked, seed=0, rounds=count)]
        right = recognized(recognizer, meshes, asked, pipe.categories)
        bends = float(np.mean([bend(mesh) for mesh in meshes if mesh.num_faces]))
        empty = sum(not mesh.num_faces for mesh in meshes)
        results[count] = {"accuracy": round(float(np.mean(right)), 4), "bend": round(bends, 2), "empty": empty}
        print(count, results[count], flush=True)
        shown += meshes
    if options.picture is not None:
        save_png(contact_sheet(shown, 12, 130, None, wireframe=False), options.picture)
    return {"samples": len(asked), "rounds": results}


def bend(mesh: Mesh) -> float:
    """The mean angle in degrees between faces that share an edge: of a rough surface it is large."""
    pairs = face_graph(torch.from_numpy(mesh.faces)).numpy()
    sides = np.roll(mesh.vertices[mesh.faces], -1, axis=1) - mesh.vertices[mesh.faces]
    normals = np.cross(sides[:, 0], sides[:, 1])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    return float(np.degrees(np.arccos((normals[pairs[0]] * normals[pairs[1]]).sum(axis=1).clip(-1, 1))).mean())


def light(pipe: ShapePipeline, options: argparse.Namespace) -> dict:
    asked = (list(pipe.categories) * options.each)[: options.shapes]
    lighten = Lightening(
        MeshPipeline.from_pretrained("lowpoly-points"), "lowpoly-points", options.faces, {"search": 12}
    )
    rows: dict[str, list[list[float]]] = {"transformer": [], "decimation": []}
    shown = []
    for index, each in enumerate(pipe.generate(category=asked, seed=0)):
        made = [Decimation(options.faces)(each.mesh, None)]
        if index < options.transformer:
            made.insert(0, lighten(each.mesh, each.seed).result)
        for name, item in zip(list(rows)[-len(made) :], made, strict=True):
            rows[name].append([item.mesh.num_faces, item.open_edges, item.report.chamfer])
        shown += [each.mesh, *(item.mesh for item in made)]
        print(asked[index], {name: row[-1] for name, row in rows.items() if row}, flush=True)
    if options.picture is not None:
        save_png(contact_sheet(shown, 6, 200, None, wireframe=True), options.picture)
    names = ("faces", "open_edges", "chamfer")
    means = {name: np.mean(row, axis=0).round(4).tolist() for name, row in rows.items() if row}
    return {name: {"shapes": len(rows[name]), **dict(zip(names, mean, strict=True))} for name, mean in means.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("smooth", "latents", "rounds", "light"))
    parser.add_argument("--data", type=Path, default=Path("runs/fields"))
    parser.add_argument("--model", default="shapes")
    parser.add_argument("--steps", type=int, default=10, help="of smoothing")
    parser.add_argument("--each", type=int, default=4, help="samples of each category")
    parser.add_argument("--counts", type=int, nargs="+", default=[64, 96, 128, 192, 256])
    parser.add_argument("--rounds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--faces", type=int, default=80)
    parser.add_argument("--shapes", type=int, default=12, help="of which there are light meshes")
    parser.add_argument("--transformer", type=int, default=12, help="of those, so many by the mesh transformer")
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    pipe = ShapePipeline.from_pretrained(options.model)
    pipe.autoencoder.eval()
    result = {"smooth": smooth, "latents": latents, "rounds": rounds, "light": light}[options.kind](pipe, options)
    print(json.dumps({**result, "cpu_seconds": round(time.process_time())}, indent=1))


if __name__ == "__main__":
    main()
