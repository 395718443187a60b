"""Embeddings of texts on disk, one file for each encoder, keyed by content: runs and processes share them."""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, no_type_check

import numpy as np
import torch
from tqdm import tqdm

from meshgpt.data.arrays import ArrayFile, content_key
from meshgpt.errors import DataError
from meshgpt.fingerprint import described_by_content
from meshgpt.text.embedding import TextEmbedding, TextEncoder, embed_distinct
from meshgpt.text.encoder import text_encoder

AT_ONCE = 256  # texts embedded between two saves, so that stopping loses little
LARGEST_HALF = 65504.0
SHOWN = 3


class TextEmbeddingCache:
    """A folder of token vectors. A text of an encoder is embedded once, whoever asks for it first.

    dtype: 'float16' takes half the bytes of 'float32'; what comes out is float32, and the same for whoever embeds a
    text and whoever finds it (but for vectors beyond the range of float16, which are kept whole).
    """

    @no_type_check
    def __init__(self, folder, dtype="float16"):
        if dtype not in ("float16", "float32"):
            raise DataError(f"embeddings are kept as float16 or float32, not as {dtype!r}")
        self.folder, self.dtype = Path(folder), dtype
        self._files: dict[Path, ArrayFile] = {}
        self._described: dict[int, tuple[Any, str]] = {}
        self._last: Any = None

    @no_type_check
    def embed(self, encoder, texts: Sequence[str]) -> TextEmbedding:
        """Vectors of `texts` by an encoder or its name; those that are not there are made and kept.

        Raises what the encoder raises, and `CheckpointError` if the folder cannot be written.
        """
        encoder = self._last = text_encoder(encoder)
        file = self._file(encoder)

        def make(missing: Sequence[str]) -> Iterator[list[np.ndarray]]:
            parts = range(0, len(missing), AT_ONCE)
            for start in tqdm(parts, desc="embedding texts", disable=None, leave=False):
                part = encoder.embed(missing[start : start + AT_ONCE])
                yield [self._stored(vectors[mask]) for vectors, mask in zip(part.embeddings, part.mask, strict=True)]

        def fetch(words: list[str]) -> TextEmbedding:
            return _padded(file.fetch(_keys(words), lambda missing: make([words[number] for number in missing])))

        return embed_distinct(texts, fetch, lambda: encoder.dim)

    @no_type_check
    def lookup(self, texts: Sequence[str], encoder=None) -> TextEmbedding:
        """Vectors of texts that are there already; nothing is computed or loaded.

        encoder: the one last used with this cache, if not said. Raises `DataError` that names texts that are not there.
        """
        encoder = self._last = self._last if encoder is None else text_encoder(encoder)
        if encoder is None:
            raise DataError("name the encoder whose embeddings are looked up: none has been used with this cache yet")
        file = self._file(encoder)

        def find(words: list[str]) -> TextEmbedding:
            found = file.find(_keys(words))
            missing = [word for word, array in zip(words, found, strict=True) if array is None]
            if missing:
                shown = ", ".join(repr(word) for word in missing[:SHOWN])
                raise DataError(
                    f"{len(missing)} of {len(words)} texts are not in {file.path}: {shown}; embed them first"
                )
            return _padded(found)

        return embed_distinct(texts, find, lambda: encoder.dim)

    @no_type_check
    def path(self, encoder) -> Path:
        """The file that keeps the vectors of an encoder; another for each `identity` of it."""
        encoder = text_encoder(encoder)
        identity = getattr(encoder, "identity", None) or self._described_once(encoder)
        digest = hashlib.sha256(json.dumps([encoder.name, identity, self.dtype]).encode()).hexdigest()
        return self.folder / f"{re.sub(r'[^0-9A-Za-z_.-]+', '-', encoder.name)[:40]}-{digest[:16]}.embeddings"

    def _described_once(self, encoder: TextEncoder) -> str:
        """For encoders without an identity; what cannot be told of one is different each time it is asked."""
        if id(encoder) not in self._described:
            self._described[id(encoder)] = encoder, json.dumps(described_by_content(encoder))
        return self._described[id(encoder)][1]

    def _file(self, encoder: TextEncoder) -> ArrayFile:
        path = self.path(encoder)
        return self._files.setdefault(path, ArrayFile(path))

    def _stored(self, vectors: torch.Tensor) -> np.ndarray:
        whole = self.dtype == "float32" or bool((vectors.abs() > LARGEST_HALF).any())
        return vectors.numpy().astype(np.float32 if whole else np.float16)


def _keys(texts: list[str]) -> list[bytes]:
    return [content_key(text) for text in texts]


@no_type_check
def _padded(rows: Sequence[np.ndarray]) -> TextEmbedding:
    lengths = torch.tensor([len(row) for row in rows])
    mask = torch.arange(max(int(lengths.max()), 1)) < lengths[:, None]
    embeddings = torch.zeros(*mask.shape, rows[0].shape[1])
    for row, vectors in zip(embeddings, rows, strict=True):
        row[: len(vectors)] = torch.from_numpy(vectors.astype(np.float32))
    return TextEmbedding(embeddings, mask)
