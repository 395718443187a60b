"""What a run depends on, as names and JSON values: by these a run that goes on tells what has been changed."""

import hashlib
import json
from typing import Any, no_type_check

import numpy as np

from meshgpt.config import Config
from meshgpt.fingerprint import described_by_content

# fields of a trainer's config that change what is seen of a run, or how fast it is, and not what it learns
INDIFFERENT = frozenset(
    {
        *("checkpoint_folder", "checkpoint_every", "keep_checkpoints", "log_every", "trackers", "use_wandb_tracking"),
        *("project", "progress", "val_every", "val_num_batches", "val_with_ema", "num_workers", "expected_processes"),
        *("find_unused_parameters",),
    }
)
LONGEST = 64  # characters of a value that are shown


@no_type_check
def described(name: str, value: Any) -> dict[str, Any]:
    """`value` under `name`: a config by its class and fields ("name.field"), what is no JSON value by kind and hash."""
    if isinstance(value, Config):
        return {name: type(value).__name__, **{f"{name}.{field}": held for field, held in value.to_dict().items()}}
    if value is None or isinstance(value, (bool, int, float, str)):
        return {name: value}
    return {name: f"{getattr(value, '__name__', type(value).__name__)} ({short_hash(value)})"}


@no_type_check
def short_hash(value: Any) -> str:
    """Twelve digits that are equal for equal content."""
    content = value.tobytes() if isinstance(value, np.ndarray) else json.dumps(described_by_content(value)).encode()
    return hashlib.sha256(content).hexdigest()[:12]


@no_type_check
def changes(before: dict[str, Any], now: dict[str, Any], step: int) -> list[str]:
    """What of `before`, the identity of a run at `step`, is another one now: "betas was [0.9, 0.99], is now ..." each.

    A schedule that was at its end, or that knows no end, may get more steps. Names that only one of the two has are
    left out: fields of another kind of thing, whose own name tells, and what older versions did not save.
    """
    now = json.loads(json.dumps(now))
    differing = [name for name in now if name in before and before[name] != now[name]]
    if now.get("scheduler") == "constant" or step >= before.get("num_train_steps", 0):
        differing = [name for name in differing if name != "num_train_steps"]
    return [f"{name} was {_shown(before[name])}, is now {_shown(now[name])}" for name in differing]


@no_type_check
def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
