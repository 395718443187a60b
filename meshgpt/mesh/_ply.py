"""PLY, ASCII and binary of both byte orders: the positions of `vertex` and the indices of `face` or `tristrips`."""

from array import array
from collections.abc import Iterator

import numpy as np

from meshgpt.errors import MeshFileError
from meshgpt.mesh._limits import ReadLimits
from meshgpt.mesh._ply_header import Element, Property, read_header
from meshgpt.mesh._text import all_floats
from meshgpt.mesh.polygons import Polygons, strip_triangles

AXES, NORMAL_AXES = (b"x", b"y", b"z"), (b"nx", b"ny", b"nz")
INDEX_LISTS = (b"vertex_indices", b"vertex_index")


def read_ply(data: bytes, limits: ReadLimits) -> Polygons:
    """The polygons of a PLY file; other elements and properties are passed over."""
    points, corners, sizes = np.zeros((0, 3)), np.zeros(0, np.int64), np.zeros(0, np.int64)
    for element, columns in _elements(data, limits):
        if element.name == b"vertex":
            missing = [axis.decode() for axis in AXES if not isinstance(columns.get(axis), np.ndarray)]
            if missing:
                raise MeshFileError(f"the vertices have no property {', '.join(missing)}")
            points = _stacked(columns, AXES)
        elif element.name in (b"face", b"tristrips"):
            lists = [columns[name] for name in INDEX_LISTS if isinstance(columns.get(name), tuple)]
            if not lists and element.count:
                raise MeshFileError(f"{element.name.decode()} has no list property vertex_indices")
            if lists:
                values, lengths = lists[0]
                corners, sizes = _as_indices(values, lengths, element.name)
    return Polygons(points, corners, sizes)


def read_ply_points(data: bytes, limits: ReadLimits) -> tuple[np.ndarray, np.ndarray | None]:
    """The vertices (n, 3) of a PLY file and their normals where it has them (nx, ny, nz); faces are passed over."""
    for element, columns in _elements(data, limits):
        if element.name == b"vertex" and _has(columns, AXES):
            return _stacked(columns, AXES), _stacked(columns, NORMAL_AXES) if _has(columns, NORMAL_AXES) else None
    raise MeshFileError("has no vertices with the properties x, y, z")


def _elements(data: bytes, limits: ReadLimits) -> Iterator[tuple[Element, "Columns"]]:
    """Each element of a file with its columns, in their order."""
    order, elements, body = read_header(data)
    _check_counts(order, elements, len(body), limits)
    source = _Binary(body, order) if order else _Ascii(body)
    for element in elements:
        yield element, source.columns(element)


def _has(columns: "Columns", names: tuple[bytes, ...]) -> bool:
    return all(isinstance(columns.get(name), np.ndarray) for name in names)


def _stacked(columns: "Columns", names: tuple[bytes, ...]) -> np.ndarray:
    return np.stack([np.asarray(columns[name], dtype=np.float64) for name in names], axis=1)


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


Columns = dict[bytes, "np.ndarray | tuple[np.ndarray, np.ndarray]"]  # a list property is (values, sizes)


class _Ascii:
    """The data as one sequence of numbers."""

    def __init__(self, body: bytes):
        self.units = all_floats(body, "the data")
        self.at = 0

    def columns(self, element: Element) -> Columns:
        if any(p.count_kind for p in element.properties):
            return _walk(element, self)
        stop = self.at + element.count * len(element.properties)
        if stop > len(self.units):
            raise _cut_off(element)
        block = self.units[self.at : stop].reshape(element.count, len(element.properties))
        self.at = stop
        return {p.name: block[:, i] for i, p in enumerate(element.properties)}

    def width(self, kind: str) -> int:
        return 1

    def length(self, at: int, kind: str, element: Element) -> int:
        value = float(self.units[at])
        if not 0 <= value < 2**31 or value != int(value):
            raise MeshFileError(f"a list of {_shown(element)} has the length {value:g}")
        return int(value)

    def gather(self, wanted: np.ndarray, kind: str) -> np.ndarray:
        return self.units[wanted]


