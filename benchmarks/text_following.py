"""How well meshes follow the text they were asked for, at several guidance scales, as a shape recognizer sees it.

    python benchmarks/text_following.py --train-classifier      # looks with a recognizer of its own, learned first
    python benchmarks/text_following.py --model runs/m          # one caption of val a category, 4 meshes each
    python benchmarks/text_following.py --model runs/m --prompts categories --meshes 25    # "a CATEGORY", 20 largest
    python benchmarks/text_following.py                         # the recognizer alone, on real meshes it never saw

Prints a table and one JSON object: the share of meshes whose category is the recognizer's first (or among its first 5),
and whose text is its first (or among its first 5, R@5) of all texts asked for; how many were ended by the model, are
sound (faces, none of them degenerate or double), and how many faces they have. Beside the rows of each cond_scale stand
real meshes of val, as many a text at most (what a perfect generator would get), and meshes written without any
condition, dealt out to the texts (what one that does not listen gets). Shares are in per cent, with their 95 %
intervals in the JSON.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from meshgpt.checkpoint import find_model
from meshgpt.data.dataset import MeshDataset
from meshgpt.errors import CheckpointError
from meshgpt.evaluation.evaluate import EVALUATORS
from meshgpt.evaluation.learn_recognition import Lessons, categories_of, train_recognizer
from meshgpt.evaluation.recognition import RecognizerConfig, ShapeRecognizer
from meshgpt.evaluation.text_following import (
    Prompt,
    caption_prompts,
    category_prompts,
    real_meshes,
    text_following,
)
from meshgpt.mesh.mesh import Mesh
from meshgpt.mesh.picture import contact_sheet, save_png
from meshgpt.mesh.topology import topology_report
from meshgpt.pipeline import MeshPipeline

COLUMNS = ("meshes", "category top-1", "category top-5", "R@1", "R@5", "ended", "sound", "faces")


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a pipeline that takes text: a folder, a bundled or a Hub name")
    parser.add_argument("--condition", default="text", choices=["text", "category", "both"], help="what it is given")
    parser.add_argument("--cond-scale", type=float, nargs="+", default=[1, 2, 3, 5])
    parser.add_argument("--prompts", default="captions", choices=["captions", "categories"])
    parser.add_argument("--count", type=int, help="how many prompts; all captions, or 20 categories, if not given")
    parser.add_argument("--meshes", type=int, default=4, help="a prompt and scale")
    parser.add_argument("--max-faces", type=int, default=400, help="stop a mesh here")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0, help="of meshes and of training")
    parser.add_argument("--pictures", type=Path, help="a folder for a contact sheet of each row")
    parser.add_argument("--data", default="cc0-lowpoly", help="its val split is measured on; train is learned from")
    parser.add_argument("--classifier", type=Path, help="folder of a recognizer (default: the bundled one)")
    parser.add_argument("--train-classifier", action="store_true", help="even where there is one")
    parser.add_argument("--train-data", help="learn from this data set in place of the train split")
    parser.add_argument("--steps", type=int, default=Lessons().steps)
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


def learned(given: argparse.Namespace, train: MeshDataset) -> ShapeRecognizer:
    """The bundled recognizer, or that in `given.classifier`, trained first where it is missing or that is asked for."""
    folder = given.classifier or Path("runs/recognizer")
    if not given.train_classifier:
        if given.classifier is None:
            return ShapeRecognizer.from_pretrained(EVALUATORS)
        try:
            return ShapeRecognizer.from_pretrained(find_model(folder, ShapeRecognizer.part))
        except CheckpointError:
            print(f"no recognizer in {folder}: training one", file=sys.stderr)
    start = time.process_time()

    def tell(step: int, loss: float) -> None:
        if step % 100 == 0 or step == given.steps:
            spent = time.process_time() - start
            print(f"step {step} of {given.steps}, loss {loss:.3f}, {spent:.0f} s of CPU", file=sys.stderr, flush=True)

    lessons = replace(Lessons(), steps=given.steps)
    config = RecognizerConfig(categories_of(train))
    model = train_recognizer(train, config, lessons, given.seed, given.device, tell)
    model.save_pretrained(folder)
    return model


def on_real_meshes(recognizer: ShapeRecognizer, val: MeshDataset) -> dict:
    """The recognizer's own figures: every val mesh of a known category, its caption among all distinct ones of val."""
    prompts = [
        Prompt(caption, category)
        for caption, category in zip(val.column("caption"), val.column("category"), strict=True)
        if category in recognizer.config.categories
    ]
    known = [i for i, category in enumerate(val.column("category")) if category in recognizer.config.categories]
    texts = list(dict.fromkeys(val.column("caption")))
    meshes = [val.mesh(index) for index in known]
    figures = text_following(recognizer, meshes, range(len(meshes)), prompts, texts).to_dict()
    return {"meshes": len(meshes), "texts": len(texts), **figures}


