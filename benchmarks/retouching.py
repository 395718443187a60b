"""What choosing by a critic and retouching are worth: sets of meshes chosen by several rules from the same candidates.

    python benchmarks/retouching.py --count 100

Writes --count meshes with --candidates each, as many faces asked for as some training mesh has, chooses of each the
best by every rule, and prints one JSON object: of each rule, and of as many training meshes, how the set compares with
validation meshes (`evaluation.set_metrics`, figures in percent), mean open edges, surface in the air and symmetric
vertices, how many meshes were retouched, and faces. "form": by `doubt` alone; "critic W": less W times its logit.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from meshgpt.data.dataset import MeshDataset
from meshgpt.evaluation.clouds import surface_clouds
from meshgpt.evaluation.set_metrics import compare_sets
from meshgpt.mesh.finishing import WRITTEN, finished_forms
from meshgpt.mesh.form import Form
from meshgpt.mesh.mesh import Mesh
from meshgpt.mesh.picture import contact_sheet, save_png
from meshgpt.pipeline import MeshPipeline


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="lowpoly", help="a pipeline with a critic")
    parser.add_argument("--data", default="cc0-lowpoly+cc0-more")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--candidates", type=int, default=8)
    parser.add_argument("--max-faces", type=int, default=400, help="of the meshes whose sizes are asked for")
    parser.add_argument("--points", type=int, default=512)
    parser.add_argument("--weights", type=float, nargs="+", default=[0.15, 1.0], help="of the critic")
    parser.add_argument("--pictures", type=Path, help="a folder: one of each rule")
    given = parser.parse_args()
    torch.set_num_threads(1)
    train, val = MeshDataset(given.data).filter(max_faces=800).train_and_val()
    pipe = MeshPipeline.from_pretrained(given.model)
    candidates = written(pipe, given, np.asarray(train.filter(max_faces=given.max_faces).face_counts))
    rules = {f"{kind}{name}": (weight, kind) for kind in ("", "retouched, ") for name, weight in named(given.weights)}
    rng = np.random.default_rng(0)
    real = [val.mesh(i) for i in rng.permutation(len(val))[: given.count]]
    reference = surface_clouds(real, given.points, (0, 0), "box")
    sets = {"training meshes": [train.mesh(i) for i in rng.permutation(len(train))[: given.count]]}
    retouched = {}
    for name, (weight, kind) in rules.items():
        chosen = [best(each, weight, bool(kind)) for each in candidates]
        sets[name] = [mesh for mesh, _ in chosen]
        retouched[name] = float(np.mean([form != WRITTEN for _, form in chosen]))
    report = {}
    for name, meshes in sets.items():
        found = compare_sets(surface_clouds(meshes, given.points, (0, 1), "box"), reference)
        forms = [Form.of(mesh) for mesh in meshes]
        report[name] = {
            "1-NNA": percent(found.one_nn_accuracy), "coverage": percent(found.coverage), "JSD": percent(found.jsd),
            "MMD": round(found.mmd, 4), "open edges": percent(np.mean([form.openness for form in forms])),
            "in the air": percent(np.mean([form.loose for form in forms])),
            "symmetric": percent(np.mean([form.symmetry for form in forms])),
            "retouched": percent(retouched.get(name, 0.0)), "faces": round(np.mean([m.num_faces for m in meshes])),
        }  # fmt: skip
        print(name, report[name], flush=True)
        if given.pictures is not None:
            given.pictures.mkdir(parents=True, exist_ok=True)
            sheet = contact_sheet(meshes[:48], columns=8, size=180)
            save_png(sheet, given.pictures / f"{name.replace(', ', '-').replace(' ', '-')}.png")
    print(json.dumps({**report, "cpu_seconds": round(time.process_time(), 1)}))


def named(weights: list[float]) -> list[tuple[str, float]]:
    return [("form", 0.0), *((f"critic {weight:g}", weight) for weight in weights)]


def written(pipe: MeshPipeline, given: argparse.Namespace, sizes: np.ndarray) -> list[list[tuple]]:
    """Of each mesh, of each candidate: every form with its name, its doubt and its logit. The smallest come first."""
    found, asked = [], np.sort(np.random.default_rng(1).choice(sizes, given.count))
    for row, faces in enumerate(asked):
        options = {"num_meshes": given.candidates, "seed": 1000 * row, "faces": int(faces), "candidates": 1}
        rows = []
        for item in pipe.generate(**options, retouch=False):
            forms = finished_forms(item.mesh, pipe.tokenizer.num_discrete_coors)
            logits = pipe.critic.judge(list(forms.values())) if pipe.critic is not None else [0.0] * len(forms)
            for (name, mesh), logit in zip(forms.items(), logits, strict=True):
                rows.append((mesh, name, Form.of(mesh).doubt, logit))
        found.append(rows)
    order = np.random.default_rng(2).permutation(len(found))
    return [found[i] for i in order]


def best(forms: list[tuple], weight: float, retouch: bool) -> tuple[Mesh, str]:
    allowed = [each for each in forms if (retouch or each[1] == WRITTEN) and np.isfinite(each[2])]
    mesh, name, *_ = min(allowed, key=lambda each: each[2] - weight * each[3])
    return mesh, name


def percent(share: float | np.floating) -> float:
    return round(100 * float(share), 1)


if __name__ == "__main__":
    main()
