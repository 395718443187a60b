"""What a run says while it runs: a bar with the time left, a line now and then, and every figure in metrics.jsonl."""

import importlib.util
import json
import os
import sys
import time
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, no_type_check

from tqdm import tqdm

from meshgpt.errors import MissingExtraError

METRICS_FILE = "metrics.jsonl"


def require_trackers(names: Iterable[str]) -> None:
    """Raises `MissingExtraError` for a tracker whose package is not installed."""
    for name in names:
        packages = ("tensorboard", "tensorboardX") if name == "tensorboard" else (name,)
        if not any(importlib.util.find_spec(package) for package in packages):
            raise MissingExtraError(name, name, f"tracking with {name}")


class RunLog:
    """Writes metrics of the main process: one JSON object a line, the bar on a terminal, plain lines elsewhere."""

    @no_type_check
    def __init__(self, folder: Path, num_steps: int, progress: bool = True, is_main: bool = True):
        self.path, self.num_steps, self.is_main = Path(folder) / METRICS_FILE, num_steps, is_main
        self.show = progress and is_main
        self.bar: tqdm | None = None
        self.started, self.first_step = time.monotonic(), 0

    def begin(self, step: int) -> None:
        """Starts at `step`; figures of later steps, left by a run that was resumed from before them, are dropped."""
        self.started, self.first_step = time.monotonic(), step
        if self.is_main:
            _drop_later(self.path, step)
        if self.show and sys.stderr.isatty():
            self.bar = tqdm(total=self.num_steps, initial=step, unit="step", dynamic_ncols=True)

    def advance(self) -> None:
        if self.bar is not None:
            self.bar.update()

    @no_type_check
    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Adds a line to metrics.jsonl and shows it. If the file cannot be written, warns and goes on."""
        if not self.is_main:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **metrics}) + "\n")
        except OSError as error:
            warnings.warn(f"cannot write {self.path}: {error.strerror}; the run goes on without it", stacklevel=2)
        self.say(f"step {step}/{self.num_steps}  {describe(metrics)}  {self.time_left(step)}")

    @no_type_check
    def say(self, text: str) -> None:
        """A line for people, above the bar where there is one."""
        if self.bar is not None:
            self.bar.write(text)
        elif self.show:
            sys.stdout.write(text + "\n")
            sys.stdout.flush()

    def time_left(self, step: int) -> str:
        """The time that the remaining steps will take at the mean speed so far."""
        done = step - self.first_step
        if done <= 0 or step >= self.num_steps:
            return ""
        seconds = (time.monotonic() - self.started) / done * (self.num_steps - step)
        return f"{tqdm.format_interval(seconds)} left"

    def end(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None


@no_type_check
def describe(metrics: dict[str, Any]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())


def read_metrics(folder: str | Path) -> list[dict[str, Any]]:
    """All lines of metrics.jsonl in `folder`; a last line that was cut off is left out."""
    path, lines = Path(folder) / METRICS_FILE, []
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:
                continue
    return lines


def _drop_later(path: Path, step: int) -> None:
    if not path.is_file():
        return
    kept = [line for line in read_metrics(path.parent) if line["step"] <= step]
    fresh = path.with_suffix(".new")
    fresh.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
    os.replace(fresh, path)
