"""CPU seconds and memory of the learned tokenizer's training step, its quantizer, and the face graph.

    python benchmarks/autoencoder_speed.py

One thread; every measurement in a process of its own, so that its peak memory is its own. Prints one JSON object.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable


def clocked(work: Callable[[], object], repetitions: int = 5) -> float:
    """Median CPU seconds, after a first run that is not counted."""
    work()
    seconds = []
    for _ in range(repetitions):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return round(statistics.median(seconds), 5)


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def grid_of_faces(batch: int, faces: int):
    """Vertices (b, nv, 3) and faces (b, nf, 3) of a rough height field."""
    import torch

    n = int((faces / 2) ** 0.5) + 2
    x, z = torch.meshgrid(torch.linspace(-0.9, 0.9, n), torch.linspace(-0.9, 0.9, n), indexing="ij")
    y = 0.3 * torch.rand(batch, n, n, generator=torch.Generator().manual_seed(0))
    vertices = torch.stack((x.expand_as(y), y, z.expand_as(y)), dim=-1).reshape(batch, -1, 3)
    i = torch.arange((n - 1) ** 2)
    a = i // (n - 1) * n + i % (n - 1)
    quads = torch.stack((a, a + 1, a + n, a + 1, a + n + 1, a + n), dim=-1).reshape(-1, 3)[:faces]
    return vertices, quads.expand(batch, -1, -1).contiguous()


def training_step(batch: int, faces: int) -> dict:
    import torch

    from meshgpt import MeshAutoencoder

    torch.set_num_threads(1)
    autoencoder = MeshAutoencoder()
    data, before = grid_of_faces(batch, faces), peak_megabytes()

    def step() -> None:
        autoencoder.zero_grad(set_to_none=True)
        autoencoder(vertices=data[0], faces=data[1]).backward()

    seconds = clocked(step, 3)
    return {"cpu_seconds": seconds, "megabytes_beyond_imports": round(peak_megabytes() - before)}


def quantizer(codebook_size: int) -> dict:
    import torch

    from meshgpt.tokenizers.autoencoder_config import MeshAutoencoderConfig
    from meshgpt.tokenizers.quantizer import LookupFreeQuantizer

    torch.set_num_threads(1)
    config = MeshAutoencoderConfig(codebook_size=codebook_size, code_init="random", entropy_loss_weight=0.1)
    module, x = LookupFreeQuantizer(config).train(), torch.randn(2000, config.dim_codebook, requires_grad=True)

    def step() -> None:
        out = module(x)
        (out.features.sum() + out.entropy_loss + out.commit_loss).backward()

    return {"cpu_seconds": clocked(step)}


def library_quantizer(codebook_size: int) -> dict:
    import torch
    from vector_quantize_pytorch import ResidualLFQ

    torch.set_num_threads(1)
    module, x = ResidualLFQ(dim=192, codebook_size=codebook_size, num_quantizers=2).train(), torch.randn(1, 2000, 192)

    def step() -> None:
        quantized, _, losses = module(x)
        (quantized.sum() + losses.sum()).backward()

    return {"cpu_seconds": clocked(step, 3)}


def face_graph(faces: int) -> dict:
    import torch

    from meshgpt import derive_face_edges_from_faces

    torch.set_num_threads(1)
    rows = grid_of_faces(1, faces)[1]
    wide = clocked(lambda: derive_face_edges_from_faces(rows, neighbor_if_share_one_vertex=True))
    return {"cpu_seconds": clocked(lambda: derive_face_edges_from_faces(rows)), "sharing_a_vertex_cpu_seconds": wide}


MEASUREMENTS: dict[str, Callable[[], dict]] = {
    "training step 1 x 800 faces": lambda: training_step(1, 800),
    "training step 4 x 800 faces": lambda: training_step(4, 800),
    "quantizer 1,024 codes, 2,000 vertices": lambda: quantizer(1024),
    "quantizer 16,384 codes, 2,000 vertices": lambda: quantizer(16384),
    "the library's quantizer, 1,024 codes": lambda: library_quantizer(1024),
    "the library's quantizer, 16,384 codes": lambda: library_quantizer(16384),
    "face graph, 800 faces": lambda: face_graph(800),
    "face graph, 10,000 faces": lambda: face_graph(10_000),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", choices=MEASUREMENTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(MEASUREMENTS[options.one]()))
        return
    report = {}
    for name in MEASUREMENTS:
        out = subprocess.run([sys.executable, __file__, "--one", name], capture_output=True, text=True, check=True)
        report[name] = json.loads(out.stdout)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
