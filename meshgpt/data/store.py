"""Many meshes on disk: flat arrays side by side, memory-mapped, and one line of JSON for each mesh.

A data set is a folder with these files, or one zip archive of them (held in memory):

    manifest.json        format, version, coordinates, corners, counts, and the size and SHA-256 of every other file
    vertices.npy         (V, 3) uint16 codes (see `coding.py`) or float32
    faces.npy            (F, k) int16 or int32, indices within their mesh; -1 for the missing corner among quads
    vertex_offsets.npy   (N + 1,) int64: mesh i owns vertices[vertex_offsets[i] : vertex_offsets[i + 1]]
    face_offsets.npy     (N + 1,) int64, likewise for faces
    placements.npy       (N, 4) float64: centre and step of each mesh; only with uint16 coordinates
    records.jsonl        one JSON object per mesh: name, caption, category, split, source, family, licence, author, ...
    record_offsets.npy   (N + 1,) int64: where each line starts

Also read: `NAME.npz` with the four arrays vertices (float32), faces, vertex_offsets, face_offsets, beside `NAME.jsonl`.
"""

import hashlib
import io
import json
import sys
import zipfile
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from meshgpt.data.coding import decode_coordinates
from meshgpt.errors import DataError, MeshError
from meshgpt.mesh.mesh import Mesh

FORMAT, VERSION = "meshgpt-dataset", 1
FIELDS = ("name", "caption", "category", "split", "source", "family", "licence", "author")
ARCHIVE = "meshes.zip"  # a folder that holds this file stands for it
MEMORY_LIMIT = 4 * 2**30  # bytes that an archive may unpack to; beyond it, it has to be unpacked to a folder
REBUILD = "build it again with `meshgpt data build`, or fetch it again"


class MeshStore:
    """The arrays and records of one data set. Pickles as its path, so that worker processes open it themselves.

    Raises `DataError` for a data set that is missing, damaged or of another version.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path).resolve()
        arrays, self.manifest = _open(self.path)
        _check_arrays(arrays, self.path)
        self.vertices, self.faces = arrays["vertices"], arrays["faces"]
        self.vertex_offsets, self.face_offsets = arrays["vertex_offsets"], arrays["face_offsets"]
        self.records, self.record_offsets = arrays["records"], arrays["record_offsets"]
        self.placements = arrays.get("placements")

    def __len__(self) -> int:
        return len(self.face_offsets) - 1

    def __reduce__(self) -> tuple:
        return MeshStore, (str(self.path),)

    @property
    def corners(self) -> int:
        """3 for triangles, 4 where there are quads."""
        return self.faces.shape[1]

    def mesh(self, index: int) -> Mesh:
        """Mesh `index`, 0 .. len - 1, in its original place and size."""
        vertices = self.vertices[self.vertex_offsets[index] : self.vertex_offsets[index + 1]]
        if self.placements is not None:
            vertices = decode_coordinates(vertices, self.placements[index])
        try:
            return Mesh(vertices, self.faces[self.face_offsets[index] : self.face_offsets[index + 1]])
        except MeshError as error:
            raise DataError(f"{self.path}: mesh {index} is damaged ({error}); {REBUILD}") from error

    def record(self, index: int) -> dict[str, Any]:
        """The JSON object of mesh `index`; its known fields are strings, '' where not given."""
        line = self.records[self.record_offsets[index] : self.record_offsets[index + 1]].tobytes()
        try:
            values = json.loads(line)
        except ValueError as error:
            raise DataError(f"{self.path}: the record of mesh {index} is not JSON ({error}); {REBUILD}") from error
        if not isinstance(values, dict):
            raise DataError(f"{self.path}: the record of mesh {index} is {line[:60]!r}, not an object; {REBUILD}")
        defaults = {"split": self.manifest.get("split", "")}
        return {**values, **{name: str(values.get(name) or defaults.get(name, "")) for name in FIELDS}}

    @cached_property
    def columns(self) -> dict[str, np.ndarray]:
        """For each of `FIELDS` the values (n,) of all meshes, as an array of str objects."""
        records = [self.record(index) for index in range(len(self))]
        return {name: np.array([sys.intern(r[name]) for r in records] + [None], object)[:-1] for name in FIELDS}

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all contents: equal for equal data sets."""
        files = self.manifest.get("files") or {name: {"sha256": _sha256(a)} for name, a in self._contents().items()}
        return hashlib.sha256(json.dumps({n: f["sha256"] for n, f in sorted(files.items())}).encode()).hexdigest()

    def verify(self) -> None:
        """Reads everything and compares the hashes; raises `DataError` that names the first file that differs."""
        for name, entry in self.manifest.get("files", {}).items():
            data = self._file_bytes(name)
            if hashlib.sha256(data).hexdigest() != entry["sha256"]:
                raise DataError(f"{self.path}: the contents of {name} have changed since it was written; {REBUILD}")
        for index in range(len(self)):
            self.mesh(index)
            self.record(index)

    def _contents(self) -> dict[str, np.ndarray]:
        names = ("vertices", "faces", "vertex_offsets", "face_offsets", "records")
        return {name: getattr(self, name) for name in names}

    def _file_bytes(self, name: str) -> bytes:
        if self.path.is_dir() and not (self.path / ARCHIVE).is_file():
            return (self.path / name).read_bytes()
        with zipfile.ZipFile(_archive_path(self.path)) as archive:
            return archive.read(name)


