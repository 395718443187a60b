"""The meshes of a data set become samples of fields: made solid, and asked for inside, outside and distance.

    MeshDataset ── field_sample, many at once ──> shards on disk ── all there ──> FieldDataset

Shards are kept in `.OUT.building` until all are there; a build that was killed goes on from there.
"""

import hashlib
import io
import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, no_type_check

import numpy as np
from tqdm import tqdm

from meshgpt.config import Config, resolve_config
from meshgpt.data.dataset import MeshDataset
from meshgpt.data.field_store import FORMAT, QUERY, SURFACE, VERSION, FieldDataset, FieldSample, shard_name
from meshgpt.data.shards import write_whole
from meshgpt.data.store import FIELDS
from meshgpt.data.workers import Failure, run_in_processes
from meshgpt.errors import DataError, MeshError
from meshgpt.mesh.inside import contains, signed_distances, surface_distances
from meshgpt.mesh.mesh import Mesh
from meshgpt.mesh.sampling import SPREADS, sample_near, sample_sharp_edges, sample_surface, sample_volume
from meshgpt.mesh.solid import Solid, SolidConfig, solid


@dataclass(frozen=True)
class FieldConfig(Config):
    """What is taken of each shape.

    surface: points on it, of which `sharp` lie along sharp edges, if there are any. volume: points spread over the box
    [-1, 1]^3. near: points moved off the surface by normal noise, an equal share of them by each of `spreads`.
    solid: how meshes are made solid. seconds_per_mesh: what a mesh may take (with workers).
    """

    surface: int = 4096
    sharp: int = 1024
    volume: int = 8192
    near: int = 8192
    spreads: tuple[float, ...] = SPREADS
    solid: SolidConfig = SolidConfig()
    seed: int = 0
    shard_size: int = 64
    seconds_per_mesh: float = 120.0

    def validate(self) -> None:
        for field in ("surface", "volume", "near", "shard_size"):
            self.require(getattr(self, field) >= 1, field, "be at least 1")
        self.require(0 <= self.sharp <= self.surface, "sharp", "lie between 0 and surface")
        self.require(bool(self.spreads) and min(self.spreads, default=0) > 0, "spreads", "be above 0, one at least")
        self.require(self.seconds_per_mesh > 0, "seconds_per_mesh", "be above 0")

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "solid": self.solid.to_dict()}

    @property
    def row(self) -> int:
        """Numbers that are kept of a shape."""
        return self.surface * SURFACE + (self.volume + self.near) * QUERY


@no_type_check
def field_sample(mesh: Mesh, config: FieldConfig | None = None, seed: Any = 0) -> FieldSample:
    """The samples of one mesh, normalised; `record["verdict"]` tells how it was made solid.

    Raises `MeshError` for a mesh without area.
    """
    config, rng = config or FieldConfig(), np.random.default_rng(seed)
    mesh = mesh.normalized()
    body = solid(mesh, config.solid)
    surface = surface_points(mesh, body, config, rng)
    volume = sample_volume(config.volume, rng)
    near = sample_near(surface[:, :3], config.near, rng, config.spreads)
    queries = (np.column_stack((points, signed_distances(body.surface, points))) for points in (volume, near))
    arrays = [array.astype(np.float32) for array in (surface, *queries)]
    return FieldSample(*arrays, {"verdict": body.verdict.to_dict()})


@no_type_check
def surface_points(mesh: Mesh, body: Solid, config: FieldConfig, rng: np.random.Generator) -> np.ndarray:
    """Points of the solid of a normalised mesh, (n, 7), as in a `FieldSample`.

    Those of sharp edges are of the mesh, where its edges are on the solid.
    """
    places, normals = sample_sharp_edges(mesh, 2 * config.sharp, rng)
    if len(places):
        near = surface_distances(body.surface, places) < config.solid.cell
        outer = near & ~contains(body.surface, places + 2 * config.solid.cell * normals)
        places, normals = places[outer][: config.sharp], normals[outer][: config.sharp]
    rest = sample_surface(body.surface, config.surface - len(places), rng)
    flags = np.repeat([1.0, 0.0], (len(places), len(rest[0])))
    return np.column_stack((np.concatenate((places, rest[0])), np.concatenate((normals, rest[1])), flags))


