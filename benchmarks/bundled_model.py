"""Held-out bits a face of the bundled transformer, from the weights as they are stored.

    python benchmarks/bundled_model.py

On the validation meshes of up to --max-faces faces, as they are, one by one. Prints one JSON object.
"""

import argparse
import json

import torch

from meshgpt.data.dataset import MeshDataset
from meshgpt.pipeline import MeshPipeline


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="lowpoly")
    parser.add_argument("--data", default="cc0-lowpoly")
    parser.add_argument("--max-faces", type=int, default=200)
    options = parser.parse_args()
    pipe = MeshPipeline.from_pretrained(options.model)
    bits, faces = 0.0, 0
    val = MeshDataset(options.data).filter(max_faces=options.max_faces).split("val")
    for index in range(len(val)):
        out = pipe.transformer.losses(pipe.tokenizer.encode(val.mesh(index))[None])
        bits, faces = bits + float(out.row_bits.sum()), faces + out.num_faces
    print(json.dumps({"meshes": len(val), "faces": faces, "bits_per_face": round(bits / faces, 3)}))


if __name__ == "__main__":
    main()
