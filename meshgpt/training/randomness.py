"""Random states as plain JSON values, so that a resumed run draws what the first would have drawn."""

import base64
import contextlib
import random
from collections.abc import Iterator
from typing import Any, no_type_check

import numpy as np
import torch
from torch import Tensor


def seed_everything(seed: int) -> None:
    """Seeds torch (all devices), numpy and Python."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


class RawRandomState:
    """The state of all generators of this process at the time it is made; cheap enough for every step."""

    def __init__(self) -> None:
        self.torch = torch.get_rng_state()
        self.numpy = np.random.get_state(legacy=True)
        self.python = random.getstate()
        self.cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() and torch.cuda.is_initialized() else None

    @no_type_check
    def to_dict(self) -> dict[str, Any]:
        """The same as JSON values."""
        _, keys, position, has_gauss, gauss = self.numpy
        version, internal, gauss_next = self.python
        state = {
            "torch": _text(self.torch),
            "numpy": [np.asarray(keys).tolist(), int(position), int(has_gauss), float(gauss)],
            "python": [version, list(internal), gauss_next],
        }
        return state if self.cuda is None else {**state, "cuda": _text(self.cuda)}


@no_type_check
def set_random_state(state: dict[str, Any]) -> None:
    """Puts the generators back to what `RawRandomState().to_dict()` gave."""
    torch.set_rng_state(_bytes(state["torch"]))
    keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state(("MT19937", np.array(keys, dtype=np.uint32), position, has_gauss, gauss))
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(_bytes(state["cuda"]))


@contextlib.contextmanager
def own_randomness(seed: int) -> Iterator[None]:
    """A block with its own seed that leaves the generators as they were, so that validation changes no training."""
    before = RawRandomState().to_dict()
    seed_everything(seed)
    try:
        yield
    finally:
        set_random_state(before)


def _text(state: Tensor) -> str:
    return base64.b64encode(state.numpy().tobytes()).decode("ascii")


def _bytes(text: str) -> Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)