class _Binary:
    """The data as bytes."""

    def __init__(self, body: bytes, order: str):
        self.body, self.order = body, order
        self.units = np.frombuffer(body, np.uint8)
        self.at = 0

    def columns(self, element: Element) -> Columns:
        """All rows at once where their lists are as long as in the first row, as in most files; else row by row."""
        sizes = self._first_sizes(element)
        row = np.dtype([(str(i), part) for i, part in enumerate(map(self._part, element.properties, sizes))])
        if self.at + element.count * row.itemsize > len(self.body):
            return _walk(element, self)
        rows = np.frombuffer(self.body, row, element.count, self.at)
        columns = {p.name: rows[str(i)] for i, p in enumerate(element.properties)}
        lists = {p.name: size for p, size in zip(element.properties, sizes, strict=True) if p.count_kind}
        if any((columns[name]["size"] != size).any() for name, size in lists.items()):
            return _walk(element, self)
        self.at += element.count * row.itemsize
        found = {name: (columns[name]["values"].reshape(-1), columns[name]["size"].astype(np.int64)) for name in lists}
        return {**columns, **found}

    def _part(self, prop: Property, size: int) -> np.dtype:
        kind = np.dtype(self.order + prop.kind)
        if prop.count_kind is None:
            return kind
        return np.dtype([("size", self.order + prop.count_kind), ("values", kind, (size,))])

    def _first_sizes(self, element: Element) -> list[int]:
        """List lengths in the first row; 0 where there is no row, and for single values."""
        at, sizes = self.at, []
        for p in element.properties:
            size = self.length(at, p.count_kind, element) if p.count_kind and element.count else 0
            at += self.width(p.count_kind) + size * self.width(p.kind) if p.count_kind else self.width(p.kind)
            sizes.append(size)
        if element.count and at > len(self.body):
            raise _cut_off(element)
        return sizes

    def width(self, kind: str) -> int:
        return int(kind[1])

    def length(self, at: int, kind: str, element: Element) -> int:
        order = "little" if self.order == "<" else "big"
        value = int.from_bytes(self.body[at : at + int(kind[1])], order, signed=kind[0] == "i")
        if value < 0:
            raise MeshFileError(f"a list of {_shown(element)} has the length {value}")
        return value

    def gather(self, wanted: np.ndarray, kind: str) -> np.ndarray:
        return self.units[wanted].view(self.order + kind)


def _walk(element: Element, source: "_Ascii | _Binary") -> Columns:
    """Row by row, for lists whose length varies: where each value begins, then all values of a property at once."""
    spans: list[tuple[array, array]] = [(array("q"), array("q")) for _ in element.properties]
    steps = [(p.count_kind, source.width(p.count_kind or p.kind), source.width(p.kind)) for p in element.properties]
    plan = [(*step, *span) for step, span in zip(steps, spans, strict=True)]
    at, end = source.at, len(source.units)
    for _ in range(element.count):
        for count_kind, first, width, begin, lengths in plan:
            if at + first > end:
                raise _cut_off(element)
            size = source.length(at, count_kind, element) if count_kind else 1
            at += first if count_kind else 0
            begin.append(at)
            lengths.append(size)
            at += size * width
    if at > end:
        raise _cut_off(element)
    source.at = at
    columns: Columns = {}
    for p, (_, _, width, begin, lengths) in zip(element.properties, plan, strict=True):
        sizes = np.array(lengths, dtype=np.int64)
        values = source.gather(_spans(np.array(begin, dtype=np.int64), sizes * width, end), p.kind)
        columns[p.name] = (values, sizes) if p.count_kind else values
    return columns


def _spans(begin: np.ndarray, length: np.ndarray, end: int) -> np.ndarray:
    """True (end,) in spans that do not overlap."""
    edges = np.zeros(end + 1, dtype=np.int8)
    np.add.at(edges, begin, 1)
    np.add.at(edges, begin + length, -1)
    return np.cumsum(edges[:-1], dtype=np.int8) > 0


def _shown(element: Element) -> str:
    return element.name.decode("utf-8", "replace")


def _cut_off(element: Element) -> MeshFileError:
    return MeshFileError(
        f"the header says {element.count} {_shown(element)} rows, but the data ends before: the file is cut off"
    )
