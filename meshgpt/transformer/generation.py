"""The decode loop: a coarse step a face, fine steps within it, rows that leave when they are finished."""

import dataclasses
from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from meshgpt.transformer.cache import empty_cache
from meshgpt.transformer.model import FaceWriter
from meshgpt.transformer.sampling import Chooser, Streams


@dataclasses.dataclass(frozen=True)
class GenerationResult:
    """What was written. `stopped_by` says of each row why it is no longer: "end", "max_faces" or "max_seq_len"."""

    codes: Int[Tensor, "b n"]  # prompt included, padded -1; a row that ran out may end within a face
    face_counts: Int[Tensor, " b"]  # whole faces
    stopped_by: tuple[str, ...]

    @property
    def finished(self) -> Bool[Tensor, " b"]:
        """True where the model itself wrote the end."""
        return torch.tensor([reason == "end" for reason in self.stopped_by], device=self.codes.device)


@dataclasses.dataclass(frozen=True)
class Request:
    """What to write. `prompt` (b n): codes to go on from, padded -1. `on_face(row, face, codes)` hears of faces."""

    prompt: Tensor
    chooser: Chooser
    max_seq_len: int
    cache_kv: bool = True
    on_face: Callable[[int, int, Tensor], None] | None = None
    on_step: Callable[[int, int], None] | None = None  # (faces of the longest row, rows being written), once a face


class Reader(Protocol):
    """What the loop asks of the model, cached or not: the same numbers either way."""

    def start_face(self) -> None: ...
    def read_code(self, x: Float[Tensor, "b 1 d"]) -> Float[Tensor, "b d"]: ...
    def read_face(self, faces: Int[Tensor, "b 1 t"]) -> None: ...
    def select(self, rows: Tensor) -> None: ...

    @property
    def condition(self) -> Float[Tensor, "b d"]: ...  # what the coarse stack says of the next face
    @property
    def counts(self) -> Int[Tensor, " b"]: ...  # faces read


class CachedReader:
    """Embeds each face once, runs the coarse stack once a face and the fine stack once a code."""

    def __init__(self, model: FaceWriter, faces: Int[Tensor, "b nf t"]):
        self.model, self.counts = model, (faces[..., -1] >= 0).sum(dim=1)
        embedded = model.embed(faces)
        inputs = model.with_starts(model.coarse_inputs(faces, embedded))
        self.coarse = empty_cache(len(faces), model.device)
        read = model.coarse_step(inputs, self.coarse)
        lengths = self.counts + len(model.start_tokens)
        self.coarse.set_lengths(lengths)
        rows = torch.arange(len(faces), device=model.device)
        self.condition = read[rows, lengths - 1]
        past = model.config.fine_context_faces
        padded = F.pad(embedded, (0, 0, 0, 0, past, 0))
        self.before = [padded[rows, self.counts + index] for index in range(past)]
        self.start_face()

    def start_face(self) -> None:
        tokens = self.model.tokens_per_face * (1 + len(self.before))
        self.fine = empty_cache(len(self.counts), self.model.device, tokens)

    def read_code(self, x: Float[Tensor, "b 1 d"]) -> Float[Tensor, "b d"]:
        context = [] if self.fine.max_length else self.model.fine_context(self.before)
        return self.model.fine.step(torch.cat((*context, x), dim=1), self.fine)[:, -1]

    def read_face(self, faces: Int[Tensor, "b 1 t"]) -> None:
        embedded = self.model.embed(faces, self.counts)
        self.before = [*self.before, embedded[:, 0]][1:]
        inputs = self.model.coarse_inputs(faces, embedded)
        self.condition = self.model.coarse_step(inputs, self.coarse)[:, 0]
        self.counts = self.counts + 1

    def select(self, rows: Tensor) -> None:
        self.coarse, self.fine = self.coarse.select(rows), self.fine.select(rows)
        self.condition, self.counts = self.condition[rows], self.counts[rows]
        self.before = [face[rows] for face in self.before]


class UncachedReader:
    """Computes everything again at each step: the reference for the cached one, without its memory."""

    def __init__(self, model: FaceWriter, faces: Int[Tensor, "b nf t"]):
        self.model, self.faces, self.counts = model, faces, (faces[..., -1] >= 0).sum(dim=1)
        self.inputs: list[Tensor] = []

    @property
    def condition(self) -> Tensor:
        conditions = self.model.conditions(self.faces, self.model.embed(self.faces))
        return conditions[torch.arange(len(self.faces), device=self.model.device), self.counts]

    def start_face(self) -> None:
        self.inputs = []

    def read_code(self, x: Float[Tensor, "b 1 d"]) -> Float[Tensor, "b d"]:
        self.inputs.append(x)
        past, rows = self.model.config.fine_context_faces, torch.arange(len(self.faces), device=self.faces.device)
        padded = F.pad(self.model.embed(self.faces), (0, 0, 0, 0, past, 0))
        before = [padded[rows, self.counts + index] for index in range(past)]
        sequence = [*self.model.fine_context(before), rearrange(self.condition, "b d -> b 1 d"), *self.inputs[1:]]
        return self.model.fine(torch.cat(sequence, dim=1))[:, -1]

    def read_face(self, faces: Int[Tensor, "b 1 t"]) -> None:
        room = torch.full_like(faces, -1)
        self.faces = torch.cat((self.faces, room), dim=1)
        self.faces[torch.arange(len(faces), device=faces.device), self.counts] = faces[:, 0]
        self.counts = self.counts + 1
        self.faces = self.faces[:, : int(self.counts.max())]

    def select(self, rows: Tensor) -> None:
        self.faces, self.counts = self.faces[rows], self.counts[rows]
        self.inputs = [x[rows] for x in self.inputs]


