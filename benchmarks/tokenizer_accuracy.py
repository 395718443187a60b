"""How exactly the learned tokenizer gives meshes back: val, whole sources left out, code use, winding.

    python benchmarks/tokenizer_accuracy.py                          # the bundled tokenizer on val
    python benchmarks/tokenizer_accuracy.py --leave-out kaykit-dungeon thebasemesh --steps 200   # trained without them
    python benchmarks/tokenizer_accuracy.py --code-bits 14 21 28     # trained anew with so many bits a vertex
    python benchmarks/tokenizer_accuracy.py --code-bits 28 --code-init random --learning-rate 1e-2 --steps 1500
                                                                     # and without the anchor of grid codes

Prints one JSON object. Triangle accuracy is the share of faces whose 9 bins are all exact.
"""

import argparse
import json
import time

import torch

from meshgpt.data.augment import Augmentation
from meshgpt.data.batch import MeshBatch
from meshgpt.data.dataset import MeshDataset
from meshgpt.mesh.canonical import canonicalize
from meshgpt.tokenizers.autoencoder import MeshAutoencoder, evaluating
from meshgpt.tokenizers.quantizer import codebook_usage
from meshgpt.training.mesh_trainers import MeshAutoencoderTrainer
from meshgpt.training.presets import preset


@torch.no_grad()
def accuracy(autoencoder: MeshAutoencoder, dataset: MeshDataset) -> dict:
    """Of all meshes: exact faces, vertices and meshes after codes and back, and how many codes are in use."""
    faces = exact_faces = exact_meshes = 0
    codes = []
    with evaluating(autoencoder):
        for index in range(len(dataset)):
            grid = canonicalize(dataset.mesh(index).normalized(), autoencoder.num_discrete_coors)
            batch = MeshBatch.from_meshes([grid.mesh()])
            ids = autoencoder.codes_from_batch(batch)
            coordinates, mask = autoencoder.decode_from_codes_to_faces(ids)[:2]
            exact = (coordinates[mask] - batch.vertices[batch.faces]).abs().flatten(1).amax(dim=1) < 1e-4
            faces, exact_faces = faces + len(exact), exact_faces + int(exact.sum())
            exact_meshes += canonicalize(autoencoder.decode(ids[0]), autoencoder.num_discrete_coors) == grid
            codes.append(autoencoder.encode_vertices(batch)[0].codes)
    share, perplexity = codebook_usage(torch.cat(codes), autoencoder.config.codebook_size)
    return {
        "meshes": len(dataset),
        "faces": faces,
        "triangle_accuracy": exact_faces / max(faces, 1),
        "meshes_exact_with_winding": exact_meshes / max(len(dataset), 1),
        "codes_in_use": [round(x * autoencoder.config.codebook_size) for x in share.tolist()],
        "perplexity": [round(x, 1) for x in perplexity.tolist()],
    }


def trained(dataset: MeshDataset, options: argparse.Namespace, folder: str, **fields) -> MeshAutoencoder:
    torch.manual_seed(0)
    tiny = preset("tokenizer", "tiny")
    autoencoder = MeshAutoencoder(**{**tiny.model, **fields})
    settings = {**tiny.training, "num_train_steps": options.steps, "checkpoint_folder": folder, "progress": False}
    settings |= {} if options.learning_rate is None else {"learning_rate": options.learning_rate}
    trainer = MeshAutoencoderTrainer(autoencoder, dataset, augment=Augmentation(), **settings)
    trainer()
    assert isinstance(trainer.ema_model, MeshAutoencoder)
    return trainer.ema_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cc0-lowpoly")
    parser.add_argument("--model", default="lowpoly")
    parser.add_argument("--leave-out", nargs="*", default=[], help="sources to train without and to measure on")
    parser.add_argument("--code-bits", nargs="*", type=int, default=[], help="train with so many bits a vertex")
    parser.add_argument("--code-init", default="grid", choices=["grid", "random"])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--learning-rate", type=float, help="in place of the preset's")
    parser.add_argument("--runs", default="runs/benchmark-tokenizer")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data, start = MeshDataset(options.data), time.process_time()
    val, report = data.split("val"), {}
    if options.leave_out:
        rest = data.filter(sources=sorted(set(data.column("source")) - set(options.leave_out)))
        model = trained(rest.split("train"), options, f"{options.runs}-left-out")
        report = {source: accuracy(model, data.filter(sources=[source])) for source in options.leave_out}
    for bits in options.code_bits:
        levels = -(-bits // 14)
        fields = {"num_quantizers": levels, "codebook_size": 2 ** (bits // levels), "code_init": options.code_init}
        fields["entropy_loss_weight"] = 0.01 if options.code_init == "random" else 0.0
        model = trained(data.split("train"), options, f"{options.runs}-{bits}", **fields)
        report[f"{bits} bits"] = accuracy(model, val)
    if not report:
        report = {"val": accuracy(MeshAutoencoder.from_pretrained(options.model), val)}
    print(json.dumps({**report, "cpu_seconds": round(time.process_time() - start, 1)}, indent=1))


if __name__ == "__main__":
    main()
