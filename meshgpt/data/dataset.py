"""`MeshDataset`: many meshes with captions, categories and licences, opened in an instant and cut into views."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, no_type_check, overload

import numpy as np

from meshgpt.data.joined import JoinedStore
from meshgpt.data.pack import MeshRecord
from meshgpt.data.store import FIELDS, MeshStore
from meshgpt.errors import DataError, DataIndexError
from meshgpt.mesh.mesh import Mesh

BUNDLED = Path(__file__).resolve().parent.parent / "bundled"


class MeshDataset:
    """Meshes and what is known about each: `dataset[i]` is a `MeshRecord`, `dataset.mesh(i)` only its mesh.

    path: a folder written by `write_dataset` or `meshgpt data build`, a .zip of one, `NAME.npz` beside `NAME.jsonl`,
    or the name of a bundled data set ('tiny', 'cc0-lowpoly', 'cc0-more'). Several, with + between them, are one:
    "cc0-lowpoly+cc0-more". Folders are memory-mapped and read on demand. Views made by `filter`, `split` and slices
    share the data. Pickles as path and indices, so it may travel to other processes. Raises `DataError` for a data set
    that is missing, damaged or of another version.
    """

    @no_type_check
    def __init__(self, path: str | Path):
        self.store = _opened(path)
        self.indices = np.arange(len(self.store))

    @classmethod
    def bundled(cls, name: str) -> "MeshDataset":
        """The data set of that name within the package."""
        names = bundled_names()
        if name not in names:
            raise DataError(f"no bundled data set '{name}'; there are: {', '.join(names)}")
        return cls(BUNDLED / name)

    def __len__(self) -> int:
        return len(self.indices)

    def __repr__(self) -> str:
        return f"MeshDataset('{self.store.path}', {len(self)} of {len(self.store)} meshes)"

    def __iter__(self) -> Iterator[MeshRecord]:
        return (self[index] for index in range(len(self)))

    @overload
    def __getitem__(self, index: int) -> MeshRecord: ...

    @overload
    def __getitem__(self, index: slice | Sequence[int] | np.ndarray) -> "MeshDataset": ...

    def __getitem__(self, index: Any) -> Any:
        """The `MeshRecord` at a whole number (negative from the end); a view for a slice or a list of numbers."""
        if isinstance(index, slice):
            return self._view(self.indices[index])
        if isinstance(index, (list, tuple, np.ndarray)):
            return self._view(np.array([self._stored(i) for i in index], dtype=np.int64))
        stored = self._stored(index)
        values = self.store.record(stored)
        known = {name: values.pop(name) for name in FIELDS}
        return MeshRecord(self.store.mesh(stored), **known, extra=values)

    @no_type_check
    def mesh(self, index) -> Mesh:
        """Mesh `index` alone, which is faster than the whole record."""
        return self.store.mesh(self._stored(index))

    @no_type_check
    def column(self, name) -> np.ndarray:
        """The values (n,) of one field of all records (name, caption, category, ...), as str objects."""
        if name not in FIELDS:
            raise DataError(f"a record has no column '{name}'; there are: {', '.join(FIELDS)}")
        return self.store.columns[name][self.indices]

    @property
    def face_counts(self) -> np.ndarray:
        """(n,) int64."""
        return np.diff(self.store.face_offsets)[self.indices]

    @property
    def vertex_counts(self) -> np.ndarray:
        """(n,) int64."""
        return np.diff(self.store.vertex_offsets)[self.indices]

    @property
    def categories(self) -> list[str]:
        """The different categories, sorted; `column('category')` has one per mesh."""
        return sorted(set(self.column("category")) - {""})

    @property
    def splits(self) -> list[str]:
        """The different splits that are marked, sorted."""
        return sorted(set(self.column("split")) - {""})

    @property
    def fingerprint(self) -> str:
        """A hash of the contents and the choice of meshes: equal for equal data sets."""
        return hashlib.sha256(self.store.fingerprint.encode() + self.indices.astype("<i8").tobytes()).hexdigest()

    @no_type_check
    def filter(
        self,
        max_faces: int | None = None,
        min_faces: int | None = None,
        categories: Sequence[str] | str | None = None,
        split: str | None = None,
        sources: Sequence[str] | str | None = None,
        licences: Sequence[str] | str | None = None,
        predicate: Callable[[MeshRecord], bool] | None = None,
    ) -> "MeshDataset":
        """A view of the meshes that meet every condition; `predicate` sees the records that meet the others.

        A category, split, source or licence that no mesh here has raises `DataError` and names those there are.
        """
        keep = np.ones(len(self), dtype=bool)
        if max_faces is not None:
            keep &= self.face_counts <= max_faces
        if min_faces is not None:
            keep &= self.face_counts >= min_faces
        wanted = {"category": categories, "split": split, "source": sources, "licence": licences}
        for column, values in wanted.items():
            if values is not None:
                keep &= self._among(column, [values] if isinstance(values, str) else list(values))
        view = self._view(self.indices[keep])
        return view if predicate is None else view[[i for i, record in enumerate(view) if predicate(record)]]

    def split(self, name: str) -> "MeshDataset":
        """The view of the meshes marked as belonging to split `name`."""
        return self.filter(split=name)

    @no_type_check
    def train_and_val(self, val_fraction: float = 0.1, seed: int = 0) -> tuple["MeshDataset", "MeshDataset"]:
        """Two views: by the splits 'train' and 'val' where both are marked, else drawn by family.

        Meshes marked 'test' are in neither; where others are marked, those that are not belong to 'train'. Drawing
        depends on `seed` and the name of the family alone (of the mesh, where it has no family), so that adding meshes
        moves none. Both have a mesh at least; raises `DataError` where that cannot be.
        """
        if "train" in self.splits and "val" in self.splits:
            marks = self.column("split")
            return self._view(self.indices[(marks == "train") | (marks == "")]), self.split("val")
        if not 0 < val_fraction < 1:
            raise DataError(f"val_fraction must lie between 0 and 1, got {val_fraction}")
        drawn = self._view(self.indices[self.column("split") != "test"])
        families = np.where(drawn.column("family") == "", drawn.column("name"), drawn.column("family"))
        if len(set(families)) < 2:
            what = f"{self!r} has {len(set(families))} families of meshes that are not marked 'test'"
            raise DataError(f"{what}; two are needed to set some aside")
        held_out = np.isin(families, list(held_out_families(families, val_fraction, seed)))
        return drawn._view(drawn.indices[~held_out]), drawn._view(drawn.indices[held_out])

    @no_type_check
    def balanced_weights(self, by: Sequence[str] = ("category", "faces"), strength: float = 1.0) -> np.ndarray:
        """Sampling probabilities (n,) that sum to 1 and give every group of meshes the same share.

        by: columns, or 'faces' for face counts between powers of two; several give groups of all combinations.
        strength: 1 balances fully, 0 leaves all meshes equal, between them shares go with count ** (1 - strength).
        """
        if not len(self):
            raise DataError(f"{self!r} is empty: there is nothing to weigh")
        if not 0 <= strength <= 1:
            raise DataError(f"strength must lie between 0 and 1, got {strength}")
        columns = [np.log2(self.face_counts).astype(int) if name == "faces" else self.column(name) for name in by]
        groups = list(zip(*columns, strict=True)) if columns else [()] * len(self)
        counts = Counter(groups)
        weights = np.array([float(counts[group]) ** -strength for group in groups])
        return weights / weights.sum()

    def verify(self) -> None:
        """Reads everything once; raises `DataError` if a byte has changed since the data set was written."""
        self.store.verify()

    def _view(self, indices: np.ndarray) -> "MeshDataset":
        view = object.__new__(type(self))
        view.store, view.indices = self.store, indices
        return view

    def _among(self, column: str, values: Iterable[str]) -> np.ndarray:
        present = self.column(column)
        unknown = set(values) - set(present)
        if unknown:
            there = ", ".join(sorted(set(present) - {""})) or "none"
            raise DataError(f"{self!r} has no mesh of {column} '{min(unknown)}'; there are: {there}")
        return np.isin(present, list(values))

    def _stored(self, index: Any) -> int:
        """The number in the store of the mesh at `index`."""
        try:
            position = index.__index__()
        except (AttributeError, TypeError):
            raise DataIndexError(f"an index must be a whole number, got {index!r}") from None
        if not -len(self) <= position < len(self):
            raise DataIndexError(f"index {position} is beyond the {len(self)} meshes of {self!r}")
        return int(self.indices[position])


def bundled_names() -> list[str]:
    """The names of the data sets within the package."""
    return sorted(path.parent.name for path in BUNDLED.glob("*/meshes.zip"))


def _opened(path: Any) -> "MeshStore | JoinedStore":
    """The store of a path or name; of several with + between them, unless there is a file or folder of that name."""
    if not isinstance(path, (str, Path)):
        raise DataError(f"a data set is opened by its path or name, got {type(path).__name__}")
    if "+" in str(path) and not Path(path).exists():
        return JoinedStore([MeshStore(_located(part)) for part in str(path).split("+")])
    return MeshStore(_located(path))


def _located(path: "str | Path") -> Path:
    """A bundled data set where `path` is the bare name of one and nothing of that name lies here."""
    bare = str(path) == Path(path).name
    return BUNDLED / path if bare and not Path(path).exists() and str(path) in bundled_names() else Path(path)


def held_out_families(families: Iterable[str], fraction: float, seed: int) -> set[str]:
    """About that fraction of the families, one at least and not all of them; each drawn by name and `seed` alone."""
    draws = sorted((_draw(family, seed), family) for family in set(families))
    return {family for place, (draw, family) in enumerate(draws[:-1]) if draw < fraction or place == 0}


def _draw(family: str, seed: int) -> float:
    """A number in [0, 1) that depends on nothing but its arguments."""
    digest = hashlib.blake2b(json.dumps([seed, family]).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
