"""Meshes from words: a text, what to keep away from, and how strongly; of a model that was trained with texts.

python examples/06_text_to_mesh.py "a wooden chair" --model runs/transformer/pipeline --cond-scale 3
"""

import argparse
from pathlib import Path

import meshgpt

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("text", nargs="?", default="a wooden chair")
parser.add_argument("--not", dest="negative", help="what guidance leads away from")
parser.add_argument("--model", default="lowpoly", help="a bundled model, a folder or a Hub name")
parser.add_argument("--cond-scale", type=float, default=3.0, help="1: as asked; above: more so")
parser.add_argument("-n", type=int, default=4)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--max-faces", type=int)
parser.add_argument("--out", type=Path, default=Path("out/text"))
arguments = parser.parse_args()

pipe = meshgpt.MeshPipeline.from_pretrained(arguments.model)
options = {} if arguments.max_faces is None else {"max_faces": arguments.max_faces}
written = pipe.generate(
    arguments.text,
    negative_text=arguments.negative,
    cond_scale=arguments.cond_scale,
    num_meshes=arguments.n,
    seed=arguments.seed,
    **options,
)
for item in written:
    print(f"'{arguments.text}', seed {item.seed}: {item.mesh}, stopped by {item.stopped_by}")
meshes = [item.mesh for item in written]
meshgpt.save_png(meshgpt.contact_sheet(meshes, columns=len(meshes)), arguments.out / "sheet.png")
meshgpt.write_viewer(meshes, arguments.out / "index.html", captions=[arguments.text] * len(meshes))
print(f"{arguments.out / 'sheet.png'}, {arguments.out / 'index.html'}")
