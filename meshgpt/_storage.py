"""Weights as they lie in a file: as trained, in half precision, or each row of a matrix as whole numbers of 8 bits."""

import torch
from torch import Tensor

HALVES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DTYPES = (*HALVES, "int8")
SCALE = ":scale"  # after the name of a tensor of whole numbers: what one of them is worth, a number a row
LEAST_SIZE = 1024  # smaller tensors are not worth it


def stored(state: dict[str, Tensor], dtype: str | None) -> dict[str, Tensor]:
    """The tensors of a file. "int8": 255 steps a row of a matrix, up to its largest entry; the rest is bfloat16."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if dtype is None or not tensor.is_floating_point():
            tensors[name] = tensor
        elif dtype != "int8":
            tensors[name] = tensor.to(HALVES[dtype])
        elif tensor.ndim < 2 or tensor.numel() < LEAST_SIZE:
            tensors[name] = tensor.to(torch.bfloat16)
        else:
            rows = tensor.detach().float().flatten(1)
            scale = rows.abs().amax(dim=1).clamp(min=1e-12) / 127
            tensors[name] = (rows / scale[:, None]).round().to(torch.int8).reshape(tensor.shape)
            tensors[name + SCALE] = scale
    return tensors


def restored(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights that the tensors of a file stand for; whole numbers become float32."""
    state = {}
    for name, tensor in tensors.items():
        if name.endswith(SCALE) and name.removesuffix(SCALE) in tensors:
            continue
        scale = tensors.get(name + SCALE)
        if scale is not None:
            tensor = (tensor.flatten(1).float() * scale[:, None]).reshape(tensor.shape)
        state[name] = tensor
    return state
