"""The bytes of a file and what to call it: from a path, bytes, or an open file."""

import os
import stat
from pathlib import Path
from typing import no_type_check

from meshgpt.errors import MeshFileError
from meshgpt.mesh._limits import ReadLimits


@no_type_check
def named(source) -> tuple[str, Path | None]:
    """What to call the source in messages, and the folder it lies in."""
    if isinstance(source, str | os.PathLike):
        return str(source), Path(source).parent
    if isinstance(source, bytes | bytearray | memoryview):
        return f"<{len(source)} bytes>", None
    name = getattr(source, "name", None)
    return (name if isinstance(name, str) else "<file>"), None


@no_type_check
def content(source, limits: ReadLimits) -> bytes:
    """All that the source holds, without a byte order mark; never more than the limits allow, never nothing."""
    if isinstance(source, bytes | bytearray | memoryview):
        data = bytes(source)
    elif isinstance(source, str | os.PathLike):
        data = read_file(Path(source), limits)
    elif hasattr(source, "read"):
        data = source.read(limits.max_bytes + 1)
        data = data.encode() if isinstance(data, str) else data
    else:
        raise MeshFileError(f"is a {type(source).__name__}, a path, bytes or an open file is needed")
    limits.check_bytes(len(data))
    data = data.removeprefix(b"\xef\xbb\xbf")  # the byte order mark of some text editors
    if not data.strip():
        raise MeshFileError("is empty")
    return data


def read_file(path: Path, limits: ReadLimits) -> bytes:
    """The bytes of a regular file: no pipe, no device."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise MeshFileError("is not a file")
    limits.check_bytes(status.st_size)
    with path.open("rb") as file:
        return file.read(limits.max_bytes + 1)
