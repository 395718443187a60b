"""Writing a data set: records in, the folder or the archive of `store.py` out, in one step that happens or does not."""

import hashlib
import io
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, no_type_check

import numpy as np

from meshgpt.data.coding import encode_coordinates
from meshgpt.data.store import FIELDS, FORMAT, VERSION
from meshgpt.errors import DataError
from meshgpt.mesh.mesh import Mesh


@dataclass(frozen=True, eq=False)
class MeshRecord:
    """A mesh and what is known about it; '' where something is not.

    family: variants of one thing share it and never come apart into training and validation.
    extra: further values for JSON, kept as they are.
    """

    mesh: Mesh
    name: str = ""
    caption: str = ""
    category: str = ""
    split: str = ""
    source: str = ""
    family: str = ""
    licence: str = ""
    author: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    def line(self) -> bytes:
        """The record without its mesh, as one line of JSON."""
        values = {name: getattr(self, name) for name in FIELDS if getattr(self, name)}
        return json.dumps({**self.extra, **values}, ensure_ascii=False).encode() + b"\n"


@no_type_check
def write_dataset(
    records: Iterable[MeshRecord], path: str | Path, coordinates: str = "uint16", overwrite: bool = False
) -> Path:
    """Writes records to `path`: a folder that is memory-mapped when opened, or one compressed file if it ends in .zip.

    coordinates: 'uint16' (see `coding.py`; 6 bytes a vertex) or 'float32' (12 bytes). Written beside `path` and renamed
    when whole. Raises `DataError` for no meshes, a mesh without faces, or a `path` that exists unless `overwrite`.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise DataError(f"{path} exists already; remove it, choose another place, or pass overwrite=True")
    save_files(pack_records(records, coordinates), path)
    return path


def save_files(files: dict[str, bytes], path: Path) -> None:
    """Puts the files into a folder or archive at `path`, in place of what is there, once all are written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        written = temporary / "new"
        _write_archive(files, written) if path.suffix == ".zip" else _write_folder(files, written)
        if path.exists():
            os.replace(path, temporary / "old")
        os.replace(written, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@no_type_check
def pack_records(records: Iterable[MeshRecord], coordinates: str = "uint16") -> dict[str, bytes]:
    """The files of a data set by name, manifest last."""
    if coordinates not in ("uint16", "float32"):
        raise DataError(f"coordinates must be 'uint16' or 'float32', got {coordinates!r}")
    vertices, faces, placements, lines = [], [], [], []
    for index, record in enumerate(records):
        if not record.mesh.num_faces:
            raise DataError(f"record {index} ('{record.name}') has no faces; leave it out")
        codes, placement = encode_coordinates(record.mesh) if coordinates == "uint16" else (None, None)
        vertices.append(record.mesh.vertices.astype(np.float32) if codes is None else codes)
        placements.append(placement)
        faces.append(record.mesh.faces.astype(_face_type(record.mesh.num_vertices)))
        lines.append(record.line())
    if not lines:
        raise DataError("no meshes to write; a data set holds at least one")
    k = max(f.shape[1] for f in faces)
    arrays = {
        "vertices": np.concatenate(vertices),
        "faces": np.concatenate([np.pad(f, ((0, 0), (0, k - f.shape[1])), constant_values=-1) for f in faces]),
        "vertex_offsets": _offsets(vertices),
        "face_offsets": _offsets(faces),
        "record_offsets": _offsets(lines),
    }
    if coordinates == "uint16":
        arrays["placements"] = np.stack(placements)
    files = {f"{name}.npy": _npy(array) for name, array in arrays.items()} | {"records.jsonl": b"".join(lines)}
    counts = {"meshes": len(lines), "vertices": len(arrays["vertices"]), "faces": len(arrays["faces"])}
    return files | {"manifest.json": _manifest(files, {"coordinates": coordinates, "corners": k, **counts})}


def _face_type(num_vertices: int) -> type:
    return np.int16 if num_vertices <= np.iinfo(np.int16).max else np.int32


def _offsets(parts: list) -> np.ndarray:
    return np.cumsum([0, *(len(part) for part in parts)], dtype=np.int64)


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _manifest(files: dict[str, bytes], facts: dict[str, Any]) -> bytes:
    entries = {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()}
    return json.dumps({"format": FORMAT, "version": VERSION, **facts, "files": entries}, indent=2).encode() + b"\n"


def _write_folder(files: dict[str, bytes], folder: Path) -> None:
    folder.mkdir()
    for name, data in files.items():
        with open(folder / name, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())


def _write_archive(files: dict[str, bytes], path: Path) -> None:
    """One LZMA-compressed zip, the same bytes for the same records (members carry no time)."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        for name, data in files.items():
            member = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            member.compress_type, member.external_attr = zipfile.ZIP_LZMA, 0o644 << 16
            archive.writestr(member, data)
