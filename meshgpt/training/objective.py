"""An objective says how a model turns a batch into losses; it is all that the trainer knows of a model."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Losses:
    """The loss of one batch, a mean (0-d), and what to log beside it.

    metrics: 0-d means over the batch. counts: over how many things those metrics are means that do not go by
    the objective's `weight`. seen: bools, True for what occurs in the batch; of all batches between two lines of the
    log, and all processes, the share that occurred is told.
    """

    loss: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)
    seen: dict[str, Tensor] = field(default_factory=dict)


class Objective(ABC):
    """How examples become a batch, and a model and a batch become losses."""

    @abstractmethod
    def collate(self, examples: Sequence[Any]) -> Any:
        """One batch, on the CPU."""

    def stand_in(self, example: Any) -> Any:
        """The batch of a process that has nothing of a small last batch: it is weighed with 0, but must be computed.

        Where losses go beyond a process's own batch it should be an empty one, of the kind of `example`.
        """
        return self.collate([example])

    @abstractmethod
    def weight(self, batch: Any) -> float:
        """How many things the loss of this batch is a mean of, by which batches of different sizes are weighed."""

    @abstractmethod
    def losses(self, model: nn.Module, batch: Any) -> Losses:
        """The loss of a batch that is on the model's device."""

    def to_device(self, batch: Any, device: torch.device) -> Any:
        return batch.to(device)

    def summary(self, means: dict[str, float]) -> dict[str, float]:
        """Means over many batches, with what has to be derived from means (perplexity from the loss)."""
        return means

    def copy_model(self, model: nn.Module) -> nn.Module:
        """A second model for the average of the weights."""
        return copy.deepcopy(model)
