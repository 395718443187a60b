"""T5, CLIP, BGE and any other encoder of a model hub, through transformers where that can be imported."""

import json
from pathlib import Path
from typing import no_type_check

from meshgpt.errors import TextEncoderError
from meshgpt.text.embedding import WAYS_OUT, TextEmbedding, TextEncoder

WIDTHS = {
    "google/t5-v1_1-small": 512,
    "google/t5-v1_1-base": 768,
    "google/t5-v1_1-large": 1024,
    "google/t5-v1_1-xl": 2048,
    "openai/clip-vit-base-patch32": 512,
    "openai/clip-vit-base-patch16": 512,
    "openai/clip-vit-large-patch14": 768,
    "BAAI/bge-small-en-v1.5": 384,
    "BAAI/bge-base-en-v1.5": 768,
    "BAAI/bge-large-en-v1.5": 1024,
    "sentence-transformers/all-MiniLM-L6-v2": 384,
}


class HubEncoder(TextEncoder):
    """An encoder of a model hub or of a folder: `model` is "owner/name" or a path. Nothing is loaded before a text."""

    @no_type_check
    def __init__(self, model, name=None):
        self.model, self.name = str(model), name or str(model)

    @property
    def dim(self) -> int:
        found = known_width(self.model)
        if found is None:
            raise TextEncoderError(f"the text encoder '{self.name}' is not here: {WAYS_OUT}")
        return found

    @no_type_check
    def embed(self, texts) -> TextEmbedding:
        raise TextEncoderError(f"the text encoder '{self.name}' is not here: {WAYS_OUT}")


def known_width(model: str) -> int | None:
    """The width of the vectors of a model, as far as it is known without a network."""
    try:
        config = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return WIDTHS.get(model)
    parts = (config.get("text_config") or {}, config)
    return next((part[key] for part in parts for key in ("hidden_size", "d_model", "dim") if key in part), None)
