"""New meshes from a pipeline, seen growing face by face, as files and on a page.

python examples/05_generate.py --model lowpoly --seed 0 -n 4
"""

import argparse
from pathlib import Path

import meshgpt

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", default="lowpoly", help="a bundled model, or runs/transformer/pipeline")
parser.add_argument("-n", type=int, default=4)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--max-faces", type=int)
parser.add_argument("--out", type=Path, default=Path("out/generated"))
arguments = parser.parse_args()


def grown(mesh: int, face: int, codes: object) -> None:
    """Called for every face as it is written."""
    if face % 50 == 0:
        print(f"mesh {mesh} has {face + 1} faces")


pipe = meshgpt.MeshPipeline.from_pretrained(arguments.model)
options = {} if arguments.max_faces is None else {"max_faces": arguments.max_faces}
written = pipe.generate(seed=arguments.seed, num_meshes=arguments.n, on_face=grown, **options)
arguments.out.mkdir(parents=True, exist_ok=True)
for item in written:
    print(f"seed {item.seed}: {item.mesh}, stopped by {item.stopped_by}")
    if item.mesh.num_faces:
        meshgpt.write_mesh(item.mesh, arguments.out / f"seed-{item.seed}.glb", metadata={"seed": item.seed})
meshgpt.write_viewer([item.mesh for item in written], arguments.out / "index.html")
