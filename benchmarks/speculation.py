"""Guessing codes ahead of each coarse pass: how many faces a pass, and how much faster a single mesh is written.

    python benchmarks/speculation.py
    python benchmarks/speculation.py --guesses 4 8 16 32 --unlikely 0.03

Goes on from the first quarter of validation meshes, with the settings of the pipeline and one seed each, once without
guesses and once with each number of them, taking turns. The codes must be the same (but for rounding, which is told).
Prints one JSON object: faces a coarse pass, faces a CPU second, and times the speed without.
"""

import argparse
import json
import time

import torch

from meshgpt.data.dataset import MeshDataset
from meshgpt.pipeline import MeshPipeline
from meshgpt.transformer import speculation
from meshgpt.transformer.stack import Stack
from meshgpt.transformer.transformer import MeshTransformer


def prompts_of(model: MeshTransformer, data: str, count: int, max_faces: int) -> list[torch.Tensor]:
    """The first quarter of the codes of some validation meshes."""
    val = MeshDataset(data).filter(min_faces=40, max_faces=max_faces).split("val")
    numbers = torch.linspace(0, len(val) - 1, min(count, len(val))).long().tolist()
    codes = [model.tokenizer.encode(val.mesh(number)) for number in numbers]
    return [row[None, : len(row) // 4] for row in codes]


class Passes:
    """Counts the passes over trees."""

    def __init__(self) -> None:
        self.count, step = 0, Stack.step_tree

        def counted(*args, **keywords):
            self.count += 1
            return step(*args, **keywords)

        Stack.step_tree = counted  # type: ignore[method-assign]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="lowpoly")
    parser.add_argument("--data", default="cc0-lowpoly")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--max-faces", type=int, default=300, help="of the validation meshes")
    parser.add_argument("--guesses", type=int, nargs="+", default=[4, 12, 24])
    parser.add_argument("--unlikely", type=float, default=speculation.UNLIKELY, help="guesses less likely are not read")
    options = parser.parse_args()
    torch.set_num_threads(1)
    speculation.UNLIKELY = options.unlikely
    pipe, passes = MeshPipeline.from_pretrained(options.model), Passes()
    model, temperature = pipe.transformer, pipe.config.temperature
    rows = {number: {"seconds": 0.0, "faces": 0, "passes": 0, "same": 0} for number in (0, *options.guesses)}
    prompts = prompts_of(model, options.data, options.prompts, options.max_faces)
    model.generate_result(seed=0, max_faces=5, speculate=options.guesses[0])
    for seed, prompt in enumerate(prompts):
        written = {}
        for number, row in rows.items():
            before, begin = passes.count, time.process_time()
            asked = {"prompt": prompt, "seed": seed, "temperature": temperature, "max_faces": options.max_faces}
            result = model.generate_result(**asked, speculate=number)
            row["seconds"] += time.process_time() - begin
            row["faces"] += int(result.face_counts) - int(model.faces_in(prompt))
            row["passes"] += passes.count - before if number else result.codes.shape[1] - prompt.shape[1]
            written[number] = result.codes
            row["same"] += torch.equal(result.codes, written[0])
    plain = rows[0]["faces"] / rows[0]["seconds"]
    report = {}
    for number, row in rows.items():
        rate = row["faces"] / row["seconds"]
        name = f"{number} guesses" if number else "none"
        report[name] = {"faces_per_pass": round(row["faces"] / row["passes"], 2), "faces_per_second": round(rate, 1)}
        report[name] |= {"times_plain": round(rate / plain, 2), "same": f"{row['same']} of {len(prompts)}"}
    print(json.dumps({"faces": rows[0]["faces"], **report}, indent=1))


if __name__ == "__main__":
    main()
