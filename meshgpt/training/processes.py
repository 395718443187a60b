"""Devices and processes, by Accelerate: setting it up, sums over processes, and a check that all of them are there."""

import os
import warnings
from pathlib import Path
from typing import Any, no_type_check

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, gather_object
from torch import Tensor

from meshgpt.errors import TrainingError
from meshgpt.training.log import require_trackers
from meshgpt.training.settings import TrainerConfig


@no_type_check
def build_accelerator(config: TrainerConfig, keywords: dict[str, Any] | None = None) -> Accelerator:
    """An `Accelerator` for `config`; `keywords` go to its constructor before those, and are not changed.

    Raises `MissingExtraError` for a tracker that is not installed; warns if there are fewer processes than asked for.
    """
    require_trackers(config.all_trackers)
    keywords = {"mixed_precision": config.mixed_precision, **(keywords or {})}
    if config.all_trackers:
        keywords.setdefault("log_with", list(config.all_trackers))
        keywords.setdefault("project_dir", config.checkpoint_folder)
    handlers = list(keywords.pop("kwargs_handlers", None) or ())
    if not any(isinstance(handler, DistributedDataParallelKwargs) for handler in handlers):
        handlers.append(DistributedDataParallelKwargs(find_unused_parameters=config.find_unused_parameters))
    if AcceleratorState._shared_state:  # an earlier trainer's precision would otherwise be the only one in this process
        AcceleratorState._reset_state()
    accelerator = Accelerator(kwargs_handlers=handlers, **keywords)
    warn_of_missing_processes(accelerator.num_processes, config.expected_processes)
    return accelerator


@no_type_check
def warn_of_missing_processes(present: int, expected: int | None = None) -> None:
    """`accelerate launch --cpu --num_processes 2` starts one process and says nothing; this does."""
    expected = expected or _asked_of_launcher(Path(f"/proc/{os.getppid()}/cmdline"))
    if expected and expected != present:
        how = f"start them with: torchrun --nproc_per_node {expected} (on CPUs with ACCELERATE_USE_CPU=1)"
        warnings.warn(f"{expected} processes were asked for, but there are {present}; {how}", stacklevel=3)


def _asked_of_launcher(command_line: Path) -> int | None:
    """What `--num_processes` of the launcher that started this process says, where the system shows it."""
    try:
        words = command_line.read_bytes().decode("utf-8", "replace").replace("=", "\0").split("\0")
    except OSError:
        return None
    if not any(Path(word).name.startswith("accelerate") for word in words[:3]):
        return None
    for name, value in zip(words, words[1:], strict=False):
        if name in ("--num_processes", "--num-processes") and value.isdigit():
            return int(value)
    return None


@no_type_check
def summed(accelerator: Accelerator, values: list[Any]) -> Tensor:
    """float64 sums (float32 where the device has no more) over all processes of numbers and 0-d tensors."""
    alone = accelerator.num_processes == 1
    if alone and not any(isinstance(value, Tensor) for value in values):
        return torch.tensor(values, dtype=torch.float64)  # without waiting for the device
    dtype = torch.float32 if accelerator.device.type == "mps" else torch.float64
    parts = [torch.as_tensor(value, device=accelerator.device).detach().to(dtype).reshape(()) for value in values]
    return torch.stack(parts) if alone else accelerator.reduce(torch.stack(parts), reduction="sum")


@no_type_check
def gathered(accelerator: Accelerator, value: Any) -> list[Any]:
    """The `value` of every process, in order."""
    return [value] if accelerator.num_processes == 1 else gather_object([value])


@no_type_check
def on_main(accelerator: Accelerator, action: Any) -> Any:
    """What `action()` gives on the main process, None elsewhere; when it fails there, every process raises.

    The others wait, so what the main process writes is there when this returns.
    """
    result, failure = None, None
    if accelerator.is_main_process:
        try:
            result = action()
        except Exception as error:
            failure = error
    reports = gathered(accelerator, None if failure is None else str(failure))
    if failure is not None:
        raise failure
    if reports[0] is not None:
        raise TrainingError(f"the main process failed: {reports[0]}")
    return result
