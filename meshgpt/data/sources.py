"""A folder of mesh files: which there are, and what their names, folders and sidecar files say about them."""

import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshgpt.data.store import FIELDS
from meshgpt.errors import DataError
from meshgpt.mesh.files import FORMATS

SIDECARS = (".json", ".txt")
SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
SPELLINGS = {"license": "licence", "text": "caption", "label": "category", "creator": "author"}
MAX_SIDECAR_BYTES = 1 << 20


@dataclass(frozen=True)
class SourceFile:
    """A mesh file below `root`. stamp: sizes and times of it and its sidecars; differs once one of them has changed."""

    root: Path
    path: str
    name: str
    stamp: str

    @property
    def full_path(self) -> Path:
        return self.root / self.path


def find_files(
    root: Path, leave_out: tuple[Path, ...] = (), extensions: tuple[str, ...] = FORMATS
) -> tuple[list[SourceFile], dict[str, int]]:
    """The mesh files below `root`, sorted by path, and how many other files there are of each extension.

    Hidden files and folders are passed over, and so is what lies in `leave_out`. Raises `DataError` if there is none.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; give the folder that holds the mesh files")
    paths, others = [], Counter()
    left_out = [path.resolve() for path in leave_out]
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root)
        if not path.is_file() or any(part.startswith(".") for part in relative.parts):
            continue
        if any(path.resolve().is_relative_to(folder) for folder in left_out):
            continue
        if path.suffix.lower().lstrip(".") in extensions:
            paths.append(relative)
        elif path.suffix.lower() not in SIDECARS:
            others[path.suffix.lower() or path.name] += 1
    if not paths:
        raise DataError(f"{root}: no mesh file in it; read are {', '.join(extensions)}")
    stems = Counter(path.with_suffix("") for path in paths)
    return [_source_file(root, path, stems[path.with_suffix("")] == 1) for path in paths], dict(sorted(others.items()))


def _source_file(root: Path, path: Path, alone: bool) -> SourceFile:
    """Named by its path without the extension, where no other file has the same."""
    stats = [(root / path).stat()]
    stats += [sidecar.stat() for sidecar in _sidecars(root / path)]
    stamp = " ".join(f"{stat.st_size}:{stat.st_mtime_ns}" for stat in stats)
    return SourceFile(root, path.as_posix(), (path.with_suffix("") if alone else path).as_posix(), stamp)


def _sidecars(path: Path) -> list[Path]:
    return [sidecar for suffix in SIDECARS if (sidecar := path.with_suffix(suffix)).is_file()]


def describe(file: SourceFile) -> dict[str, Any]:
    """What is known of a file: the fields of a `MeshRecord`, and further values of its sidecar.

    A sidecar of the same name wins: `.txt` holds the caption, `.json` an object of fields. Otherwise the caption is the
    words of the file name, the category its folder, the family its folder and those words ('rock_1' and 'rock_2' are
    one family), the split a top folder called train, val or test; folders named after a format say nothing. Raises
    `DataError` for a sidecar that cannot be read.
    """
    parts = [part for part in Path(file.path).parts[:-1] if part.lower() not in FORMATS]
    values: dict[str, Any] = {"split": SPLITS[parts.pop(0).lower()]} if parts and parts[0].lower() in SPLITS else {}
    caption = words(Path(file.path).stem)
    values |= {"name": file.name, "caption": caption, "category": words(parts[-1]) if parts else ""}
    values["family"] = "/".join([*parts, caption])
    for sidecar in _sidecars(file.full_path):
        values |= _read_sidecar(sidecar)
    return values


def words(name: str) -> str:
    """The words of a name in lower case, without numbers and single letters: 'WoodenChair_02_B' is 'wooden chair'."""
    parts = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[\W_]+", " ", name).lower().split()
    parts = [part.rstrip("0123456789") for part in parts if not part[0].isdigit()]
    return " ".join(part for part in parts if len(part) > 1) or name.lower()


def _read_sidecar(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_SIDECAR_BYTES:
            raise ValueError(f"it has more than {MAX_SIDECAR_BYTES} bytes")
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".txt":
            return {"caption": " ".join(text.split())} if text.strip() else {}
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError(f"an object is needed, it holds a {type(values).__name__}")
    except (OSError, ValueError) as error:
        raise DataError(f"the sidecar {path.name} cannot be read ({error}); correct or remove it") from error
    known = {SPELLINGS.get(str(name), str(name)): value for name, value in values.items() if value is not None}
    return {name: str(value) if name in FIELDS else value for name, value in known.items()}
