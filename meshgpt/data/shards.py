"""What a build has done so far, on disk: small files that appear whole or not at all, so that it can always go on."""

import io
import json
import os
import shutil
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from meshgpt.mesh.mesh import Mesh


@dataclass(frozen=True, eq=False)
class Outcome:
    """What came of one file: a mesh with its values and `key` (equal for duplicates), or why it was refused.

    path, stamp: which file, and in which state, as in `SourceFile`. kind, message: '' for a mesh that was taken.
    """

    path: str
    stamp: str
    mesh: Mesh | None = None
    values: dict[str, Any] = field(default_factory=dict)
    key: str = ""
    kind: str = ""
    message: str = ""


class Shards:
    """The outcomes of one way of building, named by `key`, in a folder beside the data set."""

    def __init__(self, folder: Path, key: str):
        self.folder, self.key = folder, key

    def load(self) -> dict[tuple[str, str], Outcome]:
        """All outcomes by (path, stamp). A file that is not whole counts as not written."""
        outcomes = {}
        for path in sorted(self.folder.glob(f"{self.key}-*.npz")):
            try:
                loaded = _unpacked(path)
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
                continue
            outcomes |= {(outcome.path, outcome.stamp): outcome for outcome in loaded}
        return outcomes

    def write(self, outcomes: Sequence[Outcome]) -> None:
        if not outcomes:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        numbers = [int(path.stem.rpartition("-")[2]) for path in self.folder.glob(f"{self.key}-*.npz")]
        path = self.folder / f"{self.key}-{max(numbers, default=-1) + 1:06d}.npz"
        write_whole(path, _packed(outcomes))

    def remove(self) -> None:
        """The folder and what any build has left in it."""
        shutil.rmtree(self.folder, ignore_errors=True)


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file so that it is either there with all its bytes or not there."""
    temporary = path.with_name(f"{path.name}.part")
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _packed(outcomes: Sequence[Outcome]) -> bytes:
    arrays, entries = {}, []
    for index, outcome in enumerate(outcomes):
        entry = {name: getattr(outcome, name) for name in ("path", "stamp", "values", "key", "kind", "message")}
        entries.append(entry)
        if outcome.mesh is not None:
            arrays |= {f"vertices{index}": outcome.mesh.vertices, f"faces{index}": outcome.mesh.faces}
    text = np.frombuffer(json.dumps(entries).encode(), np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, entries=text, **arrays)
    return buffer.getvalue()


def _unpacked(path: Path) -> Iterable[Outcome]:
    with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
        outcomes = []
        for index, entry in enumerate(json.loads(arrays["entries"].tobytes())):
            refused = f"vertices{index}" not in arrays
            mesh = None if refused else Mesh(arrays[f"vertices{index}"], arrays[f"faces{index}"])
            outcomes.append(Outcome(mesh=mesh, **entry))
    return outcomes
