"""What all models of fields share: numbers at points that are positive inside, and the mesh of a field."""

from abc import ABC, abstractmethod
from typing import Any, no_type_check

import torch
from jaxtyping import Float
from torch import Tensor, nn

from meshgpt.checkpoint import Pretrained
from meshgpt.mesh.isosurface import ExtractionConfig, Field, Isosurface, extract
from meshgpt.nn.precision import dtype_of


class FieldModel(nn.Module, Pretrained, ABC):
    """A model that says at points in [-1, 1]^3 whether they are inside each of some shapes.

    A shape is a row of `latents`, whatever these are for the model. Positive is inside, as everywhere.
    """

    part = "field"

    @abstractmethod
    def logits(self, latents: Any, points: Float[Tensor, "b n 3"]) -> Float[Tensor, "b n"]:
        """One number for each point of each shape."""

    @no_type_check
    def field(self, latents: Any, index: int = 0) -> Field:
        """The field of shape `index` of `latents`, as `extract` asks it."""
        row = _row(latents, index)
        device = next(self.parameters()).device
        return lambda points: self.logits(row, points.to(device, dtype_of(self))[None])[0]

    @no_type_check
    @torch.no_grad()
    def extract(self, latents: Any = None, config: ExtractionConfig | None = None, **fields) -> list[Isosurface]:
        """The surface of each shape; `fields` are those of `ExtractionConfig`. The model has to be in evaluation mode.

        A model of one shape takes no latents. Nothing is raised for an empty field: `Isosurface.verdict` tells.
        """
        config = (config or ExtractionConfig()).replace(**fields)
        count = 1 if latents is None else len(_first(latents))
        device = next(self.parameters()).device
        return [extract(self.field(latents, index), config, device) for index in range(count)]


def _first(latents: Any) -> Any:
    return latents[0] if isinstance(latents, tuple) else latents


def _row(latents: Any, index: int) -> Any:
    """The shape with a number, as a batch of one."""
    if latents is None or isinstance(latents, tuple):
        return None if latents is None else tuple(part[index : index + 1] for part in latents)
    return latents[index : index + 1]
