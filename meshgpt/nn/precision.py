"""In what numbers a module computes."""

import torch
from torch import nn


def dtype_of(module: nn.Module) -> torch.dtype:
    """That of its weights; float32 where it has none, as layers have that keep theirs in other ways."""
    return next((weight.dtype for weight in module.parameters()), torch.float32)
