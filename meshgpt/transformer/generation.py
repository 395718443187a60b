"""The decode loop: a coarse step a face, fine steps within it, rows that leave when they are finished."""

import dataclasses
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Int
from torch import Tensor

from meshgpt.errors import GenerationError, GenerationInterrupted
from meshgpt.mesh.grammar import OrderGrammar, SequenceGrammar, Surroundings
from meshgpt.transformer.conditioning import Context
from meshgpt.transformer.guidance import Guidance
from meshgpt.transformer.habits import FaceGuessingReader
from meshgpt.transformer.infill import Infill
from meshgpt.transformer.model import FaceWriter
from meshgpt.transformer.readers import CachedReader, FixedReader, GuidedReader, Reader, UncachedReader
from meshgpt.transformer.sampling import Chooser, Legal, Streams
from meshgpt.transformer.sentences import Sentences
from meshgpt.transformer.speculation import GuessingReader


@dataclasses.dataclass(frozen=True)
class GenerationResult:
    """What was written. `stopped_by` says of each row why it is no longer: "end", "max_faces" or "max_seq_len".

    "interrupted" is a row that was still being written at a Ctrl-C; see `GenerationInterrupted`.
    """

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
    context: Context | None = None  # what is asked of each row; with guidance, of twice as many: then without it
    guidance: Guidance | None = None
    grammar: OrderGrammar | SequenceGrammar | None = None
    on_face: Callable[[int, int, Tensor], None] | None = None
    on_step: Callable[[int, int], None] | None = None  # (faces of the longest row, rows being written), once a face
    speculate: int = 0  # codes to guess ahead of each coarse pass, for a single row; see `speculation.py`, `habits.py`
    graphs: bool = False  # whether the stacks read in shapes that stay, see `fixed.py`
    infill: Infill | None = None  # faces to keep among those written; with no prompt, and with the order's grammar


@torch.no_grad()
def write(model: FaceWriter, request: Request) -> GenerationResult:
    """Goes on from each prompt until the model writes the end or the row is full.

    A row that ends leaves the batch at once. A row that is full is asked once more whether it ends there. Raises
    `GenerationInterrupted`, with all that has been written as its `result`, for a Ctrl-C.
    """
    return _Writing(model, request).run()


def _reader(model: FaceWriter, faces: Int[Tensor, "b nf t"], sentences: Sentences | None, request: Request) -> Reader:
    guidance = request.guidance
    rows = faces if guidance is None else faces.repeat(2, 1, 1)
    if not request.cache_kv:
        inner = UncachedReader(model, rows, request.context)
    elif request.speculate and len(faces) == 1 and sentences is None:
        inner = FaceGuessingReader(model, rows, request.context, math.ceil(request.speculate / model.tokens_per_face))
    elif request.speculate and len(faces) == 1:
        assert sentences is not None
        temperature = request.chooser.sampling.temperature
        inner = GuessingReader(model, rows, request.context, sentences, request.speculate, temperature)
    else:
        inner = (FixedReader if request.graphs else CachedReader)(model, rows, request.context)
    return inner if guidance is None else GuidedReader(inner, guidance)


