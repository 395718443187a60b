"""Point clouds in files: PLY, text in columns (xyz, txt, pts, csv), and the arrays of numpy (npy, npz)."""

import io
import re
import warnings
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from meshgpt.errors import MeshFileError
from meshgpt.mesh._limits import ReadLimits
from meshgpt.mesh._ply import read_ply_points

FORMATS = ("ply", "xyz", "txt", "pts", "asc", "csv", "npy", "npz")
MESHES = ("obj", "glb", "gltf", "stl", "off")
AXES = ("x", "y", "z")
NORMALS = tuple(tuple(prefix + axis for axis in AXES) for prefix in ("n", "normal_", "normal", "n_"))
POINT_ARRAYS, NORMAL_ARRAYS = ("points", "vertices", "xyz", "pos", "positions"), ("normals", "normal")
MAX_HEADER = 1 << 16
WORD = re.compile(rb'[^\s,;/#"]+')
ROWS_ARE = "points are rows of x y z, or of x y z nx ny nz"
UNIT = 0.05  # how far from 1 the length of a normal may be, where only that says that it is one

Cloud = tuple[np.ndarray, np.ndarray | None]  # points (n, 3) and normals (n, 3), float64


def read_cloud(data: bytes, name: str, limits: ReadLimits) -> Cloud:
    """What the bytes hold; `name` is what the source is called, for its extension."""
    extension = Path(name).suffix.lower().lstrip(".")
    if re.match(rb"ply\s", data):
        return read_ply_points(data, limits)
    if data.startswith(b"\x93NUMPY"):
        return _from_columns(_npy(data, limits))
    if data.startswith(b"PK\x03\x04"):
        return _npz(data, limits)
    if extension in MESHES or data.startswith(b"glTF"):
        raise MeshFileError("is a mesh; read it with read_mesh and take points from it with PointCloud.from_mesh")
    if extension not in FORMATS and b"\0" in data[:1024]:
        raise MeshFileError(f"looks like none of {', '.join(FORMATS)} (it begins with {data[:16]!r})")
    return _text(data, limits)


def _from_columns(rows: np.ndarray) -> Cloud:
    """Positions in the first three columns; normals where three that follow are of unit length, or zero."""
    rows = rows[None] if rows.ndim == 1 and len(rows) in (3, 6) else rows
    if rows.ndim != 2 or rows.shape[1] < 3:
        raise MeshFileError(f"holds an array of shape {rows.shape}, points are (n, 3), or (n, 6) with normals")
    for start in (3, 6):
        columns = rows[:, start : start + 3]
        length = np.linalg.norm(columns, axis=1)
        if columns.shape[1] == 3 and length.any() and ((np.abs(length - 1) < UNIT) | (length == 0)).all():
            return rows[:, :3], columns
    return rows[:, :3], None


def _text(data: bytes, limits: ReadLimits) -> Cloud:
    """Rows of numbers between white space, commas or semicolons."""
    data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    header = _read_header(data)
    rows = _numbers(data, header, limits)
    if header.count not in (None, len(rows)):
        raise MeshFileError(f"its first line says {header.count} points, {len(rows)} rows follow")
    if not header.names:
        return _from_columns(rows)
    if rows.shape[1] != len(header.names):
        what = f"the first line names {len(header.names)} columns ({', '.join(header.names)[:60]})"
        raise MeshFileError(f"{what}, the rows have {rows.shape[1]}")
    normals = next((names for names in NORMALS if set(names) <= set(header.names)), None)
    return rows[:, header.columns(AXES)], None if normals is None else rows[:, header.columns(normals)]


@dataclass(frozen=True)
class _Header:
    """What stands before the rows: `skip` lines with names of columns, or with the number of rows, or neither."""

    names: list[str]
    count: int | None
    skip: int
    separator: str | None

    def columns(self, names: tuple[str, ...]) -> list[int]:
        return [self.names.index(name) for name in names]


