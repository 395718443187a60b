"""What a transformer that has learned nothing writes when it follows the grammar of its tokenizer.

    python benchmarks/valid_by_construction.py --samples 1000

Of each tokenizer: how many faces were written, how many of them are invalid (a vertex twice, a face twice, out of the
order that the tokenizer has, codes that no mesh reads back, vertices of no face), and how many samples have no end
though there was room for one. Prints one JSON object; the exit status is 1 if anything is invalid.
"""

import argparse
import json
import sys
import time

import numpy as np
import torch

from meshgpt.errors import TokenError
from meshgpt.tokenizers.coordinates import CoordinateTokenizer
from meshgpt.tokenizers.half_edge import HalfEdgeTokenizer
from meshgpt.tokenizers.patch import PatchTokenizer
from meshgpt.tokenizers.sequence import SequenceTokenizer
from meshgpt.tokenizers.strip import StripTokenizer
from meshgpt.transformer.transformer import MeshTransformer

KINDS = {
    "CoordinateTokenizer": lambda: CoordinateTokenizer(),
    "CoordinateTokenizer, quads": lambda: CoordinateTokenizer(quads=True),
    "PatchTokenizer": lambda: PatchTokenizer(),
    "HalfEdgeTokenizer": lambda: HalfEdgeTokenizer(),
    "StripTokenizer": lambda: StripTokenizer(),
}
MODEL = {
    "dim": (64, 48), "attn_depth": 2, "attn_heads": 2, "attn_dim_head": 32, "fine_attn_depth": 1, "fine_attn_heads": 2,
    "fine_attn_dim_head": 24,
}  # fmt: skip


def corners_of(tokenizer, ids: np.ndarray) -> np.ndarray:
    """Bins (nf, k, 3) of the corners of each face, in the order written. Raises `TokenError`."""
    if isinstance(tokenizer, SequenceTokenizer):
        vertices, faces = tokenizer.decode_grid(ids)
        if len(np.unique(faces)) != len(vertices):
            raise TokenError("a vertex belongs to no face", len(ids))
        return vertices[faces]
    whole = len(ids) // tokenizer.tokens_per_face * tokenizer.tokens_per_face  # a limit may cut the last one
    return ids[:whole].reshape(-1, tokenizer.corners, 3)


def invalid(tokenizer, ids: np.ndarray) -> int:
    """How many faces of a row are not as they must be; all, where the row cannot be read."""
    try:
        corners = corners_of(tokenizer, ids)
    except TokenError:
        return max(1, len(ids))
    wrong, seen, before = 0, set(), None
    for face in corners:
        named = [tuple(corner) for corner in face.tolist()]
        if len(named) == 4 and named[3] == named[2]:
            named = named[:3]
        first = named.index(min(named))
        turned = tuple(named[first:] + named[:first])
        in_order = first == 0 and (before is None or named > before)  # a triangle comes before quads that begin like it
        is_late = isinstance(tokenizer, SequenceTokenizer) or in_order
        wrong += len(set(named)) < len(named) or turned in seen or not is_late
        seen.add(turned)
        before = named
    return wrong


def measured(name: str, options: argparse.Namespace) -> dict:
    tokenizer = KINDS[name]()
    torch.manual_seed(options.seed)
    model = MeshTransformer(tokenizer, max_seq_len=options.length, **MODEL)
    most = options.length if tokenizer.tokens_per_face is None else options.length - tokenizer.tokens_per_face + 1
    start, wrong, faces, endless = time.process_time(), 0, 0, 0
    for begin in range(0, options.samples, options.batch):
        count = min(options.batch, options.samples - begin)
        result = model.generate_result(batch_size=count, seed=options.seed + begin, follow_grammar=True)
        faces += int(result.face_counts.sum())
        for row, stopped in zip(result.codes, result.stopped_by, strict=True):
            ids = row[row >= 0].numpy()
            wrong += invalid(tokenizer, ids)
            endless += stopped != "end" and len(ids) < most
    return {
        "samples": options.samples,
        "faces": faces,
        "invalid_faces": wrong,
        "without_end": endless,
        "cpu_seconds": round(time.process_time() - start, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=250)
    parser.add_argument("--length", type=int, default=240, help="codes at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=list(KINDS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    report = {name: measured(name, options) for name in options.only}
    print(json.dumps(report, indent=1))
    sys.exit(any(row["invalid_faces"] or row["without_end"] for row in report.values()))


if __name__ == "__main__":
    main()
