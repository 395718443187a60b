"""A mesh from a file: what it is, a picture of it, and a page to turn it in.

python examples/01_read_and_draw.py [chair.glb] [--out out/examples]
"""

import argparse
from pathlib import Path

import meshgpt

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("mesh", nargs="?", help="obj, glb, gltf, ply, stl or off; without it, a bundled mesh")
parser.add_argument("--out", type=Path, default=Path("out/examples"))
arguments = parser.parse_args()

mesh = meshgpt.read_mesh(arguments.mesh) if arguments.mesh else meshgpt.MeshDataset("tiny").mesh(0)
report = meshgpt.topology_report(mesh)
print(mesh)
print(f"{report.components} parts, {report.boundary_edges} boundary edges, watertight: {report.watertight}")

grid = meshgpt.canonicalize(mesh.normalized(), num_discrete_coors=128)
print(f"on a grid of 128 bins: {len(grid.vertices)} vertices, {len(grid.faces)} faces")

meshgpt.save_png(meshgpt.contact_sheet([mesh.normalized(), grid.mesh()], columns=2), arguments.out / "mesh.png")
meshgpt.write_viewer([mesh, grid.mesh()], arguments.out / "mesh.html", titles=["as read", "on the grid"])
print(f"{arguments.out / 'mesh.png'}, {arguments.out / 'mesh.html'}")
