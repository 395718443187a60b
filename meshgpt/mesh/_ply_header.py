"""The header of a PLY file: which elements follow, and how their rows are built."""

from dataclasses import dataclass, field

from meshgpt.errors import MeshFileError
from meshgpt.mesh._text import excerpt, integers

MAX_HEADER = 1 << 16
FORMATS = {b"ascii": "", b"binary_little_endian": "<", b"binary_big_endian": ">"}
TYPES = {
    b"char": "i1", b"uchar": "u1", b"short": "i2", b"ushort": "u2", b"int": "i4", b"uint": "u4", b"float": "f4",
    b"double": "f8", b"int8": "i1", b"uint8": "u1", b"int16": "i2", b"uint16": "u2", b"int32": "i4", b"uint32": "u4",
    b"float32": "f4", b"float64": "f8",
}  # fmt: skip


@dataclass(frozen=True)
class Property:
    """One property; `count_kind` is the type of the length of a list, None for a single value."""

    name: bytes
    kind: str
    count_kind: str | None = None


@dataclass
class Element:
    name: bytes
    count: int
    properties: list[Property] = field(default_factory=list)

    def least_bytes(self, order: str) -> int:
        """How many bytes one row takes at least, in text or binary."""
        if not order:
            return 2 * len(self.properties)
        return sum(int((p.count_kind or p.kind)[1]) for p in self.properties)


def read_header(data: bytes) -> tuple[str, list[Element], bytes]:
    """Byte order ("" for text), elements, and the bytes after the header."""
    start = data[:MAX_HEADER]
    end = start.find(b"end_header")
    stop = min((at for at in (start.find(b"\n", end), start.find(b"\r", end)) if at >= 0), default=-1)
    if end < 0 or stop < 0:
        raise MeshFileError("the header does not end: no end_header line")
    stop += 2 if start[stop : stop + 2] == b"\r\n" else 1
    order, elements = None, []
    for line in start[:end].replace(b"\r", b"\n").split(b"\n"):
        words = line.split()
        if words[:1] == [b"format"]:
            order = FORMATS.get(words[1] if len(words) > 1 else b"")
        elif words[:1] == [b"element"] and len(words) == 3:
            (count,) = integers(words[2:], f"header line {excerpt(line)}")
            elements.append(Element(words[1], count))
        elif words[:1] == [b"property"] and elements:
            elements[-1].properties.append(_property(words, line))
        elif words and words[0] not in (b"ply", b"comment", b"obj_info"):
            raise MeshFileError(f"header line {excerpt(line)} is not understood")
    if order is None:
        raise MeshFileError("the header names no format that is known (ascii, binary_little_endian, binary_big_endian)")
    return order, elements, data[stop:]


def _property(words: list[bytes], line: bytes) -> Property:
    kinds = [TYPES.get(word) for word in (words[2:4] if words[1:2] == [b"list"] else words[1:2])]
    if not kinds or None in kinds or len(words) != 2 * len(kinds) + 1 or (len(kinds) == 2 and str(kinds[0])[0] == "f"):
        raise MeshFileError(f"header line {excerpt(line)} is not understood")
    return Property(words[-1], str(kinds[-1]), str(kinds[0]) if len(kinds) == 2 else None)
