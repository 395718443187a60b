"""How latent diffusion learns: from cached latents and what is known of each, with a gauge beside the loss."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, no_type_check

import torch
from jaxtyping import Float
from torch import Tensor, nn

from meshgpt.config import resolve_config
from meshgpt.errors import DataError
from meshgpt.shapes.diffusion.floors import explained_fraction, floor_loss, optimal_loss
from meshgpt.training.examples import Examples
from meshgpt.training.field_trainers import BestKeepingTrainer
from meshgpt.training.objective import Losses, Objective
from meshgpt.training.settings import TrainerConfig
from meshgpt.transformer.conditions import Conditions

MOST_ROWS = 4096  # whose optimum is looked for


@dataclass(frozen=True)
class LatentBatch:
    """Latents and what is asked of each row."""

    latents: Float[Tensor, "b m d"]
    conditions: Conditions | None = None

    def to(self, device: Any) -> "LatentBatch":
        conditions = None if self.conditions is None else self.conditions.to(device, non_blocking=True)
        return replace(self, latents=self.latents.to(device, non_blocking=True), conditions=conditions)


class LatentExamples(Examples):
    """n sets of latents (n m d) and the conditions of as many rows, or None."""

    @no_type_check
    def __init__(self, latents, conditions=None):
        latents = torch.as_tensor(latents).detach().cpu()
        if latents.ndim != 3 or not len(latents):
            raise DataError(f"latents must be (n, m, d) with n at least 1, got {tuple(latents.shape)}")
        if conditions is not None and len(conditions) != len(latents):
            raise DataError(f"conditions of {len(conditions)} rows for {len(latents)} sets of latents")
        super().__init__(latents)
        self.conditions = None if conditions is None else conditions.to("cpu")

    def get(self, index: int, epoch: int) -> LatentBatch:
        rows = torch.tensor([index])
        return LatentBatch(self.dataset[rows], None if self.conditions is None else self.conditions.select(rows))

    def name(self, index: int) -> str:
        return f"latents {index}"

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(self.dataset.float().contiguous().numpy().tobytes()).hexdigest()


class LatentObjective(Objective):
    """The loss of a `LatentDiffusion`, and how much of what there is to know it shows.

    `explained` is 0 where only mean and spread of latents are known (loss `floor`), 1 where each is known by heart
    (loss `optimum`), and below 0 where not even the spread is.
    """

    def __init__(self, floor: float, optimum: float = 0.0):
        self.floor, self.optimum = floor, optimum

    @classmethod
    @no_type_check
    def of(cls, model, latents) -> "LatentObjective":
        """With the floor of the model's process, and the optimum on these latents, or on some of them if many."""
        rows = torch.linspace(0, len(latents) - 1, min(len(latents), MOST_ROWS)).long()
        with torch.no_grad():
            known = model.normalized(latents[rows])
        std = model.config.diffusion.sigma_data
        return cls(floor_loss(model.process, std), optimal_loss(model.process, known))

    def collate(self, examples: Sequence[LatentBatch]) -> LatentBatch:
        asked = [example.conditions for example in examples if example.conditions is not None]
        return LatentBatch(
            torch.cat([example.latents for example in examples]), Conditions.join(asked) if asked else None
        )

    def weight(self, batch: LatentBatch) -> float:
        return float(len(batch.latents))

    def losses(self, model: nn.Module, batch: LatentBatch) -> Losses:
        found: Any = model.losses(batch.latents, batch.conditions)  # type: ignore[operator]
        metrics = {"error": found.error.detach()}
        if model.config.num_experts:  # type: ignore[union-attr]
            metrics["balance"] = found.balance.detach()
        return Losses(found.loss, metrics)

    def summary(self, means: dict[str, float]) -> dict[str, float]:
        if "error" not in means:
            return means
        return {**means, "explained": explained_fraction(means["error"], self.floor, self.optimum)}


class LatentDiffusionTrainer(BestKeepingTrainer):
    """Trains a `LatentDiffusion`: `LatentDiffusionTrainer(model, latents, conditions, num_train_steps = 1000, ...)()`.

    latents: (n m d), those of a frozen autoencoder (`meshgpt.shapes.latents`). conditions: what is known of each, from
    `model.conditions_of(...)`. In place of both `LatentExamples`, such as `asked_latents` makes of a data set. A model
    that does not know yet how large latents are takes it from these. The model of the least loss on `val_latents` is
    kept too. Further keywords are the fields of `TrainerConfig`.
    """

    @no_type_check
    def __init__(
        self,
        model,
        latents,
        conditions=None,
        config=None,
        *,
        val_latents=None,
        val_conditions=None,
        weights=None,
        **keywords,
    ):
        accelerator_kwargs = keywords.pop("accelerator_kwargs", None)
        config = resolve_config(TrainerConfig, config, keywords)
        examples = _as_latents(latents, conditions)
        if int(model.num_fitted) == 0:
            model.fit_latents(examples.dataset)
        super().__init__(
            model,
            examples,
            LatentObjective.of(model, examples.dataset),
            config,
            val_examples=None if val_latents is None else _as_latents(val_latents, val_conditions),
            weights=weights,
            accelerator_kwargs=accelerator_kwargs,
        )


@no_type_check
def _as_latents(latents, conditions) -> LatentExamples:
    if not isinstance(latents, LatentExamples):
        return LatentExamples(latents, conditions)
    if conditions is not None:
        raise DataError("these latents know what is asked of them: leave conditions out")
    return latents
