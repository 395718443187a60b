"""A folder of mesh files becomes a data set: in parallel, resumable at any moment, and nothing is dropped silently.

    folder ── find_files ──> files ── read_one, many at once ──> outcomes ── shards on disk
           ── finish: sort, drop duplicates, split ──> data set + report.json

Outcomes are kept in `.OUT.building` beside the result until that is whole; a build that was killed goes on from there
and gives the same bytes as one that was not.
"""

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, no_type_check

from tqdm import tqdm

from meshgpt.config import Config, resolve_config
from meshgpt.data.build_report import BuildReport, Refusal
from meshgpt.data.dataset import held_out_families
from meshgpt.data.decimate import decimate
from meshgpt.data.pack import MeshRecord, pack_records, save_files
from meshgpt.data.shards import Outcome, Shards
from meshgpt.data.sources import SourceFile, describe, find_files
from meshgpt.data.store import FIELDS
from meshgpt.data.workers import Failure, run_in_processes
from meshgpt.errors import DataError, MeshGPTError, MeshLimitError
from meshgpt.mesh.canonical import canonicalize
from meshgpt.mesh.files import ReadLimits, read_mesh
from meshgpt.mesh.mesh import Mesh

SHARD_SIZE, SHARD_SECONDS = 256, 5.0  # outcomes are put on disk after as many, or after that long

Read = Callable[[Path], Mesh]


@dataclass(frozen=True)
class BuildConfig(Config):
    """How a folder becomes a data set.

    min_faces, max_faces: others are refused; with `decimate`, meshes beyond max_faces lose faces instead (needs the
    extra 'mesh'). quads: keep faces of four corners. up: the axis that points up in the files. val_fraction: the share
    of families marked 'val', where files do not say; the rest is 'train'. num_discrete_coors: meshes equal on that
    grid are duplicates, and one that vanishes on it is refused. licence, author, source: of the files whose sidecar
    does not say. seconds_per_file: what a file may take (with workers); max_megabytes: how long it may be.
    """

    min_faces: int = 1
    max_faces: int | None = None
    decimate: bool = False
    quads: bool = False
    up: str = "y"
    val_fraction: float = 0.1
    seed: int = 0
    num_discrete_coors: int = 128
    licence: str = ""
    author: str = ""
    source: str = ""
    coordinates: str = "uint16"
    seconds_per_file: float = 60.0
    max_megabytes: float = 256.0

    def validate(self) -> None:
        self.require(self.min_faces >= 1, "min_faces", "be 1 at least")
        self.require(self.max_faces is None or self.max_faces >= self.min_faces, "max_faces", "be None or >= min_faces")
        self.require(not self.decimate or self.max_faces is not None, "decimate", "have a max_faces to decimate to")
        self.require(0 <= self.val_fraction < 1, "val_fraction", "lie in [0, 1)")
        self.require(self.num_discrete_coors >= 2, "num_discrete_coors", "be 2 at least")
        self.require(self.coordinates in ("uint16", "float32"), "coordinates", "be 'uint16' or 'float32'")
        self.require(self.seconds_per_file > 0, "seconds_per_file", "be above 0")
        self.require(self.max_megabytes > 0, "max_megabytes", "be above 0")


@no_type_check
def build_dataset(
    folder,
    out,
    config: BuildConfig | None = None,
    *,
    workers: int | None = None,
    read: Read | None = None,
    progress: bool = True,
    overwrite: bool = False,
    **keywords,
) -> BuildReport:
    """Reads every mesh file below `folder` and writes the data set `out` (a folder, or one file if it ends in .zip).

    `out` gets a report.json (beside it for a .zip) of what was refused and why. Captions, categories and families: see
    `describe`. workers: processes, as many as there are cores if None; 0 reads here, without the time limit. read: a
    function of a path, importable by name, in place of `read_mesh`. keywords: fields of `BuildConfig`. Once stopped by
    Ctrl-C, an error or a kill, the same call goes on where it was, and a call whose result is there already returns its
    report. Raises `DataError` if nothing could be taken, or for another data set at `out` unless `overwrite`.
    """
    config = resolve_config(BuildConfig, config, keywords)
    folder, out = Path(folder), Path(out)
    shards = Shards(out.parent / f".{out.name}.building", _digest([config.to_json(), _name_of(read)])[:12])
    files, others = find_files(folder, leave_out=(out, shards.folder))
    fingerprint = _digest([shards.key, [(file.path, file.stamp) for file in files]])
    report = _earlier_report(out, fingerprint, overwrite)
    if report is None:
        start = time.perf_counter()
        outcomes = _all_outcomes(files, partial(read_one, config=config, read=read), shards, workers, progress)
        records, refused = _select(outcomes, config)
        seconds = time.perf_counter() - start
        report = BuildReport.of(str(out), records, refused, others, seconds, fingerprint)
        if not records:
            raise DataError(f"{folder}: none of its {len(files)} mesh files could be taken\n{report.table()}")
        _save(out, pack_records(records, config.coordinates), report)
    shards.remove()
    return report


