"""Latent sets from a frozen encoder, made once and kept."""

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol, no_type_check, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from meshgpt.checkpoint import read_tensors, write_tensors, writing
from meshgpt.errors import DataError
from meshgpt.transformer.held import as_in_evaluation


@runtime_checkable
class LatentEncoder(Protocol):
    """Whatever turns shapes into sets of latents: `encode(points, ...)` gives (b m d)."""

    def encode(self, *args: Any, **kwargs: Any) -> Any: ...


@torch.no_grad()
@no_type_check
def encoded(encoder, batches: Iterable[Any]) -> Float[Tensor, "n m d"]:
    """The latents of all batches, on the CPU; a batch that is a tuple holds the arguments of `encode`.

    Tensors are moved to where the encoder's weights are, and it is in evaluation mode meanwhile. Raises `DataError` for
    latents that are not finite or of other sizes than the first, with the number of the batch.
    """
    found: list[Tensor] = []
    with as_in_evaluation(encoder):
        for number, batch in enumerate(batches):
            given = batch if isinstance(batch, tuple) else (batch,)
            latents = encoder.encode(*(_moved(part, encoder) for part in given))
            latents = latents.detach().float().cpu()
            if latents.ndim != 3 or (found and latents.shape[1:] != found[0].shape[1:]):
                first = f", the first were {tuple(found[0].shape)}" if found else ""
                raise DataError(f"batch {number}: latents must be (b, m, d), got {tuple(latents.shape)}{first}")
            if not bool(latents.isfinite().all()):
                row = int((~latents.isfinite()).flatten(1).any(dim=1).nonzero()[0])
                raise DataError(f"batch {number}: the latents of row {row} are not finite")
            found.append(latents)
    if not found:
        raise DataError("there is nothing to encode: no batch was given")
    return torch.cat(found)


@no_type_check
def _moved(part: Any, encoder: Any) -> Any:
    """A tensor where the encoder is, if that is a module with weights."""
    weight = next(encoder.parameters(), None) if isinstance(encoder, nn.Module) else None
    return part.to(weight.device) if isinstance(part, Tensor) and weight is not None else part


@no_type_check
def cached_latents(path, key: str, make: Callable[[], Tensor]) -> Float[Tensor, "n m d"]:
    """The latents in the file `path`, or, where it is missing or was made under another `key`, those of `make()`.

    key: whatever the latents depend on (weights of the encoder, data, seed), as text. Raises `CheckpointError` for a
    file that cannot be read or written.
    """
    path, mark = Path(path), torch.tensor(list(hashlib.sha256(key.encode()).digest()), dtype=torch.uint8)
    if path.is_file():
        stored = read_tensors(path)
        if {"latents", "key"} <= stored.keys() and torch.equal(stored["key"], mark):
            return stored["latents"]
    latents = make()
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}.new")
        write_tensors(fresh, {"latents": latents, "key": mark})
        fresh.replace(path)
    return latents
