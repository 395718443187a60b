"""Held-out bits a face of the bundled transformer, from the weights as they are stored, and what each condition saves.

    python benchmarks/bundled_model.py

On the validation meshes of up to --max-faces faces: unasked, and asked by their caption, category, number of faces,
and 1,024 points of their surface, one kind at a time and all together. With --stored int8, int6, int5 or bfloat16 the
weights are rounded before as `save_pretrained(dtype=)` rounds them. Prints one JSON object.
"""

import argparse
import json
import tempfile
from pathlib import Path

import torch

from meshgpt.data.dataset import MeshDataset
from meshgpt.pipeline import load_tokenizer
from meshgpt.training.asked import AskedCodes, asked
from meshgpt.training.examples import MeshExamples, MeshView
from meshgpt.training.tokens import PieceCodes, TokenCache, tokenized
from meshgpt.transformer.conditions import KINDS, Conditions
from meshgpt.transformer.transformer import MeshTransformer


def asked_codes(model: MeshTransformer, dataset: MeshDataset, folder: Path) -> list[AskedCodes]:
    """Codes and conditions of every mesh, as a validation sees them; neighbours are of like length."""
    view, cache = MeshView(model.tokenizer.num_discrete_coors, model.tokenizer.corners), TokenCache(folder)
    tokens = tokenized(model.tokenizer, MeshExamples(dataset, view), cache, longest=model.config.max_seq_len)
    examples = asked(model, tokens, cache, exact=True)
    return sorted((examples.get(index, 0) for index in range(len(examples))), key=lambda example: len(example.codes))


@torch.no_grad()
def bits(model: MeshTransformer, examples: list[AskedCodes], without: tuple[str, ...]) -> tuple[float, float]:
    """Bits a face, and bits a mesh, asked by all but some kinds of condition."""
    total, faces = 0.0, 0
    for start in range(0, len(examples), 8):
        batch = examples[start : start + 8]
        rows = [example.codes for example in batch if not isinstance(example.codes, PieceCodes)]  # whole meshes, all
        codes = torch.nn.utils.rnn.pad_sequence(rows, True, -1)
        conditions = Conditions.join([example.conditions for example in batch]).without(without)
        output = model.losses(codes, conditions)
        total, faces = total + float(output.row_bits.sum()), faces + output.num_faces
    return total / faces, total / len(examples)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="lowpoly")
    parser.add_argument("--tokenizer", default="lowpoly")
    parser.add_argument("--data", default="cc0-lowpoly")
    parser.add_argument("--max-faces", type=int, default=200)
    parser.add_argument("--stored", help="as what weights are stored before")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = MeshTransformer.from_pretrained(options.model, load_tokenizer(options.tokenizer))
    if options.stored:
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder, dtype=options.stored)
            model = MeshTransformer.from_pretrained(folder, model.tokenizer)
    val = MeshDataset(options.data).filter(max_faces=options.max_faces).split("val")
    with tempfile.TemporaryDirectory() as folder:
        examples = asked_codes(model, val, Path(folder))
        unasked = bits(model, examples, KINDS)
        report = {"meshes": len(examples), "bits_per_face": round(unasked[0], 3), "bits_per_mesh": round(unasked[1], 1)}
        kinds = {kind: tuple(other for other in KINDS if other != kind) for kind in model.config.kinds}
        for name, without in {**kinds, "all": ()}.items() if kinds else ():
            found = bits(model, examples, without)
            report[name] = {"bits_per_face": round(found[0], 3), "bits_saved_per_mesh": round(unasked[1] - found[1], 2)}
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
