"""What is trained on: numbered examples with sizes and names, whatever they come from."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, no_type_check

import numpy as np

from meshgpt.data.augment import augmentation_generator
from meshgpt.data.folder import TEXT_KEYS, as_record
from meshgpt.errors import DataError
from meshgpt.mesh.canonical import canonicalize
from meshgpt.mesh.mesh import Mesh
from meshgpt.training.identity import described

Augment = Callable[[Mesh, np.random.Generator], Mesh]
DATA_KWARGS = ("vertices", "faces", "texts")


class Examples:
    """Any data set with a length and numbered items. Subclasses know sizes, names and augmentation."""

    @no_type_check
    def __init__(self, dataset):
        if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
            raise DataError(f"a data set needs a length and numbered items, which {type(dataset).__name__} lacks")
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return self.get(index, 0)

    @property
    def sizes(self) -> np.ndarray:
        """(n,) int64 by which batches are formed; all ones where sizes do not matter."""
        return np.ones(len(self), dtype=np.int64)

    def get(self, index: int, epoch: int) -> Any:
        """Example `index` as it is in `epoch`."""
        return self.dataset[index]

    def name(self, index: int) -> str:
        return f"example {index}"

    @property
    def fingerprint(self) -> str:
        """Differs where the data differ, as far as this can be told without reading all of them."""
        return hashlib.sha256(np.asarray([len(self), *self.sizes.tolist()]).tobytes()).hexdigest()

    @property
    def identity(self) -> dict[str, Any]:
        """What a run depends on besides its settings, by name, as JSON values."""
        return {"data": self.fingerprint}


@dataclass(frozen=True)
class MeshExample:
    """A mesh and, where there is one, its caption."""

    mesh: Mesh
    text: str | None = None


@dataclass(frozen=True)
class MeshView:
    """How a mesh is seen: normalised, augmented by `augment(mesh, rng)`, in canonical order on the tokenizer's grid."""

    num_discrete_coors: int
    corners: int = 3
    augment: Augment | None = None

    def __call__(self, mesh: Mesh, rng: np.random.Generator) -> Mesh:
        if self.augment is not None:
            mesh = self.augment(mesh.normalized(), rng)
        if mesh.corners != self.corners:
            padding = ((0, 0), (0, self.corners - 3))
            triangles = mesh.triangulated()
            mesh = Mesh(triangles.vertices, np.pad(triangles.faces, padding, constant_values=-1))
        return canonicalize(mesh.normalized() if self.augment is None else mesh, self.num_discrete_coors).mesh()


class MeshExamples(Examples):
    """Meshes of a `MeshDataset` or any data set of (vertices, faces[, text]), dicts of those, meshes or records.

    `view(mesh, rng)` is applied each time, with randomness that depends on (seed, epoch, index) alone. `data_kwargs`
    names the entries of tuples. Raises `DataError` for an item that is none of those, with its number.
    """

    @no_type_check
    def __init__(self, dataset, view=None, seed: int = 0, data_kwargs=None):
        super().__init__(dataset)
        self.view, self.seed = view, seed
        self.data_kwargs = tuple(data_kwargs or getattr(dataset, "data_kwargs", None) or DATA_KWARGS)

    @property
    def sizes(self) -> np.ndarray:
        """Faces of each mesh; a data set without `face_counts` is read once to count them."""
        return self._measured[0]

    @property
    def fingerprint(self) -> str:
        return self._measured[1]

    @property
    def identity(self) -> dict[str, Any]:
        return {**super().identity, **described("augment", getattr(self.view, "augment", None))}

    @cached_property
    def _measured(self) -> tuple[np.ndarray, str]:
        counts, fingerprint = (getattr(self.dataset, name, None) for name in ("face_counts", "fingerprint"))
        if counts is None or fingerprint is None:
            counts, digest = [], hashlib.sha256()
            for index in range(len(self)):
                mesh = self.plain(index).mesh
                counts.append(mesh.num_faces)
                for values in (mesh.vertices, mesh.faces):
                    digest.update(str(values.shape).encode() + values.tobytes())
            fingerprint = digest.hexdigest()
        return np.asarray(counts, dtype=np.int64), fingerprint

    def name(self, index: int) -> str:
        column = getattr(self.dataset, "column", None)
        return f"mesh {index} '{column('name')[index]}'" if column is not None else f"mesh {index}"

    def plain(self, index: int) -> MeshExample:
        """Example `index` as it is in the data set."""
        return as_example(self.dataset[int(index)], int(index), self.data_kwargs)

    def items(self) -> Iterator[Any]:
        """What the data set itself holds, tuples as dicts by the names of their entries."""
        return (_named(self.dataset[index], self.data_kwargs) for index in range(len(self)))

    def get(self, index: int, epoch: int) -> MeshExample:
        example = self.plain(index)
        if self.view is None:
            return example
        rng = augmentation_generator(self.seed, epoch, int(index))
        return MeshExample(self.view(example.mesh, rng), example.text)


@no_type_check
def as_example(item, index: int, data_kwargs: Sequence[str] = DATA_KWARGS) -> MeshExample:
    """Whatever `data.folder.as_record` takes; of a tuple, the entries are named by `data_kwargs`."""
    if isinstance(item, MeshExample):
        return item
    record = as_record(_named(item, data_kwargs), index)
    return MeshExample(record.mesh, record.caption or None)


@no_type_check
def _named(item, data_kwargs: Sequence[str]) -> Any:
    """A tuple as a dict by the names of its entries; anything else as it is."""
    if not isinstance(item, (tuple, list)):
        return item
    named = dict(zip(data_kwargs, item, strict=False))  # where nobody named them, something else may stand as the text
    return {name: value for name, value in named.items() if name not in TEXT_KEYS or isinstance(value, str)}
