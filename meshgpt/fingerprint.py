"""What a thing is made of, as a value that is equal for equal things: what caches keep their entries under."""

import dataclasses
import hashlib
import pickle
import secrets
import types
from functools import partial
from typing import Any, no_type_check

import numpy as np
from torch import Tensor


@no_type_check
def described_by_content(value: Any) -> Any:
    """A JSON value that is equal for equal settings and code: configs, dataclasses, functions and plain values.

    Functions are known by their bytecode and what they hold; other objects by their class and fields, or where they
    have none by their pickle. An object with an `identity` (a text encoder) is known by that alone. What is met again
    within itself is known by how far out it is. What cannot be told at all is different each time.
    """
    return _described(value, ())


@no_type_check
def _described(value: Any, around: tuple[int, ...]) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if id(value) in around:
        return ["within", len(around) - around.index(id(value))]
    inside = partial(_described, around=(*around, id(value)))
    if isinstance(value, (list, tuple)):
        return [inside(item) for item in value]
    if isinstance(value, dict):
        return {str(name): inside(item) for name, item in value.items()}
    if isinstance(value, types.FunctionType):
        cells = [_content(cell) for cell in value.__closure__ or ()]
        return ["function", _code(value.__code__), inside([value.__defaults__, value.__kwdefaults__, cells])]
    if isinstance(value, types.CodeType):
        return _code(value)
    if isinstance(value, types.ModuleType):
        return ["module", value.__name__]
    if isinstance(value, types.MethodType):
        return ["method", inside([value.__func__, value.__self__])]
    if isinstance(value, partial):
        return ["partial", inside([value.func, value.args, value.keywords])]
    if isinstance(value, (np.ndarray, np.generic, Tensor)):
        return _array(value.detach().cpu() if isinstance(value, Tensor) else value)
    if isinstance(identity := getattr(value, "identity", None), str) and not isinstance(value, type):
        return [type(value).__qualname__, identity]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return [type(value).__qualname__, inside(fields)]
    if getattr(value, "__dict__", None) and not isinstance(value, type):
        return [type(value).__qualname__, inside(value.__dict__)]
    return [type(value).__qualname__, _pickled(value)]


def _content(cell: types.CellType) -> Any:
    """What a cell of a closure holds; None for one that is still empty."""
    try:
        return cell.cell_contents
    except ValueError:
        return None


def _array(value: Any) -> list[Any]:
    array = np.asarray(value)
    return [str(array.dtype), list(array.shape), hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()]


def _pickled(value: Any) -> str:
    try:
        return hashlib.sha256(pickle.dumps(value)).hexdigest()
    except Exception:  # objects raise whatever they like
        return secrets.token_hex()


def _code(code: types.CodeType) -> list[Any]:
    constants = [_code(item) if isinstance(item, types.CodeType) else repr(item) for item in code.co_consts]
    return [hashlib.sha256(code.co_code).hexdigest(), list(code.co_names), constants]
