"""`--set FIELD=VALUE`: any field of the configs that a command makes."""

import argparse
import dataclasses
import difflib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from meshgpt.errors import ConfigError

if TYPE_CHECKING:
    from meshgpt.config import Config


def add_changes(command: argparse.ArgumentParser) -> None:
    """The argument that `changed` needs."""
    what = "a field of the model or of the training; may be given many times"
    command.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", dest="changes", help=what)


def changed(
    configs: "Sequence[tuple[type[Config], dict[str, Any]] | tuple[type[Config], dict[str, Any], str]]",
    arguments: argparse.Namespace,
) -> list[dict[str, Any]]:
    """The keywords of each config with every FIELD=VALUE put where it belongs; the last config that has it counts.

    Fields of a config with a third entry, as in (CaptionWriter, {}, 'captions.'), are written with that before them.
    Raises `ConfigError` for a field that none has.
    """
    keywords = [dict(given) for _, given, *_ in configs]
    known: dict[str, tuple[dict[str, Any], dataclasses.Field]] = {}
    for (cls, _, *prefix), own in zip(configs, keywords, strict=True):
        known |= {"".join((*prefix, field.name)): (own, field) for field in dataclasses.fields(cls)}
    for change in arguments.changes:
        name, equals, text = change.partition("=")
        if not equals or name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            advice = f"did you mean '{near[0]}'?" if near else f"fields: {', '.join(sorted(known))}"
            raise ConfigError(f"--set {change}: " + (advice if equals else "write FIELD=VALUE"))
        own, field = known[name]
        value = value_of(text)
        alone = type(value) in (int, float) and str(field.type).startswith("tuple")
        own[field.name] = [value] if alone else value
    return keywords


def value_of(text: str) -> Any:
    """A number, list, true, false or null as JSON has them; numbers with commas between as a list; else the text."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return _numbers(text) or text


def _numbers(text: str) -> list[Any]:
    """Of "224,112"; empty for any other text."""
    try:
        values = json.loads(f"[{text}]")
    except json.JSONDecodeError:
        return []
    return values if all(type(value) in (int, float) for value in values) else []
