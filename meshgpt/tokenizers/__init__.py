"""A mesh as a sentence. The names below are loaded when first used."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meshgpt.tokenizers.autoencoder import MeshAutoencoder as MeshAutoencoder
    from meshgpt.tokenizers.coordinates import CoordinateTokenizer as CoordinateTokenizer
    from meshgpt.tokenizers.half_edge import HalfEdgeTokenizer as HalfEdgeTokenizer
    from meshgpt.tokenizers.patch import PatchTokenizer as PatchTokenizer
    from meshgpt.tokenizers.strip import StripTokenizer as StripTokenizer

_HOMES = {
    "CoordinateTokenizer": "coordinates",
    "HalfEdgeTokenizer": "half_edge",
    "MeshAutoencoder": "autoencoder",
    "PatchTokenizer": "patch",
    "StripTokenizer": "strip",
}

__all__ = [*_HOMES]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """Loads a tokenizer from its module (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'meshgpt.tokenizers' has no attribute '{name}'")
    return getattr(importlib.import_module(f"meshgpt.tokenizers.{_HOMES[name]}"), name)
