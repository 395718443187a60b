"""How the decode loop reads what it has written: cached, or as in training; with guidance, in two rows for each."""

import dataclasses
from typing import Protocol, cast, runtime_checkable

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from meshgpt.mesh.grammar import Surroundings
from meshgpt.transformer.cache import empty_cache
from meshgpt.transformer.conditioning import Context
from meshgpt.transformer.copying import CopyingHead
from meshgpt.transformer.fixed import FixedCache, fixed_cache, fixed_copy
from meshgpt.transformer.forms import behind_steps
from meshgpt.transformer.guidance import Guidance, GuidedHead, Head
from meshgpt.transformer.heads import CodeHead
from meshgpt.transformer.model import FaceWriter
from meshgpt.transformer.recurrence import Recurrence
from meshgpt.transformer.spelling import HintedHead, SpelledOut, SpellingHead


@runtime_checkable
class Reader(Protocol):
    """What the loop asks of the model, cached or not: the same numbers either way."""

    @property
    def counts(self) -> Int[Tensor, " b"]: ...  # faces read
    def start_face(self) -> None: ...
    def read_code(self, codes: Tensor | None, around: Surroundings | None = None) -> Float[Tensor, "b d"]:
        """What to predict the next code, surrounded by `around`, from, after `codes`; None asks for a face's first."""
        ...

    def head(self, hidden: Float[Tensor, "b d"], place: int, said: Int[Tensor, "b t"]) -> Head:
        """What answers for the code at `place`."""
        ...

    def finish_face(self, faces: Int[Tensor, "b 1 t"], after: Surroundings | None = None) -> None: ...
    def select(self, rows: Int[Tensor, " r"]) -> None: ...


