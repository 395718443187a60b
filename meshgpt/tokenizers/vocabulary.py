"""Meshes among the words of a language model: one more token for each id of a tokenizer, as text and as ids."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, no_type_check

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from meshgpt.errors import CodesError, ConfigError, MissingExtraError
from meshgpt.mesh.mesh import Mesh
from meshgpt.tokenizers.sequence import SequenceTokenizer
from meshgpt.tokenizers.tokenizer import MeshTokenizer

OPEN, CLOSE, MORE = -3, -2, -1  # symbols beside ids: a mesh begins, ends, or is cut here and goes on elsewhere
SHARE = 100  # a stream reads again when the mesh has grown by this part of it, so that its work stays in proportion


@dataclass(frozen=True, eq=False)
class MeshPart:
    """The ids (n,) of a mesh found among words; `begins` and `ends` say whether all of it is there on either side."""

    ids: Int[Tensor, " n"]
    begins: bool
    ends: bool


class MeshVocabulary:
    """The ids of a mesh tokenizer as tokens `<mesh_0>`, `<mesh_1>`, ... between `<mesh>` and `</mesh>`.

    `<mesh_more>` stands in place of `</mesh>` where a long mesh was cut, and of `<mesh>` where it goes on. In a
    language model the tokens have the ids `model_ids`: from `offset` on in the order of `tokens`, or wherever
    `added_to` puts them. Another `name` keeps the tokens of several mesh tokenizers apart.
    """

    @no_type_check
    def __init__(self, tokenizer, offset=0, name="mesh"):
        if not isinstance(tokenizer, MeshTokenizer):
            raise ConfigError(f"a vocabulary is that of a mesh tokenizer, got {type(tokenizer).__name__}")
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9]*", name):
            raise ConfigError(f"name must be letters and digits, for it becomes part of tokens, got {name!r}")
        if offset < 0:
            raise ConfigError(f"offset must not be negative, got {offset}")
        self.tokenizer, self.name = tokenizer, name
        self.special_tokens = [f"<{name}>", f"</{name}>", f"<{name}_more>"]
        self.code_tokens = [f"<{name}_{code}>" for code in range(tokenizer.vocab_size)]
        self._place(np.arange(offset, offset + len(self)))

    def _place(self, model_ids: np.ndarray) -> None:
        self.model_ids = model_ids
        self._symbols = {int(model_id): symbol for symbol, model_id in enumerate(model_ids, start=OPEN)}

    def __len__(self) -> int:
        return len(self.special_tokens) + len(self.code_tokens)

    @property
    def tokens(self) -> list[str]:
        """All tokens, for `add_tokens` of `tokenizers` and `transformers`: the special ones, then one for each id."""
        return self.special_tokens + self.code_tokens

    @no_type_check
    def added_to(self, language_tokenizer) -> "MeshVocabulary":
        """The vocabulary with the ids that its tokens get in a `tokenizers` or `transformers` tokenizer.

        Adds those that are missing, as special tokens: they are never split or normalised, and `decode` shows them with
        `skip_special_tokens = False`. The model's embeddings must be resized to the new number of tokens.
        """
        try:
            from tokenizers import AddedToken
        except ImportError as error:
            raise MissingExtraError("tokenizers", "text", "a vocabulary for a language model") from error
        plain = {"special": True, "normalized": False}
        language_tokenizer.add_tokens([AddedToken(token, **plain) for token in self.tokens])
        lookup = getattr(language_tokenizer, "token_to_id", None) or language_tokenizer.convert_tokens_to_ids
        return self.placed([lookup(token) for token in self.tokens])

    @no_type_check
    def placed(self, model_ids) -> "MeshVocabulary":
        """The vocabulary with given ids in the language model, one for each of `tokens`, all different."""
        missing = [token for token, model_id in zip(self.tokens, model_ids, strict=False) if model_id is None]
        if missing:
            raise CodesError(f"the language model's tokenizer has no id for {missing[0]}: add `tokens` to it")
        if len(model_ids) != len(self) or len(set(model_ids)) != len(self):
            raise CodesError(f"{len(self)} tokens need as many different ids, got {len(set(model_ids))} different ones")
        other = MeshVocabulary(self.tokenizer, name=self.name)
        other._place(np.asarray(model_ids, dtype=np.int64))
        return other

    # one mesh

    @no_type_check
    def to_text(self, ids) -> str:
        """The ids of a mesh as text: `<mesh><mesh_5>...</mesh>`. Raises `CodesError` for ids out of range."""
        return self._text([OPEN, *self._checked(ids), CLOSE])

    @no_type_check
    def from_text(self, text) -> Int[Tensor, " n"]:
        """The ids of the one mesh in a text, or in a sequence of texts that hold its pieces.

        Raises `CodesError` where there is none or more than one, and for tokens that are not in the vocabulary.
        """
        return self._only(self.split_text(text if isinstance(text, str) else "".join(text)))

    @no_type_check
    def to_model_ids(self, ids) -> list[int]:
        """The ids of a mesh as ids of the language model, with those of `<mesh>` and `</mesh>` around them."""
        return self._model_ids([OPEN, *self._checked(ids), CLOSE])

    @no_type_check
    def from_model_ids(self, model_ids) -> Int[Tensor, " n"]:
        """The ids of the one mesh among ids of the language model. Raises `CodesError` as `from_text` does."""
        return self._only(self.split_model_ids(model_ids))

    def _only(self, parts: Sequence[Any]) -> Tensor:
        meshes = [part for part in parts if isinstance(part, MeshPart)]
        if len(meshes) != 1:
            raise CodesError(
                f"expected one mesh, found {len(meshes)}: split_text and split_model_ids give all there are"
            )
        return meshes[0].ids

    def _checked(self, ids: Any) -> list[int]:
        ids = torch.as_tensor(ids, dtype=None if len(ids) else torch.long)
        if ids.ndim != 1 or ids.is_floating_point():
            raise CodesError(f"the ids of a mesh are a flat list of integers, got {tuple(ids.shape)} of {ids.dtype}")
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < self.tokenizer.vocab_size:
            bad = int(ids.min()) if int(ids.min()) < 0 else int(ids.max())
            raise CodesError(f"id {bad} is not one of the tokenizer's 0 .. {self.tokenizer.vocab_size - 1}")
        return ids.tolist()

    def _text(self, symbols: Iterable[int]) -> str:
        tokens = self.tokens
        return "".join(tokens[symbol - OPEN] for symbol in symbols)

    def _model_ids(self, symbols: Sequence[int]) -> list[int]:
        return self.model_ids[np.array(symbols) - OPEN].tolist()

    # long meshes

    @no_type_check
    def chunks(self, ids, max_tokens: int) -> list[list[int]]:
        """A mesh as ids of the language model in pieces of at most `max_tokens`, which `from_model_ids` joins again.

        Pieces are whole faces where a face is a fixed number of ids. Raises `CodesError` if not one fits.
        """
        return [self._model_ids(piece) for piece in self._pieces(self._checked(ids), max_tokens)]

    @no_type_check
    def text_chunks(self, ids, max_tokens: int) -> list[str]:
        """The same as texts, which `from_text` joins again."""
        return [self._text(piece) for piece in self._pieces(self._checked(ids), max_tokens)]

    def _pieces(self, ids: list[int], max_tokens: int) -> list[list[int]]:
        unit = self.tokenizer.tokens_per_face or 1
        size = (max_tokens - 2) // unit * unit
        if size <= 0:
            raise CodesError(f"max_tokens = {max_tokens} leaves no room for {unit} ids between two marks")
        starts = range(0, max(len(ids), 1), size)
        begin, end = [OPEN] + [MORE] * (len(starts) - 1), [MORE] * (len(starts) - 1) + [CLOSE]
        return [[b, *ids[i : i + size], e] for b, i, e in zip(begin, starts, end, strict=True)]

    # meshes among words

    @no_type_check
    def split_text(self, text: str) -> list[Any]:
        """Strings and `MeshPart`s as they follow one another in a text.

        The pieces of a mesh that was cut are joined where its first one stands. White space between the tokens of a
        mesh is passed over. A mesh that is not closed goes to the end of the text.
        Raises `CodesError`, with the place in the text, for words within a mesh, for codes outside of one, and for
        codes that are not in the vocabulary.
        """
        return _Parts.of(self._symbols_of_text(text), "".join)

    @no_type_check
    def split_model_ids(self, model_ids) -> list[Any]:
        """The same for ids of the language model: lists of ids that are not in this vocabulary, and meshes."""
        model_ids = model_ids.tolist() if isinstance(model_ids, (Tensor, np.ndarray)) else list(model_ids)
        symbols = ((place, self._symbols.get(model_id), model_id) for place, model_id in enumerate(model_ids))
        return _Parts.of(symbols, list)

    def _symbols_of_text(self, text: str) -> Iterator[tuple[int, int | None, str]]:
        """(place, symbol or None, piece) for each token and each piece of text between two of them."""
        behind, marks = 0, {token: symbol for symbol, token in enumerate(self.special_tokens, start=OPEN)}
        for match in re.finditer(rf"</?{self.name}(?:_more|_(\d+))?>", text):
            if match.start() > behind:
                yield behind, None, text[behind : match.start()]
            behind, symbol = match.end(), marks.get(match[0])
            if symbol is None and (match[1] is None or match[0] != f"<{self.name}_{int(match[1])}>"):
                raise CodesError(f"{match[0]} at character {match.start()} is not one of the tokens")
            if symbol is None and int(match[1]) >= self.tokenizer.vocab_size:
                known = f"0 .. {self.tokenizer.vocab_size - 1}"
                raise CodesError(f"{match[0]} at character {match.start()}: the tokenizer's ids are {known}")
            yield match.start(), int(match[1]) if symbol is None else symbol, match[0]
        if behind < len(text):
            yield behind, None, text[behind:]

    def stream(self) -> "MeshStream":
        """A reader of a language model's output, which gives faces as they come."""
        return MeshStream(self)

    def symbol(self, model_id: int) -> int | None:
        """The mesh tokenizer's id, or OPEN, CLOSE or MORE, that an id of the language model stands for, if any."""
        return self._symbols.get(model_id)


