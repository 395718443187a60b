"""What a module uses without owning it, and evaluation mode for a while."""

from typing import Any

from torch import nn


class Held:
    """Keeps an object out of the modules, the state and the copies of the module that holds it."""

    def __init__(self, value: Any):
        self.value = value

    def __deepcopy__(self, memo: dict) -> "Held":
        return self


class as_in_evaluation:  # noqa: N801 - reads as a verb in a with statement
    """Evaluation mode for the time of a with statement; then each submodule has its own mode back."""

    def __init__(self, thing: Any):
        self.thing = thing
        self.training = [m for m in thing.modules() if m.training] if isinstance(thing, nn.Module) else []

    def __enter__(self) -> Any:
        for module in self.training:
            module.training = False
        return self.thing

    def __exit__(self, *exception: object) -> None:
        for module in self.training:
            module.training = True
