"""How cost grows with the number of faces: encoder, face graph, tokenizers, fine stack, from 100 to 100,000 faces.

    python benchmarks/linear_cost.py
    python benchmarks/linear_cost.py --what "face graph" patches --faces 100 1000 10000

CPU seconds on one thread, the least of some runs, of layers of height fields on the grid (nothing merges); and the
exponent with which they grow: the slope of log seconds over log faces, of a line through the sizes from 1,000 faces
on, below which fixed costs show. 1 is linear. Prints one JSON object.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from meshgpt.data.batch import MeshBatch
from meshgpt.mesh.canonical import GridMesh, canonicalize
from meshgpt.mesh.mesh import Mesh
from meshgpt.mesh.topology import face_graph
from meshgpt.tokenizers import CoordinateTokenizer, HalfEdgeTokenizer, MeshAutoencoder, PatchTokenizer, StripTokenizer
from meshgpt.training.memory import keep_freed_memory
from meshgpt.training.presets import preset
from meshgpt.transformer.transformer import MeshTransformer

SIDE = 65  # vertices of a layer along x and z, 8,192 faces
LAYER_BINS = 8


def layers(faces: int) -> Mesh:
    """So many faces, layer above layer, with vertices in bins of their own of 128."""
    i = np.arange((SIDE - 1) ** 2)
    a = i // (SIDE - 1) * SIDE + i % (SIDE - 1)
    quads = np.stack((a, a + 1, a + SIDE, a + 1, a + SIDE + 1, a + SIDE), axis=-1).reshape(-1, 3)
    x, z = (part.reshape(-1) for part in np.meshgrid(np.arange(SIDE), np.arange(SIDE), indexing="ij"))
    number = -(-faces // len(quads))
    bins = [np.stack((x, layer * LAYER_BINS + (7 * x + 3 * z) % LAYER_BINS, z), axis=-1) for layer in range(number)]
    corners = np.concatenate([quads + layer * SIDE**2 for layer in range(number)])[:faces]
    return GridMesh(np.concatenate(bins), corners).mesh()


def autoencoder_over(batch: MeshBatch) -> Callable[[], object]:
    torch.manual_seed(0)
    model = MeshAutoencoder(**preset("tokenizer", "tiny").model).eval()
    return lambda: model.encode_vertices(batch)


def step_over(batch: MeshBatch) -> Callable[[], object]:
    torch.manual_seed(0)
    model = MeshAutoencoder(**preset("tokenizer", "tiny").model).train()

    def step() -> None:
        with torch.enable_grad():
            model.losses(batch).loss.backward()

    return step


def fine_stack_over(faces: int) -> Callable[[], object]:
    torch.manual_seed(0)
    sizes = {"dim": (32, 64), "attn_depth": 1, "fine_attn_heads": 2, "fine_attn_dim_head": 32}
    model = MeshTransformer(MeshAutoencoder(decoder_dims_through_depth=(16,)), **sizes)
    rows = torch.randn(faces, 6, 64)
    return lambda: model.fine(rows)


def work_of(what: str, mesh: Mesh) -> Callable[[], object]:
    if what in TOKENIZERS:
        tokenizer = TOKENIZERS[what]()
        tokenizer.encode(layers(4))  # what is compiled is compiled
        return lambda: tokenizer.encode(mesh)
    if what == "canonical order":
        return lambda: canonicalize(mesh)
    if what == "face graph":
        return lambda: face_graph(torch.from_numpy(mesh.faces))
    if what == "fine stack":
        return fine_stack_over(mesh.num_faces)
    batch = MeshBatch.from_meshes([canonicalize(mesh).mesh()])
    return autoencoder_over(batch) if what == "encoder" else step_over(batch)


TOKENIZERS = {
    "coordinates": CoordinateTokenizer,
    "half-edges": HalfEdgeTokenizer,
    "strips": StripTokenizer,
    "patches": PatchTokenizer,
}
PARTS = ("canonical order", "face graph", "encoder", "autoencoder step", "fine stack", *TOKENIZERS)


def least(work: Callable[[], object], seconds: float = 0.3) -> float:
    """CPU seconds of the fastest run; as many runs as fit into `seconds`, one at least."""
    found: list[float] = []
    while not found or (sum(found) < seconds and len(found) < 20):
        begin = time.process_time()
        work()
        found.append(time.process_time() - begin)
    return min(found)


def exponent(faces: list[int], seconds: list[float]) -> float | None:
    """The slope over sizes from 1,000 faces on; None for fewer than two of them."""
    points = np.log([pair for pair in zip(faces, seconds, strict=True) if pair[0] >= 1000])
    return round(float(np.polyfit(points[:, 0], points[:, 1], 1)[0]), 2) if len(points) > 1 else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--faces", nargs="+", type=int, default=[100, 1000, 10_000, 100_000])
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as a training does
    meshes, report = [layers(count) for count in options.faces], {}
    for what in options.what:
        with torch.no_grad():
            seconds = [least(work_of(what, mesh)) for mesh in meshes]
        slope = exponent(options.faces, seconds)
        report[what] = {"seconds": [round(s, 5) for s in seconds], "exponent": slope}
        print(f"{what}: {report[what]}", file=sys.stderr, flush=True)
    print(json.dumps({"faces": options.faces, "parts": report}, indent=1))


if __name__ == "__main__":
    main()
