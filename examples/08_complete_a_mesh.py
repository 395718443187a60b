"""The lower half of a mesh, and several ways to go on from it.

python examples/08_complete_a_mesh.py chair.glb --keep 0.5 -n 4
"""

import argparse
from pathlib import Path

import meshgpt

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("mesh", nargs="?", help="a mesh file; without it, a bundled mesh")
parser.add_argument("--model", default="lowpoly", help="a bundled model, a folder or a Hub name")
parser.add_argument("--keep", type=float, default=0.5, help="share of the faces, the lowest")
parser.add_argument("-n", type=int, default=4)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--max-faces", type=int)
parser.add_argument("--out", type=Path, default=Path("out/completed"))
arguments = parser.parse_args()

mesh = meshgpt.read_mesh(arguments.mesh) if arguments.mesh else meshgpt.MeshDataset("tiny").mesh(0)
pipe = meshgpt.MeshPipeline.from_pretrained(arguments.model)
begun = pipe.begun(mesh, arguments.keep)
print(f"{begun.num_faces} of {mesh.num_faces} faces are kept")

options = {} if arguments.max_faces is None else {"max_faces": arguments.max_faces}
written = pipe.complete(mesh, arguments.keep, num_meshes=arguments.n, seed=arguments.seed, **options)
for item in written:
    print(f"seed {item.seed}: {item.mesh}, stopped by {item.stopped_by}")
shown = [mesh.normalized(), begun, *(item.mesh for item in written)]
meshgpt.save_png(meshgpt.contact_sheet(shown, columns=len(shown)), arguments.out / "completed.png")
meshgpt.write_viewer(shown[2:], arguments.out / "index.html")
print(f"{arguments.out / 'completed.png'}, {arguments.out / 'index.html'}")
