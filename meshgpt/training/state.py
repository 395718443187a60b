"""The parts of a run as one saved state, and back."""

from dataclasses import dataclass
from typing import Any, no_type_check

import torch
from torch import nn

from meshgpt.checkpoint import fill_module
from meshgpt.errors import CheckpointError
from meshgpt.training.checkpoints import RunState, pack_optimizer, unpack_optimizer
from meshgpt.training.ema import Ema


@dataclass
class RunParts:
    """What a run has to remember beside its step and the random states. `scaler` is that of fp16, if there is one."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    ema: Ema | None = None
    scaler: Any = None

    def pack(self, step: int) -> RunState:
        tensors, numbers = pack_optimizer(self.optimizer)
        state = RunState(step, {"optimizer": numbers}, {"model": self.model.state_dict(), "optimizer": tensors})
        if self.ema is not None:
            state.tensors["ema"] = self.ema.model.state_dict()
            state.values["ema_updates"] = self.ema.updates
        if self.scaler is not None:
            state.values["scaler"] = self.scaler.state_dict()
        return state

    @no_type_check
    def unpack(self, state: RunState, where: str) -> None:
        """Fills the parts. Raises `CheckpointError` for a state that is not that of a run, or does not fit them."""
        missing = sorted(
            {"model", "optimizer"} - set(state.tensors) | {"optimizer", "random", "run"} - set(state.values)
        )
        if missing:
            raise CheckpointError(f"{where} is not the checkpoint of a run: it has no {', '.join(missing)}")
        fill_module(self.model, state.tensors["model"], where)
        unpack_optimizer(self.optimizer, state.tensors["optimizer"], state.values["optimizer"])
        if self.ema is not None:  # a run that kept no average until now begins it with the weights
            fill_module(self.ema.model, state.tensors.get("ema", state.tensors["model"]), where)
            self.ema.updates = state.values.get("ema_updates", 0)
        if self.scaler is not None and "scaler" in state.values:
            self.scaler.load_state_dict(state.values["scaler"])
