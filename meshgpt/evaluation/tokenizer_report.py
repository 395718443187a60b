"""What a tokenizer makes of meshes: which come back and how exactly, in how many tokens and bits, how fast."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import no_type_check

import numpy as np
from jaxtyping import Int

from meshgpt.data.batch import MeshBatch
from meshgpt.errors import MeshGPTError
from meshgpt.mesh.canonical import GridMesh, canonicalize
from meshgpt.mesh.mesh import Mesh, sort_faces
from meshgpt.mesh.surface import point_distances
from meshgpt.tokenizers.tokenizer import MeshTokenizer

BUCKETS = (100, 200, 400, 800)  # meshes of up to so many faces are reported together, and those of more


@dataclass(frozen=True)
class RoundTrip:
    """One mesh there and back. All but its own `faces` are 0 where the tokenizer refused it."""

    faces: int
    vertices: int
    accepted: bool = False
    exact: bool = False
    winding_exact: bool = False
    faces_back: int = 0  # faces that came back with all 9 bins exact, whichever way they are wound
    faces_wound: int = 0  # and wound the same way
    vertices_back: int = 0  # vertices with all 3 bins exact
    distance: float = 0.0  # from a vertex to where it came back
    ids: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    seconds: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class TokenizerReport:
    """Of all meshes together; bits and times are a face, and faces and vertices those of accepted meshes."""

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
    faces_back: int
    faces_wound: int
    vertices: int
    vertices_back: int
    distance: float  # mean over vertices, in a box of side 1.9: of corners, where faces keep their order (L2 of
    # MeshCraft, arXiv:2503.23022), else to the nearest vertex that came back
    codes_in_use: int

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

    @property
    def triangle_accuracy(self) -> float:
        """The share of faces of which all 9 bins come back exactly, in their order (MeshGPT, arXiv:2311.15475)."""
        return self.faces_wound / max(self.faces, 1)

    @property
    def winding_agreement(self) -> float:
        """Of the faces that come back, the share that is wound as before."""
        return self.faces_wound / max(self.faces_back, 1)

    @property
    def vertex_accuracy(self) -> float:
        return self.vertices_back / max(self.vertices, 1)

    @property
    def perplexity(self) -> float:
        """Of the use of codes: so many would be in use if all were equally common."""
        return float(2**self.unigram_entropy)

    def to_dict(self) -> dict[str, float]:
        """Every figure, for JSON."""
        names = ("tokens_per_face", "vocabulary_bits", "unigram_bits", "triangle_accuracy", "vertex_accuracy")
        names += ("winding_agreement", "perplexity")
        return {**asdict(self), **{name: getattr(self, name) for name in names}}


def tokenizer_report(tokenizer: MeshTokenizer, meshes: Iterable[Mesh]) -> TokenizerReport:
    """Every mesh, normalised and on the tokenizer's grid, to ids and back; those without a face there are left out.

    Times are of `codes_from_batch` on a batch of one mesh, and of `decode` on its ids.
    """
    return _summed([trip for trip in round_trips(tokenizer, meshes) if trip is not None], tokenizer.vocab_size)


@no_type_check
def grouped_reports(
    tokenizer: MeshTokenizer, meshes: Sequence[Mesh], categories: Sequence[str] = ()
) -> dict[str, dict[str, TokenizerReport]]:
    """`tokenizer_report` of "all" meshes, by number of "faces" in `BUCKETS`, and by "category" where that is told."""
    trips = list(round_trips(tokenizer, meshes))
    labels = {"all": ["all"] * len(trips), "faces": [bucket(trip.faces if trip else 0) for trip in trips]}
    if len(categories):
        labels["category"] = list(categories)
    found: dict[str, dict[str, TokenizerReport]] = {}
    for grouping, names in labels.items():
        groups: dict[str, list[RoundTrip]] = {}
        for name, trip in zip(names, trips, strict=True):
            if trip is not None:
                groups.setdefault(name, []).append(trip)
        order = sorted(groups, key=ORDER.index) if grouping == "faces" else sorted(groups)
        found[grouping] = {name: _summed(groups[name], tokenizer.vocab_size) for name in order}
    return found


ORDER = [f"{low + 1}-{high}" for low, high in zip((0, *BUCKETS), BUCKETS, strict=False)] + [f"{BUCKETS[-1] + 1}-"]


def bucket(faces: int) -> str:
    """The name of the bucket of a mesh with so many faces."""
    return ORDER[int(np.searchsorted(BUCKETS, faces))]


def round_trips(tokenizer: MeshTokenizer, meshes: Iterable[Mesh]) -> Iterator[RoundTrip | None]:
    """One for each mesh; None where it has no face on the grid."""
    warm = False
    for mesh in meshes:
        grid = canonicalize(tokenizer.with_own_corners(mesh).normalized(), tokenizer.num_discrete_coors)
        if len(grid.faces) == 0:
            yield None
            continue
        batch = MeshBatch.from_meshes([grid.mesh()])
        try:
            if not warm:  # what is compiled or allocated at the first call is no work of a face
                warm = True
                _there_and_back(tokenizer, batch)
            ids, back, times = _there_and_back(tokenizer, batch)
        except MeshGPTError:
            yield RoundTrip(len(grid.faces), len(grid.vertices))
            continue
        again = canonicalize(back, tokenizer.num_discrete_coors)
        wanted, found = _corner_bins(grid), _corner_bins(again)
        yield RoundTrip(
            faces=len(grid.faces),
            vertices=len(grid.vertices),
            accepted=True,
            exact=_same_faces(again, grid),
            winding_exact=again == grid,
            faces_back=_rows_among(np.sort(wanted, axis=1), np.sort(found, axis=1)),
            faces_wound=_rows_among(wanted, found),
            vertices_back=_rows_among(grid.vertices, again.vertices),
            distance=_distance(grid.mesh(), back, tokenizer.tokens_per_face is not None),
            ids=ids,
            seconds=times,
        )


def _summed(trips: Sequence[RoundTrip], vocab_size: int) -> TokenizerReport:
    taken = [trip for trip in trips if trip.accepted]
    faces, vertices = sum(trip.faces for trip in taken), sum(trip.vertices for trip in taken)
    ids = np.concatenate([trip.ids for trip in taken]) if taken else np.zeros(0, dtype=np.int64)
    counts = np.bincount(ids, minlength=vocab_size)
    share = counts[counts > 0] / max(len(ids), 1)
    encoding, decoding = (sum(trip.seconds[way] for trip in taken) / max(faces, 1) * 1e6 for way in range(2))
    return TokenizerReport(
        meshes=len(trips),
        accepted=len(taken),
        exact=sum(trip.exact for trip in taken),
        winding_exact=sum(trip.winding_exact for trip in taken),
        faces=faces,
        tokens=len(ids),
        vocab_size=vocab_size,
        unigram_entropy=float(-(share * np.log2(share)).sum()),
        encode_microseconds=encoding,
        decode_microseconds=decoding,
        faces_back=sum(trip.faces_back for trip in taken),
        faces_wound=sum(trip.faces_wound for trip in taken),
        vertices=vertices,
        vertices_back=sum(trip.vertices_back for trip in taken),
        distance=sum(trip.distance * trip.vertices for trip in taken) / max(vertices, 1),
        codes_in_use=int((counts > 0).sum()),
    )


def _corner_bins(grid: GridMesh) -> Int[np.ndarray, "nf k"]:
    """Each corner of each face as one number that stands for its bins; -1 where there is none."""
    z, y, x = (grid.vertices[:, axis].astype(np.int64) for axis in (2, 1, 0))
    numbers = np.append((y * grid.num_discrete_coors + z) * grid.num_discrete_coors + x, -1)
    return numbers[grid.faces]


def _rows_among(rows: np.ndarray, others: np.ndarray) -> int:
    there = set(map(tuple, others.tolist()))
    return sum(tuple(row) in there for row in rows.tolist())


def _distance(mesh: Mesh, back: Mesh, in_order: bool) -> float:
    """Mean distance from the corners of faces to those that came back, or from vertices to the nearest ones."""
    if not back.num_faces:
        return float("nan")
    if not in_order or len(back.faces) != len(mesh.faces):
        return float(point_distances(mesh.vertices, back.vertices)[0].mean())
    real = (mesh.faces >= 0) & (back.faces >= 0)
    return float(np.linalg.norm(mesh.vertices[mesh.faces[real]] - back.vertices[back.faces[real]], axis=1).mean())


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
