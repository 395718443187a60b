"""Settings from the environment and the nearest `.env` file: read here and nowhere else, checked when read.

The real environment wins over the file. `.env` is looked for in the working directory and then upward. `.env.sample`
explains every variable.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from meshgpt.errors import ConfigError

TRUE, FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")
VARIABLES = ("TYPECHECK",)


@dataclass(frozen=True)
class Setting:
    """The text of a variable and the place it was read from, for error messages."""

    text: str
    source: str


def find_dotenv(start: Path | None = None) -> Path | None:
    """The nearest readable `.env` from `start` (default: the working directory) upward, or None."""
    try:
        folder = (start or Path.cwd()).absolute()
    except FileNotFoundError:  # the working directory has been deleted
        return None
    candidates = (parent / ".env" for parent in (folder, *folder.parents))
    return next((path for path in candidates if path.is_file() and os.access(path, os.R_OK)), None)


def read_dotenv(path: Path) -> dict[str, str]:
    """`NAME=value` lines, with or without `export` and quotes. Comments and lines of any other form are passed over."""
    values = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        name, equals, value = line.strip().removeprefix("export ").partition("=")
        if equals and not name.startswith("#"):
            values[name.strip()] = _unquoted(value.strip())
    return values


def _unquoted(value: str) -> str:
    if value[:1] in ("'", '"'):
        return value[1:].partition(value[0])[0]
    return value.partition(" #")[0].strip()


def setting(name: str) -> Setting | None:
    """The variable `name` from the environment, else from `.env`; None where it is unset or empty in both."""
    text = os.environ.get(name, "").strip()
    if text:
        return Setting(text, "the environment")
    path = find_dotenv()
    text = read_dotenv(path).get(name, "") if path else ""
    return Setting(text, str(path)) if text else None


def flag(name: str, default: bool = False) -> bool:
    """The variable `name` as a switch. Raises `ConfigError` for a text that is neither yes nor no."""
    found = setting(name)
    if found is None:
        return default
    if found.text.lower() in TRUE + FALSE:
        return found.text.lower() in TRUE
    expected = f"{', '.join(TRUE)} or {', '.join(FALSE)}"
    raise ConfigError(f"{name} must be one of {expected}, got {found.text!r} from {found.source}")
