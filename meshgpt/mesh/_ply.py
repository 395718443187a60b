"""PLY, ASCII and binary of both byte orders: the positions of `vertex` and the indices of `face` or `tristrips`."""

import numpy as np

from meshgpt.errors import MeshFileError
from meshgpt.mesh._limits import ReadLimits
from meshgpt.mesh._ply_header import Element, Property, read_header
from meshgpt.mesh._text import all_floats
from meshgpt.mesh.polygons import Polygons, strip_triangles

INDEX_LISTS = (b"vertex_indices", b"vertex_index")


def read_ply(data: bytes, limits: ReadLimits) -> Polygons:
    """The polygons of a PLY file; other elements and properties are passed over."""
    order, elements, body = read_header(data)
    _check_counts(order, elements, len(body), limits)
    source = _Binary(body, order) if order else _Ascii(body)
    points, corners, sizes = np.zeros((0, 3)), np.zeros(0, np.int64), np.zeros(0, np.int64)
    for element in elements:
        columns = source.columns(element)
        if element.name == b"vertex":
            missing = [axis.decode() for axis in (b"x", b"y", b"z") if not isinstance(columns.get(axis), np.ndarray)]
            if missing:
                raise MeshFileError(f"the vertices have no property {', '.join(missing)}")
            points = np.stack([columns[axis] for axis in (b"x", b"y", b"z")], axis=1).astype(np.float64)
        elif element.name in (b"face", b"tristrips"):
            lists = [columns[name] for name in INDEX_LISTS if isinstance(columns.get(name), tuple)]
            if not lists and element.count:
                raise MeshFileError(f"{element.name.decode()} has no list property vertex_indices")
            if lists:
                values, lengths = lists[0]
                corners, sizes = _as_indices(values, lengths, element.name)
    return Polygons(points, corners, sizes)


def _as_indices(values: np.ndarray, sizes: np.ndarray, element: bytes) -> tuple[np.ndarray, np.ndarray]:
    if values.dtype.kind == "f":
        good = np.abs(values) < 2**62
        if not good.all() or (values != np.floor(values)).any():
            raise MeshFileError("a vertex index is not a whole number")
    corners = values.astype(np.int64)
    if element == b"face":
        return corners, sizes
    ends = np.flatnonzero(corners < 0)  # strips follow one another, each ended by -1
    triangles = np.concatenate([np.zeros((0, 3), np.int64), *map(strip_triangles, np.split(corners, ends + 1))])
    triangles = triangles[(triangles >= 0).all(axis=1)]
    return triangles.reshape(-1), np.full(len(triangles), 3)


def _check_counts(order: str, elements: list[Element], num_bytes: int, limits: ReadLimits) -> None:
    left = num_bytes + 1  # text may lack its last line end
    for element in elements:
        least = element.least_bytes(order)
        name = element.name.decode("utf-8", "replace")
        left -= element.count * least
        if element.count < 0 or left < 0 or (element.count and not least):
            raise MeshFileError(f"the header says {element.count} {name} rows, {num_bytes} bytes cannot hold that")
        if element.name == b"vertex":
            limits.check_vertices(element.count)
        if element.name == b"face":
            limits.check_faces(element.count)


Columns = dict[bytes, "np.ndarray | tuple[np.ndarray, np.ndarray]"]


class _Ascii:
    """Rows of text, read as one sequence of numbers; a list becomes (values, sizes)."""

    def __init__(self, body: bytes):
        self.numbers = all_floats(body, "the data")
        self.at = 0

    def columns(self, element: Element) -> Columns:
        if not any(p.count_kind for p in element.properties):
            block = self._take(element.count * len(element.properties), element)
            block = block.reshape(element.count, len(element.properties))
            return {p.name: block[:, i] for i, p in enumerate(element.properties)}
        return _rows(element, self)

    def value(self, kind: str, element: Element) -> float:
        return float(self._take(1, element)[0])

    def values(self, kind: str, count: int, element: Element) -> np.ndarray:
        return self._take(count, element)

    def _take(self, count: int, element: Element) -> np.ndarray:
        if self.at + count > len(self.numbers):
            raise _cut_off(element)
        self.at += count
        return self.numbers[self.at - count : self.at]


class _Binary:
    """Rows of bytes."""

    def __init__(self, body: bytes, order: str):
        self.body, self.order, self.at = body, order, 0

    def columns(self, element: Element) -> Columns:
        sizes = self._first_sizes(element)
        if sizes is None:
            return _rows(element, self)
        parts = [self._part(p, size) for p, size in zip(element.properties, sizes, strict=True)]
        row = np.dtype([(str(i), part) for i, part in enumerate(parts)])
        if self.at + element.count * row.itemsize > len(self.body):
            return _rows(element, self)
        rows = np.frombuffer(self.body, row, element.count, self.at)
        columns = {p.name: rows[str(i)] for i, p in enumerate(element.properties)}
        lists = {p.name: size for p, size in zip(element.properties, sizes, strict=True) if p.count_kind}
        if any((columns[name]["size"] != size).any() for name, size in lists.items()):
            return _rows(element, self)
        self.at += element.count * row.itemsize
        found = {name: (columns[name]["values"].reshape(-1), columns[name]["size"].astype(np.int64)) for name in lists}
        return {**columns, **found}

    def _part(self, prop: Property, size: int) -> np.dtype:
        kind = np.dtype(self.order + prop.kind)
        if prop.count_kind is None:
            return kind
        return np.dtype([("size", self.order + prop.count_kind), ("values", kind, (size,))])

    def _first_sizes(self, element: Element) -> list[int] | None:
        """List lengths in the first row, which most files repeat in every row; None if there is no row."""
        start, sizes = self.at, []
        if not element.count:
            return None
        for p in element.properties:
            size = _length(self.value(p.count_kind, element), element) if p.count_kind else 0
            self.values(p.kind, size if p.count_kind else 1, element)
            sizes.append(size)
        self.at = start
        return sizes

    def value(self, kind: str, element: Element) -> float:
        return float(self.values(kind, 1, element)[0])

    def values(self, kind: str, count: int, element: Element) -> np.ndarray:
        dtype = np.dtype(self.order + kind)
        if self.at + count * dtype.itemsize > len(self.body):
            raise _cut_off(element)
        self.at += count * dtype.itemsize
        return np.frombuffer(self.body, dtype, count, self.at - count * dtype.itemsize)


def _rows(element: Element, source: "_Ascii | _Binary") -> Columns:
    """Row by row, for lists whose length varies."""
    values: list[list[np.ndarray]] = [[np.zeros(0)] for _ in element.properties]
    sizes: list[list[int]] = [[] for _ in element.properties]
    for _ in range(element.count):
        for p, blocks, lengths in zip(element.properties, values, sizes, strict=True):
            size = _length(source.value(p.count_kind, element), element) if p.count_kind else 1
            blocks.append(source.values(p.kind, size, element))
            lengths.append(size)
    columns: Columns = {}
    for p, blocks, lengths in zip(element.properties, values, sizes, strict=True):
        joined = np.concatenate(blocks)
        columns[p.name] = (joined, np.array(lengths, dtype=np.int64)) if p.count_kind else joined
    return columns


def _length(value: float, element: Element) -> int:
    if not 0 <= value < 2**31 or value != int(value):
        raise MeshFileError(f"a list of {element.name.decode('utf-8', 'replace')} has the length {value}")
    return int(value)


def _cut_off(element: Element) -> MeshFileError:
    name = element.name.decode("utf-8", "replace")
    return MeshFileError(f"the header says {element.count} {name} rows, but the data ends before: the file is cut off")
