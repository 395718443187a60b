"""Which tokens a transformer likes best: held-out bits a face of one small transformer on each tokenizer.

    python benchmarks/compare_tokenizers.py --seconds 600
    python benchmarks/compare_tokenizers.py --only learned coordinates --seconds 200 --copy-dim 48 --seed 1

The same meshes (--meshes of up to --max-faces faces, in --variants forms), widths, depths, order and CPU seconds on one
thread for each; what differs is what a tokenizer allows: the pointer to earlier vertices where faces are said one by
one, what surrounds a code where they are not. A name may carry changes of the config, as in `patches,codes_per_step=2`.
Prints one JSON object. `spread` are learned codes whose spare bits an entropy loss has spread; `plain-patches` are not
told where symmetry, or a vertex nearby, would have the next vertex. `wrong_faces`: the share of held-out faces that do
not come back from the tokens as they were.
"""

import argparse
import json
import math
import time
from collections.abc import Iterator

import numpy as np
import torch

from meshgpt.data.augment import Augmentation, augmentation_generator
from meshgpt.data.batch import MeshBatch
from meshgpt.data.dataset import MeshDataset
from meshgpt.mesh.canonical import canonicalize
from meshgpt.mesh.mesh import Mesh
from meshgpt.tokenizers.autoencoder import MeshAutoencoder
from meshgpt.tokenizers.coordinates import CoordinateTokenizer
from meshgpt.tokenizers.half_edge import HalfEdgeTokenizer
from meshgpt.tokenizers.patch import PatchTokenizer
from meshgpt.tokenizers.quantizer import LookupFreeQuantizer
from meshgpt.tokenizers.strip import StripTokenizer
from meshgpt.tokenizers.tokenizer import MeshTokenizer
from meshgpt.training.presets import preset
from meshgpt.transformer.transformer import MeshTransformer

MODEL = {
    "dim": (128, 96), "attn_depth": 4, "attn_heads": 4, "attn_dim_head": 32, "fine_attn_depth": 2, "fine_attn_heads": 4,
    "fine_attn_dim_head": 24, "ff_mult": 2.7, "fine_context_faces": 1, "max_seq_len": 9 * 800,
}  # fmt: skip


def codes_of(tokenizer: MeshTokenizer, meshes: list[Mesh]) -> list[torch.Tensor]:
    rows = []
    for start in range(0, len(meshes), 32):
        batch = MeshBatch.from_meshes(meshes[start : start + 32])
        rows += [row[row >= 0] for row in tokenizer.codes_from_batch(batch)]
    return rows


def batches(rows: list[torch.Tensor], tokens: int, seed: int) -> Iterator[torch.Tensor]:
    """Padded batches of about so many tokens, rows of like length together, in random order."""
    rng = np.random.default_rng(seed)
    order = np.argsort([len(row) + rng.integers(0, 200) for row in rows])
    groups: list[list[int]] = [[]]
    for index in order:
        if groups[-1] and (len(groups[-1]) + 1) * len(rows[index]) > tokens:
            groups.append([])
        groups[-1].append(index)
    for group in rng.permutation(len(groups)):
        yield torch.nn.utils.rnn.pad_sequence([rows[i] for i in groups[group]], True, -1)


@torch.no_grad()
def bits_per_face(model: MeshTransformer, rows: list[torch.Tensor], tokens: int) -> float:
    model.eval()
    outputs = [model.losses(batch) for batch in batches(rows, tokens, 0)]
    model.train()
    return sum(float(out.row_bits.sum()) for out in outputs) / sum(out.num_faces for out in outputs)


def wrong_faces(tokenizer: MeshTokenizer, meshes: list[Mesh], rows: list[torch.Tensor]) -> float:
    """The share of the faces of canonical meshes that are not among those of their codes."""
    wrong = 0
    for mesh, row in zip(meshes, rows, strict=True):
        there, back = (canonicalize(found, tokenizer.num_discrete_coors) for found in (mesh, tokenizer.decode(row)))
        known = {face.tobytes() for face in back.vertices[back.faces]}
        wrong += sum(face.tobytes() not in known for face in there.vertices[there.faces])
    return wrong / sum(mesh.num_faces for mesh in meshes)


def config_of(tokenizer: MeshTokenizer, changes: list[str], options: argparse.Namespace) -> dict:
    pointers = {"copy_dim": options.copy_dim, "copy_digit_faces": options.copy_digit_faces}
    own = pointers if tokenizer.tokens_per_face else {}
    return {**MODEL, **own, **{name: json.loads(value) for name, value in (each.split("=") for each in changes)}}


