"""How much of what tuning did an adapter of low rank keeps, and how many bytes it takes.

    python benchmarks/adapters.py runs/tuned/pipeline --base runs/lowpoly/pipeline --ranks 1 4 16

Writes --count plain samples of up to --faces faces, asked by the 16 most frequent categories of --data, with the base,
with the tuned model, and with the base and an adapter of each rank, as `save_pretrained(adapter_of=, rank=)` stores it.
For a base that was not sharpened as tuning began, --temperatures says by how much, since plain samples of it are worth
nothing. Prints one JSON object.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from meshgpt.data.dataset import MeshDataset
from meshgpt.mesh.form import Form
from meshgpt.pipeline import MeshPipeline


def figures_of(pipe: MeshPipeline, texts: list[str], count: int, faces: int) -> dict[str, Any]:
    asked = [texts[index % len(texts)] for index in range(count)]
    written = pipe.generate(text=asked, faces=[faces] * count, num_meshes=count, seed=1, candidates=1, temperature=1.0)
    forms = [Form.of(item.mesh) for item in written]
    return {
        "open_edges": round(float(np.mean([form.boundary for form in forms])), 3),
        "doubt": round(float(np.mean([form.doubt for form in forms if form.parts])), 2),
        "symmetry": round(float(np.mean([form.symmetry for form in forms])), 2),
        "faces": round(float(np.mean([item.mesh.num_faces for item in written])), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tuned")
    parser.add_argument("--base", default="lowpoly")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--temperatures", type=float, nargs="+", help="of the digits of the base")
    parser.add_argument("--data", default="cc0-lowpoly")
    parser.add_argument("--count", type=int, default=32)
    parser.add_argument("--faces", type=int, default=60)
    options = parser.parse_args()
    torch.set_num_threads(1)
    names, counts = np.unique(MeshDataset(options.data).column("category"), return_counts=True)
    texts = [f"a {names[index]}" for index in np.argsort(-counts)[:16]]
    base, tuned = MeshPipeline.from_pretrained(options.base), MeshPipeline.from_pretrained(options.tuned)
    report: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for rank in options.ranks:
            place = tuned.save_pretrained(Path(folder) / str(rank), adapter_of=options.base, rank=rank)
            few = MeshPipeline.from_pretrained(place)
            stored = (place / "transformer" / "model.safetensors").stat().st_size
            found = figures_of(few, texts, options.count, options.faces)
            report[f"rank {rank}"] = {"kilobytes": round(stored / 1e3), **found}
    if options.temperatures:
        base.transformer.head.sharpen(tuple(options.temperatures))
    report["base"] = figures_of(base, texts, options.count, options.faces)
    report["tuned"] = figures_of(tuned, texts, options.count, options.faces)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
