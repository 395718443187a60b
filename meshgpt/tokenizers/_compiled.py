"""The one place that knows numba: loops over faces are compiled where it is installed, and plain Python elsewhere."""

from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable)

try:
    import numba
except ImportError:  # the extra [fast] is not installed
    numba = None

COMPILED = numba is not None


def compiled(function: Function) -> Function:
    """The function compiled by numba at its first call and kept on disk; without numba, the function itself.

    Write `@no_type_check` below it: numba compiles the function, not the checks around it.
    """
    if numba is None:
        return function
    made: Any = numba.njit(cache=True, nogil=True)(function)
    return made
