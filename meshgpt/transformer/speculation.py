"""Several codes a coarse pass: a tree of guesses is read at once, and what the model says decides how far that goes.

Every code is still drawn from the model's own distribution, with the number that it would have been drawn with anyway.
Guesses only decide what has been read by then: a code that was among them needs no further pass. So a seed gives the
same mesh with guesses and without (but for rounding), which is more than the distribution that speculative sampling
keeps (Leviathan et al., arXiv:2211.17192). Trees of guesses are SpecInfer's (Miao et al., arXiv:2305.09781).
"""

import dataclasses

import torch
from jaxtyping import Float, Int
from torch import Tensor

from meshgpt.mesh.grammar import Sentence, SentenceRows, Surroundings
from meshgpt.transformer.cache import empty_cache
from meshgpt.transformer.conditioning import Context
from meshgpt.transformer.draft import AHEAD
from meshgpt.transformer.model import FaceWriter
from meshgpt.transformer.readers import CachedReader
from meshgpt.transformer.sentences import Sentences

CHOICES = 6  # guesses for one code at most
UNLIKELY = 0.03  # a guess less likely than this is not worth reading


@dataclasses.dataclass
class Guess:
    """One code of a tree, and the sentence up to there."""

    code: int
    parent: int  # -1 for the root, which is no guess
    depth: int
    row: Sentence
    likely: float


@dataclasses.dataclass
class Tree:
    """Guesses in the order in which they were made, what was read of each, and which of them have come true.

    hidden: (b n d), what the code behind each is to be predicted from. plans: (b n d), the coarse stack's word on it.
    """

    guesses: list[Guess]
    hidden: Tensor
    plans: Tensor
    path: list[int]  # from the root

    def follow(self, code: int) -> bool:
        """Goes on to the guess that the next code is this; whether there is one."""
        found = [i for i, guess in enumerate(self.guesses) if guess.parent == self.path[-1] and guess.code == code]
        self.path.extend(found)
        return bool(found)


