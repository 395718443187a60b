"""Where the meshes come from that are measured: a pipeline writes them, or they lie in a folder already.

What a pipeline writes is kept on disk mesh by mesh, so that an evaluation that was stopped goes on, and one with other
metrics writes nothing again.
"""

import hashlib
import json
import os
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, no_type_check

import numpy as np

from meshgpt.data.dataset import MeshDataset
from meshgpt.errors import ConditionError, ConfigError, DataError
from meshgpt.fingerprint import described_by_content
from meshgpt.mesh.mesh import Mesh
from meshgpt.mesh.topology import topology_report
from meshgpt.pipeline import JUDGE, GeneratedMesh, MeshPipeline
from meshgpt.text.captions import filled

SEED_STRIDE = 10_007  # between the seeds of the first meshes of two sets
ASKS = {"none": None, "text": "text", "name": "text", "category": "category", "points": "points"}  # and what they take
SETTINGS_FILE = "settings.json"


@dataclass(frozen=True)
class Written:
    """A mesh to be measured, and what is known of how it came about.

    stopped_by: as in `GeneratedMesh`; empty where it was found. degenerate, duplicate: faces of that kind among those
    that the tokens say, before the pipeline cleans them. seconds: of its writing, an equal share of its batch.
    """

    mesh: Mesh
    stopped_by: str = ""
    degenerate: int = 0
    duplicate: int = 0
    seconds: float = 0.0


class Author(Protocol):
    """Gives as many meshes as `wanted` has, other ones for every seed; mesh i may be made after record i of it."""

    def write(self, seed: int, wanted: MeshDataset) -> list[Written]: ...


class MeshFolder:
    """Meshes that are there: for each seed as many as are wanted, drawn at random. Raises `DataError` for too few."""

    @no_type_check
    def __init__(self, meshes: Sequence[Mesh]):
        self.meshes = list(meshes)
        if not self.meshes:
            raise DataError("there are no meshes to evaluate")

    def write(self, seed: int, wanted: MeshDataset) -> list[Written]:
        if len(wanted) > len(self.meshes):
            raise DataError(
                f"{len(wanted)} meshes are wanted and there are {len(self.meshes)}: ask for a smaller count"
            )
        drawn = np.random.default_rng((seed, 2)).permutation(len(self.meshes))[: len(wanted)]
        return [Written(self.meshes[index]) for index in drawn]