@torch.no_grad()
def write(model: FaceWriter, request: Request) -> GenerationResult:
    """Goes on from each prompt until the model writes the end or the row is full.

    A row that ends leaves the batch at once. A row that is full is asked once more whether it ends there.
    """
    return _Writing(model, request).run()


class _Writing:
    """One call of `write`: the rows still being written, and all that has been written."""

    def __init__(self, model: FaceWriter, request: Request):
        self.model, self.request, self.tokens = model, request, model.tokens_per_face
        prompt, sampling = request.prompt, request.chooser.sampling
        batch = len(prompt)
        self.limit = min(request.max_seq_len, (sampling.max_faces or request.max_seq_len) * self.tokens)
        self.codes = F.pad(prompt, (0, self.limit + self.tokens - prompt.shape[1]), value=-1)
        self.lengths = (prompt >= 0).sum(dim=1)
        self.reasons = [""] * batch
        self.active = torch.arange(batch, device=model.device)
        self.streams = Streams(sampling.seed, batch)
        whole = self.lengths // self.tokens
        faces = rearrange(prompt[:, : int(whole.max()) * self.tokens], "b (nf t) -> b nf t", t=self.tokens)
        faces = faces.masked_fill(
            torch.arange(faces.shape[1], device=model.device)[None, :, None] >= whole[:, None, None], -1
        )
        self.reader: Reader = (CachedReader if request.cache_kv else UncachedReader)(model, faces)

    def run(self) -> GenerationResult:
        while len(self.active):
            if self.request.on_step is not None:
                self.request.on_step(int(self.reader.counts.max()), len(self.active))
            self._write_face()
        length = int(self.lengths.max()) if len(self.lengths) else 0
        return GenerationResult(self.codes[:, :length], self.lengths // self.tokens, tuple(self.reasons))

    def _write_face(self) -> None:
        """The next face of every active row, or the rest of one begun in a prompt; full rows only say if they end."""
        self.reader.start_face()
        uniform, x = self.streams.take(self.tokens), rearrange(self.reader.condition, "b d -> b 1 d")
        for place in range(self.tokens):
            codes = self._next_codes(x, uniform[:, place], place)
            stays = codes < self.model.vocab_size
            if place == 0:
                stays &= self.reader.counts * self.tokens < self.limit
            if not stays.all():
                self._leave(codes, stays)
                codes, uniform = codes[stays], uniform[stays.to(uniform.device)]
            if not len(self.active):
                return
            self._keep(codes, place)
            if self._all_full():
                break
            x = self._embedded(place)
        self._finish_face()

    def _next_codes(self, x: Tensor, uniform: Tensor, place: int) -> Tensor:
        """What the prompts say at this place, and where they say nothing, what the model does."""
        hidden = self.reader.read_code(x)
        may_end = (self.reader.counts >= self.request.chooser.sampling.min_faces) & (place == 0)
        said = self.codes[self.active, self.reader.counts * self.tokens + place]
        return torch.where(said >= 0, said, self.request.chooser(self.model.head, hidden, uniform, may_end))

    def _leave(self, codes: Tensor, stays: Tensor) -> None:
        """Rows that wrote the end, or that are full and did not, leave the batch."""
        full = "max_seq_len" if self.limit == self.request.max_seq_len else "max_faces"
        for row, code, stay in zip(self.active.tolist(), codes.tolist(), stays.tolist(), strict=True):
            if not stay:
                self.reasons[row] = "end" if code == self.model.vocab_size else full
        self._select(torch.nonzero(stays).squeeze(-1))

    def _select(self, rows: Tensor) -> None:
        self.active = self.active[rows]
        self.streams.select(rows.tolist())
        self.reader.select(rows)

    def _keep(self, codes: Tensor, place: int) -> None:
        """Writes down the codes of rows that have room for them."""
        position = self.reader.counts * self.tokens + place
        self.codes[self.active, position] = torch.where(position < self.limit, codes, self.codes[self.active, position])
        self.lengths[self.active] = torch.maximum(self.lengths[self.active], (position + 1).clamp(max=self.limit))

    def _all_full(self) -> bool:
        return bool((self.lengths[self.active] >= self.limit).all())

    def _current_faces(self) -> Int[Tensor, "b 1 t"]:
        position = self.reader.counts[:, None] * self.tokens + torch.arange(self.tokens, device=self.codes.device)
        return rearrange(self.codes[self.active[:, None], position], "b t -> b 1 t")

    def _embedded(self, place: int) -> Float[Tensor, "b 1 d"]:
        return self.model.embed(self._current_faces(), self.reader.counts)[:, :, place]

    def _finish_face(self) -> None:
        """Reads the face that was written; rows that were cut within it leave."""
        faces = self._current_faces()
        whole = faces[:, 0, -1] >= 0
        if self.request.on_face is not None:
            for row, face, codes, done in zip(
                self.active.tolist(), self.reader.counts.tolist(), faces[:, 0], whole.tolist(), strict=True
            ):
                if done:
                    self.request.on_face(row, face, codes.clone())
        if not whole.all():
            self._leave(torch.zeros_like(self.active), whole)
        if len(self.active):
            self.reader.read_face(faces[whole])
