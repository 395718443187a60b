"""Other people's data: any torch data set of meshes, and folders of files with a function that reads them."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, no_type_check

import numpy as np
from torch import Tensor

from meshgpt.data.pack import MeshRecord
from meshgpt.data.sources import SourceFile, describe, find_files
from meshgpt.data.store import FIELDS
from meshgpt.errors import DataError, DataIndexError, MeshError
from meshgpt.mesh.files import FORMATS, read_mesh
from meshgpt.mesh.mesh import Mesh

TEXT_KEYS = ("texts", "text", "caption")


class MeshRecords:
    """The items of another data set, one by one, as `MeshRecord`s. See `as_mesh_records`."""

    @no_type_check
    def __init__(self, dataset):
        if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
            raise DataError(f"a data set needs a length and numbered items, which {type(dataset).__name__} lacks")
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[MeshRecord]:
        return (self[index] for index in range(len(self)))

    @no_type_check
    def __getitem__(self, index) -> MeshRecord:
        return as_record(self.dataset[_checked_index(index, len(self))], index)


@no_type_check
def as_mesh_records(dataset) -> MeshRecords:
    """Any data set with a length and numbered items as a data set of `MeshRecord`s.

    An item is a mesh, something that has one as its `.mesh`, a tuple (vertices, faces) or (vertices, faces, text), or a
    dict with the keys vertices and faces and, if there is one, texts, text or caption; its order plays no part. Faces
    of padding (-1) are dropped. Raises `DataError` with the number of an item that is none of those.
    """
    return MeshRecords(dataset)


@no_type_check
def as_record(item, index) -> MeshRecord:
    """One item of a foreign data set, the one at `index`, as a `MeshRecord`."""
    if isinstance(item, MeshRecord):
        return item
    if isinstance(item, Mesh):
        return MeshRecord(item)
    if isinstance(getattr(item, "mesh", None), Mesh):
        return MeshRecord(item.mesh, caption=getattr(item, "caption", None) or "")
    if isinstance(item, Mapping) and {"vertices", "faces"} <= set(item):
        text = next((item[key] for key in TEXT_KEYS if item.get(key) is not None), "")
        known = {name: str(item[name]) for name in FIELDS if item.get(name) is not None}
        return MeshRecord(_mesh(item["vertices"], item["faces"], index), **{"caption": str(text), **known})
    if isinstance(item, (tuple, list)) and len(item) in (2, 3):
        text = item[2] if len(item) == 3 else ""
        if text is None or isinstance(text, str):
            return MeshRecord(_mesh(item[0], item[1], index), caption=text or "")
        raise DataError(f"item {index}: the third entry of a tuple is its text, got {type(text).__name__}")
    what = f"a mapping of {sorted(map(str, item))}" if isinstance(item, Mapping) else f"a {type(item).__name__}"
    expected = "a Mesh, (vertices, faces[, text]) or a dict with the keys vertices and faces"
    raise DataError(f"item {index} is {what}; expected {expected}")


@no_type_check
def _mesh(vertices, faces, index) -> Mesh:
    faces = faces.detach().cpu().numpy() if isinstance(faces, Tensor) else np.asarray(faces)
    if faces.ndim == 2:
        faces = faces[~(faces < 0).all(axis=1)]
    try:
        return Mesh(vertices, faces)
    except MeshError as error:
        raise DataError(f"item {index}: {error}") from error


class MeshFolder:
    """The mesh files below a folder, sorted by path, read when asked for; an item is a `MeshRecord`.

    read: a function of a path, or one for each extension ({'obj': fn}; other files are then passed over). It gives a
    mesh or anything else `as_mesh_records` takes. What it does not say comes from names and sidecars, as in a build.
    Raises `DataError` for a folder without such files, and with the file's name for one that cannot be read.
    """

    readers: dict[str, Callable[[Path], Any]]

    @no_type_check
    def __init__(self, folder, read=read_mesh):
        self.folder = Path(folder)
        by_extension = isinstance(read, Mapping)
        self.readers = (
            {_extension(key): fn for key, fn in read.items()} if by_extension else dict.fromkeys(FORMATS, read)
        )
        self.files = find_files(self.folder, extensions=tuple(self.readers))[0]

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[MeshRecord]:
        return (self[index] for index in range(len(self)))

    @no_type_check
    def __getitem__(self, index) -> MeshRecord:
        file = self.files[_checked_index(index, len(self))]
        try:
            record = as_record(self._reader(file)(file.full_path), index)
            known = describe(file)
        except (DataError, MeshError) as error:
            raise DataError(f"{file.full_path}: {error}") from error
        extra = {name: known.pop(name) for name in list(known) if name not in FIELDS}
        own = {name: getattr(record, name) for name in FIELDS if getattr(record, name)}
        return MeshRecord(record.mesh, **{**known, **own}, extra={**extra, **record.extra})

    def _reader(self, file: SourceFile) -> Callable[[Path], Any]:
        return self.readers[_extension(Path(file.path).suffix)]


class DatasetFromTransforms(MeshFolder):
    """`MeshFolder` under the name and with the keywords that meshgpt-pytorch gives it.

    transforms: {extension: function of a path that gives (vertices, faces[, text])}. augment_fn: applied to what those
    give. data_kwargs: names of the entries of their tuples, where these are not (vertices, faces, texts).
    """

    @no_type_check
    def __init__(self, folder, transforms, data_kwargs=None, augment_fn=None):
        super().__init__(folder, read=transforms)
        self.data_kwargs, self.augment_fn = data_kwargs, augment_fn

    def _reader(self, file: SourceFile) -> Callable[[Path], Any]:
        read, names = super()._reader(file), self.data_kwargs

        def read_and_augment(path: Path) -> Any:
            item = read(path) if self.augment_fn is None else self.augment_fn(read(path))
            if names is None or not isinstance(item, (tuple, list)):
                return item
            if len(names) != len(item):
                raise DataError(f"its reader gives {len(item)} things, data_kwargs names {len(names)}: {tuple(names)}")
            return dict(zip(names, item, strict=True))

        return read_and_augment


def _extension(name: str) -> str:
    return name.lower().lstrip(".")


@no_type_check
def _checked_index(index, count) -> int:
    """Raises `DataIndexError` for an index that is not one of 0 .. count - 1 or negative from the end."""
    try:
        position = index.__index__()
    except (AttributeError, TypeError):
        raise DataIndexError(f"an index must be a whole number, got {index!r}") from None
    if not -count <= position < count:
        raise DataIndexError(f"index {position} is beyond the {count} meshes of this data set")
    return position % count