class PipelineAuthor:
    """A pipeline, asked for what the wanted records are, in the way that `ask` says.

    ask: "none", or by the "text" of a record's caption, by the text "a CATEGORY" ("name"), by its "category", or by
    "points" on its surface. folder: where the meshes are kept. judge: chooses among candidates, see
    `MeshPipeline.generate`, whose keywords the other options are. Raises `ConditionError` for what the model does not
    take, and `DataError` for a folder of meshes written otherwise.
    """

    @no_type_check
    def __init__(
        self,
        pipe: MeshPipeline,
        folder: Path,
        ask: str = "none",
        batch_size: int = 16,
        tell: Callable[[str], None] = lambda line: None,
        judge: JUDGE | None = None,
        **options: Any,
    ):
        if ask not in ASKS:
            raise ConfigError(f"a model is asked by {', '.join(ASKS)}, not by '{ask}'")
        kind = ASKS[ask]
        if kind is not None and not pipe.transformer.config.takes(kind):
            kinds = ", ".join(pipe.transformer.config.kinds) or "nothing"
            raise ConditionError(f"the model cannot be asked by {ask}: it takes {kinds}")
        self.pipe, self.folder, self.ask, self.batch_size, self.tell = pipe, Path(folder), ask, batch_size, tell
        self.judge, self.options = judge, options
        self._claim()

    def write(self, seed: int, wanted: MeshDataset) -> list[Written]:
        """The meshes of this seed, those on disk as they are; the others are written and kept, batch by batch."""
        folder = self.folder / f"seed-{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"{place:05d}-{_key(wanted, place, self.ask)}.npz" for place in range(len(wanted))]
        found = [_read(path) for path in paths]
        missing = [place for place, item in enumerate(found) if item is None]
        for start in range(0, len(missing), self.batch_size):
            places = missing[start : start + self.batch_size]
            for place, item in zip(places, self._batch(seed, wanted, places), strict=True):
                _keep(item, paths[place])
                found[place] = item
            self.tell(f"seed {seed}: {len(paths) - len(missing) + start + len(places)} of {len(paths)} meshes")
        return [item for item in found if item is not None]

    def _batch(self, seed: int, wanted: MeshDataset, places: list[int]) -> list[Written]:
        began = time.perf_counter()
        seeds = [SEED_STRIDE * seed + place for place in places]
        wishes = self._wishes(wanted, places)
        size = max(len(seeds), self.batch_size)  # candidates of few meshes share batches
        items = self.pipe.generate(
            seed=seeds, num_meshes=len(seeds), batch_size=size, judge=self.judge, **wishes, **self.options
        )
        seconds = (time.perf_counter() - began) / len(items)
        return [self._written(item, seconds) for item in items]

    def _wishes(self, wanted: MeshDataset, places: list[int]) -> dict[str, Any]:
        records = [wanted[place] for place in places]
        if self.ask == "text":
            return {"text": [record.caption or record.category for record in records]}
        if self.ask == "name":
            return {"text": [filled("{a} {}", record.category) for record in records]}
        if self.ask == "category":
            return {"category": [record.category for record in records]}
        return {"mesh": [record.mesh for record in records]} if self.ask == "points" else {}

    def _written(self, item: GeneratedMesh, seconds: float) -> Written:
        unit = self.pipe.tokenizer.tokens_per_face or 1
        raw = topology_report(self.pipe.tokenizer.decode(item.codes[: len(item.codes) // unit * unit]))
        return Written(item.mesh, item.stopped_by, raw.degenerate_faces, raw.duplicate_faces, seconds)

    def _claim(self) -> None:
        """Writes down by whom and how the meshes of the folder are written, or finds that it says the same."""
        model = [{name: part.detach() for name, part in self.pipe.transformer.state_dict().items()}, self.pipe.config]
        now = {"ask": self.ask, "options": self.options, "model": json.dumps(described_by_content(model))}
        now["model"] = _short_hash(now["model"])
        if self.judge is not None:
            now["judge"] = type(self.judge).__name__
        path = self.folder / SETTINGS_FILE
        if path.is_file():
            before = json.loads(path.read_text(encoding="utf-8"))
            told = json.loads(json.dumps(now))
            changed = [name for name in {**before, **told} if before.get(name) != told.get(name)]
            if changed:
                what = ", ".join(f"{name} {before.get(name)}, now {told.get(name)}" for name in changed)
                raise DataError(f"the meshes in {self.folder} were written otherwise ({what}): name another folder")
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(now, indent=1) + "\n", encoding="utf-8")


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _key(wanted: MeshDataset, place: int, ask: str) -> str:
    """What a mesh is kept under beside its place: the record that it was asked for, where it was."""
    return "free" if ask == "none" else _short_hash(str(wanted.column("name")[place]))


def _keep(item: Written, path: Path) -> None:
    """Writes the file as a whole or not at all."""
    fresh = path.with_suffix(".new")
    about = {"stopped_by": item.stopped_by, "seconds": item.seconds}
    faults = {"degenerate": item.degenerate, "duplicate": item.duplicate}
    with fresh.open("wb") as file:
        np.savez(file, vertices=item.mesh.vertices, faces=item.mesh.faces, about=json.dumps({**about, **faults}))
    os.replace(fresh, path)


def _read(path: Path) -> Written | None:
    """None for a file that is not there or was damaged; it is then written anew."""
    try:
        with np.load(path, allow_pickle=False) as parts:
            return Written(Mesh(parts["vertices"], parts["faces"]), **json.loads(str(parts["about"])))
    except (OSError, KeyError, ValueError, TypeError, zipfile.BadZipFile):
        return None
