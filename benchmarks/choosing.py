"""What choosing among candidates by a recognizer brings, as another recognizer sees it that took no part in choosing.

    python benchmarks/text_following.py --train-classifier --classifier runs/other --seed 7     # the other one, first
    python benchmarks/choosing.py --other runs/other

"a CATEGORY" for the 20 largest categories, --meshes each, of which --candidates are written with the settings of the
pipeline; then, of the first 1, 4, ... of them, the one that most looks made by hand, and the one that a judge prefers.
With --keep, candidates are kept in a folder, where another judge finds them. Prints one JSON object: per cent of the
category asked for being the first (or among the first 5) of the other recognizer, with 95 % intervals; real validation
meshes beside them; and how the meshes are.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from meshgpt.checkpoint import find_model
from meshgpt.data.dataset import MeshDataset
from meshgpt.evaluation.judge import ShapeJudge
from meshgpt.evaluation.recognition import ShapeRecognizer
from meshgpt.evaluation.text_following import Prompt, category_prompts, real_meshes, text_following
from meshgpt.mesh.mesh import Mesh
from meshgpt.mesh.picture import contact_sheet, save_png
from meshgpt.mesh.symmetry import mirrored_share
from meshgpt.mesh.topology import topology_report
from meshgpt.pipeline import CANDIDATE_STRIDE, GeneratedMesh, MeshPipeline, faults, judged
from meshgpt.wishes import Wishes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--other", type=Path, required=True, help="folder of the recognizer that measures")
    parser.add_argument("--model", default="lowpoly")
    parser.add_argument("--data", default="cc0-lowpoly")
    parser.add_argument("--categories", type=int, default=20)
    parser.add_argument("--meshes", type=int, default=3, help="a category")
    parser.add_argument("--candidates", type=int, default=12)
    parser.add_argument("--max-faces", type=int, default=200)
    parser.add_argument("--cond-scale", type=float, help="(default: the pipeline's)")
    parser.add_argument("--judge", type=Path, help="folder of the recognizer that chooses (default: the bundled one)")
    parser.add_argument("--keep", type=Path, help="a folder of candidates, for this model and these settings alone")
    parser.add_argument("--pictures", type=Path, help="a folder for contact sheets")
    given = parser.parse_args()
    torch.set_num_threads(1)
    start = time.process_time()
    train, val = MeshDataset(given.data).train_and_val()
    other = ShapeRecognizer.from_pretrained(find_model(given.other, ShapeRecognizer.part))
    prompts = category_prompts(train, other.config.categories, given.categories)
    report = {"real meshes": measured(other, *real_meshes(val, prompts, by_caption=False), prompts)}
    pipe = MeshPipeline.from_pretrained(given.model)
    asked = [index for index in range(len(prompts)) for _ in range(given.meshes)]
    rounds = written(pipe, given, [prompts[index].text for index in asked])
    for count in sorted({min(count, given.candidates) for count in (1, 4, 12, given.candidates)}):
        for name, choose in (("form", unjudged), ("judge", same)) if count > 1 else (("", same),):
            best = [min((choose(items[row]) for items in rounds[:count]), key=faults) for row in range(len(asked))]
            title = f"best of {count} by {name}" if name else "one"
            report[title] = measured(other, [item.mesh for item in best], asked, prompts) | described(best)
            if given.pictures:
                sheet = [item.mesh for item in best if item.mesh.num_faces]
                save_png(contact_sheet(sheet), given.pictures / f"{title.replace(' ', '-')}.png")
            print(title, report[title], flush=True)
    print(json.dumps({**report, "cpu_seconds": round(time.process_time() - start, 1)}))


def written(pipe: MeshPipeline, given: argparse.Namespace, texts: list[str]) -> list[list[GeneratedMesh]]:
    """Rounds of candidates, one mesh for each text in each, with what the judge says of them."""
    judge, wishes = judge_of(given), Wishes(len(texts), texts)
    rounds = []
    for number in range(given.candidates):
        seeds = [seed + CANDIDATE_STRIDE * number for seed in range(len(texts))]
        path = None if given.keep is None else given.keep / f"round-{number:02d}.npz"
        items = kept(path, seeds)
        if items is None:
            items = one_round(pipe, given, texts, seeds)
            keep(items, path)
            print(f"round {number + 1} of {given.candidates}, {time.process_time():.0f} s of CPU", flush=True)
        rounds.append(judged(items, range(len(texts)), wishes, judge))
    return rounds


def judge_of(given: argparse.Namespace) -> ShapeJudge:
    if given.judge is None:
        return ShapeJudge()
    return ShapeJudge(ShapeRecognizer.from_pretrained(find_model(given.judge, ShapeRecognizer.part)))


def one_round(pipe: MeshPipeline, given: argparse.Namespace, texts: list[str], seeds: list[int]) -> list[GeneratedMesh]:
    scale = {} if given.cond_scale is None else {"cond_scale": given.cond_scale}
    options = {"num_meshes": len(texts), "candidates": 1, "max_faces": given.max_faces, "batch_size": 32, **scale}
    return pipe.generate(texts, seed=seeds, **options)


def keep(items: list[GeneratedMesh], path: Path | None) -> None:
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = {f"vertices{row}": item.mesh.vertices for row, item in enumerate(items)}
    parts |= {f"faces{row}": item.mesh.faces for row, item in enumerate(items)}
    parts["ended"] = np.array([item.stopped_by for item in items])
    with path.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **parts)


def kept(path: Path | None, seeds: list[int]) -> list[GeneratedMesh] | None:
    if path is None or not path.is_file():
        return None
    with np.load(path) as parts:
        ended = parts["ended"].tolist()
        if len(ended) != len(seeds):
            raise SystemExit(f"{path} has {len(ended)} candidates, not {len(seeds)}: name another folder to --keep")
        meshes = [Mesh(parts[f"vertices{row}"], parts[f"faces{row}"]) for row in range(len(ended))]
    codes = torch.zeros(0, dtype=torch.long)
    each = zip(meshes, seeds, ended, strict=True)
    return [GeneratedMesh(mesh, seed, codes, stopped_by) for mesh, seed, stopped_by in each]


def same(item: GeneratedMesh) -> GeneratedMesh:
    return item


def unjudged(item: GeneratedMesh) -> GeneratedMesh:
    return GeneratedMesh(item.mesh, item.seed, item.codes, item.stopped_by)


def measured(other: ShapeRecognizer, meshes: list, asked: list[int], prompts: list[Prompt]) -> dict:
    found = text_following(other, meshes, asked, prompts).to_dict()
    return {name: found[name] for name in found if name.startswith("category")} | {"meshes": len(meshes)}


def described(items: list[GeneratedMesh]) -> dict:
    meshes = [item.mesh for item in items]
    reports = [topology_report(mesh) for mesh in meshes]
    opened = sum(r.boundary_edges for r in reports) / max(sum(r.edges for r in reports), 1)
    ended = sum(item.stopped_by == "end" for item in items) / len(items)
    symmetry, parts = (
        sum(each) / len(items) for each in (map(mirrored_share, meshes), (r.components for r in reports))
    )
    shares = {"open edges": opened, "ended": ended, "symmetric vertices": symmetry}
    return {**{name: round(100 * share, 1) for name, share in shares.items()}, "parts": round(parts, 1)}


if __name__ == "__main__":
    main()