class GuessingReader(CachedReader):
    """A `CachedReader` of one sentence (in one row, or two with guidance) that reads ahead."""

    def __init__(
        self,
        model: FaceWriter,
        faces: Int[Tensor, "b nf t"],
        context: Context | None,
        sentences: Sentences,
        most: int,
        temperature: float,
    ):
        """Guesses at most `most` codes a pass, of what is drawn at this temperature."""
        super().__init__(model, faces, context)
        self.sentences, self.most, self.sharpness = sentences, most, 1 / max(temperature, 0.1)
        self.tree: Tree | None = None

    def read_code(self, codes: Tensor | None, around: Surroundings | None = None) -> Float[Tensor, "b d"]:
        if self.tree is None:
            return super().read_code(codes, around)
        self._follow(around)
        return self.tree.hidden[:, self.tree.path[-1]]

    def finish_face(self, faces: Int[Tensor, "b 1 t"], after: Surroundings | None = None) -> None:
        code = int(faces[0, 0, 0])
        if self.tree is None or not self.tree.follow(code):
            self._read_ahead(code)
        self.before = [*self.before, self.model.embed(faces, self.counts)[:, 0]][1:]
        self.counts = self.counts + 1

    def select(self, rows: Int[Tensor, " r"]) -> None:
        """Only a sentence that has ended leaves."""
        self._settle()
        super().select(rows)

    def _settle(self) -> None:
        """Keeps in the cache what has come true."""
        if self.tree is not None:
            self.plan = self.tree.plans[:, self.tree.path[-1]]
            self.coarse.keep(self.tree.path)
        self.tree = None

    def _read_ahead(self, code: int) -> None:
        """Makes guesses behind a code, and reads them all."""
        self._settle()
        state: SentenceRows = self.sentences.state
        room = self.sentences.capacity - int(self.sentences.lengths[0])
        guesses = [Guess(code, -1, 0, state.rows[0], 1.0)]
        told, around, begin = [], [], 0
        while begin < len(guesses):
            level = guesses[begin:]
            near = state.of([guess.row for guess in level]).surroundings()
            around.append(near)
            told.append(self._read(near))
            begin = len(guesses)
            if level[0].depth + 1 < min(AHEAD, room):
                guesses.extend(self._guessed(guesses, level, told[-1], near))
        self._read_tree(guesses, torch.cat(told), Surroundings.join(around))

    def _read(self, around: Surroundings) -> Float[Tensor, "n e"]:
        assert self.model.around is not None
        return self.model.around.told(around.places)

    def _guessed(
        self, guesses: list[Guess], level: list[Guess], told: Float[Tensor, "n e"], around: Surroundings
    ) -> list[Guess]:
        """The likeliest guesses behind the last ones, as many as there is still room for."""
        assert self.model.draft is not None
        before = torch.tensor([guess.code for guess in level], device=told.device)
        hints = self.model.hints(around)
        scores = self.model.draft(told, before, self.plan[:1].expand(len(level), -1), hints)
        likely, chosen = (scores.float() * self.sharpness).softmax(dim=-1)[:, :-1].topk(CHOICES, dim=-1)
        codes = self.model.draft.common[chosen]
        likely = likely * likely.new_tensor([guess.likely for guess in level])[:, None]
        first, made = len(guesses) - len(level), []
        order = likely.flatten().argsort(descending=True).tolist()
        shares, choices = likely.flatten().tolist(), codes.flatten().tolist()
        for index in order:
            if shares[index] < UNLIKELY or len(guesses) + len(made) > self.most:
                break
            guess, code = level[index // CHOICES], choices[index]
            row = guess.row.copy()
            if row.take(code):
                made.append(Guess(code, first + index // CHOICES, guess.depth + 1, row, shares[index]))
        return made

    def _read_tree(self, guesses: list[Guess], told: Float[Tensor, "n e"], around: Surroundings) -> None:
        """One pass of both stacks over all guesses."""
        model, b, n = self.model, len(self.counts), len(guesses)
        codes = torch.tensor([guess.code for guess in guesses], device=model.device)
        faces = codes[None, :, None].expand(b, -1, -1)
        embedded = model.embed(faces)
        everywhere = around.select((None, slice(None))).select(torch.zeros(b, dtype=torch.long))
        inputs = model.coarse_inputs(faces, embedded, self.context, everywhere, told.expand(b, -1, -1))
        inputs, _ = model.asked(inputs, faces[..., 0], self.context)
        depths = torch.tensor([guess.depth for guess in guesses], device=model.device)
        plans = model.to_fine(model.coarse.step_tree(inputs.tokens, self.coarse, depths, seen(guesses), self.context))
        assert model.around is not None
        slots = plans + model.around.to_fine(told)
        sequence = torch.stack((*model.fine_context(self._before(guesses, embedded)), slots), dim=2)
        fine = empty_cache(b * n, model.device, sequence.shape[2])
        fine.lean = self.fine.lean
        read = model.fine.step(sequence.flatten(0, 1), fine)[:, -1]
        self.fine.lean = fine.lean
        self.tree = Tree(guesses, read.unflatten(0, (b, n)), plans, [0])

    def _before(self, guesses: list[Guess], embedded: Float[Tensor, "b n t d"]) -> list[Tensor]:
        """What the fine stack reads before a code: the codes before it, of each guess (b n d)."""
        past = len(self.before)
        known = torch.cat((*self.before, embedded[:, :, 0]), dim=1) if past else embedded[:, :, 0]
        lines: list[list[int]] = []
        for index, guess in enumerate(guesses):
            line = lines[guess.parent] if guess.parent >= 0 else list(range(past))
            lines.append([*line, past + index])
        return [known[:, [line[-past + place] for line in lines]] for place in range(past)]


def seen(guesses: list[Guess]) -> Tensor:
    """(n n): True where a guess follows upon another, or is it."""
    table = torch.eye(len(guesses), dtype=torch.bool)
    for index, guess in enumerate(guesses):
        if guess.parent >= 0:
            table[index] |= table[guess.parent]
    return table


def why_not(model: FaceWriter) -> str:
    """Why a model cannot read ahead; empty where it can."""
    config = model.config
    if model.form.whole_faces:
        told = config.fine_cross_attend_text or config.fine_pre_gateloop_depth or config.local_points
        return "its fine stack reads what is asked, or all codes, or it is told of a cloud" if told else ""
    if model.draft is None:
        return "it has no extra head that guesses: train one with draft_dim = 128"
    if not model.draft.is_ready:
        return "its extra head has learned nothing yet: train it"
    if config.window or config.abs_pos_emb:
        return "it has a window, or learned positions"
    if config.fine_cross_attend_text or config.coarse_adaptive_rmsnorm or config.local_points or config.cloud_vertices:
        return "its fine stack or its norms read what is asked, or it is told of a cloud"
    if not model.coarse.is_plain or not model.fine.is_plain or config.fine_pre_gateloop_depth:
        return "it has recurrences, memory, value residuals, several residual streams, or reversible layers"
    return ""
