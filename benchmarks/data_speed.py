"""Meshes a second of building a data set, tokenising it, and reading an epoch of its tokens.

    python benchmarks/data_speed.py
    python benchmarks/data_speed.py --meshes 100 --workers 1

The bundled cc0-lowpoly meshes are written as files (glTF binary and OBJ in turn), built into a data set without a
worker (CPU seconds) and by one and two (wall time, with their start), tokenised by coordinates and by patches, and read
again as a training does: once around in batches of at most 64 meshes and 12,800 faces. Prints one JSON object.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from meshgpt.data.build import build_dataset
from meshgpt.data.dataset import MeshDataset
from meshgpt.mesh.files import write_mesh
from meshgpt.tokenizers import CoordinateTokenizer, PatchTokenizer
from meshgpt.training.examples import MeshExamples, MeshView
from meshgpt.training.loader import BatchLoader
from meshgpt.training.mesh_objectives import TransformerObjective
from meshgpt.training.sampler import BatchSampler
from meshgpt.training.tokens import TokenCache, tokenized

TOKENIZERS = {"coordinates": CoordinateTokenizer, "patches": PatchTokenizer}


def clocked(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """(CPU seconds of this process, wall seconds, what came of it)."""
    cpu, wall = time.process_time(), time.perf_counter()
    found = work()
    return time.process_time() - cpu, time.perf_counter() - wall, found


def write_files(dataset: MeshDataset, folder: Path) -> None:
    folder.mkdir()
    for index in range(len(dataset)):
        write_mesh(dataset.mesh(index), folder / f"{index:05d}.{('glb', 'obj')[index % 2]}")


def epoch_of(tokens: Any, limit: int) -> int:
    """Codes read in one epoch of batches."""
    sampler = BatchSampler(tokens.sizes, 64, 0, max(limit, int(tokens.sizes.max())))
    loader = BatchLoader(tokens, TransformerObjective(), sampler)
    return sum(int((loaded.batch.codes >= 0).sum()) for loaded in loader.from_number(0, sampler.batches_per_epoch))


def token_figures(kind: str, dataset: MeshDataset, folder: Path) -> dict[str, Any]:
    tokenizer = TOKENIZERS[kind]()

    def made() -> Any:
        examples = MeshExamples(dataset, MeshView(tokenizer.num_discrete_coors))
        return tokenized(tokenizer, examples, TokenCache(folder / "tokens"))

    cpu, _, _ = clocked(made)
    to_open, _, tokens = clocked(made)
    limit = round(12_800 * tokens.codes_per_face)
    to_read, _, codes = clocked(lambda: epoch_of(tokens, limit))
    epoch = {"cpu_seconds_to_open": round(to_open, 4), "cpu_seconds_to_read": round(to_read, 4), "codes": codes}
    epoch |= {"meshes_per_cpu_second": round(len(dataset) / to_read)}
    tokenising = {"meshes_per_cpu_second": round(len(dataset) / cpu, 1)}
    return {f"tokenising, {kind}": tokenising, f"an epoch of {kind}": epoch}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--meshes", type=int, default=600)
    parser.add_argument("--workers", nargs="+", type=int, default=[0, 1, 2], help="0: no other process")
    options = parser.parse_args()
    torch.set_num_threads(1)
    dataset = MeshDataset("cc0-lowpoly")
    dataset = dataset[: options.meshes]
    report: dict[str, Any] = {"meshes": len(dataset), "faces": int(dataset.face_counts.sum())}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_files(dataset, folder / "files")
        for workers in options.workers:
            out = folder / f"built{workers}"
            cpu, wall, _ = clocked(partial(build_dataset, folder / "files", out, workers=workers, progress=False))
            kind, seconds = ("meshes_per_second", wall) if workers else ("meshes_per_cpu_second", cpu)
            report[f"build, {workers} workers"] = {kind: round(len(dataset) / seconds, 1)}
            print(report, file=sys.stderr, flush=True)
        for kind in TOKENIZERS:
            report |= token_figures(kind, dataset, folder)
            print(report, file=sys.stderr, flush=True)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
