"""What is in a data set: counts, histograms, licences, watertightness, duplicates, and a picture of many."""

import dataclasses
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import no_type_check

import numpy as np

from meshgpt.data.dataset import MeshDataset
from meshgpt.errors import DataError
from meshgpt.mesh.canonical import canonicalize
from meshgpt.mesh.mesh import Mesh
from meshgpt.mesh.picture import contact_sheet, save_png

EDGES = (0, 50, 100, 200, 400, 800, 1600, 4096)


@dataclass(frozen=True)
class DatasetReport:
    """Facts of a data set. Counts are of meshes unless the name says otherwise; '' counts those that do not say.

    face_histogram: by range of face counts. watertight, consistently_wound: shares in [0, 1]. duplicates: meshes equal
    to an earlier one on a grid of 128. captions: different ones. words: of captions, the 20 most frequent.
    """

    meshes: int
    vertices: int
    faces: int
    corners: int
    face_range: tuple[int, int, int]  # least, median, most
    face_histogram: dict[str, int]
    categories: dict[str, int]
    splits: dict[str, int]
    sources: dict[str, int]
    licences: dict[str, int]
    authors: dict[str, int]
    captions: int
    words: dict[str, int]
    families: int
    watertight: float
    consistently_wound: float
    duplicates: int

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False) + "\n"

    def table(self, rows: int = 12) -> str:
        """Lines of text, with bars; the `rows` most frequent of each kind."""
        least, median, most = self.face_range
        kind = "triangles" if self.corners == 3 else "quads and triangles"
        lines = [
            f"{self.meshes} meshes, {self.faces} {kind}, {self.vertices} vertices",
            f"faces a mesh: {least} to {most}, median {median}",
            f"watertight {self.watertight:.0%}, consistently wound {self.consistently_wound:.0%}, "
            f"exact duplicates {self.duplicates}",
            f"{self.captions} different captions, {self.families} families",
        ]
        parts = {"faces": self.face_histogram, "categories": self.categories, "splits": self.splits}
        parts |= {"sources": self.sources, "licences": self.licences, "authors": self.authors}
        for title, counts in parts.items():
            lines += ["", f"{title} ({len(counts)})"] + _bars(counts, rows)
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.table()


def _bars(counts: dict[str, int], rows: int, width: int = 32) -> list[str]:
    shown = list(counts.items())[:rows]
    most = max(counts.values(), default=1)
    lines = [f"  {name or '(none)':<26.26} {count:6d} {'█' * round(width * count / most)}" for name, count in shown]
    left = len(counts) - len(shown)
    return lines + ([f"  ... and {left} more with {sum(counts.values()) - sum(c for _, c in shown)}"] if left else [])


def inspect_dataset(dataset: MeshDataset) -> DatasetReport:
    """Reads every mesh once. Raises `DataError` for a view without meshes."""
    if not len(dataset):
        raise DataError(f"{dataset!r} is empty: there is nothing to inspect")
    faces, captions = dataset.face_counts, dataset.column("caption")
    watertight = consistent = 0
    seen = set()
    for index in range(len(dataset)):
        mesh = dataset.mesh(index)
        closed, one_way = _surface(mesh)
        watertight, consistent = watertight + closed, consistent + one_way
        grid = canonicalize(mesh.normalized())
        seen.add((grid.vertices.tobytes(), grid.faces.tobytes()))
    return DatasetReport(
        meshes=len(dataset),
        vertices=int(dataset.vertex_counts.sum()),
        faces=int(faces.sum()),
        corners=dataset.store.corners,
        face_range=(int(faces.min()), int(np.median(faces)), int(faces.max())),
        face_histogram=_histogram(faces),
        categories=_counted(dataset.column("category")),
        splits=_counted(dataset.column("split")),
        sources=_counted(dataset.column("source")),
        licences=_counted(dataset.column("licence")),
        authors=_counted(dataset.column("author")),
        captions=len(set(captions) - {""}),
        words=dict(Counter(word for caption in captions for word in caption.split()).most_common(20)),
        families=len(set(dataset.column("family")) - {""}),
        watertight=watertight / len(dataset),
        consistently_wound=consistent / len(dataset),
        duplicates=len(dataset) - len(seen),
    )


def _surface(mesh: Mesh) -> tuple[bool, bool]:
    """Whether every edge has two faces, and whether the faces of each such edge run along it in opposite directions.

    `topology_report` says more, and takes ten times as long.
    """
    ends = np.roll(mesh.faces, -1, axis=1)
    if mesh.corners == 4:  # the third corner of a triangle is followed by its first, its missing one by nothing
        ends[:, 2] = np.where(mesh.faces[:, 3] < 0, mesh.faces[:, 0], ends[:, 2])
    real = (mesh.faces >= 0) & (ends >= 0) & (mesh.faces != ends)
    start, end = mesh.faces[real], ends[real]
    keys = np.minimum(start, end) * mesh.num_vertices + np.maximum(start, end)
    order = np.argsort(keys, kind="stable")
    _, first, counts = np.unique(keys[order], return_index=True, return_counts=True)
    pairs = first[counts == 2]
    forward = (start < end)[order]
    return bool((counts == 2).all()), bool((forward[pairs] != forward[pairs + 1]).all())


def _counted(values: np.ndarray) -> dict[str, int]:
    return dict(sorted(Counter(values.tolist()).items(), key=lambda item: (-item[1], item[0])))


def _histogram(faces: np.ndarray) -> dict[str, int]:
    edges = [*EDGES, max(int(faces.max()), EDGES[-1])]
    counts = np.histogram(faces - 0.5, edges)[0].tolist()  # a mesh of 50 faces belongs to 1-50
    return {f"{low + 1}-{high}": n for low, high, n in zip(edges[:-1], edges[1:], counts, strict=True) if n}


@no_type_check
def dataset_sheet(dataset: MeshDataset, path: str | Path, count: int = 64, seed: int = 0, size: int = 192) -> Path:
    """A PNG of up to `count` meshes, drawn evenly over the categories, with their captions where Pillow is there.

    Raises `DataError` for a view without meshes.
    """
    if not len(dataset):
        raise DataError(f"{dataset!r} is empty: there is nothing to show")
    weights = dataset.balanced_weights(("category",))
    count = min(count, len(dataset))
    chosen = np.sort(np.random.default_rng(seed).choice(len(dataset), count, replace=False, p=weights))
    records = sorted(dataset[chosen], key=lambda record: (record.category, record.name))
    titles = [record.caption or record.name for record in records] if _has_pillow() else None
    return save_png(contact_sheet([record.mesh for record in records], size=size, titles=titles), path)


def _has_pillow() -> bool:
    from importlib.util import find_spec

    return find_spec("PIL") is not None
