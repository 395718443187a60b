"""Frozen configs: a model's keywords are the fields of one small dataclass, which goes to JSON and back."""

import dataclasses
import difflib
import functools
import json
import types
import typing
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np

from meshgpt.errors import ConfigError

NUMBERS = {int: int, float: (int, float)}


def _frozen_value(value: Any) -> Any:
    """Lists become tuples and numbers of numpy plain ones: a config read from JSON equals the one that was written."""
    if isinstance(value, np.generic):
        return value.item()
    return tuple(_frozen_value(item) for item in value) if isinstance(value, (list, tuple)) else value


def _plain_value(value: Any) -> Any:
    if isinstance(value, Config):
        return value.to_dict()
    if isinstance(value, (list, tuple)):
        return [_plain_value(item) for item in value]
    return value


@functools.cache
@typing.no_type_check
def _hints(cls) -> dict[str, Any]:
    return typing.get_type_hints(cls)


@typing.no_type_check
def _is_of(value: Any, hint: Any) -> bool:
    """Whether a value is of a kind: whole numbers are numbers too, true and false are not."""
    options = typing.get_args(hint)
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return any(_is_of(value, option) for option in options)
    if typing.get_origin(hint) is tuple:
        return isinstance(value, tuple) and (options[-1] is not ... or all(_is_of(item, options[0]) for item in value))
    if hint in NUMBERS:
        return isinstance(value, NUMBERS[hint]) and not isinstance(value, bool)
    return not isinstance(hint, type) or isinstance(value, hint)


def _in_words(hint: Any) -> str:
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", types.NoneType: "None"}
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return " or ".join(_in_words(option) for option in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        return "a list"
    return words.get(hint) or f"a {getattr(hint, '__name__', hint)}"


@dataclasses.dataclass(frozen=True)
class Config:
    """Base of all configs. Subclasses are frozen dataclasses whose fields are JSON values, tuples or other configs."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _frozen_value(getattr(self, field.name)))
        self._check_kinds({field.name: getattr(self, field.name) for field in dataclasses.fields(self)})
        self.validate()

    @classmethod
    @typing.no_type_check
    def _check_kinds(cls, values: dict[str, Any]) -> None:
        """Raises `ConfigError` for a value that is not of its field's kind: 'False' for false, say."""
        for name, value in values.items():
            hint = _hints(cls)[name]
            if not _is_of(value, hint):
                raise ConfigError(f"{cls.__name__}.{name} must be {_in_words(hint)}, got {value!r}")

    def validate(self) -> None:
        """Raises `ConfigError` for values that no model can have; subclasses say which."""

    def require(self, condition: bool, field: str, must: str) -> None:
        """Raises a `ConfigError` that names `field`, its value and what it `must` be, unless `condition` holds."""
        if not condition:
            raise ConfigError(f"{type(self).__name__}.{field} must {must}, got {getattr(self, field)!r}")

    def to_dict(self) -> dict[str, Any]:
        return {field.name: _plain_value(getattr(self, field.name)) for field in dataclasses.fields(self)}

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2) + "\n"

    @classmethod
    @typing.no_type_check
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """A config from plain values; an unknown name raises `ConfigError` with the nearest known one."""
        hints, known = _hints(cls), [field.name for field in dataclasses.fields(cls)]
        for name in values:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                advice = f"did you mean '{near[0]}'?" if near else f"known fields: {', '.join(known)}"
                raise ConfigError(f"{cls.__name__} has no field '{name}': {advice}")
        values = {name: _nested(hints[name], _frozen_value(value)) for name, value in values.items()}
        cls._check_kinds(values)
        return cls(**values)

    @classmethod
    @typing.no_type_check
    def from_json(cls, text: str) -> Self:
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise ConfigError(f"{cls.__name__}: not JSON: {error}") from error
        if not isinstance(values, dict):
            raise ConfigError(f"{cls.__name__}: expected a JSON object, got {type(values).__name__}")
        return cls.from_dict(values)

    @classmethod
    @typing.no_type_check
    def from_file(cls, path: str | Path) -> Self:
        try:
            return cls.from_json(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{cls.__name__}: cannot read {path}: {error.strerror}") from error

    @typing.no_type_check
    def replace(self, **changes: Any) -> Self:
        """The same config with some fields changed; unknown names raise as in `from_dict`."""
        return type(self).from_dict({**{f.name: getattr(self, f.name) for f in dataclasses.fields(self)}, **changes})


def _nested(hint: Any, value: Any) -> Any:
    """`value` as the config class that `hint` names, where it names one and `value` is a plain dict."""
    if not isinstance(value, dict):
        return _frozen_value(value)
    for option in (hint, *typing.get_args(hint)):
        if isinstance(option, type) and issubclass(option, Config):
            return option.from_dict(value)
    return value


C = TypeVar("C", bound=Config)


def resolve_config(cls: type[C], config: C | None, keywords: dict[str, Any]) -> C:
    """`Model(config)`, `Model(field = value)` and `Model(config, field = value)` all give one config."""
    if config is not None and not isinstance(config, cls):
        raise ConfigError(f"expected a {cls.__name__}, got {type(config).__name__}")
    return cls.from_dict(keywords) if config is None else config.replace(**keywords)
