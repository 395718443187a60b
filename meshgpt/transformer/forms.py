"""What goes in and out of a `FaceWriter`: the form of its codes, what it is told, and rows in steps."""

import dataclasses
from typing import Any, Protocol, runtime_checkable

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from meshgpt.mesh.grammar import Surroundings


@dataclasses.dataclass(frozen=True)
class TransformerOutput:
    """What `losses` gives. `loss` is in nats per predicted token, ends included."""

    loss: Tensor  # 0-d
    bits_per_face: Tensor  # 0-d: all bits, those of the ends included, over the number of faces
    row_bits: Tensor  # (b), bits of each row
    num_faces: int  # whole faces
    nats: Tensor  # (m), -log p of each code and end that was predicted, with its gradient
    at: tuple[Tensor, Tensor]  # the row and the place in it of each

    @property
    def num_tokens(self) -> int:
        return self.nats.numel()

    def nats_of_codes(self, codes: Int[Tensor, "b n"]) -> Float[Tensor, "b n1"]:
        """-log p of each of these codes and, behind the last, of the end; 0 where nothing was predicted."""
        return self.nats.new_zeros(codes.shape[0], codes.shape[1] + 1).index_put(self.at, self.nats)


@dataclasses.dataclass(frozen=True, eq=False)
class FaceForm:
    """What a model must know of a tokenizer: how many codes there are, and how those of a face fall on its corners.

    Where faces share codes, a coarse step reads so many codes, whatever faces they are of; in all that follows, such a
    step's codes stand in a face's place.
    """

    vocab_size: int
    corners: int  # that the codes fall on; 1 where they do not
    tokens_per_corner: int
    face_corners: int  # 3 or 4
    whole_faces: bool = True  # whether a step is a face
    num_places: int = 0  # of the surroundings of a code; 0 where there are none
    num_facts: int = 0  # rows of three small numbers behind them
    bins: int = 0
    digits: Tensor | None = None  # (v d), how codes are spelt, where they are
    num_hints: int = 0
    tells_likely: bool = False
    says_tips: bool = False  # whether faces are said by their tips, see `MeshTokenizer.spelt`

    @property
    def tokens(self) -> int:
        return self.corners * self.tokens_per_corner


@dataclasses.dataclass(frozen=True)
class Pieces:
    """Rows that are parts of meshes. before: how many faces come before each. ends: True where a mesh ends with it."""

    before: Int[Tensor, " b"]
    ends: Bool[Tensor, " b"]

    def to(self, device: Any) -> "Pieces":
        return Pieces(*(part.to(device, non_blocking=True) for part in (self.before, self.ends)))


@runtime_checkable
class TokenReader(Protocol):
    """What a model asks a tokenizer."""

    def corners(self, codes: Int[Tensor, "f t"]) -> Float[Tensor, "f k 3"]:
        """Of single faces, for what is told of their geometry."""
        ...

    def surroundings(self, codes: Int[Tensor, "b n"]) -> Surroundings:
        """Before each code and behind the last, (b, n + 1, ...), where faces share codes."""
        ...

    def hints(self, places: Int[Tensor, "*n m 3"]) -> Int[Tensor, "*n d c"]:
        """Likely digits of the code among such places, where codes are spelt."""
        ...

    def spelt(
        self, vertices: Int[Tensor, "*n c 3"], places: Int[Tensor, "*n m 3"]
    ) -> tuple[Int[Tensor, "*n c 3"], Int[Tensor, "*n c 3"]]:
        """Digits of the coordinates of vertices, in two ways, where tips are said."""
        ...

    def faces_written(self, codes: Int[Tensor, "b n"]) -> Int[Tensor, "b nf 3 3"]:
        """Bins of the corners of faces in the order written, there."""
        ...


@dataclasses.dataclass(frozen=True)
class CoarseInputs:
    """tokens: (b n e). Where the model asks for it, of each face its centre (b n 3), its corners, if there is one."""

    tokens: Tensor
    places: Tensor | None = None
    corners: Tensor | None = None  # (b n k 3)
    whole: Tensor | None = None  # (b n)
    said: Tensor | None = None  # (b n), faces so far, where that is not known by the place


def behind_steps(around: Surroundings | None, tokens: int) -> Surroundings | None:
    """Of surroundings (b, nf t + 1, ...), those behind each step of so many codes, (b, nf, ...)."""
    return None if around is None else around.select((slice(None), slice(tokens, None, tokens)))


def by_step(places: Int[Tensor, "b n m 3"], steps: int, tokens: int) -> Int[Tensor, "b nf t m 3"]:
    """The places around each code of so many steps; none around codes that there are not."""
    places = places[:, : steps * tokens]
    filled = F.pad(places, (0, 0, 0, 0, 0, steps * tokens - places.shape[1]), value=-1)
    return rearrange(filled, "b (nf t) m c -> b nf t m c", t=tokens)


def in_steps(x: Tensor, shape: tuple[int, ...], rows: Tensor, faces: Tensor) -> Tensor:
    """(g ...) of groups -> (b nf1 ...), zero where there is no group."""
    return x.new_zeros(*shape, *x.shape[1:]).index_put((rows, faces), x)


def fold_faces(codes: Int[Tensor, "b n"], tokens_per_face: int) -> Int[Tensor, "b nf t"]:
    """(b n) padded -1 -> (b nf t); the last face may be unfinished."""
    short = -codes.shape[1] % tokens_per_face
    return rearrange(F.pad(codes, (0, short), value=-1), "b (nf t) -> b nf t", t=tokens_per_face)