class _Parts:
    """Words, put together by `join`, and meshes, gathered from symbols; a symbol of None is a word."""

    def __init__(self, join: Callable[[list], Any]):
        self.join, self.parts, self.words = join, [], []
        self.ids: list[int] | None = None  # of the mesh that is being read
        self.begins = False  # whether its beginning was there
        self.cut: int | None = None  # where the last mesh stands among the parts, if it goes on elsewhere

    @classmethod
    def of(cls, symbols: Iterable[tuple[int, int | None, Any]], join: Callable[[list], Any]) -> list[Any]:
        """The parts that (place, symbol, piece) give, one after the other."""
        parts = cls(join)
        for place, symbol, piece in symbols:
            if not (parts._outside(symbol, piece) if parts.ids is None else parts._inside(symbol, piece)):
                where = "outside of" if parts.ids is None else "within"
                raise CodesError(f"{piece!r} at place {place} stands {where} a mesh")
        if parts.ids is not None:
            parts._finish(None)
        parts._finish_words()
        return parts.parts

    def _outside(self, symbol: int | None, piece: Any) -> bool:
        """Takes a symbol between meshes; False for one that cannot stand there."""
        if symbol is None:
            self.words.append(piece)
        elif symbol in (OPEN, MORE):
            self._finish_words()
            if symbol == MORE and self.cut is not None:
                self.ids = self.parts[self.cut].ids.tolist()
            else:
                self.ids, self.begins, self.cut = [], symbol == OPEN, None
        else:
            return False
        return True

    def _inside(self, symbol: int | None, piece: Any) -> bool:
        """Takes a symbol of a mesh; False for one that cannot stand there."""
        if symbol in (CLOSE, MORE):
            self._finish(symbol)
        elif symbol is not None and symbol >= 0 and self.ids is not None:
            self.ids.append(symbol)
        else:
            return isinstance(piece, str) and piece.isspace()
        return True

    def _finish(self, symbol: int | None) -> None:
        part = MeshPart(torch.tensor(self.ids, dtype=torch.long), self.begins, symbol == CLOSE)
        if self.cut is None:
            self.cut = len(self.parts)
            self.parts.append(part)
        self.parts[self.cut] = part
        self.cut, self.ids = (self.cut if symbol == MORE else None), None

    def _finish_words(self) -> None:
        if self.words:
            self.parts.append(self.join(self.words))
        self.words = []


