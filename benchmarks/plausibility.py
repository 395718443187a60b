"""What tells written meshes from real ones, and how well the choice among candidates (`mesh.form.doubt`) knows it.

    python benchmarks/plausibility.py --count 200

Writes --count meshes with one candidate each ("a CATEGORY" for the 20 largest categories in turn, where the model takes
texts), keeps them in --folder, and prints one JSON object: the mean of each figure over real training meshes, real
validation meshes and written ones; and how often a real one scores better than a written one (the area under the ROC
curve), by each figure, by `doubt`, and by logistic regression on all of them, which is learned from half of the written
and the training meshes and measured on the other half and on validation meshes. Its coefficients are in nats.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from meshgpt.data.dataset import MeshDataset
from meshgpt.evaluation.authors import PipelineAuthor
from meshgpt.mesh.canonical import canonicalize
from meshgpt.mesh.form import doubt
from meshgpt.mesh.mesh import Mesh
from meshgpt.mesh.symmetry import mirrored_share
from meshgpt.mesh.topology import loose_share, topology_report
from meshgpt.pipeline import MeshPipeline

FIGURES = ("open edges", "edges of three faces", "log of parts", "symmetry", "distinct coordinates", "aligned faces")
FIGURES += ("surface in the air",)
STEPS, DECAY = 50, 1.0  # of Newton's method, and of squared coefficients


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="lowpoly")
    parser.add_argument("--data", default="cc0-lowpoly")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--max-faces", type=int, default=200)
    parser.add_argument("--folder", type=Path, help="where the written meshes are kept (default: nowhere)")
    given = parser.parse_args()
    torch.set_num_threads(1)
    train, val = MeshDataset(given.data).filter(max_faces=given.max_faces).train_and_val()
    with tempfile.TemporaryDirectory() as nowhere:
        written = [mesh for mesh in author_of(given, Path(nowhere), train) if mesh.num_faces]
    some = np.random.default_rng(0).permutation(len(train))[: 2 * given.count]
    sets = {"train": on_grid(train[some]), "val": on_grid(val), "written": written}
    found = {name: np.array([figures(mesh) for mesh in meshes]) for name, meshes in sets.items()}
    by_doubt = {name: np.array([-doubt(mesh) for mesh in meshes]) for name, meshes in sets.items()}
    report: dict = {"means": {name: named(rows.mean(axis=0)) for name, rows in found.items()}}
    order = np.sign(found["train"].mean(axis=0) - found["written"].mean(axis=0))
    report["val before written by"] = {
        **named([area(*(found[name][:, i] * order[i] for name in ("val", "written"))) for i in range(len(FIGURES))]),
        "doubt": round(area(by_doubt["val"], by_doubt["written"]), 3),
    }
    half, other = found["written"][::2], found["written"][1::2]
    score, coefficients = regression(found["train"], half)
    report["val before written by"]["regression"] = round(area(score(found["val"]), score(other)), 3)
    report["coefficients"] = named(coefficients)
    print(json.dumps({**report, "cpu_seconds": round(time.process_time(), 1)}))


def author_of(given: argparse.Namespace, nowhere: Path, train: MeshDataset) -> list[Mesh]:
    """Meshes of the model, one candidate each."""
    pipe = MeshPipeline.from_pretrained(given.model)
    counts = Counter(train.column("category"))
    largest = [name for name, _ in counts.most_common(21) if name != "other"][:20]
    wanted = train[np.array([np.flatnonzero(train.column("category") == name)[0] for name in largest])]
    wanted = wanted[np.arange(given.count) % len(wanted)]
    ask = "name" if pipe.transformer.config.takes("text") else "none"
    options = {"candidates": 1, "max_faces": given.max_faces}
    author = PipelineAuthor(
        pipe, given.folder or nowhere, ask, 32, lambda line: print(line, file=sys.stderr), **options
    )
    return [item.mesh for item in author.write(0, wanted)]


def on_grid(data: MeshDataset) -> list[Mesh]:
    """As a tokenizer would give them back."""
    return [canonicalize(data.mesh(index).normalized(), 128).mesh() for index in range(len(data))]


def figures(mesh: Mesh) -> list[float]:
    report = topology_report(mesh)
    edges, vertices = max(report.edges, 1), max(report.vertices, 1)
    distinct = [len(np.unique(mesh.vertices[:, axis].round(3))) / vertices for axis in range(3)]
    aligned = float((np.abs(mesh.face_normals).max(axis=1) > 0.995).mean())
    topology = [report.boundary_edges / edges, report.nonmanifold_edges / edges, float(np.log(report.components))]
    return [*topology, mirrored_share(mesh), float(np.mean(distinct)), aligned, loose_share(mesh)]


def area(better: np.ndarray, worse: np.ndarray) -> float:
    """How often one of the first is above one of the second."""
    return float((better[:, None] > worse).mean() + 0.5 * (better[:, None] == worse).mean())


def regression(real: np.ndarray, written: np.ndarray) -> tuple:
    """A function that scores rows of figures, and its coefficients."""
    rows, known = np.concatenate((real, written)), np.repeat((1.0, 0.0), (len(real), len(written)))
    middle, spread = rows.mean(axis=0), rows.std(axis=0) + 1e-9

    def scaled(values: np.ndarray) -> np.ndarray:
        return np.concatenate(((values - middle) / spread, np.ones((len(values), 1))), axis=1)

    inputs = scaled(rows)
    weights, decay = np.zeros(inputs.shape[1]), DECAY * np.diag([1.0] * len(middle) + [0.0])
    for _ in range(STEPS):
        sure = 1 / (1 + np.exp(-inputs @ weights))
        hessian = inputs.T @ (inputs * (sure * (1 - sure))[:, None]) + decay
        weights = weights - np.linalg.solve(hessian, inputs.T @ (sure - known) + decay @ weights)
    return (lambda values: scaled(values) @ weights), weights[:-1] / spread


def named(values) -> dict[str, float]:
    return {name: round(float(value), 3) for name, value in zip(FIGURES, values, strict=True)}


if __name__ == "__main__":
    main()
