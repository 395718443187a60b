"""What a tokenizer makes of meshes: which come back and how exactly, in how many tokens and bits, how fast."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from meshgpt.data.batch import MeshBatch
from meshgpt.errors import MeshGPTError
from meshgpt.mesh.canonical import GridMesh, canonicalize
from meshgpt.mesh.mesh import Mesh, sort_faces
from meshgpt.tokenizers.tokenizer import MeshTokenizer


@dataclass(frozen=True)
class TokenizerReport:
    """Of all meshes together; bits and times are a face."""

    meshes: int
    accepted: int  # encoded without an error
    exact: int  # the same faces come back, whichever way they are wound
    winding_exact: int  # and wound the same way
    faces: int
    tokens: int
    vocab_size: int
    unigram_entropy: float  # of a token, in bits
    encode_microseconds: float
    decode_microseconds: float

    @property
    def tokens_per_face(self) -> float:
        return self.tokens / max(self.faces, 1)

    @property
    def vocabulary_bits(self) -> float:
        """What the tokens of a face cost if all of the vocabulary were equally likely."""
        return self.tokens_per_face * float(np.log2(self.vocab_size))

    @property
    def unigram_bits(self) -> float:
        """What they cost in a code made for how often each token occurs in these meshes."""
        return self.tokens_per_face * self.unigram_entropy


def tokenizer_report(tokenizer: MeshTokenizer, meshes: Iterable[Mesh]) -> TokenizerReport:
    """Every mesh, normalised and on the tokenizer's grid, to ids and back; those without a face there are left out.

    Times are of `codes_from_batch` on a batch of one mesh, and of `decode` on its ids.
    """
    total = accepted = exact = wound = faces = tokens = 0
    counts, encoding, decoding = np.zeros(tokenizer.vocab_size, dtype=np.int64), 0.0, 0.0
    for mesh in meshes:
        grid = canonicalize(tokenizer.with_own_corners(mesh).normalized(), tokenizer.num_discrete_coors)
        if len(grid.faces) == 0:
            continue
        batch = MeshBatch.from_meshes([grid.mesh()])
        if total == 0:  # what is compiled or allocated at the first call is no work of a face
            _there_and_back(tokenizer, batch)
        total += 1
        try:
            ids, back, times = _there_and_back(tokenizer, batch)
        except MeshGPTError:
            continue
        again = canonicalize(back, tokenizer.num_discrete_coors)
        accepted, exact, wound = accepted + 1, exact + _same_faces(again, grid), wound + (again == grid)
        faces, tokens = faces + len(grid.faces), tokens + len(ids)
        counts += np.bincount(ids, minlength=tokenizer.vocab_size)
        encoding, decoding = encoding + times[0], decoding + times[1]
    share = counts[counts > 0] / max(tokens, 1)
    return TokenizerReport(
        meshes=total,
        accepted=accepted,
        exact=exact,
        winding_exact=wound,
        faces=faces,
        tokens=tokens,
        vocab_size=tokenizer.vocab_size,
        unigram_entropy=float(-(share * np.log2(share)).sum()),
        encode_microseconds=encoding / max(faces, 1) * 1e6,
        decode_microseconds=decoding / max(faces, 1) * 1e6,
    )


def _there_and_back(tokenizer: MeshTokenizer, batch: MeshBatch) -> tuple[np.ndarray, Mesh, tuple[float, float]]:
    """The ids of one mesh, the mesh they give, and the processor seconds of both ways."""
    start = time.process_time()
    ids = tokenizer.codes_from_batch(batch)[0]
    middle = time.process_time()
    mesh = tokenizer.decode(ids)
    return ids.cpu().numpy(), mesh, (middle - start, time.process_time() - middle)


def _same_faces(one: GridMesh, other: GridMesh) -> bool:
    """Whether two meshes have the same faces if nobody asks how they are wound."""
    rows = [np.sort(grid.faces, axis=1) for grid in (one, other)]
    first, second = (faces[sort_faces(faces)] for faces in rows)
    return np.array_equal(one.vertices, other.vertices) and np.array_equal(first, second)


def table(reports: Sequence[tuple[str, TokenizerReport]]) -> str:
    """The reports as the lines of a Markdown table."""
    lines = [
        "| tokenizer | accepted | exact | winding exact | tokens a face | bits a face, log2 of vocabulary "
        "| bits a face, unigram entropy | microseconds a face, encode + decode |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, report in reports:
        share = [f"{count / max(report.meshes, 1):.1%}" for count in (report.exact, report.winding_exact)]
        figures = [report.tokens_per_face, report.vocabulary_bits, report.unigram_bits]
        times = f"{report.encode_microseconds:.1f} + {report.decode_microseconds:.1f}"
        cells = [name, f"{report.accepted}/{report.meshes}", *share, *(f"{figure:.2f}" for figure in figures), times]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
