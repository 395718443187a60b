"""Lines and numbers of text files."""

import io
import re
from array import array
from collections.abc import Iterator

import numpy as np

from meshgpt.errors import MeshFileError

CHUNK = 1 << 20
SPACE = re.compile(rb"\s")


def lines(data: bytes) -> Iterator[bytes]:
    """The lines of a text file, ended by \\n, \\r\\n or \\r, one at a time."""
    if b"\n" not in data:
        data = data.replace(b"\r", b"\n")
    return io.BytesIO(data)


def floats(words: list[bytes], where: str, number: int | None = None) -> list[float]:
    """Numbers of words that come from `where`, the `number`-th line or row."""
    try:
        return [float(word) for word in words]
    except ValueError as error:
        where = where if number is None else f"{where} {number}"
        raise MeshFileError(f"{where} holds what is not a number ({str(error)[:60]})") from error


def integers(words: list[bytes], where: str, number: int | None = None) -> list[int]:
    """As `floats`, for whole numbers."""
    try:
        return [int(word) for word in words]
    except ValueError as error:
        where = where if number is None else f"{where} {number}"
        raise MeshFileError(f"{where} holds what is not a whole number ({str(error)[:60]})") from error


def all_floats(data: bytes, where: str) -> np.ndarray:
    """Every number (n,) of white-space separated text, read in pieces to keep the words out of memory."""
    numbers, start = array("d"), 0
    while start < len(data):
        gap = SPACE.search(data, start + CHUNK)
        end = gap.start() if gap else len(data)
        numbers.extend(floats(data[start:end].split(), where))
        start = end
    return np.array(numbers) if not numbers else np.frombuffer(numbers)


def excerpt(line: bytes) -> str:
    """The start of a line as it can be shown in a message."""
    text = line.strip().decode("utf-8", "replace")
    return repr(text if len(text) <= 60 else text[:57] + "...")
