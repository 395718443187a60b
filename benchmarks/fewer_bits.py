"""What a bundled model loses and gains when its matrices are read in fewer bits: one line for each kind of weights.

    python benchmarks/fewer_bits.py

Held-out bits a face of the validation meshes of up to --max-faces faces, unasked; and faces a CPU second on one thread,
one mesh at a time and --batch together, the best of --rounds in which all kinds take turns. Prints one JSON object.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
from bundled_model import asked_codes, bits

from meshgpt.data.dataset import MeshDataset
from meshgpt.pipeline import load_tokenizer
from meshgpt.transformer.compressed import KINDS as FEWER
from meshgpt.transformer.compressed import compressed
from meshgpt.transformer.conditions import KINDS
from meshgpt.transformer.transformer import MeshTransformer


def faces_per_second(model: MeshTransformer, batch: int, faces: int) -> float:
    begin = time.process_time()
    result = model.generate_result(batch_size=batch, seed=0, min_faces=faces, max_faces=faces)
    return float(result.face_counts.sum()) / (time.process_time() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="lowpoly")
    parser.add_argument("--data", default="cc0-lowpoly")
    parser.add_argument("--max-faces", type=int, default=200)
    parser.add_argument("--faces", type=int, default=60, help="that are written for each mesh")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    plain = MeshTransformer.from_pretrained(options.model, load_tokenizer(options.model)).eval()
    models = {"float32": plain, **{kind: compressed(plain, kind) for kind in FEWER}}
    val = MeshDataset(options.data).filter(max_faces=options.max_faces).split("val")
    with tempfile.TemporaryDirectory() as folder:
        examples = asked_codes(plain, val, Path(folder))
    report = {kind: {"bits_per_face": round(bits(model, examples, KINDS)[0], 4)} for kind, model in models.items()}
    for name, batch in (("single", 1), ("batched", options.batch)):
        for _ in range(options.rounds):
            for kind, model in models.items():
                found = faces_per_second(model, batch, options.faces)
                row = report[kind]
                row[f"faces_per_second_{name}"] = round(max(found, row.get(f"faces_per_second_{name}", 0.0)), 1)
    print(json.dumps({"meshes": len(examples), "batch": options.batch, **report}, indent=1))


if __name__ == "__main__":
    main()
