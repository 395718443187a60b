"""Guessing codes ahead of each coarse pass: how many faces a pass, and how much faster a single mesh is written.

    python benchmarks/speculation.py --model runs/draft/pipeline
    python benchmarks/speculation.py --model runs/draft/pipeline --guesses 4 8 16 32 --unlikely 0.03
    python benchmarks/speculation.py --coordinates 512 --guesses 9 18 --prompts 4 --max-faces 100

The model needs the extra head that guesses (docs/training.md); `lowpoly` has none. Goes on from the first quarter of
validation meshes, with the settings of the pipeline and one seed each, once without guesses and once with each number
of them, taking turns. The codes must be the same (but for rounding, which is told). With --coordinates, by a model of
whole faces of that width, 12 + 2 layers, whose weights are random: it is made to say the rest of each mesh, so that
guesses fit as they fit real meshes. Prints one JSON object: faces a coarse pass, faces a CPU second, and times the
speed without.
"""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import torch

from meshgpt.data.dataset import MeshDataset
from meshgpt.pipeline import MeshPipeline
from meshgpt.tokenizers.coordinates import CoordinateTokenizer
from meshgpt.transformer import speculation
from meshgpt.transformer.model import FaceWriter
from meshgpt.transformer.stack import Stack
from meshgpt.transformer.transformer import MeshTransformer


def meshes_of(model: MeshTransformer, data: str, count: int, max_faces: int) -> list[torch.Tensor]:
    """The codes of some validation meshes."""
    val = MeshDataset(data).filter(min_faces=40, max_faces=max_faces).split("val")
    numbers = torch.linspace(0, len(val) - 1, min(count, len(val))).long().tolist()
    return [model.tokenizer.encode(val.mesh(number)) for number in numbers]


class Passes:
    """Counts the coarse passes, of trees or not."""

    def __init__(self) -> None:
        self.count = 0
        for owner, name in ((Stack, "step_tree"), (FaceWriter, "coarse_step")):
            setattr(owner, name, self._counted(getattr(owner, name)))

    def _counted(self, step: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **keywords: Any) -> Any:
            self.count += 1
            return step(*args, **keywords)

        return counted


def saying(codes: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """A filter with which nothing but these codes are said, one after the other."""
    left = iter(codes.tolist())

    def only(logits: torch.Tensor) -> torch.Tensor:
        return torch.full_like(logits, -torch.inf).index_fill(1, torch.tensor([next(left)]), 0.0)

    return only


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a pipeline with the extra head")
    parser.add_argument("--data", default="cc0-lowpoly")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--max-faces", type=int, default=300, help="of the validation meshes")
    parser.add_argument("--guesses", type=int, nargs="+", default=[4, 12, 24])
    parser.add_argument("--coordinates", type=int, metavar="WIDTH", help="a model of whole faces, of random weights")
    parser.add_argument("--unlikely", type=float, default=speculation.UNLIKELY, help="guesses less likely are not read")
    options = parser.parse_args()
    if not (options.model or options.coordinates):
        parser.error("give --model, a pipeline with an extra head that guesses (docs/training.md), or --coordinates")
    torch.set_num_threads(1)
    speculation.UNLIKELY = options.unlikely
    passes, temperature = Passes(), 1.0
    if options.coordinates:
        model = MeshTransformer(CoordinateTokenizer(), dim=options.coordinates).eval()
    else:
        pipe = MeshPipeline.from_pretrained(options.model)
        model, temperature = pipe.transformer, pipe.config.temperature
    rows = {number: {"seconds": 0.0, "faces": 0, "passes": 0, "same": 0} for number in (0, *options.guesses)}
    meshes = meshes_of(model, options.data, options.prompts, options.max_faces)
    model.generate_result(seed=0, max_faces=5, speculate=options.guesses[0])
    for seed, codes in enumerate(meshes):
        written, prompt = {}, codes[None, : len(codes) // 4]
        rest = torch.cat((codes[len(codes) // 4 :], torch.tensor([model.vocab_size])))
        for number, row in rows.items():
            before = passes.count
            asked = {"prompt": prompt, "seed": seed, "temperature": temperature, "max_faces": options.max_faces}
            asked |= {"filter_logits_fn": saying(rest)} if options.coordinates else {}
            begin = time.process_time()
            result = model.generate_result(**asked, speculate=number)
            row["seconds"] += time.process_time() - begin
            row["faces"] += int(result.face_counts) - int(model.faces_in(prompt))
            row["passes"] += passes.count - before
            written[number] = result.codes
            row["same"] += torch.equal(result.codes, written[0])
    plain = rows[0]["faces"] / rows[0]["seconds"]
    report = {}
    for number, row in rows.items():
        rate = row["faces"] / row["seconds"]
        name = f"{number} guesses" if number else "none"
        report[name] = {"faces_per_pass": round(row["faces"] / row["passes"], 2), "faces_per_second": round(rate, 1)}
        report[name] |= {"times_plain": round(rate / plain, 2), "same": f"{row['same']} of {len(meshes)}"}
    print(json.dumps({"faces": rows[0]["faces"], **report}, indent=1))


if __name__ == "__main__":
    main()
