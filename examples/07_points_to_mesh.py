"""A light mesh of a scan or a dense mesh, measured beside decimation and the nearest mesh of the training set.

python examples/07_points_to_mesh.py scan.ply --model runs/transformer/pipeline --faces 200
"""

import argparse
from pathlib import Path

import numpy as np

import meshgpt

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("shape", nargs="?", help="a cloud or a mesh file; without it, a noisy cloud of a bundled mesh")
parser.add_argument("--model", default="lowpoly-points", help="one that was trained with points")
parser.add_argument("--faces", type=int, default=200)
parser.add_argument("--candidates", type=int, default=8)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--nearest", default="cc0-lowpoly", help="the data set to look for a like mesh in")
parser.add_argument("--out", type=Path, default=Path("out/points"))
arguments = parser.parse_args()

shape = arguments.shape
if shape is None:
    rng = np.random.default_rng(0)
    cloud = meshgpt.PointCloud.from_mesh(meshgpt.MeshDataset("tiny").mesh(0).normalized(), 4000, rng)
    shape = meshgpt.PointCloud(cloud.points + 0.01 * rng.standard_normal(cloud.points.shape), cloud.normals)

pipe = meshgpt.MeshPipeline.from_pretrained(arguments.model)
made = meshgpt.retopologize(
    pipe, shape, arguments.faces, arguments.candidates, arguments.seed, nearest=arguments.nearest
)
print(made.table())
picture = meshgpt.save_png(made.picture(), arguments.out / "beside.png")
light = meshgpt.write_mesh(made.mesh, arguments.out / "light.glb", metadata={"seed": made.generated.seed})
print(f"{light}, {picture}")
