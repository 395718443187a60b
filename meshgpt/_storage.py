"""Weights as they lie in a file: as trained, in half precision, or rows of matrices as whole numbers of 8 or 6 bits."""

import torch
import torch.nn.functional as F
from torch import Tensor

HALVES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
MOST = {"int8": 127, "int6": 31}  # the largest whole number
DTYPES = (*HALVES, *MOST)
SCALE = ":scale"  # after the name of a tensor of whole numbers: what one of them is worth, a number a row
SHAPE = ":shape"  # after the name of one whose numbers of 6 bits lie four in three bytes
LEAST_SIZE = 1024  # smaller tensors are not worth it


def stored(state: dict[str, Tensor], dtype: str | None) -> dict[str, Tensor]:
    """The tensors of a file. "int8": 255 steps a row of a matrix, up to its largest entry; the rest is bfloat16.

    "int6": 63 steps a row.
    """
    tensors: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if dtype is None or not tensor.is_floating_point():
            tensors[name] = tensor
        elif dtype in HALVES:
            tensors[name] = tensor.to(HALVES[dtype])
        elif tensor.ndim < 2 or tensor.numel() < LEAST_SIZE:
            tensors[name] = tensor.to(torch.bfloat16)
        else:
            rows = tensor.detach().float().flatten(1)
            scale = rows.abs().amax(dim=1).clamp(min=1e-12) / MOST[dtype]
            whole = (rows / scale[:, None]).round().to(torch.int8)
            tensors[name + SCALE] = scale
            tensors[name] = whole.reshape(tensor.shape) if dtype == "int8" else packed(whole)
            if dtype == "int6":
                tensors[name + SHAPE] = torch.tensor(tensor.shape)
    return tensors


def restored(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights that the tensors of a file stand for; whole numbers become float32."""
    state = {}
    for name, tensor in tensors.items():
        if name.endswith((SCALE, SHAPE)) and name.rpartition(":")[0] in tensors:
            continue
        scale, shape = tensors.get(name + SCALE), tensors.get(name + SHAPE)
        if shape is not None:
            tensor = unpacked(tensor, shape.tolist())
        if scale is not None:
            tensor = (tensor.flatten(1).float() * scale[:, None]).reshape(tensor.shape)
        state[name] = tensor
    return state


def packed(whole: Tensor) -> Tensor:
    """Whole numbers of -32 .. 31, of any shape, as bytes (n): each four of them in three."""
    flat = whole.flatten().to(torch.int32) + 32
    four = F.pad(flat, (0, -len(flat) % 4)).view(-1, 4)
    word = four[:, 0] | four[:, 1] << 6 | four[:, 2] << 12 | four[:, 3] << 18
    return torch.stack((word & 255, word >> 8 & 255, word >> 16), dim=1).flatten().to(torch.uint8)


def unpacked(data: Tensor, shape: list[int]) -> Tensor:
    """The whole numbers in bytes that `packed` gave for a tensor of this shape, int8."""
    three = data.view(-1, 3).to(torch.int32)
    word = three[:, 0] | three[:, 1] << 8 | three[:, 2] << 16
    four = torch.stack([word >> 6 * k & 63 for k in range(4)], dim=1).flatten()
    return (four[: torch.Size(shape).numel()] - 32).to(torch.int8).view(shape)