def run(name: str, train: list[Mesh], val: list[Mesh], options: argparse.Namespace) -> dict:
    kind, *changes = name.split(",")
    tokenizer = MAKERS[kind](options)
    torch.manual_seed(options.seed)
    train_rows, val_rows = codes_of(tokenizer, train), codes_of(tokenizer, val)
    per_face = sum(len(row) for row in train_rows) / sum(mesh.num_faces for mesh in train)
    model = MeshTransformer(tokenizer, **config_of(tokenizer, changes, options))
    model.losses(val_rows[0][None])  # what compiles at its first call has done so
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0.05)
    tokens, step, epoch, faces = round(300 * per_face), 0, 1000 * options.seed, 0
    start, seconds = time.process_time(), options.seconds
    while (done := (time.process_time() - start) / seconds) < 1:
        for batch in batches(train_rows, tokens, epoch):
            done = (time.process_time() - start) / seconds
            if done >= 1:
                break
            for group in optimizer.param_groups:
                group["lr"] = 1e-3 * min(1, (step + 1) / 50) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
            out = model.losses(batch)
            optimizer.zero_grad(set_to_none=True)
            out.loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step, faces = step + 1, faces + out.num_faces
        epoch += 1
    return {
        "bits_per_face": round(bits_per_face(model, val_rows, tokens), 3),
        "tokens_per_face": round(per_face, 3),
        "wrong_faces": wrong_faces(tokenizer, val, val_rows),
        "steps": step,
        "faces_seen": faces,
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def spread_codes() -> MeshAutoencoder:
    """The learned tokenizer with its spare bits put to use, as an entropy loss does."""
    autoencoder = MeshAutoencoder(**preset("tokenizer", "tiny").model)
    assert isinstance(autoencoder.quantizer, LookupFreeQuantizer)
    with torch.no_grad():
        autoencoder.quantizer.project_in.bias.zero_()
    return autoencoder.eval()


MAKERS = {
    "learned": lambda options: MeshAutoencoder.from_pretrained(options.model).eval(),
    "coordinates": lambda options: CoordinateTokenizer(),
    "patches": lambda options: PatchTokenizer(),
    "plain-patches": lambda options: PatchTokenizer(tell_likely=False),
    "half-edges": lambda options: HalfEdgeTokenizer(),
    "strips": lambda options: StripTokenizer(),
    "spread": lambda options: spread_codes(),
}
USUAL = ["learned", "coordinates", "patches", "half-edges", "strips"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cc0-lowpoly")
    parser.add_argument("--model", default="lowpoly")
    parser.add_argument("--seconds", type=float, default=300, help="CPU seconds of training for each")
    parser.add_argument("--max-faces", type=int, default=200)
    parser.add_argument("--variants", type=int, default=4, help="augmented forms of each mesh, the plain one included")
    parser.add_argument("--meshes", type=int, default=500, help="of the training split, drawn at random")
    pointer = "width of the pointer to earlier vertices, where faces are said one by one; 0: none"
    parser.add_argument("--copy-dim", type=int, default=48, help=pointer)
    digits = "faces before the current one whose low digits are pointed at; coordinates have one digit"
    parser.add_argument("--copy-digit-faces", type=int, default=1, help=digits)
    parser.add_argument("--seed", type=int, default=0, help="of the first weights and of the order of batches")
    parser.add_argument("--only", nargs="*", default=USUAL, help=f"of {', '.join(MAKERS)}")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data, augment = MeshDataset(options.data).filter(max_faces=options.max_faces), Augmentation()
    chosen = data.split("train")
    order = np.random.default_rng(0).permutation(len(chosen))[: options.meshes]
    train = [
        canonicalize(mesh if variant == 0 else augment(mesh, augmentation_generator(0, variant, index))).mesh()
        for variant in range(options.variants)
        for index, mesh in enumerate(chosen.mesh(int(number)).normalized() for number in np.sort(order))
    ]
    val = [canonicalize(record.mesh.normalized()).mesh() for record in data.split("val")]
    report = {name: run(name, train, val, options) for name in options.only}
    setting = {"train_meshes": len(train), "val_meshes": len(val), "seconds": options.seconds, "seed": options.seed}
    print(json.dumps({**setting, **report}, indent=1))


if __name__ == "__main__":
    main()