@no_type_check
def build_fields(
    dataset: MeshDataset,
    out,
    config: FieldConfig | None = None,
    *,
    workers: int | None = None,
    progress: bool = True,
    overwrite: bool = False,
    **keywords,
) -> FieldDataset:
    """Writes the samples of all meshes of a data set to the folder `out`; those that give none are told of, with why.

    workers: processes, as many as there are cores if None; 0 works here, without the time limit. keywords: fields of
    `FieldConfig`. Stopped by Ctrl-C, an error or a kill, the same call goes on where it was, and gives the same bytes;
    one whose result is there already opens it. Raises `DataError` for something else at `out` unless `overwrite`.
    """
    config, out = resolve_config(FieldConfig, config, keywords), Path(out)
    key = hashlib.sha256(json.dumps([dataset.fingerprint, config.to_dict()]).encode()).hexdigest()
    if out.exists():
        found = _same(out, key)
        if found is not None:
            return found
        if not overwrite:
            raise DataError(f"{out} exists already and is not the result of this build; remove it or pass overwrite")
    working = out.parent / f".{out.name}.building" / key[:12]
    working.mkdir(parents=True, exist_ok=True)
    _write_shards(dataset, working, config, workers, progress)
    points = {"surface": config.surface, "volume": config.volume, "near": config.near}
    manifest = {"format": FORMAT, "version": VERSION, "key": key, "shapes": len(dataset), "points": points}
    manifest |= {"shard_size": config.shard_size, "config": config.to_dict(), "data": dataset.fingerprint}
    write_whole(working / "manifest.json", json.dumps(manifest, indent=2).encode() + b"\n")
    if out.exists():
        shutil.rmtree(out)
    os.replace(working, out)
    shutil.rmtree(working.parent, ignore_errors=True)
    return FieldDataset(out)


def _same(out: Path, key: str) -> FieldDataset | None:
    try:
        found = FieldDataset(out)
    except DataError:
        return None
    return found if found.manifest.get("key") == key and found.path == out else None


def _write_shards(dataset: MeshDataset, folder: Path, config: FieldConfig, workers: int | None, progress: bool) -> None:
    """Writes the shards that are not there, each as soon as all of its shapes are done."""
    size, total = config.shard_size, len(dataset)
    left = [i for i in range(total) if not (folder / f"{shard_name(i // size)}.jsonl").is_file()]
    done: dict[int, dict[int, _Row]] = {}
    bar = tqdm(total=total, initial=total - len(left), unit="mesh", disable=None if progress else True, file=sys.stderr)
    try:
        for index, row in _rows(dataset, left, config, workers):
            shard = done.setdefault(index // size, {})
            shard[index] = row
            bar.update()
            if len(shard) == min(size, total - index // size * size):
                _write_shard(folder, index // size, [shard[i] for i in sorted(shard)], config)
                del done[index // size]
    finally:
        bar.close()


@dataclass(frozen=True, eq=False)
class _Row:
    """What came of one mesh: numbers, or None and why in `line`."""

    values: np.ndarray | None
    line: dict[str, Any]


def _rows(
    dataset: MeshDataset, indices: list[int], config: FieldConfig, workers: int | None
) -> Iterator[tuple[int, _Row]]:
    work = partial(make_row, dataset, config)
    if workers == 0:
        yield from ((index, work(index)) for index in indices)
        return
    for index, row in run_in_processes(work, indices, workers or os.cpu_count() or 1, config.seconds_per_mesh):
        failed = isinstance(row, Failure)
        yield index, _Row(None, {**_record(dataset, index), "refused": row.message}) if failed else row


def make_row(dataset: MeshDataset, config: FieldConfig, index: int) -> _Row:
    """What comes of mesh `index`. Depends on nothing but the arguments."""
    line = _record(dataset, index)
    try:
        sample = field_sample(dataset.mesh(index), config, (config.seed, index))
    except MeshError as error:
        return _Row(None, {**line, "refused": str(error)})
    values = np.concatenate([part.ravel() for part in (sample.surface, sample.volume, sample.near)])
    return _Row(values, {**line, **sample.record})


def _record(dataset: MeshDataset, index: int) -> dict[str, Any]:
    record = dataset.store.record(int(dataset.indices[index]))
    return {"index": index, **{name: record[name] for name in FIELDS if record[name] or name == "name"}}


def _write_shard(folder: Path, number: int, rows: list[_Row], config: FieldConfig) -> None:
    """The numbers first: a shard counts as written when its records are there."""
    buffer = io.BytesIO()
    empty = np.zeros(config.row, dtype=np.float32)
    np.save(buffer, np.stack([empty if row.values is None else row.values for row in rows]), allow_pickle=False)
    write_whole(folder / f"{shard_name(number)}.npy", buffer.getvalue())
    text = "".join(json.dumps(row.line, ensure_ascii=False) + "\n" for row in rows)
    write_whole(folder / f"{shard_name(number)}.jsonl", text.encode())