def _read_header(data: bytes) -> _Header:
    """Names may stand in a comment, as CloudCompare writes them; other comments are passed over."""
    names, count, skip = [], None, 0
    for number, line in enumerate(data[:MAX_HEADER].split(b"\n")):
        words = [word.decode("utf-8", "replace") for word in WORD.findall(line.lower())]
        if not names and count is None and set(AXES) <= set(words):
            names, skip = words, number + 1
        elif not words or line.lstrip().startswith((b"#", b"//")):
            continue
        elif not names and count is None and len(words) == 1 and words[0].isdigit():
            count, skip = int(words[0]), number + 1
        else:  # the first row
            separator = next((mark for mark in (",", ";") if mark.encode() in line), None)
            return _Header(names, count, skip, separator)
    return _Header(names, count, skip, None)


def _numbers(data: bytes, header: _Header, limits: ReadLimits) -> np.ndarray:
    shape = {"delimiter": header.separator, "skiprows": header.skip, "max_rows": limits.max_vertices + 1, "ndmin": 2}
    text = io.BytesIO(data.replace(b"//", b"#"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # "input contained no data": said below
            rows = np.loadtxt(text, np.float64, comments="#", encoding="utf-8", **shape)
    except (ValueError, UnicodeDecodeError) as error:
        what = str(error).split("; use")[0][:120]
        raise MeshFileError(f"is not rows of numbers ({what}); {ROWS_ARE}") from error
    limits.check_vertices(len(rows))
    if rows.shape[1] < 3:
        raise MeshFileError(f"has {rows.shape[1]} numbers in a row; {ROWS_ARE}" if rows.size else "holds no points")
    return rows


def _npy(data: bytes, limits: ReadLimits) -> np.ndarray:
    """The array of a .npy file, whose header is checked against its length before it is believed."""
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, columnwise, kind = header(file)
    except (ValueError, KeyError) as error:
        raise MeshFileError(f"has no header of a numpy array that can be read ({str(error)[:60]})") from error
    if kind.kind not in "fiu":
        raise MeshFileError(f"holds an array of {kind}, points are numbers")
    limits.check_vertices(shape[0] if shape else 0)
    count = int(np.prod(shape, dtype=object))
    if count * kind.itemsize != len(data) - file.tell():
        what = f"the header says {shape} of {kind}, {len(data) - file.tell()} bytes follow"
        raise MeshFileError(f"{what}: the file is cut off or damaged")
    values = np.frombuffer(data, kind, count, file.tell())
    return values.reshape(shape, order="F" if columnwise else "C").astype(np.float64)


def _npz(data: bytes, limits: ReadLimits) -> Cloud:
    """Arrays named `points` and `normals` (or the like), or one alone."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        point_name = next((name for name in POINT_ARRAYS if name in members), None)
        point_name = next(iter(members), None) if len(members) == 1 else point_name
        if point_name is None:
            raise MeshFileError(f"is an archive of {sorted(members)[:8]}, one of {', '.join(POINT_ARRAYS)} is needed")
        normal_name = next((name for name in NORMAL_ARRAYS if name in members), None)
        limits.check_bytes(sum(members[name].file_size for name in (point_name, normal_name) if name))
        wanted = (_npy(archive.read(members[name]), limits) if name else None for name in (point_name, normal_name))
        points, normals = wanted
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, zlib.error) as error:
        raise MeshFileError(f"is a damaged archive ({str(error)[:60]})") from error
    assert points is not None
    if normals is None:
        return _from_columns(points)
    return points, normals


def ply_bytes(columns: np.ndarray) -> bytes:
    """Points (n, 3), or (n, 6) with normals, as binary PLY; in single precision where that says the same."""
    single = columns.astype(np.float32)
    exact = bool((single == columns).all())
    names = ("x", "y", "z", "nx", "ny", "nz")[: columns.shape[1]]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(columns)}"]
    header += [*(f"property {'float' if exact else 'double'} {name}" for name in names), "end_header"]
    return ("\n".join(header) + "\n").encode() + columns.astype("<f4" if exact else "<f8").tobytes()


def text_bytes(columns: np.ndarray) -> bytes:
    """One row of numbers a point, in full precision."""
    return "".join(" ".join(map(repr, row)) + "\n" for row in columns.tolist()).encode()


def npy_bytes(columns: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.ascontiguousarray(columns), allow_pickle=False)
    return file.getvalue()