class CachedReader:
    """Embeds each face once, runs the coarse stack once a face and the fine stack once a code."""

    def __init__(self, model: FaceWriter, faces: Int[Tensor, "b nf t"], context: Context | None = None):
        self.model, self.counts, self.context = model, (faces[..., -1] >= 0).sum(dim=1), context
        self.fine, self.around = empty_cache(len(faces), model.device), None
        rows, past = torch.arange(len(faces), device=model.device), model.config.fine_context_faces
        embedded, around = model.embed(faces), model.surroundings(faces)
        self.coarse = empty_cache(len(faces), model.device, window=model.config.window)
        after = behind_steps(around, faces.shape[2])
        inputs = model.with_starts(model.coarse_inputs(faces, embedded, context, after), context)
        read = model.coarse_step(inputs, self.coarse, context)
        starts = len(model.start_tokens)
        self.coarse.set_lengths(self.counts + starts)
        plans = read[:, starts - 1 :]
        self.plan = plans[rows, self.counts]
        padded = F.pad(embedded, (0, 0, 0, 0, past, 0))
        self.before = [padded[rows, self.counts + index] for index in range(past)]
        slots = model.slots(embedded, plans[:, :-1], around)
        self.memory = self._read_memory(rearrange(slots, "b nf t d -> b (nf t) d"))
        vertices, most = model.vertices_said(faces, embedded, plans), model.config.window
        self.vertices = vertices.last(self.counts, most) if vertices is not None and most else vertices
        self.last = model.faces_before(faces, rows, self.counts)
        self.trace = model.cloud_trace(faces, context)
        self.spelled_out = SpelledOut(model.head) if isinstance(model.head, SpellingHead) else None
        self.known: tuple[Surroundings | None, Tensor | None] = (None, None)
        self.traced = self.counts if around is None else around.faces[:, -1]
        self.start_face()

    def _read_memory(self, sequence: Float[Tensor, "b n d"]) -> list[Tensor]:
        """The states of the recurrences over codes, behind each row's last whole face."""
        memory = []
        for layer in self.model.fine_memory:
            sequence, states = cast(Recurrence, layer).step(sequence, None)
            states = F.pad(states, (0, 0, 1, 0))
            memory.append(
                states[torch.arange(len(states), device=states.device), self.counts * self.model.tokens_per_face]
            )
        return memory

    def start_face(self) -> None:
        tokens, known, parts = self.model.tokens_per_face * (1 + len(self.before)), self.fine.contexts, self.fine.lean
        self.fine, self.place = empty_cache(len(self.counts), self.model.device, tokens), 0
        self.fine.contexts, self.fine.lean = known, parts

    def read_code(self, codes: Tensor | None, around: Surroundings | None = None) -> Float[Tensor, "b d"]:
        x = self.plan if codes is None else self.model.embed_code(codes, self.place - 1, self.counts)
        self._follow(around)
        if self.model.around is not None and around is not None:
            x = x + self.model.around.to_fine(self._told(around))
        x = rearrange(x, "b d -> b 1 d")
        for index, layer in enumerate(self.model.fine_memory):
            x, states = cast(Recurrence, layer).step(x, self.memory[index])
            self.memory[index] = states[:, -1]
        before = self.model.fine_context(self.before) if self.place == 0 else []
        self.place += 1
        asked = self.model.fine_asked(self.context)
        return self.model.fine.step(torch.cat((*before, x), dim=1), self.fine, context=asked)[:, -1]

    def _told(self, around: Surroundings | None) -> Tensor | None:
        """What the model reads of surroundings, which both stacks want of the same ones, one after the other."""
        if around is None or self.model.around is None:
            return None
        if self.known[0] is not around:
            self.known = around, self.model.around.told(around.places)
        return self.known[1]

    def _follow(self, around: Surroundings | None) -> None:
        """Keeps what surrounds the next code, and covers the cloud with the face that the last one has finished."""
        self.around = around
        if around is None or around.last is None or self.trace is None:
            return
        new = (around.faces > self.traced)[:, None, None]
        if new.any():
            face = torch.where(new, around.last, -1)[:, None]
            self.trace, self.traced = self.trace.cover(face, self.traced, self.model.form.bins), around.faces

    def head(
        self, hidden: Float[Tensor, "b d"], place: int, said: Int[Tensor, "b t"]
    ) -> CodeHead | CopyingHead | HintedHead:
        rows = torch.arange(len(hidden), device=hidden.device)
        told = self.model.tips_told(hidden, rows, self.around, self.trace)
        known = self.vertices, self.counts, self.last, self.around, told
        head = self.model.head_for(hidden, place, said, *known)
        return dataclasses.replace(head, spelled_out=self.spelled_out) if isinstance(head, HintedHead) else head

    def finish_face(self, faces: Int[Tensor, "b 1 t"], after: Surroundings | None = None) -> None:
        self.last = torch.cat((self.last, faces), dim=1)[:, 1:]
        embedded = self.model.embed(faces, self.counts)
        plans = self._plans(faces, embedded, after)
        self.before = [*self.before, embedded[:, 0]][1:]
        self.plan = plans[:, 0]
        if self.model.pointer is not None and self.vertices is not None:
            said = self.model.pointer.remember(faces, embedded, plans, self.counts)
            self.vertices = self.vertices.append(said, self.model.config.window)
        self.counts = self.counts + 1

    def _plans(
        self, faces: Int[Tensor, "b 1 t"], embedded: Float[Tensor, "b 1 t d"], after: Surroundings | None
    ) -> Float[Tensor, "b 1 d"]:
        """The coarse stack's word on what comes behind a face."""
        behind = None if after is None else after.select((slice(None), None))
        told = self._told(after)
        told = told if told is None else told[:, None]
        inputs = self.model.coarse_inputs(faces, embedded, self.context, behind, told)
        return self.model.coarse_step(inputs, self.coarse, self.context)

    def select(self, rows: Int[Tensor, " r"]) -> None:
        self.coarse, self.fine = self.coarse.select(rows), self.fine.select(rows)
        self.context = None if self.context is None else self.context.select(rows)
        self.plan, self.counts, self.last = self.plan[rows], self.counts[rows], self.last[rows]
        self.around, self.traced = self.around and self.around.select(rows), self.traced[rows]
        self.trace = self.trace and self.trace.select(rows)
        self.before = [face[rows] for face in self.before]
        self.memory = [state[rows] for state in self.memory]
        self.vertices = None if self.vertices is None else self.vertices.select(rows)


class FixedReader(CachedReader):
    """A `CachedReader` whose stacks read in shapes that stay, recorded as CUDA graphs where there is a GPU."""

    def __init__(self, model: FaceWriter, faces: Int[Tensor, "b nf t"], context: Context | None = None):
        super().__init__(model, faces, context)
        self.coarse = fixed_copy(model.coarse.spec, self.coarse, self.plan, context, self._records)

    @property
    def _records(self) -> bool:
        return self.model.device.type == "cuda"

    def start_face(self) -> None:
        self.place = 0
        if isinstance(self.fine, FixedCache):
            self.fine.restart()
            return
        tokens = self.model.tokens_per_face * (1 + len(self.before))
        self.fine = fixed_cache(self.model.fine.spec, self.plan, tokens, self._records)


def why_no_graphs(model: FaceWriter) -> str:
    """Why the stacks of a model cannot read in shapes that stay; empty where they can."""
    config = model.config
    if config.window or config.distance_bias or config.fine_cross_attend_text:
        return "it has a window, a distance bias, or a fine stack that reads what is asked"
    if not model.coarse.is_plain or not model.fine.is_plain:
        return "it has recurrences, memory, value residuals, several residual streams, or reversible layers"
    device = model.device.type
    if model.start_tokens.dtype == torch.float16 or torch.is_autocast_enabled(device):
        return "it computes in float16 or under autocast, not in bfloat16 or float32"
    return ""


