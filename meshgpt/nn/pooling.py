"""Means over groups of rows."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def scatter_mean(values: Float[Tensor, "n d"], index: Int[Tensor, " n"], size: int) -> Float[Tensor, "{size} d"]:
    """Mean of the rows of `values` that share an index; zero where no row has it. Sums in float32 or wider."""
    wide = values if values.dtype == torch.float64 else values.float()
    sums = wide.new_zeros((size, values.shape[1])).index_add(0, index, wide)
    counts = torch.bincount(index, minlength=size).clamp(min=1).to(wide.dtype)
    return (sums / counts[:, None]).to(values.dtype)
