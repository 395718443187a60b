"""The training loop: the same for every model, on one process or many."""

import contextlib
import functools
import math
import signal
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, no_type_check

import numpy as np
import torch
from torch import Tensor, nn

from meshgpt.checkpoint import Pretrained
from meshgpt.config import resolve_config
from meshgpt.errors import ConfigError, NonFiniteLossError, TrainingError
from meshgpt.training.checkpoints import RunCheckpoints, RunState, read_checkpoint, write_checkpoint
from meshgpt.training.ema import Ema
from meshgpt.training.examples import Examples
from meshgpt.training.identity import INDIFFERENT, changes, described, short_hash
from meshgpt.training.loader import BatchLoader, LoadedBatch
from meshgpt.training.log import RunLog
from meshgpt.training.memory import keep_freed_memory
from meshgpt.training.meter import Meter
from meshgpt.training.objective import Losses, Objective
from meshgpt.training.processes import build_accelerator, gathered, on_main, summed
from meshgpt.training.randomness import RawRandomState, own_randomness, seed_everything, set_random_state
from meshgpt.training.sampler import BatchSampler
from meshgpt.training.settings import TrainerConfig, learning_rate_at
from meshgpt.training.signals import StopSignals
from meshgpt.training.state import RunParts


class Trainer:
    """Trains `model` on `examples` as `objective` says; `trainer()` runs to the last step.

    The run's folder (`checkpoint_folder`) receives metrics.jsonl, checkpoints/ and, for models that can be saved, their
    config.json and model.safetensors with the averaged weights. `trainer.resume()` before `trainer()` goes on from the
    newest whole checkpoint, bit for bit. `weights` (n,) draws examples with those probabilities.

    Ctrl-C and SIGTERM end the run after the step, saved. Raises `TrainingError` for a folder that has another run's
    checkpoints, `NonFiniteLossError` for a loss that is NaN or infinite, after saving the state before that step.
    """

    @no_type_check
    def __init__(
        self,
        model,
        examples,
        objective,
        config=None,
        *,
        val_examples=None,
        weights=None,
        accelerator_kwargs=None,
        **keywords,
    ):
        self.config: TrainerConfig = resolve_config(TrainerConfig, config, keywords)
        self.model, self.objective, self.weights = model, objective, weights
        self.examples = _as_examples(examples)
        self.val_examples = None if val_examples is None else _as_examples(val_examples)
        self.step = 0
        self.accelerator = build_accelerator(self.config, accelerator_kwargs)
        self.loader = self._loader(self.examples, self.weights, self.config.seed)
        if self.val_examples is not None:
            self._val_loader()  # raises now for what would otherwise stop the training half way
        self.checkpoints = RunCheckpoints(self.folder / "checkpoints", self.config.keep_checkpoints)
        self.log_file = RunLog(self.folder, self.config.num_train_steps, self.config.progress, self.is_main)
        self._prepare()

    def _prepare(self) -> None:
        config, accelerator = self.config, self.accelerator
        if accelerator.device.type == "cpu":
            keep_freed_memory()
        self.model.to(accelerator.device)
        self.ema: Ema | None = None
        if config.ema_decay:
            average = self.objective.copy_model(self.model).to(accelerator.device)
            self.ema = Ema(self.model, average, config.ema_decay, config.ema_warmup)
        self._held = self._others()
        self._hold(True)
        step_module: nn.Module = _LossModule(self.model, self.objective)
        if config.compile_model:
            step_module = compiled(step_module)
        self.module = accelerator.prepare(step_module)
        self.optimizer = accelerator.prepare(self.make_optimizer())
        self.parts = RunParts(self.model, self.optimizer.optimizer, self.ema, accelerator.scaler)
        self._meter = Meter(accelerator)
        self._before_step: RawRandomState | None = None
        self._resumed = False
        self._saved_random_state: dict[str, Any] | None = None

    def _others(self) -> list[nn.Parameter]:
        """The weights that `train_only` leaves as they are. Raises `TrainingError` where that are all."""
        only = self.config.train_only
        weights = [(name, weight) for name, weight in self.model.named_parameters() if weight.requires_grad]
        others = [weight for name, weight in weights if not name.startswith(only)]
        if others and len(others) == len(weights):
            raise TrainingError(f"{type(self.model).__name__} has no weights to train: none begins with {only!r}")
        return others

    def _hold(self, held: bool) -> None:
        """Keeps the weights that are not to be learned out of the graph, or lets them into it again."""
        for weight in self._held:
            weight.requires_grad_(not held)

    def make_optimizer(self) -> torch.optim.Optimizer:
        """AdamW, or another optimizer in subclasses; weights of one dimension are never decayed."""
        weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        if not weights:
            raise TrainingError(f"{type(self.model).__name__} has no weights to train: all have requires_grad = False")
        groups = [
            {"params": [weight for weight in weights if weight.ndim >= 2], "weight_decay": self.config.weight_decay},
            {"params": [weight for weight in weights if weight.ndim < 2], "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
        return torch.optim.AdamW(groups, lr=self.config.learning_rate, betas=self.config.betas, fused=True)

    def _loader(self, examples: Examples, weights: Any, seed: int, whole: bool = True) -> BatchLoader:
        config, processes = self.config, self.accelerator.num_processes
        size = config.batch_size * processes
        limit = config.max_faces_per_batch and self._size_limit(config.max_faces_per_batch) * processes
        sampler = BatchSampler(examples.sizes, size if whole else min(size, len(examples)), seed, limit, weights)
        return BatchLoader(examples, self.objective, sampler, self.accelerator.process_index, processes)

    def _val_loader(self) -> BatchLoader:
        if self.val_examples is None:
            raise TrainingError("there is nothing to validate on: give val_dataset")
        return self._loader(self.val_examples, None, self.config.seed, whole=False)

    def _size_limit(self, faces: int) -> int:
        """The size, in what `examples.sizes` counts, that `faces` faces have."""
        return faces

    # who and where

    @property
    def folder(self) -> Path:
        return Path(self.config.checkpoint_folder)

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    @property
    def is_main(self) -> bool:
        return self.accelerator.is_main_process

    @property
    def ema_model(self) -> nn.Module:
        """The model with averaged weights, in evaluation mode; the model itself where no average is kept."""
        return self.model if self.ema is None else self.ema.model

    # the loop

    def __call__(self) -> dict[str, float]:
        """Trains up to the last step and saves; gives the last figures that were logged."""
        self._begin()
        self._hold(True)
        try:
            with StopSignals() as signals, self._tracking():
                while self.step < self.config.num_train_steps:
                    started = time.monotonic()
                    stop = self.train_step(signals)
                    self._seconds += time.monotonic() - started
                    self._after_step()
                    if stop:
                        self._stop(stop)
        finally:
            self._hold(False)
            self._batches = iter(())  # ends the workers, which heed no signal
            self.log_file.end()
        if self._saved_at != self.step:
            self.save()
        return self._figures

    forward = __call__

    def _begin(self) -> None:
        others = self.checkpoints.steps()
        if self.step == 0 and others and not self._resumed:
            what = f"{self.folder} has the checkpoints of a run up to step {others[-1]}"
            raise TrainingError(f"{what}: go on with it (resume), or choose another folder, or remove it")
        self.model.train()
        self._begin_randomness()
        self._figures: dict[str, float] = {}
        self._saved_at: int | None = None  # a resumed run saves again, in case it was killed before the model's export
        self.log_file.begin(self.step)
        self._seconds = 0.0  # spent on steps since figures were last logged
        first, end = (step * self.config.grad_accum_every for step in (self.step, self.config.num_train_steps))
        self._batches: Iterator[LoadedBatch] = self.loader.from_number(first, end, self.config.num_workers)

    def _begin_randomness(self) -> None:
        """Draws begin here, so that nothing that was drawn since the trainer was made changes the run."""
        if self._saved_random_state is not None:
            set_random_state(self._saved_random_state)
        elif self.step == 0:
            seed_everything(self.config.seed + self.accelerator.process_index)
        self._saved_random_state = None

    @no_type_check
    def train_step(self, signals: StopSignals) -> int:
        """Changes the weights once; gives the signal that asked for an end, or 0."""
        self._before_step = RawRandomState()
        batches = [next(self._batches) for _ in range(self.config.grad_accum_every)]
        total = float(summed(self.accelerator, [sum(batch.weight for batch in batches)]))
        loss = sum(self._backward(batch, total, batch is batches[-1]) for batch in batches)
        mean, stop = summed(self.accelerator, [loss, signals.received or 0]).tolist()
        stop = int(stop) and (signals.received or signal.SIGTERM)
        if not math.isfinite(mean):
            self._refuse(f"the loss is {mean}", batches, loss)
        limit = math.inf if self.config.max_grad_norm is None else self.config.max_grad_norm
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), limit)
        if self.accelerator.scaler is None and not math.isfinite(norm):
            self._refuse(f"the loss is {mean:.4g}, but its gradient is {float(norm)}", batches, None)
        self._update(mean, norm)
        return stop

    @no_type_check
    def _backward(self, batch: LoadedBatch, total: float, last: bool) -> Tensor:
        """Adds the gradient of this batch's part of the mean over all batches and processes; gives that part."""
        share = batch.weight / total if total else 0.0  # nothing but meshes that vanish on the grid: no gradient
        moved = self.objective.to_device(batch.batch, self.device)
        with contextlib.nullcontext() if last else self.accelerator.no_sync(self.module):
            result = self.module(moved, batch.weight == 0)
            # processes' gradients are averaged, while parts add up: hence the number of processes
            self.accelerator.backward(result.loss * (share * self.accelerator.num_processes))
        self._meter.add(result, batch.weight)
        return result.loss.detach().float() * share if share else result.loss.new_zeros(())

    def _update(self, loss: float, norm: Any) -> None:
        self._rate = learning_rate_at(self.step, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        if self.ema is not None and self.step % self.config.ema_every == 0:
            self.ema.update()
        self._norm = norm
        self.log_file.advance()

    @no_type_check
    def _refuse(self, what: str, batches: list[LoadedBatch], loss: Tensor | None) -> None:
        """Saves the state before this step and raises `NonFiniteLossError` that names the meshes."""
        mine = [int(i) for batch in batches for i in batch.indices]
        guilty = loss is None or not math.isfinite(loss)
        indices = [i for part in gathered(self.accelerator, mine if guilty else []) for i in part]
        names = ", ".join(self.examples.name(i) for i in indices[:8]) + (", ..." if len(indices) > 8 else "")
        number = self.step * self.config.grad_accum_every
        self.optimizer.zero_grad()
        kept = "its state before this step could not be kept: the weights are not finite"
        if all(bool(tensor.isfinite().all()) for tensor in self.model.state_dict().values()):
            kept = f"the state before this step is in {self.save(random_state=self._before_step)}"
        raise NonFiniteLossError(f"step {self.step}: {what} in batch {number} ({names}); {kept}")

    def _after_step(self) -> None:
        config = self.config
        if self.step % config.log_every == 0 or self.step == config.num_train_steps:
            self._log_training()
        if self.val_examples is not None and (self.step % config.val_every == 0 or self.step == config.num_train_steps):
            self.log(**{f"val_{name}": value for name, value in self.validate().items()})
        if self.step % config.checkpoint_every == 0:
            self.save()

    def _stop(self, number: int) -> None:
        if self._saved_at != self.step:
            self.save()
        self.log_file.say(f"stopped at step {self.step} and saved to {self.folder}; go on with resume (--resume)")
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

    # figures

    def _log_training(self) -> None:
        means = self.objective.summary(self._meter.means())
        seconds = self._seconds / ((self.step - 1) % self.config.log_every + 1)
        self._seconds = 0.0
        epoch = self.step * self.config.grad_accum_every / self.loader.sampler.batches_per_epoch
        extra = {
            "learning_rate": self._rate,
            "grad_norm": float(self._norm),
            "epoch": epoch,
            "seconds_per_step": seconds,
        }
        self.log(**means, **extra)

    def log(self, **figures: float) -> None:
        """Writes figures of the current step to metrics.jsonl, the terminal and the trackers."""
        self._figures = {**getattr(self, "_figures", {}), **figures}
        self.log_file.write(self.step, figures)
        if self.config.all_trackers:
            self.accelerator.log(figures, step=self.step)

    def validate(self) -> dict[str, float]:
        """Mean figures over `val_num_batches` batches of validation data, always the same; the model keeps its mode."""
        loader = self._val_loader()
        meter, model = Meter(self.accelerator), self.ema_model if self.config.val_with_ema else self.model
        seed = self.config.seed + self.accelerator.process_index
        with torch.no_grad(), evaluating(model), own_randomness(seed), self.accelerator.autocast():
            for number in range(min(self.config.val_num_batches, loader.sampler.batches_per_epoch)):
                batch = loader[number]
                meter.add(
                    self.objective.losses(model, self.objective.to_device(batch.batch, self.device)), batch.weight
                )
        return self.objective.summary(meter.means())

    @contextlib.contextmanager
    def _tracking(self) -> Iterator[None]:
        if self.config.all_trackers:
            settings = {
                name: value for name, value in self.config.to_dict().items() if isinstance(value, (int, float, str))
            }
            self.accelerator.init_trackers(self.config.project, config=settings)
        try:
            yield
        finally:
            if self.config.all_trackers:
                self.accelerator.end_training()

    # saving and loading

    @no_type_check
    def save(self, path=None, random_state: RawRandomState | None = None) -> Path:
        """Saves all that the run needs to go on, among the run's checkpoints (model beside them), or as folder `path`.

        Raises `CheckpointError` if it cannot be written; older checkpoints are then as they were.
        """
        state = self.parts.pack(self.step)
        state.values |= {"config": self.config.to_dict(), "run": self._identity()}
        state.values["random"] = gathered(self.accelerator, (random_state or RawRandomState()).to_dict())

        def write() -> None:
            if path is not None:
                write_checkpoint(path, state)
                return
            self.checkpoints.save(state)
            if isinstance(self.ema_model, Pretrained):
                self.ema_model.save_pretrained(self.folder)

        on_main(self.accelerator, write)
        self._saved_at = self.step
        return self.checkpoints.path(self.step) if path is None else Path(path)

    def _identity(self) -> dict[str, Any]:
        """What must be equal for a run to go on exactly as it would have."""
        settings = {name: value for name, value in self.config.to_dict().items() if name not in INDIFFERENT}
        settings["mixed_precision"] = self.accelerator.mixed_precision
        settings["processes"] = self.accelerator.num_processes
        settings["weights"] = None if self.weights is None else short_hash(np.asarray(self.weights, dtype=float))
        return {**settings, **described("model", getattr(self.model, "config", None)), **self._examples_identity}

    @functools.cached_property
    def _examples_identity(self) -> dict[str, Any]:
        return self.examples.identity

    def resume(self) -> bool:
        """Goes back to the newest whole checkpoint of this run's folder; False where there is none yet."""
        on_main(self.accelerator, self.checkpoints.tidy)
        state = self.checkpoints.load_newest()
        if state is not None:
            self._restore(state, f"step {state.step} of {self.folder}")
        return state is not None

    @no_type_check
    def load(self, path) -> None:
        """Goes back to the checkpoint folder `path`, or the newest one in the run folder `path`.

        Raises `CheckpointError` where there is none, or one that does not fit the model.
        """
        path = Path(path)
        state = RunCheckpoints(path / "checkpoints").load_newest() if (path / "checkpoints").is_dir() else None
        self._restore(state or read_checkpoint(path), str(path))

    @no_type_check
    def _restore(self, state: RunState, where: str) -> None:
        self.parts.unpack(state, where)
        what = changes(state.values["run"], self._identity(), state.step)
        if what:
            warnings.warn(f"{where}: {'; '.join(what)}; the run goes on, but not as it would have", stacklevel=3)
        self.step, self._resumed = state.step, True
        random_states = state.values["random"]
        if self.accelerator.process_index < len(random_states):
            self._saved_random_state = random_states[self.accelerator.process_index]


class _LossModule(nn.Module):
    """What Accelerate wraps: its `forward` is the objective's, so that a model needs none of its own."""

    def __init__(self, model: nn.Module, objective: Objective):
        super().__init__()
        self.model, self.objective = model, objective

    @no_type_check
    def forward(self, batch: Any, empty: bool = False) -> Losses:
        """The losses; of an `empty` batch every weight takes part, as the other processes wait for its gradient."""
        losses = self.objective.losses(self.model, batch)
        loss = losses.loss.float()
        if empty:
            loss = loss + 0.0 * sum(weight.sum() for weight in self.model.parameters() if weight.requires_grad)
        return replace(losses, loss=loss)


@contextlib.contextmanager
@no_type_check
def evaluating(model: nn.Module) -> Iterator[None]:
    """A block in which `model` is in evaluation mode; every module in it returns to the mode that it had."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@no_type_check
def compiled(module: nn.Module) -> nn.Module:
    """The module compiled; raises `ConfigError` where shape checking is on, which torch.compile cannot follow."""
    from meshgpt._env import flag

    if flag("TYPECHECK"):
        raise ConfigError("compile_model = True and TYPECHECK exclude each other: switch one of them off")
    return torch.compile(module)


@no_type_check
def _as_examples(examples: Any) -> Examples:
    return examples if isinstance(examples, Examples) else Examples(examples)