class UncachedReader:
    """Computes everything again at each step, as in training: the reference for the cached one, without its memory."""

    def __init__(self, model: FaceWriter, faces: Int[Tensor, "b nf t"], context: Context | None = None):
        self.model, self.counts, self.context = model, (faces[..., -1] >= 0).sum(dim=1), context
        self.faces = F.pad(faces, (0, 0, 0, 1), value=-1)
        self.place, self.vertices, self.around = 0, None, None

    def start_face(self) -> None:
        self.place = 0

    def read_code(self, codes: Tensor | None, around: Surroundings | None = None) -> Float[Tensor, "b d"]:
        """Finds the surroundings in the codes again."""
        rows = torch.arange(len(self.faces), device=self.faces.device)
        if codes is not None:
            self.faces[rows, self.counts, self.place - 1] = codes
        self.place += 1
        embedded, around = self.model.embed(self.faces), self.model.surroundings(self.faces)
        plans = self.model.plans(self.faces, embedded, self.context, around)
        self.vertices = self.model.vertices_said(self.faces, embedded, plans)
        hidden, _, group_faces = self.model.hidden(self.faces, embedded, plans, self.context, around)
        last = (self.faces[..., 0] >= 0).sum(dim=1).cumsum(0) + rows  # each row has one group more than begun faces
        ends = last - (self.faces[rows, self.counts, 0] >= 0).long()
        at = self.counts * self.faces.shape[2] + self.place - 1
        self.around = around and around.select((rows, at))
        assert torch.equal(group_faces[ends], self.counts)
        return hidden[ends, self.place - 1]

    def head(
        self, hidden: Float[Tensor, "b d"], place: int, said: Int[Tensor, "b t"]
    ) -> CodeHead | CopyingHead | HintedHead:
        rows = torch.arange(len(said), device=said.device)
        before = self.model.faces_before(self.faces, rows, self.counts)
        trace = self.model.cloud_trace(self.faces, self.context)
        told = self.model.tips_told(hidden, rows, self.around, trace)
        return self.model.head_for(hidden, place, said, self.vertices, self.counts, before, self.around, told)

    def finish_face(self, faces: Int[Tensor, "b 1 t"], after: Surroundings | None = None) -> None:
        self.faces[torch.arange(len(faces), device=faces.device), self.counts] = faces[:, 0]
        self.counts = self.counts + 1
        if int(self.counts.max()) == self.faces.shape[1]:
            self.faces = F.pad(self.faces, (0, 0, 0, 1), value=-1)

    def select(self, rows: Int[Tensor, " r"]) -> None:
        self.faces, self.counts = self.faces[rows], self.counts[rows]
        self.around = self.around and self.around.select(rows)
        self.context = None if self.context is None else self.context.select(rows)


class GuidedReader:
    """Two rows for each: one that is asked for something, and one that is not (or for what to keep away from)."""

    def __init__(self, inner: "CachedReader | UncachedReader", guidance: Guidance):
        self.inner, self.guidance = inner, guidance
        self.doubled: tuple[Surroundings | None, Surroundings | None] = (None, None)

    def _twice(self, around: Surroundings | None) -> Surroundings | None:
        """Of surroundings, for both rows of each; one and the same as long as they are."""
        if around is None:
            return None
        if self.doubled[0] is not around:
            self.doubled = around, around.select(torch.arange(len(around.faces), device=around.faces.device).repeat(2))
        return self.doubled[1]

    @property
    def counts(self) -> Int[Tensor, " b"]:
        return self.inner.counts.chunk(2)[0]

    def start_face(self) -> None:
        self.inner.start_face()

    def read_code(self, codes: Tensor | None, around: Surroundings | None = None) -> Float[Tensor, "b d2"]:
        hidden = self.inner.read_code(None if codes is None else codes.repeat(2), self._twice(around))
        return rearrange(hidden, "(two b) d -> b (two d)", two=2)

    def head(self, hidden: Float[Tensor, "b d2"], place: int, said: Int[Tensor, "b t"]) -> GuidedHead:
        both = rearrange(hidden, "b (two d) -> (two b) d", two=2)
        return GuidedHead(self.inner.head(both, place, said.repeat(2, 1)), self.guidance, self.counts)

    def finish_face(self, faces: Int[Tensor, "b 1 t"], after: Surroundings | None = None) -> None:
        self.inner.finish_face(faces.repeat(2, 1, 1), self._twice(after))

    def select(self, rows: Int[Tensor, " r"]) -> None:
        self.inner.select(torch.cat((rows, rows + len(self.counts))))