def _sha256(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def _archive_path(path: Path) -> Path:
    return path / ARCHIVE if path.is_dir() else path


def _open(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays by name (records as bytes) and the manifest."""
    if path.is_dir() and (path / "manifest.json").is_file():
        return _open_folder(path)
    if path.suffix in (".npz", ".jsonl"):
        return _open_pair(path)
    if _archive_path(path).is_file():
        return _open_archive(_archive_path(path))
    what = "a folder without manifest.json" if path.is_dir() else "no such file or folder"
    made = "a folder written by `meshgpt data build`, a .zip of one, or NAME.npz beside NAME.jsonl"
    raise DataError(f"{path}: {what}; a data set is {made}")


def _open_folder(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    manifest = _parse_manifest((path / "manifest.json").read_bytes(), path)
    arrays = {}
    for name, entry in manifest["files"].items():
        size = (path / name).stat().st_size if (path / name).is_file() else None
        if size != entry["bytes"]:
            found = "is missing" if size is None else f"has {size} bytes"
            raise DataError(f"{path}: {name} {found}, its manifest says {entry['bytes']}; {REBUILD}")
        try:
            if name.endswith(".npy"):
                arrays[Path(name).stem] = np.load(path / name, mmap_mode="r", allow_pickle=False).view(np.ndarray)
            else:
                arrays[Path(name).stem] = np.memmap(path / name, np.uint8, mode="r").view(np.ndarray)
        except (ValueError, EOFError, OSError) as error:
            raise DataError(f"{path}: {name} cannot be read ({error}); {REBUILD}") from error
    return arrays, manifest


def _open_archive(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    members = _read_members(path)
    if "manifest.json" not in members:
        raise DataError(f"{path}: a zip archive without manifest.json, so not a data set; {REBUILD}")
    manifest = _parse_manifest(members["manifest.json"], path)
    missing = sorted(set(manifest["files"]) - set(members))
    if missing:
        raise DataError(f"{path}: {', '.join(missing)} missing from the archive; {REBUILD}")
    arrays = {}
    for name in manifest["files"]:
        arrays[Path(name).stem] = _parse_array(members[name], path, name)
    return arrays, manifest


def _open_pair(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    for part in (path.with_suffix(".npz"), path.with_suffix(".jsonl")):
        if not part.is_file():
            raise DataError(f"{part}: no such file; {path.stem}.npz and {path.stem}.jsonl belong together")
    members = _read_members(path.with_suffix(".npz"))
    arrays = {Path(name).stem: _parse_array(data, path, name) for name, data in members.items()}
    lines = path.with_suffix(".jsonl").read_bytes().splitlines(keepends=True)
    lines = [line for line in lines if line.strip()]
    arrays["records"] = np.frombuffer(b"".join(lines), np.uint8)
    arrays["record_offsets"] = np.cumsum([0, *map(len, lines)])
    arrays.pop("placements", None)
    return arrays, {"split": path.stem if path.stem in ("train", "val", "test") else ""}


def _read_members(path: Path) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
            if size > MEMORY_LIMIT:
                limit = f"{size} bytes when unpacked, more than the {MEMORY_LIMIT} held in memory"
                raise DataError(f"{path}: {limit}; unpack it into a folder and open that")
            return {name: archive.read(name) for name in archive.namelist()}
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError, OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: not a readable zip archive ({error}); {REBUILD}") from error
    except Exception as error:  # lzma and zlib have errors of their own, derived from Exception
        raise DataError(f"{path}: damaged ({error}); {REBUILD}") from error


def _parse_array(data: bytes, path: Path, name: str) -> np.ndarray:
    if not name.endswith(".npy"):
        return np.frombuffer(data, np.uint8)
    try:
        return np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError, MemoryError, OverflowError) as error:
        raise DataError(f"{path}: {name} cannot be read ({error}); {REBUILD}") from error


def _parse_manifest(data: bytes, path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(data)
        found, version = manifest["format"], manifest["version"]
        files = {str(n): {"bytes": int(f["bytes"]), "sha256": str(f["sha256"])} for n, f in manifest["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: manifest.json is damaged ({type(error).__name__}: {error}); {REBUILD}") from error
    if found != FORMAT or version != VERSION:
        known = f"this meshgpt reads '{FORMAT}' version {VERSION}"
        raise DataError(f"{path}: format '{found}' version {version}, but {known}; update meshgpt, or {REBUILD}")
    unsafe = [name for name in files if Path(name).name != name]
    if unsafe:
        raise DataError(f"{path}: manifest.json names '{unsafe[0]}', which is not a file of this folder; {REBUILD}")
    return {**manifest, "files": files}


def _check_arrays(arrays: dict[str, np.ndarray], path: Path) -> None:
    """Raises `DataError` unless the arrays fit each other."""
    needed = ["vertices", "faces", "vertex_offsets", "face_offsets", "records", "record_offsets"]
    if "vertices" in arrays and arrays["vertices"].dtype == np.uint16:
        needed.append("placements")
    missing = [name for name in needed if name not in arrays]
    if missing:
        raise DataError(f"{path}: the array '{missing[0]}' is missing; {REBUILD}")
    _check_shapes(arrays, path)
    count = len(arrays["face_offsets"]) - 1
    for offsets, owner in (("vertex_offsets", "vertices"), ("face_offsets", "faces"), ("record_offsets", "records")):
        values, size = arrays[offsets], len(arrays[owner])
        if len(values) != count + 1:
            raise DataError(f"{path}: {offsets} tells of {len(values) - 1} meshes, face_offsets of {count}; {REBUILD}")
        if values[0] != 0 or values[-1] != size or (np.diff(values) < 0).any():
            span = f"from {values[0]} to {values[-1]}"
            raise DataError(f"{path}: {offsets} must rise from 0 to the {size} {owner}, but it goes {span}; {REBUILD}")
    if "placements" in needed and arrays["placements"].shape != (count, 4):
        raise DataError(f"{path}: placements has shape {arrays['placements'].shape}, not ({count}, 4); {REBUILD}")


def _check_shapes(arrays: dict[str, np.ndarray], path: Path) -> None:
    expected = {"vertices": (2, "fu"), "faces": (2, "i"), "records": (1, "u")}
    for name, array in arrays.items():
        ndim, kinds = expected.get(name, (1, "iu") if name.endswith("_offsets") else (array.ndim, array.dtype.kind))
        widths = {"vertices": (3,), "faces": (3, 4)}.get(name)
        if array.ndim != ndim or array.dtype.kind not in kinds or (widths and array.shape[1] not in widths):
            raise DataError(f"{path}: {name} has shape {array.shape} of {array.dtype}; {REBUILD}")
        if name.endswith("_offsets") and not len(array):
            raise DataError(f"{path}: {name} is empty; {REBUILD}")