class MeshStream:
    """Reads ids of a language model one by one, and gives the faces that they make known.

    ids: those of the mesh that is being read, or was read last. inside: whether its end is still to come.
    """

    def __init__(self, vocabulary: MeshVocabulary):
        self.vocabulary, self.tokenizer = vocabulary, vocabulary.tokenizer
        self.ids: list[int] = []
        self.inside, self._cut = False, False
        self._given, self._next = 0, 1  # faces given; number of ids with which there may be more of them

    def push(self, model_id: int) -> Float[np.ndarray, "n k 3"]:
        """Corners, in the tokenizer's `coordinate_range`, of the faces that are new with this id.

        There are none at a word between meshes. Where faces share ids, those of a large mesh come a few at a time, all
        of them by its end. The learned tokenizer decodes each face without its neighbours here, and with them in
        `mesh`. Raises `CodesError` for a word within a mesh, and for an id of the mesh tokenizer outside of one.
        """
        symbol = self.vocabulary.symbol(model_id)
        if self.inside and symbol is not None and symbol != OPEN:
            return self._inside(symbol)
        if self.inside or symbol not in (None, OPEN, MORE):
            where = "within" if self.inside else "outside of"
            raise CodesError(f"id {model_id} of the language model stands {where} a mesh")
        if symbol is not None:
            self._begin(symbol)
        return self._no_faces()

    def _begin(self, symbol: int) -> None:
        if symbol == OPEN or not self._cut:
            self.ids, self._given, self._next = [], 0, 1
        self.inside = True

    def _inside(self, symbol: int) -> np.ndarray:
        if symbol in (CLOSE, MORE):
            self.inside, self._cut = False, symbol == MORE
            return self._new_faces()
        self.ids.append(symbol)
        return self._new_faces() if len(self.ids) >= self._next else self._no_faces()

    def _new_faces(self) -> np.ndarray:
        """The faces not given yet, as far as the ids go."""
        unit = self.tokenizer.tokens_per_face
        if unit is None:
            self._next = len(self.ids) + max(1, len(self.ids) // SHARE)
            known = self.tokenizer.decode_from_codes_to_faces(torch.tensor([self.ids], dtype=torch.long))[0][0]
            fresh = known[self._given :]
        else:
            whole = len(self.ids) // unit
            self._next = (whole + 1) * unit
            codes = torch.tensor(self.ids[self._given * unit : whole * unit], dtype=torch.long)
            fresh = self.tokenizer.decode_faces_alone(rearrange(codes, "(f t) -> f t", t=unit))
        self._given += len(fresh)
        return fresh.detach().cpu().numpy()

    def _no_faces(self) -> np.ndarray:
        return np.zeros((0, self.tokenizer.corners, 3), dtype=np.float32)

    @property
    def mesh(self) -> Mesh:
        """The mesh of all whole faces so far; where ids contradict each other, up to there."""
        if isinstance(self.tokenizer, SequenceTokenizer):
            return self.tokenizer.decode(self.ids, errors="repair")
        unit = self.tokenizer.tokens_per_face or 1
        return self.tokenizer.decode(self.ids[: len(self.ids) // unit * unit])
