"""Text encoders by name. Making one loads nothing and touches no network; both wait for the first text."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import no_type_check

from meshgpt.errors import ConfigError, TextEncoderError
from meshgpt.text.embedding import CallableEncoder as CallableEncoder
from meshgpt.text.embedding import TextEmbedding as TextEmbedding
from meshgpt.text.embedding import TextEncoder as TextEncoder
from meshgpt.text.hub import HubEncoder, known_width
from meshgpt.text.minilm import MiniLM, is_minilm

DEFAULT = "minilm"
ALIASES = {"all-MiniLM-L6-v2": "minilm", "sentence-transformers/all-MiniLM-L6-v2": "minilm"}
T5, CLIP, BGE = "google/t5-v1_1-base", "openai/clip-vit-base-patch32", "BAAI/bge-base-en-v1.5"


@dataclass(frozen=True)
class Entry:
    """How a named encoder is made, and its width where that is known beforehand."""

    make: Callable[[], TextEncoder]
    dim: int | None


_ENTRIES: dict[str, Entry] = {
    "minilm": Entry(MiniLM, 384),
    "t5": Entry(lambda: HubEncoder(T5, "t5"), 768),
    "clip": Entry(lambda: HubEncoder(CLIP, "clip"), 512),
    "bge": Entry(lambda: HubEncoder(BGE, "bge"), 768),
}
_MADE: dict[str, TextEncoder] = {}


@no_type_check
def text_encoder(encoder=DEFAULT) -> TextEncoder:
    """The encoder of that name; the same object each time.

    encoder: 'minilm', 't5', 'clip', 'bge', a name given to `register`, a model of the hub ("owner/name") or a folder
    that holds one; also a function of a list of texts that gives (embeddings, mask), or an encoder itself. Raises
    `TextEncoderError` for anything else. A name that cannot be served is noticed when the first text is embedded.
    """
    if isinstance(encoder, (str, Path)):
        name = ALIASES.get(str(encoder), str(encoder))
        if name not in _MADE:
            _MADE[name] = _ENTRIES[name].make() if name in _ENTRIES else _by_model(name)
        return _MADE[name]
    return encoder if isinstance(encoder, TextEncoder) else CallableEncoder(encoder)


def _by_model(name: str) -> TextEncoder:
    if not name.strip():
        raise TextEncoderError(
            f"a text encoder needs a name; known: {', '.join(encoder_names())}, or a model of the hub"
        )
    near = difflib.get_close_matches(name, encoder_names(), 1)
    hint = f". Did you mean '{near[0]}'?" if near else ""
    return MiniLM(name) if is_minilm(Path(name)) else HubEncoder(name, hint=hint)


@no_type_check
def dim_of(encoder=DEFAULT) -> int | None:
    """The width of an encoder's vectors, as far as it is known without loading it and without a network."""
    if not isinstance(encoder, (str, Path)):
        return text_encoder(encoder).dim
    name = ALIASES.get(str(encoder), str(encoder))
    return _ENTRIES[name].dim if name in _ENTRIES else known_width(name)


@no_type_check
def register(name, make, dim=None) -> None:
    """Makes an encoder known under `name`: `make` gives it, when it is first asked for. `dim` is its width.

    Raises `ConfigError` for a name that is taken.
    """
    if name in _ENTRIES:
        raise ConfigError(f"text encoder '{name}' exists already; known: {', '.join(encoder_names())}")
    _ENTRIES[name] = Entry(make, dim)
    _MADE.pop(name, None)


def encoder_names() -> tuple[str, ...]:
    """The names that `text_encoder` knows, beside those of the hub."""
    return tuple(_ENTRIES)
