"""A mesh as a sentence, by a tokenizer that learns nothing and by a learned one, and back.

python examples/02_tokenize.py [chair.glb] [--model lowpoly]
"""

import argparse

import meshgpt

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("mesh", nargs="?", help="a mesh file; without it, a bundled mesh")
parser.add_argument("--model", default="lowpoly", help="a bundled tokenizer, or the folder of a run")
arguments = parser.parse_args()

mesh = meshgpt.read_mesh(arguments.mesh) if arguments.mesh else meshgpt.MeshDataset("tiny").mesh(0)
on_grid = meshgpt.canonicalize(mesh.normalized())

for tokenizer in (meshgpt.CoordinateTokenizer(), meshgpt.MeshAutoencoder.from_pretrained(arguments.model)):
    ids = tokenizer.encode(mesh)
    again = tokenizer.decode(ids)
    print(f"{type(tokenizer).__name__}: {len(ids)} ids below {tokenizer.vocab_size} for {len(on_grid.faces)} faces")
    print(f"  the first face: {ids[: tokenizer.tokens_per_face].tolist()}")
    print(f"  comes back whole: {meshgpt.canonicalize(again) == on_grid}")
