"""Whole faces guessed ahead of each coarse pass, for models that say them: without weights, and changing nothing.

The corners that a face shares with those before it have often been shared so before in the same mesh. In the manner of
prompt lookup decoding (Saxena, 2023), what followed the last time is guessed to follow again, corner by corner.
"""

from collections.abc import Sequence

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from meshgpt.mesh.grammar import Surroundings
from meshgpt.transformer.cache import StackCache, empty_cache
from meshgpt.transformer.conditioning import Context
from meshgpt.transformer.model import FaceWriter
from meshgpt.transformer.readers import CachedReader

REACH = 4  # faces back, in which a corner is looked for
ORDERS = (3, 2, 1)  # how many faces are to have shared corners as before, the most first

Corner = tuple[int, ...]  # its codes


class Habits:
    """How the faces of one sentence follow upon one another."""

    def __init__(self, form_corners: int, vocab_size: int):
        self.corners, self.vocab_size = form_corners, vocab_size
        self.faces: list[list[Corner]] = []
        self.shared: list[tuple[int, ...]] = []  # of each corner, which of the corners before it is; -1: none
        self.known: dict[tuple, int] = {}  # the face that followed last upon faces that shared so

    def hear(self, face: Sequence[int]) -> None:
        """One more face, of so many codes."""
        levels = len(face) // self.corners
        self.known |= dict.fromkeys(self._contexts(), len(self.faces))
        self._add([tuple(face[at : at + levels]) for at in range(0, len(face), levels)])

    def guesses(self, count: int) -> list[list[int]]:
        """The codes of up to so many faces to come; fewer where nothing like it was before."""
        begun = len(self.faces)
        while len(self.faces) < begun + count:
            before = next((self.known[context] for context in self._contexts() if context in self.known), None)
            if before is None:
                break
            self._add(self._like(before))
        made = [[code for corner in face for code in corner] for face in self.faces[begun:]]
        del self.faces[begun:], self.shared[begun:]
        return made

    def _add(self, face: list[Corner]) -> None:
        recent = self._recent(len(self.faces))
        self.shared.append(tuple(recent.index(corner) if corner in recent else -1 for corner in face))
        self.faces.append(face)

    def _recent(self, number: int) -> list[Corner]:
        """The corners of the faces before that one, the last face first."""
        return [corner for face in reversed(self.faces[max(number - REACH, 0) : number]) for corner in face]

    def _contexts(self) -> list[tuple]:
        return [tuple(self.shared[-order:]) for order in ORDERS if len(self.shared) >= order]

    def _like(self, before: int) -> list[Corner]:
        """A face that shares corners as that one did.

        A corner that was new is as far from that of the face before as it was then, code by code: so it is where codes
        are coordinates, and elsewhere as good a guess as any.
        """
        recent, face = self._recent(len(self.faces)), []
        ends = zip(self.faces[before], self.shared[before], self.faces[before - 1], self.faces[-1], strict=True)
        for corner, place, then, now in ends:
            moved = tuple(code + b - a for code, a, b in zip(corner, then, now, strict=True))
            moved = tuple(min(max(code, 0), self.vocab_size - 1) for code in moved)
            face.append(recent[place] if 0 <= place < len(recent) else moved)
        return face


class FaceGuessingReader(CachedReader):
    """A `CachedReader` of one sentence (in one row, or two with guidance) that reads guessed faces with each new one.

    Both stacks read them in one pass; as far as the codes drawn are those guessed, what was read is taken. The coarse
    cache is cut back behind the last face that came true, the fine one behind the last code.
    """

    def __init__(self, model: FaceWriter, faces: Int[Tensor, "b nf t"], context: Context | None, most: int):
        """Guesses `most` faces a pass."""
        self.guessed: list[list[int]] = []
        super().__init__(model, faces, context)
        self.most, self.habits = most, Habits(model.form.corners, model.vocab_size)
        for face in faces[0, : int(self.counts[0])].tolist():
            self.habits.hear(face)

    def start_face(self) -> None:
        super().start_face()
        self.follows = bool(self.guessed)

    def read_code(self, codes: Tensor | None, around: Surroundings | None = None) -> Float[Tensor, "b d"]:
        if self.follows and codes is not None and int(codes[0]) != self.guessed[0][self.place - 1]:
            self._fall_back()
        if not self.follows:
            return super().read_code(codes, around)
        self.place += 1
        return self.hidden[:, 0, self.place - 1]

    def _fall_back(self) -> None:
        """From here on the face is another one: the fine stack goes on behind the codes that it shares."""
        groups = self.read.batch_size // len(self.hidden)
        at = groups - len(self.guessed)
        self.fine = self.read.select(torch.arange(at, self.read.batch_size, groups, device=self.model.device))
        past = len(self.before) * self.model.tokens_per_face
        self.fine.set_lengths(torch.full_like(self.counts, past + self.place))
        self.follows = False

    def _plans(
        self, faces: Int[Tensor, "b 1 t"], embedded: Float[Tensor, "b 1 t d"], after: Surroundings | None
    ) -> Float[Tensor, "b 1 d"]:
        face = faces[0, 0].tolist()
        self.habits.hear(face)
        if self.guessed and face == self.guessed[0]:
            self.guessed, self.hidden, self.plans = self.guessed[1:], self.hidden[:, 1:], self.plans[:, 1:]
        else:
            self._settle()
            self._read_ahead(faces)
        return self.plans[:, :1]

    def _settle(self) -> None:
        """Forgets the guesses that have not come true."""
        if self.guessed:
            self.coarse.set_lengths(self.coarse.lengths - len(self.guessed))
        self.guessed = []

    def _read_ahead(self, face: Int[Tensor, "b 1 t"]) -> None:
        """Both stacks read a face and the guesses behind it."""
        model, guessed = self.model, self.habits.guesses(self.most)
        ahead = torch.tensor(guessed, device=face.device, dtype=face.dtype).view(1, len(guessed), face.shape[2])
        faces = torch.cat((face, ahead.expand(len(face), -1, -1)), dim=1)
        embedded = model.embed(faces, self.counts)
        self.plans = model.coarse_step(model.coarse_inputs(faces, embedded, self.context), self.coarse, self.context)
        self.guessed = guessed
        if guessed:
            self.hidden = self._read_codes(embedded)

    def _read_codes(self, embedded: Float[Tensor, "b nf t d"]) -> Float[Tensor, "b k t d"]:
        """The fine stack's outputs for the codes of each guessed face, those behind the first."""
        past, groups = len(self.before), embedded.shape[1] - 1
        known = torch.cat((*(face[:, None] for face in self.before), embedded), dim=1)
        before = [known[:, 1 + place : 1 + place + groups] for place in range(past)]
        slots = self.model.slots(embedded[:, 1:], self.plans[:, :-1])
        sequence = rearrange(torch.cat((*self.model.fine_context(before), slots), dim=2), "b k n d -> (b k) n d")
        self.read: StackCache = empty_cache(len(sequence), self.model.device, sequence.shape[1])
        self.read.lean = self.fine.lean
        read = self.model.fine.step(sequence, self.read)[:, -slots.shape[2] :]
        return rearrange(read, "(b k) t d -> b k t d", k=groups)

    def select(self, rows: Int[Tensor, " r"]) -> None:
        """Only a sentence that has ended leaves."""
        self._settle()
        self.follows = False
        super().select(rows)
