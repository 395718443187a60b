"""Shapes as samples of their fields on disk: points on, near and around each surface, and the verdict on each.

manifest.json        format, version, how many points of each kind, how many shapes, and what they were made of
shard-00000.npy      (s, n) float32, memory-mapped: a row holds the surface, volume and near points of one shape
shard-00000.jsonl    one JSON object for each row: the record of the mesh, its verdict, or why it was refused
"""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, no_type_check

import numpy as np
from jaxtyping import Float

from meshgpt.errors import DataError, DataIndexError

FORMAT, VERSION = "meshgpt-fields", 1
SURFACE, QUERY = 7, 4  # numbers of a surface point (place, normal, sharp) and of a query point (place, distance)
SUBFOLDER = "fields"  # of a data set, where its fields are unless another place is named
REBUILD = "make it again with `meshgpt data fields`"


@dataclass(frozen=True, eq=False)
class FieldSample:
    """One shape: points with what is known there, float32, in [-1, 1].

    surface: place, unit normal, and 1 for points of sharp edges, else 0. volume, near: place and signed distance,
    positive inside; volume spread over the box, near lying around the surface. record: name, category, caption, ...
    """

    surface: Float[np.ndarray, "p 7"]
    volume: Float[np.ndarray, "v 4"]
    near: Float[np.ndarray, "w 4"]
    record: dict[str, Any]


class FieldDataset:
    """The shapes of a folder written by `build_fields`, or of the data set folder that holds it; those refused are
    left out. Items are `FieldSample`s. Pickles as path and indices. Raises `DataError` for what is missing or damaged.
    """

    @no_type_check
    def __init__(self, path):
        self.path = _located(Path(path))
        self.manifest = _manifest(self.path)
        counts = self.manifest["points"]
        self.counts = counts["surface"], counts["volume"], counts["near"]
        self.indices = np.flatnonzero([line.get("refused") is None for line in self._lines])

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "indices": self.indices}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"])
        self.indices = state["indices"]

    def __len__(self) -> int:
        return len(self.indices)

    def __repr__(self) -> str:
        return f"FieldDataset('{self.path}', {len(self)} of {len(self._lines)} shapes)"

    @no_type_check
    def __getitem__(self, index) -> FieldSample:
        if not -len(self) <= index < len(self):
            raise DataIndexError(f"index {index} is beyond the {len(self)} shapes of {self!r}")
        row = int(self.indices[index])
        shard, place = divmod(row, self.manifest["shard_size"])
        values = np.array(self._shards[shard][place])
        s, v, n = self.counts
        parts = np.split(values, np.cumsum([s * SURFACE, v * QUERY]))
        return FieldSample(
            parts[0].reshape(s, SURFACE), parts[1].reshape(v, QUERY), parts[2].reshape(n, QUERY), self._lines[row]
        )

    def column(self, name: str) -> np.ndarray:
        """The values (n,) of one entry of all records as str objects, '' where there is none."""
        return np.array([str(self._lines[row].get(name, "")) for row in self.indices] + [""], dtype=object)[:-1]

    @property
    def methods(self) -> dict[str, int]:
        """How many shapes were made solid in which way (see `SolidVerdict.method`)."""
        return dict(Counter(self._lines[row]["verdict"]["method"] for row in self.indices).most_common())

    @property
    def refused(self) -> list[tuple[str, str]]:
        """(name, why) of the meshes that gave nothing."""
        return [(line["name"], line["refused"]) for line in self._lines if line.get("refused") is not None]

    @property
    def fingerprint(self) -> str:
        """A hash that is equal for equal contents and choice."""
        text = json.dumps([self.manifest["key"], self.indices.tolist()])
        return hashlib.sha256(text.encode()).hexdigest()

    @no_type_check
    def filter(
        self, categories: Sequence[str] | str | None = None, split: str | None = None, methods: Sequence[str] = ()
    ) -> "FieldDataset":
        """A view of the shapes of some categories, of one split, made solid by some methods."""
        keep = np.ones(len(self), dtype=bool)
        if categories is not None:
            keep &= np.isin(self.column("category"), [categories] if isinstance(categories, str) else list(categories))
        if split is not None:
            keep &= self.column("split") == split
        if methods:
            keep &= np.isin([self._lines[row]["verdict"]["method"] for row in self.indices], list(methods))
        return self.select(np.flatnonzero(keep))

    @no_type_check
    def select(self, indices) -> "FieldDataset":
        """A view of the shapes with these numbers."""
        view = object.__new__(type(self))
        view.__dict__ = {**self.__dict__, "indices": self.indices[np.asarray(indices, dtype=np.int64)]}
        return view

    @cached_property
    def _lines(self) -> list[dict[str, Any]]:
        lines = []
        for number in range(self._num_shards):
            try:
                text = (self.path / f"{shard_name(number)}.jsonl").read_text(encoding="utf-8")
                lines += [json.loads(line) for line in text.splitlines()]
            except (OSError, ValueError) as error:
                raise DataError(
                    f"{self.path}: {shard_name(number)}.jsonl cannot be read ({error}); {REBUILD}"
                ) from None
        if len(lines) != self.manifest["shapes"]:
            raise DataError(f"{self.path}: {len(lines)} records, not {self.manifest['shapes']}; {REBUILD}")
        return lines

    @cached_property
    def _shards(self) -> list[np.ndarray]:
        shards = []
        for number in range(self._num_shards):
            path = self.path / f"{shard_name(number)}.npy"
            try:
                shards.append(np.load(path, mmap_mode="r", allow_pickle=False))
            except (OSError, ValueError, EOFError) as error:
                raise DataError(f"{path} cannot be read ({error}); {REBUILD}") from None
        return shards

    @property
    def _num_shards(self) -> int:
        return -(-self.manifest["shapes"] // self.manifest["shard_size"])


def shard_name(number: int) -> str:
    return f"shard-{number:05d}"


def _located(path: Path) -> Path:
    inner = path / SUBFOLDER
    return inner if (inner / "manifest.json").is_file() else path


def _manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        kind = manifest["format"], manifest["version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = f"no fields here, or damaged ones ({type(error).__name__}: {error})"
        raise DataError(f"{path}: {what}; {REBUILD}") from error
    if kind[0] != FORMAT:
        raise DataError(f"{path}: no fields here, but a '{kind[0]}'; make them with `meshgpt data fields`")
    if kind[1] != VERSION:
        raise DataError(f"{path}: version {kind[1]} of fields, this meshgpt reads {VERSION}; {REBUILD}")
    return manifest