def soundness(meshes: Sequence[Mesh]) -> dict:
    reports = [topology_report(mesh) for mesh in meshes]
    sound = sum(r.faces > 0 and not r.degenerate_faces and not r.duplicate_faces for r in reports)
    return {"sound": per_cent(sound, len(meshes)), "faces": round(sum(r.faces for r in reports) / len(meshes), 1)}


def per_cent(part: int, whole: int) -> float:
    return round(100 * part / whole, 1)


def written(
    pipe: MeshPipeline, given: argparse.Namespace, prompts: Sequence[Prompt], scale: float | None
) -> tuple[list[Mesh], int]:
    """`given.meshes` meshes of each prompt in turn, without any condition if `scale` is None; and how many ended."""
    asked = [prompt for prompt in prompts for _ in range(given.meshes)]
    wishes: dict = {}
    if scale is not None:
        wishes["cond_scale"] = scale
        if given.condition != "category":
            wishes["text"] = [prompt.text for prompt in asked]
        if given.condition != "text":
            wishes["category"] = [prompt.category for prompt in asked]
    items = pipe.generate(
        num_meshes=len(asked),
        seed=given.seed,
        batch_size=given.batch_size,
        max_faces=given.max_faces,
        temperature=given.temperature,
        candidates=1,
        **wishes,
    )
    return [item.mesh for item in items], sum(item.stopped_by == "end" for item in items)


def measure(
    given: argparse.Namespace, recognizer: ShapeRecognizer, prompts: list[Prompt], show: Callable[[str, dict], None]
) -> None:
    """Hands each row of the table to `show` when it is there."""
    val, by_caption = MeshDataset(given.data).train_and_val()[1], given.prompts == "captions"
    meshes, asked = real_meshes(val, prompts, by_caption, given.meshes)
    follows = text_following(recognizer, meshes, asked, prompts).to_dict()
    show("real meshes", {"meshes": len(meshes), **follows, "ended": 100.0, **soundness(meshes)})
    if given.model is None:
        return
    pipe = MeshPipeline.from_pretrained(given.model, device=given.device)
    listens = pipe.transformer.config.takes("category" if given.condition == "category" else "text")
    asked = [index for index in range(len(prompts)) for _ in range(given.meshes)]
    for scale in [None, *(given.cond_scale if listens else [])]:
        start = time.process_time()
        meshes, ended = written(pipe, given, prompts, scale)
        spent = round(time.process_time() - start, 1)
        name = "unconditional" if scale is None else f"cond_scale {scale:g}"
        follows = text_following(recognizer, meshes, asked, prompts).to_dict()
        row = {"meshes": len(meshes), **follows, "ended": per_cent(ended, len(meshes)), **soundness(meshes)}
        show(name, {**row, "cpu_seconds": spent})
        if given.pictures:
            sheet = [mesh for mesh in meshes[:: given.meshes] if mesh.num_faces]
            save_png(contact_sheet(sheet), given.pictures / f"{name.replace(' ', '-')}.png")


def main() -> None:
    given = options()
    torch.set_num_threads(1)
    start = time.process_time()
    data = MeshDataset(given.data)
    train, val = data.train_and_val()
    recognizer = learned(given, train if given.train_data is None else MeshDataset(given.train_data)).to(given.device)
    report: dict = {"recognizer on val": on_real_meshes(recognizer, val)}
    if given.prompts == "captions":
        prompts = caption_prompts(val, recognizer.config.categories)[: given.count]
    else:
        prompts = category_prompts(train, recognizer.config.categories, given.count or 20)
    print(f"{'':>18}  " + "  ".join(f"{name:>14}" for name in COLUMNS))

    def show(name: str, row: dict) -> None:
        report[name] = row
        print(f"{name:>18}  " + "  ".join(f"{row[column]:>14}" for column in COLUMNS), flush=True)

    measure(given, recognizer, prompts, show)
    report["prompts"] = [prompt.text for prompt in prompts]
    print(json.dumps({**report, "cpu_seconds": round(time.process_time() - start, 1)}))


if __name__ == "__main__":
    main()
