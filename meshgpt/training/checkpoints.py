"""Checkpoints of a run: whole or not there, whenever the process dies.

A checkpoint is a folder `step-00001000` of safetensors and JSON files, and a manifest with the sha256 of each. It is
written under another name, every file and the folder are synced, and only then it gets its name.
"""

import json
import os
import re
import shutil
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, no_type_check

import torch
from torch import Tensor

from meshgpt.checkpoint import file_sha256, read_tensors, sync_folder, write_tensors, write_text, writing
from meshgpt.errors import CheckpointError

STATE_FILE, MANIFEST_FILE = "state.json", "manifest.json"
SETTINGS = ("betas", "weight_decay")  # of an optimizer, which a run that goes on takes from its present config
_NAME = re.compile(r"step-(\d{8,})")


@dataclass
class RunState:
    """All that a run needs to go on: JSON values, and named groups of tensors ("model", "ema", "optimizer")."""

    step: int
    values: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, dict[str, Tensor]] = field(default_factory=dict)


class RunCheckpoints:
    """The checkpoints in a folder, of which the newest `keep` stay."""

    @no_type_check
    def __init__(self, folder, keep: int = 3):
        self.folder, self.keep = Path(folder), keep

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, ascending; whether it is whole shows when it is loaded."""
        if not self.folder.is_dir():
            return []
        matches = [_NAME.fullmatch(path.name) for path in self.folder.iterdir()]
        return sorted(int(match[1]) for match in matches if match)

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    @no_type_check
    def save(self, state: RunState) -> Path:
        """Writes a checkpoint, then removes those beyond the newest `keep`.

        Raises `CheckpointError` if it cannot be written (a full disk, say); the others are then as they were.
        """
        target = self.path(state.step)
        with writing(target):
            self.folder.mkdir(parents=True, exist_ok=True)
            self.tidy()
            write_checkpoint(target, state)
            for step in self.steps()[: -self.keep]:
                if step != state.step:
                    _remove(self.path(step))
        return target

    def load_newest(self) -> RunState | None:
        """The newest checkpoint that is whole, None where there are none; warns of damaged ones that it passes over.

        After a process was killed while it saved, `tidy` may find a newer one. Raises `CheckpointError` if there are
        checkpoints and all of them are damaged.
        """
        damaged = []
        for step in reversed(self.steps()):
            try:
                state = read_checkpoint(self.path(step))
            except CheckpointError as error:
                damaged.append(str(error))
                continue
            for what in damaged:
                warnings.warn(f"{what}; going back to step {step}", stacklevel=2)
            return state
        if damaged:
            raise CheckpointError(f"no checkpoint in {self.folder} is whole: {'; '.join(damaged)}")
        return None

    def tidy(self) -> None:
        """Gives whole checkpoints that a killed process left under another name their own, and removes halves.

        For one process only, while no other uses the folder.
        """
        for path in sorted(self.folder.glob(".*-step-*")) if self.folder.is_dir() else ():
            named = path.with_name(path.name[path.name.index("step-") :])
            if not named.exists() and _NAME.fullmatch(named.name) and _is_whole(path):
                os.rename(path, named)
            else:
                shutil.rmtree(path, ignore_errors=True)


@no_type_check
def write_checkpoint(target, state: RunState) -> None:
    """Writes one checkpoint folder; an older one of that name is replaced."""
    target = Path(target)
    fresh = target.with_name(f".writing-{target.name}")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        fresh.mkdir(parents=True)
        for name, tensors in state.tensors.items():
            write_tensors(fresh / f"{name}.safetensors", tensors)
        values = {"step": state.step, "tensors": sorted(state.tensors), **state.values}
        write_text(fresh / STATE_FILE, json.dumps(values, indent=1) + "\n")
        hashes = {path.name: file_sha256(path) for path in sorted(fresh.iterdir())}
        write_text(fresh / MANIFEST_FILE, json.dumps({"sha256": hashes}, indent=1) + "\n")
        sync_folder(fresh)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    if target.exists():
        _remove(target)
    os.rename(fresh, target)
    sync_folder(target.parent)


@no_type_check
def read_checkpoint(folder) -> RunState:
    """A checkpoint, each file of which has the hash in the manifest; raises `CheckpointError` if one has not."""
    folder = Path(folder)
    _check_files(folder)
    values = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
    step, names = values.pop("step"), values.pop("tensors")
    return RunState(step, values, {name: read_tensors(folder / f"{name}.safetensors") for name in names})


def _check_files(folder: Path) -> None:
    for name, expected in _manifest(folder).items():
        if not (folder / name).is_file():
            raise CheckpointError(f"checkpoint {folder} is damaged: {name} is missing")
        found = file_sha256(folder / name)
        if found != expected:
            raise CheckpointError(f"checkpoint {folder} is damaged: {name} has sha256 {found}, not {expected}")


def _is_whole(folder: Path) -> bool:
    try:
        _check_files(folder)
    except CheckpointError:
        return False
    return True


def _manifest(folder: Path) -> dict[str, str]:
    if not folder.is_dir():
        raise CheckpointError(f"there is no checkpoint {folder}")
    try:
        hashes = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"checkpoint {folder} is damaged: {MANIFEST_FILE} cannot be read ({error})") from error
    if not isinstance(hashes, dict) or STATE_FILE not in hashes:
        raise CheckpointError(f"checkpoint {folder} is damaged: {MANIFEST_FILE} does not list {STATE_FILE}")
    return hashes


def _remove(folder: Path) -> None:
    """Takes the name away first, so that no half of a checkpoint is ever found under it."""
    aside = folder.with_name(f".removing-{folder.name}")
    shutil.rmtree(aside, ignore_errors=True)
    os.rename(folder, aside)
    shutil.rmtree(aside, ignore_errors=True)


# optimizers as tensors and JSON


@no_type_check
def pack_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state of any optimizer as (tensors, JSON values). Raises `CheckpointError` for state of another kind."""
    state = optimizer.state_dict()
    tensors, numbers = {}, {}
    for index, entries in state["state"].items():
        for name, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{name}"] = value
            elif value is None or isinstance(value, (int, float, bool, str)):
                numbers[f"{index}.{name}"] = value
            else:
                raise CheckpointError(f"optimizer state '{name}' is a {type(value).__name__}: it cannot be saved")
    groups = [{name: _plain(value) for name, value in group.items()} for group in state["param_groups"]]
    return tensors, {"numbers": numbers, "groups": groups}


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor) else value


@no_type_check
def unpack_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
    """Puts the optimizer back, but for its `SETTINGS`. Raises `CheckpointError` if it has other parameter groups."""
    own = optimizer.state_dict()["param_groups"]
    saved = values["groups"]
    if [group["params"] for group in own] != [group["params"] for group in saved]:
        sizes = [[len(group["params"]) for group in groups] for groups in (saved, own)]
        raise CheckpointError(f"the checkpoint's optimizer has groups of {sizes[0]} parameters, this one {sizes[1]}")
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**tensors, **values["numbers"]}.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    groups = [
        {name: tuple(value) if isinstance(value, list) and name != "params" else value for name, value in group.items()}
        for group in saved
    ]
    for group, mine in zip(groups, own, strict=True):
        group |= {name: mine[name] for name in SETTINGS if name in mine}
    optimizer.load_state_dict({"state": state, "param_groups": groups})
