"""Arrays by the hash of what they come from, in one file that only grows; many processes read and add at once.

    file    MAGIC record*
    record  HEAD (mark, key, dtype, dimensions, sizes, check sum of the values, check sum of the head), then the values

A record that was cut off by a crash or a full disk is overwritten by the next one; a damaged one counts as missing.
"""

import contextlib
import hashlib
import math
import os
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple, no_type_check

import numpy as np

from meshgpt.checkpoint import locked, writing
from meshgpt.errors import DataError

MAGIC = b"meshgpt arrays 1\n"
HEAD = struct.Struct("<4s16sBB4III")
MARK = b"\x93row"
DTYPES = tuple(np.dtype(name) for name in ("float16", "float32", "int64", "int32", "uint16", "uint8"))
MOST_AXES = 4


class Place(NamedTuple):
    """Where the values of an array begin in the file, and how to read them."""

    offset: int
    dtype: np.dtype
    shape: tuple[int, ...]
    check: int

    @property
    def size(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape)


def content_key(*parts: str | bytes) -> bytes:
    """Sixteen bytes that differ where the parts differ."""
    digest = hashlib.sha256()
    for part in parts:
        part = part.encode() if isinstance(part, str) else part
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.digest()[:16]


class ArrayFile:
    """Arrays of numbers under keys of 16 bytes (`content_key`), in the file `path`, which is made when one is added."""

    @no_type_check
    def __init__(self, path):
        self.path = Path(path)
        self._places: dict[bytes, Place] = {}
        self._end, self._file_number = 0, -1

    @no_type_check
    def fetch(
        self, keys: Sequence[bytes], make: Callable[[list[int]], Iterable[Sequence[np.ndarray]]]
    ) -> list[np.ndarray]:
        """The arrays under `keys`, made where they are missing and kept from then on.

        make: takes the positions of missing keys and gives their arrays in that order, a few at a time; each few are
        kept at once, so that stopping loses little. Of several processes that miss something, one makes it and the
        others wait. Raises `CheckpointError` if the file cannot be written, `DataError` if it is another kind of file.
        """
        found = self.find(keys)
        if all(array is not None for array in found):
            return found
        with contextlib.ExitStack() as held:
            with writing(self.path):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                held.enter_context(locked(self.path))
            found = self.find(keys)
            positions = {key: number for number, key in enumerate(keys) if found[number] is None}
            missing = sorted(positions.values())
            for arrays in make(missing) if missing else ():
                now, missing = missing[: len(arrays)], missing[len(arrays) :]
                with writing(self.path):
                    self._append({keys[number]: array for number, array in zip(now, arrays, strict=True)})
        made = dict(zip(positions, self.find(list(positions)), strict=True))
        return [made[key] if array is None else array for key, array in zip(keys, found, strict=True)]

    @no_type_check
    def find(self, keys: Sequence[bytes]) -> list[np.ndarray | None]:
        """The arrays under `keys`; None for those that are not there, or not as they were written."""
        try:
            with open(self.path, "rb") as file:
                self._refresh(file)
                return [_values(file, self._places.get(key)) for key in keys]
        except (FileNotFoundError, NotADirectoryError):
            return [None] * len(keys)

    def _refresh(self, file: BinaryIO) -> None:
        """Learns of the records added since the last time, by whoever it was."""
        status = os.fstat(file.fileno())
        if status.st_ino != self._file_number or status.st_size < self._end:
            self._places, self._end, self._file_number = {}, 0, status.st_ino
        if self._end == 0 and status.st_size:
            if file.read(len(MAGIC)) != MAGIC[: status.st_size]:
                raise DataError(f"{self.path} is not a file of arrays written by this package; it is left as it is")
            self._end = len(MAGIC) if status.st_size >= len(MAGIC) else 0
        for key, place in _records(file, self._end, status.st_size) if self._end else ():
            self._places[key] = place
            self._end = place.offset + place.size

    def _append(self, arrays: dict[bytes, np.ndarray]) -> None:
        """Adds records behind the last whole one; under the lock, which has made the file."""
        with open(self.path, "r+b") as file:
            self._refresh(file)
            file.truncate(self._end)
            file.seek(self._end)
            file.write((b"" if self._end else MAGIC) + b"".join(_record(key, array) for key, array in arrays.items()))


def _records(file: BinaryIO, start: int, size: int) -> Iterator[tuple[bytes, Place]]:
    """Keys and places of the whole records from `start` on."""
    while start + HEAD.size <= size:
        file.seek(start)
        head = file.read(HEAD.size)
        mark, key, dtype, axes, *sizes, check, head_check = HEAD.unpack(head)
        if mark != MARK or zlib.crc32(head[:-4]) != head_check:
            return
        place = Place(start + HEAD.size, DTYPES[dtype], tuple(sizes[:axes]), check)
        if place.offset + place.size > size:
            return
        yield key, place
        start = place.offset + place.size


@no_type_check
def _record(key: bytes, array: np.ndarray) -> bytes:
    array = np.asarray(array)
    assert array.dtype in DTYPES and array.ndim <= MOST_AXES and len(key) == 16
    values = array.tobytes()
    sizes = (*array.shape, *[0] * (MOST_AXES - array.ndim))
    head = HEAD.pack(MARK, key, DTYPES.index(array.dtype), array.ndim, *sizes, zlib.crc32(values), 0)[:-4]
    return head + struct.pack("<I", zlib.crc32(head)) + values


def _values(file: BinaryIO, place: Place | None) -> np.ndarray | None:
    if place is None:
        return None
    file.seek(place.offset)
    values = file.read(place.size)
    if zlib.crc32(values) != place.check:
        return None
    return np.frombuffer(values, dtype=place.dtype).reshape(place.shape)