def read_one(file: SourceFile, config: BuildConfig, read: Read | None = None) -> Outcome:
    """What comes of one file. Depends on nothing but the file, its sidecars and the config."""
    outcome = partial(Outcome, file.path, file.stamp)
    try:
        values = describe(file)
        mesh = _read(file.full_path, config) if read is None else read(file.full_path)
        mesh = decimate(mesh, config.max_faces) if config.decimate and config.max_faces else mesh
        refusal = _refusal(mesh, config)
        if refusal is not None:
            return outcome(kind=refusal[0], message=refusal[1])
        grid = canonicalize(mesh.normalized(), config.num_discrete_coors)
        if not grid.faces.size:
            what = f"its {mesh.num_faces} faces vanish on a grid of {config.num_discrete_coors}"
            return outcome(kind="vanishes", message=what)
    except MeshGPTError as error:
        kind = "limit" if isinstance(error, MeshLimitError) else "unreadable"
        return outcome(kind=kind, message=str(error).removeprefix(f"{file.full_path}: "))
    except Exception as error:  # a reader of someone else's, or a fault of ours: the other files are to be read still
        return outcome(kind="error", message=f"{type(error).__name__}: {error}")
    defaults = {name: getattr(config, name) for name in ("licence", "author", "source")}
    key = hashlib.sha256(grid.vertices.tobytes() + grid.faces.tobytes()).hexdigest()
    return outcome(mesh, {**defaults, **values}, key)


def _read(path: Path, config: BuildConfig) -> Mesh:
    limits = ReadLimits(max_bytes=int(config.max_megabytes * 2**20))
    return read_mesh(path, quads=config.quads, up=config.up, limits=limits)


def _refusal(mesh: Mesh, config: BuildConfig) -> tuple[str, str] | None:
    if config.max_faces is not None and mesh.num_faces > config.max_faces:
        return "too many faces", f"{mesh.num_faces} faces, more than {config.max_faces}"
    if mesh.num_faces < config.min_faces:
        return "too few faces", f"{mesh.num_faces} faces, fewer than {config.min_faces}"
    return None


def _all_outcomes(
    files: list[SourceFile], work: Callable[[SourceFile], Outcome], shards: Shards, workers: int | None, progress: bool
) -> list[Outcome]:
    """The outcomes of all files in their order: those on disk, and those of the work that is left."""
    done = shards.load()
    left = [file for file in files if (file.path, file.stamp) not in done]
    fresh, last = [], time.monotonic()
    bar = tqdm(total=len(files), initial=len(files) - len(left), unit="file", disable=None if progress else True)
    try:
        for outcome in _outcomes_of(left, work, workers):
            done[(outcome.path, outcome.stamp)] = outcome
            fresh.append(outcome)
            bar.update()
            if len(fresh) >= SHARD_SIZE or time.monotonic() - last > SHARD_SECONDS:
                shards.write(fresh)
                fresh, last = [], time.monotonic()
    except KeyboardInterrupt:
        if progress:
            read = sum((file.path, file.stamp) in done for file in files)
            bar.write(f"stopped at {read} of {len(files)} files; the same call goes on from there", file=sys.stderr)
        raise
    finally:  # whatever happened: nothing that was read is read again
        bar.close()
        shards.write(fresh)
    return [done[(file.path, file.stamp)] for file in files]


def _outcomes_of(
    files: list[SourceFile], work: Callable[[SourceFile], Outcome], workers: int | None
) -> Iterator[Outcome]:
    if workers == 0:
        yield from map(work, files)
        return
    seconds = work.keywords["config"].seconds_per_file  # type: ignore[attr-defined]
    for file, outcome in run_in_processes(work, files, workers or os.cpu_count() or 1, seconds):
        failed = isinstance(outcome, Failure)
        yield Outcome(file.path, file.stamp, kind=outcome.kind, message=outcome.message) if failed else outcome


def _select(outcomes: Iterable[Outcome], config: BuildConfig) -> tuple[list[MeshRecord], list[Refusal]]:
    """The meshes to keep, the first of each group of duplicates, with their splits; and the rest."""
    taken, first, refused = [], {}, []
    for outcome in outcomes:
        if outcome.mesh is None:
            refused.append(Refusal(outcome.path, outcome.kind, outcome.message))
        elif outcome.key in first:
            refused.append(Refusal(outcome.path, "duplicate", f"the same mesh as {first[outcome.key]}"))
        else:
            first[outcome.key] = outcome.path
            taken.append(outcome)
    open_families = [o.values["family"] for o in taken if not o.values.get("split")]
    held_out = held_out_families(open_families, config.val_fraction, config.seed) if config.val_fraction else set()
    return [_record(outcome, held_out) for outcome in taken], refused


def _record(outcome: Outcome, held_out: set[str]) -> MeshRecord:
    assert outcome.mesh is not None
    known = {name: str(outcome.values.get(name, "")) for name in FIELDS}
    known["split"] = known["split"] or ("val" if known["family"] in held_out else "train")
    extra = {name: value for name, value in outcome.values.items() if name not in FIELDS}
    return MeshRecord(outcome.mesh, **known, extra={**extra, "path": outcome.path})


def _save(out: Path, files: dict[str, bytes], report: BuildReport) -> None:
    text = report.to_json().encode()
    if out.suffix == ".zip":
        save_files(files, out)
        _report_path(out).write_bytes(text)
    else:
        save_files(files | {"report.json": text}, out)


def _report_path(out: Path) -> Path:
    return out.with_suffix(".report.json") if out.suffix == ".zip" else out / "report.json"


def _earlier_report(out: Path, fingerprint: str, overwrite: bool) -> BuildReport | None:
    """The report of the same build, if `out` is its result."""
    if not out.exists():
        return None
    try:
        report = BuildReport.from_json(_report_path(out).read_text(encoding="utf-8"))
        if report.fingerprint == fingerprint:
            return report
    except (OSError, ValueError, KeyError, TypeError):
        pass
    if not overwrite:
        raise DataError(f"{out} exists already and is not the result of this build; remove it or pass overwrite=True")
    return None


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def _name_of(read: Read | None) -> str:
    return "" if read is None else f"{getattr(read, '__module__', '')}.{getattr(read, '__qualname__', repr(read))}"
