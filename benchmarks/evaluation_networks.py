"""Trains the two small networks that `meshgpt evaluate` looks with; both come with the package, made by this script.

    python benchmarks/evaluation_networks.py --views out/views               # pictures: features for FID and KID
    python benchmarks/evaluation_networks.py --recognizer out/recognizer     # points and texts: categories, R@k

Both learn from the train split and are measured on val; a JSON object with the figures is printed.
"""

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from meshgpt.checkpoint import find_model
from meshgpt.data.dataset import MeshDataset
from meshgpt.evaluation.learn_recognition import Lessons, categories_of, train_recognizer
from meshgpt.evaluation.learn_views import ViewLessons, category_accuracy, train_view_network
from meshgpt.evaluation.recognition import RecognizerConfig, ShapeRecognizer
from meshgpt.evaluation.text_following import Prompt, text_following
from meshgpt.evaluation.view_network import ViewNetwork

SMALL: dict = {"dim": 10, "dim_hidden": 128, "dim_embed": 64, "dropout": 0.15}
SIZES: dict = {"small": {}, "wide": {"dim": 16, "dim_hidden": 96}}  # 171 kB as int8, 290 kB


def tell(step: int, loss: float) -> None:
    if step % 100 == 0:
        print(f"step {step}, loss {loss:.3f}, {time.process_time():.0f} s of CPU", file=sys.stderr, flush=True)


def view_network(train: MeshDataset, val: MeshDataset, folder: Path, steps: int) -> dict:
    model = train_view_network(train, lessons=ViewLessons(steps=steps), on_step=tell)
    model.config = replace(model.config, accuracy=round(category_accuracy(model, val), 4))
    model.save_pretrained(folder, dtype="int8")
    again = ViewNetwork.from_pretrained(folder)
    return {"accuracy on val": model.config.accuracy, "from int8": round(category_accuracy(again, val), 4)}


def recognizer(train: MeshDataset, val: MeshDataset, folder: Path, given: argparse.Namespace) -> dict:
    config = RecognizerConfig(categories_of(train), **{**SMALL, **SIZES[given.size]})
    lessons = Lessons(steps=given.steps, learning_rate=given.rate)
    start = None if given.start is None else ShapeRecognizer.from_pretrained(find_model(given.start, "recognizer"))
    model = train_recognizer(train, config, lessons, given.seed, on_step=tell, start=start)
    known = [i for i, name in enumerate(val.column("category")) if name in config.categories]
    prompts = [Prompt(*pair) for pair in zip(val.column("caption")[known], val.column("category")[known], strict=True)]
    meshes, texts = [val.mesh(index) for index in known], list(dict.fromkeys(val.column("caption")))
    found = text_following(model, meshes, range(len(meshes)), prompts, texts)
    model.config = replace(model.config, accuracy=round(found.category[1].value, 4))
    model.save_pretrained(folder, dtype="int8")
    again = text_following(ShapeRecognizer.from_pretrained(folder), meshes, range(len(meshes)), prompts, texts)
    return {"on val": found.to_dict(), "from int8": again.to_dict()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--views", type=Path, metavar="FOLDER", help="train the network of pictures")
    parser.add_argument("--recognizer", type=Path, metavar="FOLDER", help="train the recognizer of shapes")
    parser.add_argument("--data", default="cc0-lowpoly")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--start", type=Path, metavar="FOLDER", help="a recognizer that goes on learning")
    parser.add_argument("--size", choices=list(SIZES), default="small", help="of a new recognizer (default: small)")
    parser.add_argument("--rate", type=float, default=Lessons().learning_rate, help="of learning, for the recognizer")
    parser.add_argument("--seed", type=int, default=0, help="of the recognizer")
    given = parser.parse_args()
    torch.set_num_threads(1)
    train, val = MeshDataset(given.data).train_and_val()
    report: dict = {}
    if given.views is not None:
        report["views"] = view_network(train, val, given.views, given.steps)
    if given.recognizer is not None:
        report["recognizer"] = recognizer(train, val, given.recognizer, given)
    print(json.dumps({**report, "cpu_seconds": round(time.process_time(), 1)}))


if __name__ == "__main__":
    main()
