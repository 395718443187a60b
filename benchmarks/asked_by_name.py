"""How often `meshgpt generate "a CATEGORY"` gives what was asked for, to a recognizer that took no part in choosing.

    python benchmarks/evaluation_networks.py --recognizer runs/other --seed 7        # the one that measures, first
    python benchmarks/asked_by_name.py --other runs/other --folder runs/asked

The --categories largest categories of the training meshes, --meshes each, with the settings, candidates and judge of
`meshgpt generate`. Meshes are kept in --folder as they are written, so that a run that was stopped goes on. Prints one
JSON object: per cent of meshes whose category is the recognizer's first (or among its first 5), with 95 % intervals;
the same of real validation meshes of these categories; the ratio of both; and how it is in each category.
"""

import argparse
import json
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch

from meshgpt.checkpoint import find_model
from meshgpt.cli.generate import JUDGED_CANDIDATES
from meshgpt.data.dataset import MeshDataset
from meshgpt.evaluation.authors import PipelineAuthor, Written
from meshgpt.evaluation.judge import ShapeJudge
from meshgpt.evaluation.ranking import Z95, Share
from meshgpt.evaluation.recognition import ShapeRecognizer
from meshgpt.evaluation.text_following import Prompt, TextFollowing, category_prompts, real_meshes, text_following
from meshgpt.mesh.picture import contact_sheet, save_png
from meshgpt.mesh.topology import topology_report
from meshgpt.pipeline import MeshPipeline


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--other", type=Path, required=True, help="folder of the recognizer that measures")
    parser.add_argument("--folder", type=Path, required=True, help="where the meshes are kept")
    parser.add_argument("--model", default="lowpoly")
    parser.add_argument("--data", default="cc0-lowpoly")
    parser.add_argument("--categories", type=int, default=20)
    parser.add_argument("--meshes", type=int, default=25, help="a category")
    parser.add_argument("--candidates", type=int, default=JUDGED_CANDIDATES)
    parser.add_argument("--max-faces", type=int, help="(default: as many as the model can)")
    parser.add_argument("--no-judge", action="store_true", help="choose candidates by their form alone")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--pictures", type=Path, help="a PNG file, some meshes of each category in a row")
    given = parser.parse_args()
    torch.set_num_threads(1)
    train, val = MeshDataset(given.data).train_and_val()
    other = ShapeRecognizer.from_pretrained(find_model(given.other, ShapeRecognizer.part))
    prompts = category_prompts(train, other.config.categories, given.categories)
    meshes, asked = real_meshes(val, prompts, by_caption=False)
    real = text_following(other, meshes, asked, prompts)
    by_category = {prompt.text: {"real": of_one(other, meshes, asked, prompts, i)} for i, prompt in enumerate(prompts)}
    items, asked = written(given, train, prompts)
    meshes = [item.mesh for item in items]
    found = text_following(other, meshes, asked, prompts)
    for index, prompt in enumerate(prompts):
        by_category[prompt.text]["generated"] = of_one(other, meshes, asked, prompts, index)
    report = {"generated": {"meshes": len(items), **shares(found), **described(items)}}
    report["real"] = {"meshes": real.category[1].count, **shares(real)}
    report["generated / real"] = {f"top-{k}": ratio(found.category[k], real.category[k]) for k in found.category}
    report["accuracy of the recognizer on all of val"] = other.config.accuracy
    if given.pictures:
        save_png(contact_sheet([mesh for mesh in meshes if mesh.num_faces][:100]), given.pictures)
    print(json.dumps({**report, "categories": by_category, "cpu_seconds": round(time.process_time(), 1)}))


def written(given: argparse.Namespace, train: MeshDataset, prompts: list[Prompt]) -> tuple[list[Written], list[int]]:
    """Meshes for every prompt, all prompts in turn, so that a part of them says something of all."""
    some = [np.flatnonzero(train.column("category") == prompt.category)[0] for prompt in prompts]
    asked = [index for _ in range(given.meshes) for index in range(len(prompts))]
    options = {} if given.max_faces is None else {"max_faces": given.max_faces}

    def tell(line: str) -> None:
        print(f"{line}, {time.process_time():.0f} s of CPU", file=sys.stderr, flush=True)

    author = PipelineAuthor(
        MeshPipeline.from_pretrained(given.model),
        given.folder,
        "name",
        given.batch_size,
        tell,
        None if given.no_judge else ShapeJudge(),
        candidates=given.candidates,
        **options,
    )
    return author.write(0, train[np.array([some[index] for index in asked])]), asked


def of_one(other: ShapeRecognizer, meshes: list, asked: list[int], prompts: list[Prompt], index: int) -> str | None:
    """Of how many meshes of one prompt the category is the first."""
    rows = [row for row, prompt in enumerate(asked) if prompt == index]
    if not rows:
        return None
    share = text_following(other, [meshes[row] for row in rows], [index] * len(rows), prompts).category[1]
    return f"{share.hits:.0f} of {share.count}"


def shares(found: TextFollowing) -> dict:
    return {name: value for name, value in found.to_dict().items() if name.startswith("category")}


def ratio(one: Share, other: Share) -> dict:
    """Of two shares, with its 95 % interval (Katz et al. 1978: its logarithm is nearly normal)."""
    if not one.hits or not other.hits:
        return {"ratio": None}
    value = one.value / other.value
    reach = Z95 * math.sqrt(sum((1 - share.value) / share.hits for share in (one, other)))
    return {"ratio": round(value, 3), "from-to": [round(value * math.exp(sign * reach), 3) for sign in (-1, 1)]}


def described(items: list[Written]) -> dict:
    reports = [topology_report(item.mesh) for item in items]
    opened = sum(r.boundary_edges for r in reports) / max(sum(r.edges for r in reports), 1)
    ended = sum(item.stopped_by == "end" for item in items) / len(items)
    invalid = sum(not r.faces or r.degenerate_faces > 0 or r.duplicate_faces > 0 for r in reports)
    closed = sum(not r.boundary_edges and not r.nonmanifold_edges for r in reports) / len(items)
    shares = {"open edges": round(100 * opened, 1), "closed": round(100 * closed, 1), "ended": round(100 * ended, 1)}
    seconds = sum(item.seconds for item in items) / len(items)
    faces = sum(r.faces for r in reports) / len(items)
    return {**shares, "invalid": invalid, "faces": round(faces, 1), "seconds a mesh": round(seconds, 2)}


if __name__ == "__main__":
    main()
