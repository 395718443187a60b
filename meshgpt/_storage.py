"""Weights as they lie in a file: as trained, in half precision, or rows of matrices as whole numbers of 8 to 5 bits."""

import numpy as np
import torch
from torch import Tensor

HALVES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
BITS = {"int8": 8, "int6": 6, "int5": 5}  # of whole numbers
DTYPES = (*HALVES, *BITS)
SCALE = ":scale"  # after the name of a tensor of whole numbers: what one of them is worth, a number a row
EXACT = ":exact"  # ends the names of numbers that are never rounded
SHAPE = ":shape"  # after the name of one whose numbers of fewer bits than a byte lie one after the other
LEAST_SIZE, LEAST_LENGTH = 1024, 64  # smaller tensors, and shorter rows, are not worth it
LARGE = 1 << 15  # so many weights bear five bits
CUTS, LEAST_CUT = 9, 0.8  # so many scales are tried for a row, from this share of the one that cuts off nothing


def stored(state: dict[str, Tensor], dtype: str | None) -> dict[str, Tensor]:
    """The tensors of a file. "int8": 255 steps a row of a matrix, up to its largest entry; the rest is bfloat16.

    "int6": 63 steps a row, as wide as makes the sum of squared errors least. "int5": 31 steps where a matrix is large.
    """
    tensors: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if dtype is None or not tensor.is_floating_point() or name.endswith(EXACT):
            tensors[name] = tensor
        elif dtype in HALVES:
            tensors[name] = tensor.to(HALVES[dtype])
        elif tensor.ndim < 2 or (tensor.numel() < LEAST_SIZE and tensor[0].numel() < LEAST_LENGTH):
            tensors[name] = tensor.to(torch.bfloat16)
        else:
            bits = BITS[dtype] if tensor.numel() >= LARGE else max(BITS[dtype], 6)
            whole, tensors[name + SCALE] = rounded(tensor.detach().float().flatten(1), bits)
            tensors[name] = whole.reshape(tensor.shape) if dtype == "int8" else packed(whole, bits)
            if dtype != "int8":
                tensors[name + SHAPE] = torch.tensor(tensor.shape)
    return tensors


def rounded(rows: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Whole numbers (m n) int8, and what one of them is worth in each row (m)."""
    most = 2 ** (bits - 1) - 1
    widest = rows.abs().amax(dim=1).clamp(min=1e-12) / most
    if bits == 8:
        return (rows / widest[:, None]).round().to(torch.int8), widest
    best, scale = torch.full_like(widest, torch.inf), widest
    for cut in torch.linspace(LEAST_CUT, 1.0, CUTS).tolist():
        tried = widest * cut
        error = (rows - (rows / tried[:, None]).round().clamp(-most, most) * tried[:, None]).square().sum(dim=1)
        best, scale = torch.minimum(best, error), torch.where(error < best, tried, scale)
    return (rows / scale[:, None]).round().clamp(-most, most).to(torch.int8), scale


def restored(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights that the tensors of a file stand for; whole numbers become float32."""
    state = {}
    for name, tensor in tensors.items():
        if name.endswith((SCALE, SHAPE)) and name.rpartition(":")[0] in tensors:
            continue
        scale, shape = tensors.get(name + SCALE), tensors.get(name + SHAPE)
        if shape is not None:
            count = torch.Size(shape.tolist()).numel()
            tensor = unpacked(tensor, shape.tolist(), 8 * len(tensor) // max(count, 1))
        if scale is not None:
            tensor = (tensor.flatten(1).float() * scale[:, None]).reshape(tensor.shape)
        state[name] = tensor
    return state


def packed(whole: Tensor, bits: int) -> Tensor:
    """Whole numbers of `bits` bits, of any shape, as bytes (n) that hold them one after the other, low bits first."""
    flat = whole.flatten().numpy().astype(np.int16) + 2 ** (bits - 1)
    places = (flat[:, None] >> np.arange(bits)) & 1
    return torch.from_numpy(np.packbits(places.astype(np.uint8).ravel(), bitorder="little"))


def unpacked(data: Tensor, shape: list[int], bits: int) -> Tensor:
    """The whole numbers in bytes that `packed` gave for a tensor of this shape, int8."""
    count = torch.Size(shape).numel()
    places = np.unpackbits(data.numpy(), count=count * bits, bitorder="little").reshape(count, bits)
    whole = (places.astype(np.int16) << np.arange(bits)).sum(axis=1) - 2 ** (bits - 1)
    return torch.from_numpy(whole.astype(np.int8)).view(shape)
