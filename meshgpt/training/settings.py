"""How a run trains: one frozen config, and the learning rate as a function of the step."""

import dataclasses
import math

from meshgpt.config import Config

SCHEDULES = ("constant", "cosine", "linear", "wsd")
PRECISIONS = ("no", "bf16", "fp16")
TRACKERS = ("tensorboard", "wandb")


@dataclasses.dataclass(frozen=True)
class TrainerConfig(Config):
    """Settings of a training run. A step changes the weights once, by `grad_accum_every` batches on every process.

    `scheduler`: constant, cosine, linear (to `min_lr_ratio` of the rate), or wsd, which stays constant and falls in the
    last `decay_fraction` of the steps; all after `warmup_steps` (None: 2 % of the steps, at most 1000).
    `max_faces_per_batch` forms batches of at most so many faces, and `batch_size` meshes, instead of `batch_size` each.
    `ema_decay` 0 keeps no average. With `train_only` only weights are learned whose names begin so, such as "draft".
    `checkpoint_folder` is the folder of the run.
    """

    num_train_steps: int = 1000
    batch_size: int = 16
    max_faces_per_batch: int | None = None
    grad_accum_every: int = 1
    learning_rate: float = 2e-4
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.99)
    max_grad_norm: float | None = 1.0
    scheduler: str = "cosine"
    warmup_steps: int | None = None
    min_lr_ratio: float = 0.0
    decay_fraction: float = 0.2
    ema_decay: float = 0.999
    ema_every: int = 1
    ema_warmup: bool = True  # the decay starts low and rises to `ema_decay`
    val_every: int = 500
    val_num_batches: int = 5
    val_with_ema: bool = True
    log_every: int = 10
    checkpoint_every: int = 1000
    checkpoint_folder: str = "./checkpoints"
    keep_checkpoints: int = 3
    seed: int = 0
    mixed_precision: str = "no"
    num_workers: int = 0  # processes that assemble batches; 0: the training process itself
    compile_model: bool = False
    train_only: str = ""
    find_unused_parameters: bool = False
    expected_processes: int | None = None
    trackers: tuple[str, ...] = ()
    use_wandb_tracking: bool = False
    project: str = "meshgpt"
    progress: bool = True

    def validate(self) -> None:
        for field in ("num_train_steps", "batch_size", "grad_accum_every", "ema_every", "val_every", "val_num_batches"):
            self.require(getattr(self, field) >= 1, field, "be at least 1")
        for field in ("log_every", "checkpoint_every", "keep_checkpoints"):
            self.require(getattr(self, field) >= 1, field, "be at least 1")
        for field in ("max_faces_per_batch", "expected_processes"):
            self.require(getattr(self, field) is None or getattr(self, field) >= 1, field, "be None or at least 1")
        self.require(self.learning_rate > 0, "learning_rate", "be positive")
        self.require(self.weight_decay >= 0, "weight_decay", "not be negative")
        self.require(self.max_grad_norm is None or self.max_grad_norm > 0, "max_grad_norm", "be None or positive")
        self.require(self.scheduler in SCHEDULES, "scheduler", f"be one of {', '.join(SCHEDULES)}")
        self.require(self.warmup_steps is None or self.warmup_steps >= 0, "warmup_steps", "be None or not negative")
        self.require(0 <= self.min_lr_ratio <= 1, "min_lr_ratio", "lie in [0, 1]")
        self.require(0 < self.decay_fraction <= 1, "decay_fraction", "lie in (0, 1]")
        self.require(0 <= self.ema_decay < 1, "ema_decay", "lie in [0, 1)")
        self.require(self.mixed_precision in PRECISIONS, "mixed_precision", f"be one of {', '.join(PRECISIONS)}")
        self.require(self.num_workers >= 0, "num_workers", "not be negative")
        self.require(set(self.trackers) <= set(TRACKERS), "trackers", f"be among {', '.join(TRACKERS)}")

    @property
    def all_trackers(self) -> tuple[str, ...]:
        wandb = self.use_wandb_tracking and "wandb" not in self.trackers
        return (*self.trackers, "wandb") if wandb else self.trackers

    @property
    def num_warmup_steps(self) -> int:
        return min(self.num_train_steps // 50, 1000) if self.warmup_steps is None else self.warmup_steps


def learning_rate_at(step: int, config: TrainerConfig) -> float:
    """The rate with which step `step`, counted from 0, is taken; a function of these alone, with no state to save."""
    warmup = config.num_warmup_steps
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    done = min((step - warmup) / max(config.num_train_steps - warmup, 1), 1.0)
    return config.learning_rate * (config.min_lr_ratio + (1 - config.min_lr_ratio) * _height(done, config))


def _height(done: float, config: TrainerConfig) -> float:
    """Between 1 at the start and 0 at the end, `done` of the way after the warm-up."""
    if config.scheduler == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    if config.scheduler == "linear":
        return 1 - done
    if config.scheduler == "wsd":
        return min((1 - done) / config.decay_fraction, 1.0)
    return 1.0
