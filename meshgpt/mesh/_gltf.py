"""glTF 2.0, as .gltf and .glb: its JSON, buffers and accessors. `_gltf_scene` puts the parts together.

Read by hand because what trimesh offers leaves out sparse accessors, skins and triangle fans, and takes indices,
counts and addresses on trust.
"""

import base64
import binascii
import json
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from meshgpt.errors import MeshFileError, MeshLimitError
from meshgpt.mesh._limits import ReadLimits

COMPONENTS = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
COMPRESSED = ("EXT_meshopt_compression", "KHR_meshopt_compression")
JSON_CHUNK, BINARY_CHUNK = 0x4E4F534A, 0x004E4942

MAX_JSON = 4_000_000  # values, each of which takes about 60 bytes
MAX_UNSTORED = 1 << 16  # values that a sparse accessor may leave out

Opener = Callable[[str], bytes]


class Document:
    """The JSON of a glTF file, and its accessors as arrays; every number in it is checked before it is used."""

    def __init__(self, data: bytes, limits: ReadLimits, open_buffer: Opener):
        text, self._binary = _split_glb(data) if data[:4] == b"glTF" else (data, None)
        parts = sum(map(text.count, (b"[", b"{", b",")))
        if parts > MAX_JSON:
            raise MeshLimitError(f"its JSON has {parts} parts where {MAX_JSON} are allowed; split the scene")
        self.json = _parse_json(text)
        self.limits = limits
        self._open_buffer = open_buffer
        self._buffers: dict[int, bytes] = {}

    def item(self, kind: str, index: Any) -> dict:
        """Entry `index` of the top-level array `kind`."""
        items = self.json.get(kind, [])
        if not isinstance(items, list):
            raise MeshFileError(f"`{kind}` is not a list")
        if not isinstance(index, int) or not 0 <= index < len(items):
            raise MeshFileError(f"refers to {kind}[{_short(index)}], but there are {len(items)}")
        if not isinstance(items[index], dict):
            raise MeshFileError(f"{kind}[{index}] is {_short(items[index])} and not an object")
        return items[index]

    def accessor(self, index: Any, type_: str) -> np.ndarray:
        """The values (count, width) of an accessor: integers as stored, or float64 where they are normalised."""
        entry = self.item("accessors", index)
        where = f"accessors[{index}]"
        component, count = entry.get("componentType"), number(entry, "count", where)
        if entry.get("type") != type_ or not isinstance(component, int) or component not in COMPONENTS:
            raise MeshFileError(f"{where} is {_short(entry.get('type'))} of {_short(component)}, {type_} is needed")
        self.limits.check_vertices(count if type_ != "SCALAR" else count // 3)
        dtype, width = np.dtype(COMPONENTS[component]), WIDTHS[type_]
        values = self._strided(entry, dtype, count, width, where)
        if "sparse" in entry:
            values = self._with_sparse(values, entry["sparse"], where)
        return _normalised(values) if entry.get("normalized") is True and dtype.kind != "f" else values

    def _strided(self, entry: dict, dtype: np.dtype, count: int, width: int, where: str) -> np.ndarray:
        if "bufferView" not in entry:
            if "sparse" not in entry or count > MAX_UNSTORED:
                raise MeshFileError(f"{where} names no buffer view for its {count} values")
            return np.zeros((count, width), dtype)
        view, stride = self.view(entry["bufferView"])
        offset, size = number(entry, "byteOffset", where, 0), width * dtype.itemsize
        stride = stride or size
        if count and offset + (count - 1) * stride + size > len(view):
            what = f"{where} says {count} values, which ends at byte {offset + (count - 1) * stride + size}"
            raise MeshFileError(f"{what} of a buffer view of {len(view)}")
        if not count:
            return np.zeros((0, width), dtype)
        return np.ndarray((count, width), dtype, view, offset, (stride, dtype.itemsize))

    def _with_sparse(self, values: np.ndarray, sparse: Any, where: str) -> np.ndarray:
        """The values with some replaced: the sparse part of an accessor."""
        where = f"{where}.sparse"
        count = number(sparse, "count", where)
        if count > len(values):
            raise MeshFileError(f"{where} replaces {count} of {len(values)} values")
        places, replacements = (sparse.get(part) for part in ("indices", "values"))
        if not isinstance(places, dict) or not isinstance(replacements, dict):
            raise MeshFileError(f"{where} lacks its indices or values")
        if places.get("componentType") not in [5121, 5123, 5125]:
            raise MeshFileError(f"{where} has indices of the type {_short(places.get('componentType'))}")
        if "bufferView" not in places or "bufferView" not in replacements:
            raise MeshFileError(f"{where} names no buffer view")
        at = self._strided(places, np.dtype(COMPONENTS[places["componentType"]]), count, 1, where)[:, 0]
        if count and at.max() >= len(values):
            raise MeshFileError(f"{where} replaces value {at.max()} of {len(values)}")
        values = values.copy()
        values[at] = self._strided(replacements, values.dtype, count, values.shape[1], where)
        return values

    def view(self, index: Any) -> tuple[memoryview, int]:
        """The bytes of a buffer view, and its stride (0 if packed)."""
        entry, where = self.item("bufferViews", index), f"bufferViews[{index}]"
        compressed = [name for name in COMPRESSED if name in (entry.get("extensions") or {})]
        if compressed:
            raise MeshFileError(f"its geometry is compressed with {compressed[0]}; export it without compression")
        buffer = self._buffer(entry.get("buffer"))
        offset, length = number(entry, "byteOffset", where, 0), number(entry, "byteLength", where)
        if offset + length > len(buffer):
            raise MeshFileError(f"{where} ends at byte {offset + length} of a buffer of {len(buffer)}")
        return memoryview(buffer)[offset : offset + length], number(entry, "byteStride", where, 0)

    def _buffer(self, index: Any) -> bytes:
        entry, where = self.item("buffers", index), f"buffers[{index}]"
        if index not in self._buffers:
            self._buffers[index] = self._load(entry, where)
            self.limits.check_bytes(sum(map(len, self._buffers.values())))
        data, length = self._buffers[index], number(entry, "byteLength", where)
        if length > len(data):
            raise MeshFileError(f"{where} says {length} bytes and holds {len(data)}: the file is cut off")
        return data

    def _load(self, entry: dict, where: str) -> bytes:
        uri = entry.get("uri")
        if uri is None:
            if self._binary is None or where != "buffers[0]":
                raise MeshFileError(f"{where} has neither a uri nor a binary chunk")
            return self._binary
        if not isinstance(uri, str):
            raise MeshFileError(f"{where} has the uri {_short(uri)}, which is not text")
        return _decode_data_uri(uri, where) if uri[:5].lower() == "data:" else self._open_buffer(uri)


def number(entry: Any, key: str, where: str, default: int | None = None) -> int:
    """A whole number >= 0 of a JSON object."""
    value = entry.get(key, default) if isinstance(entry, dict) else None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**53:
        raise MeshFileError(f"{where}.{key} is {_short(value)}, a whole number is needed")
    return value


def _split_glb(data: bytes) -> tuple[bytes, bytes | None]:
    """The JSON and the binary chunk of a .glb."""
    if len(data) < 20:
        raise MeshFileError(f"is {len(data)} bytes long, the header of a GLB file alone has 20: it is cut off")
    version, total = struct.unpack_from("<II", data, 4)
    if version != 2:
        raise MeshFileError(f"is GLB version {version}; export it as glTF 2.0")
    if total > len(data):
        raise MeshFileError(f"the header says {total} bytes, there are {len(data)}: the file is cut off")
    chunks, at = {}, 12
    while at + 8 <= total:
        length, kind = struct.unpack_from("<II", data, at)
        if at + 8 + length > total:
            raise MeshFileError(f"a chunk at byte {at} says {length} bytes, {total - at - 8} are left")
        chunks.setdefault(kind, data[at + 8 : at + 8 + length])
        at += 8 + length
    if JSON_CHUNK not in chunks:
        raise MeshFileError("holds no JSON chunk")
    return chunks[JSON_CHUNK], chunks.get(BINARY_CHUNK)


def _parse_json(text: bytes) -> dict:
    try:
        parsed = json.loads(text.decode("utf-8-sig").rstrip(" \0\r\n\t"))
    except ValueError as error:  # also what is not UTF-8, and numbers of thousands of digits
        raise MeshFileError(f"its JSON cannot be parsed ({error})") from error
    except RecursionError as error:
        raise MeshFileError("its JSON is nested too deeply") from error
    asset = parsed.get("asset") if isinstance(parsed, dict) else None
    version = asset.get("version") if isinstance(asset, dict) else None
    if not isinstance(version, str) or not version.startswith("2."):
        raise MeshFileError(f"is JSON with asset.version {_short(version)}, glTF has '2.0'")
    return parsed


def _decode_data_uri(uri: str, where: str) -> bytes:
    head, comma, payload = uri.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise MeshFileError(f"{where} has a data uri that is not base64 ({_short(head)})")
    try:
        return base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MeshFileError(f"{where} holds damaged base64 ({error})") from error


def _normalised(values: np.ndarray) -> np.ndarray:
    """Integers as fractions of the largest, in [0, 1] or [-1, 1] (glTF 2.0, 3.6.2.2)."""
    return np.maximum(values / np.iinfo(values.dtype).max, -1.0)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