class _Writing:
    """One call of `write`: the rows still being written, and all that has been written."""

    def __init__(self, model: FaceWriter, request: Request):
        self.model, self.request, self.tokens = model, request, model.tokens_per_face
        prompt, sampling = request.prompt, request.chooser.sampling
        batch = len(prompt)
        self.limit, self.most_faces = request.max_seq_len, sampling.max_faces or request.max_seq_len
        row_faces = sampling.row_faces
        self.row_faces = None if row_faces is None else torch.tensor(row_faces, device=model.device)
        if self.row_faces is not None and len(self.row_faces) != batch:
            raise GenerationError(f"row_faces has {len(self.row_faces)} numbers for {batch} rows: give one for each")
        if model.form.whole_faces:
            self.limit = min(self.limit, self.most_faces * self.tokens)
        self.codes = F.pad(prompt, (0, self.limit + self.tokens - prompt.shape[1]), value=-1)
        self.lengths = (prompt >= 0).sum(dim=1)
        self.reasons = [""] * batch
        self.active = torch.arange(batch, device=model.device)
        self.streams = Streams(sampling.seed, batch)
        infill = request.infill
        self.filling = None if infill is None else infill.begin(self.limit // self.tokens, model.device)
        whole = self.lengths // self.tokens
        faces = rearrange(prompt[:, : int(whole.max()) * self.tokens], "b (nf t) -> b nf t", t=self.tokens)
        faces = faces.masked_fill(
            torch.arange(faces.shape[1], device=model.device)[None, :, None] >= whole[:, None, None], -1
        )
        self.sentences = None if model.form.whole_faces else self._sentences(faces.flatten(1))
        self.reader: Reader = _reader(model, faces, self.sentences, request)

    def _sentences(self, begun: Int[Tensor, "b n"]) -> Sentences:
        assert self.request.grammar is not None and not isinstance(self.request.grammar, OrderGrammar)
        return Sentences(self.request.grammar, begun, self.limit)

    def run(self) -> GenerationResult:
        try:
            while len(self.active):
                if self.request.on_step is not None:
                    self.request.on_step(int(self._faces.max()), len(self.active))
                self._write_face()
        except KeyboardInterrupt as interrupt:
            raise GenerationInterrupted(result=self.result()) from interrupt
        return self.result()

    def result(self) -> GenerationResult:
        """All that has been written, whatever the moment."""
        length = int(self.lengths.max()) if len(self.lengths) else 0
        beyond = torch.arange(length, device=self.codes.device) >= self.lengths[:, None]
        reasons = tuple(reason or "interrupted" for reason in self.reasons)
        codes = self.codes[:, :length].masked_fill(beyond, -1)
        return GenerationResult(codes, self.model.faces_in(codes), reasons)

    @property
    def _faces(self) -> Int[Tensor, " b"]:
        """Whole faces of each active row."""
        return self.reader.counts if self.sentences is None else self.sentences.faces

    @property
    def _around(self) -> Surroundings | None:
        return None if self.sentences is None else self.sentences.around

    def _write_face(self) -> None:
        """The next face of every active row, or the rest of one begun in a prompt; full rows only say if they end."""
        self.reader.start_face()
        uniform, codes = self.streams.take(self.tokens), None
        for place in range(self.tokens):
            codes = self._next_codes(codes, uniform[:, place], place)
            stays = codes < self.model.vocab_size
            stays &= ~self._are_full(place)
            if not stays.all():
                self._leave(codes, stays)
                codes, uniform = codes[stays], uniform[stays.to(uniform.device)]
            if not len(self.active):
                return
            self._keep(codes, place)
            if self.sentences is None and self._all_full():
                break
        self._finish_face()

    def _are_full(self, place: int) -> Bool[Tensor, " b"]:
        """Which rows have room for nothing but the end; of whole faces that is known where one starts."""
        most = self.most_faces if self.row_faces is None else self.row_faces[self.active].clamp(max=self.most_faces)
        if self.sentences is None:
            return ((self.reader.counts * self.tokens >= self.limit) | (self.reader.counts >= most)) & (place == 0)
        return (self.sentences.lengths >= self.limit) | (self.sentences.faces >= most)

    def _next_codes(self, codes: Tensor | None, uniform: Tensor, place: int) -> Tensor:
        """What the prompts say at this place, and where they say nothing, what the model does after `codes`."""
        hidden = self.reader.read_code(codes, self._around)
        may_end = (self._faces >= self.request.chooser.sampling.min_faces) & self.model.may_end[place]
        may_end = may_end if self.filling is None else may_end & self.filling.may_end()
        current = self._current_faces()[:, 0]
        head = self.reader.head(hidden, place, current)
        legal = self._legal(current, place)
        chosen = self.request.chooser(head, hidden, uniform, may_end, legal)
        if self.filling is not None:
            chosen = self.filling.choose(chosen, current, place, self.reader.counts, self.model.vocab_size)
        return torch.where(current[:, place] >= 0, current[:, place], chosen)

    def _legal(self, current: Int[Tensor, "b t"], place: int) -> Legal | None:
        if self.sentences is not None:
            return self.sentences.legal(self.limit)
        grammar = self.request.grammar
        return grammar.legal(self._last_faces(), current, place) if isinstance(grammar, OrderGrammar) else None

    def _last_faces(self) -> Int[Tensor, "b t"]:
        """The last whole face of each active row, -1 where there is none."""
        position = (self.reader.counts[:, None] - 1) * self.tokens + torch.arange(self.tokens, device=self.codes.device)
        last = self.codes[self.active[:, None], position.clamp(min=0)]
        return last.masked_fill(self.reader.counts[:, None] == 0, -1)

    def _leave(self, codes: Tensor, stays: Tensor) -> None:
        """Rows that wrote the end, or that are full and did not, leave the batch."""
        for row, code, stay in zip(self.active.tolist(), codes.tolist(), stays.tolist(), strict=True):
            if not stay:
                full = "max_seq_len" if self.lengths[row] >= self.request.max_seq_len else "max_faces"
                self.reasons[row] = "end" if code == self.model.vocab_size else full
        self._select(torch.nonzero(stays).squeeze(-1))

    def _select(self, rows: Tensor) -> None:
        self.active = self.active[rows]
        self.streams.select(rows.tolist())
        for part in (self.filling, self.sentences, self.reader):
            if part is not None:
                part.select(rows)

    def _keep(self, codes: Tensor, place: int) -> None:
        """Writes down the codes of rows that have room for them."""
        position = self.reader.counts * self.tokens + place
        self.codes[self.active, position] = torch.where(position < self.limit, codes, self.codes[self.active, position])
        self.lengths[self.active] = torch.maximum(self.lengths[self.active], (position + 1).clamp(max=self.limit))
        if self.sentences is None:
            return
        for index, begin in self.sentences.took(codes):
            if self.request.on_face is not None:
                row, end = int(self.active[index]), int(self.sentences.lengths[index])
                self.request.on_face(row, int(self._faces[index]) - 1, self.codes[row, begin:end].clone())

    def _all_full(self) -> bool:
        return bool((self.lengths[self.active] >= self.limit).all())

    def _current_faces(self) -> Int[Tensor, "b 1 t"]:
        position = self.reader.counts[:, None] * self.tokens + torch.arange(self.tokens, device=self.codes.device)
        return rearrange(self.codes[self.active[:, None], position], "b t -> b 1 t")

    def _finish_face(self) -> None:
        """Reads the face that was written; rows that were cut within it leave."""
        faces = self._current_faces()
        whole = faces[:, 0, -1] >= 0
        if self.request.on_face is not None and self.sentences is None:
            for row, face, codes, done in zip(
                self.active.tolist(), self.reader.counts.tolist(), faces[:, 0], whole.tolist(), strict=True
            ):
                if done:
                    self.request.on_face(row, face, codes.clone())
        if self.filling is not None:
            self.filling.finish_face(faces[:, 0])
        if not whole.all():
            self._leave(torch.zeros_like(self.active), whole)
        if len(self.active):
            self.reader.finish_face(faces[whole], self._around)
