"""A shape as a small neural network: learn where it is inside, then take the surface out. A minute at most.

python examples/11_shape_as_a_field.py --shape chair
python examples/11_shape_as_a_field.py --mesh chair.glb
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from meshgpt import read_mesh, render, save_png, write_mesh
from meshgpt.mesh.isosurface import evaluate, grid_points
from meshgpt.mesh.primitives import make_primitive
from meshgpt.mesh.solid import solid
from meshgpt.mesh.surface import contains, sample_near, sample_surface, sample_volume
from meshgpt.shapes.occupancy import OccupancyField
from meshgpt.training.field_trainers import OccupancyFieldTrainer

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--shape", default="chair", help="a formula: torus, chair, mug, table, box, ...")
parser.add_argument("--mesh", help="a mesh file instead; it is made solid first")
parser.add_argument("--points", type=int, default=100_000)
parser.add_argument("--epochs", type=int, default=30)
parser.add_argument("--resolution", type=int, default=128)
parser.add_argument("--out", default="out/field")
arguments = parser.parse_args()
torch.set_num_threads(1)
torch.manual_seed(0)
rng = np.random.default_rng(0)

# where is it inside? half of the points near the surface: evenly spread ones alone lose the legs of a chair
if arguments.mesh:
    body = solid(read_mesh(arguments.mesh).normalized())
    print("the mesh as a solid:", body.verdict)
    surface = sample_surface(body.surface, 20_000, rng)[0]
else:
    shape = make_primitive(arguments.shape, 0)
    surface = shape.sample_surface(20_000, rng)[0]


def is_inside(points):
    return contains(body.surface, points) if arguments.mesh else shape(points) > 0


half = arguments.points // 2
points = np.concatenate((sample_volume(half, rng), sample_near(surface, arguments.points - half, rng, [0.05])))

# 3 -> 64, four hidden layers of 64, one logit
model = OccupancyField(dim=64, depth=4)
steps = arguments.epochs * max(round(0.8 * arguments.points / 1024), 1)
schedule = {"num_train_steps": steps, "val_every": max(steps // arguments.epochs, 1), "checkpoint_every": steps}
trainer = OccupancyFieldTrainer(model, points, is_inside(points), checkpoint_folder=arguments.out, **schedule)
trainer()
trainer.restore_best()
print("kept:", trainer.best)

# the surface, where the network says neither inside nor outside
found = model.extract(resolution=arguments.resolution)[0]
if found.verdict == "outside":
    print("it has not learned that anything is inside: train longer")
else:
    write_mesh(found.mesh, Path(arguments.out) / "field.glb")
    save_png(render(found.mesh), Path(arguments.out) / "field.png")
grid = grid_points(arguments.resolution)
said, true = evaluate(model.field(None), grid) > 0, is_inside(grid.numpy())
iou = (said & true).sum() / max((said | true).sum(), 1)
print(f"{found.mesh} after {found.evaluations} evaluations; IoU on the grid {iou:.4f}")
