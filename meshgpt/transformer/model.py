"""Two stacks that write faces: one coarse step a face, and within a face one fine step a code."""

import dataclasses
import math

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor, nn

from meshgpt.errors import ConfigError
from meshgpt.mesh.grammar import Surroundings
from meshgpt.transformer.cache import StackCache
from meshgpt.transformer.cloud_reader import CloudReader
from meshgpt.transformer.cloud_tips import CloudTips, CloudTrace, TipsTold
from meshgpt.transformer.conditioning import Conditioner, Context
from meshgpt.transformer.config import MeshTransformerConfig
from meshgpt.transformer.copying import CopyingHead, CopyMemory, CopyPointer, PointedVertices, codes_nearby
from meshgpt.transformer.draft import Draft
from meshgpt.transformer.features import DistanceBias, FaceFeatures
from meshgpt.transformer.forms import (
    CoarseInputs,
    FaceForm,
    Pieces,
    TokenReader,
    TransformerOutput,
    behind_steps,
    by_step,
    fold_faces,
    in_steps,
)
from meshgpt.transformer.heads import CodeEmbedding, CodeHead
from meshgpt.transformer.recurrence import Recurrence
from meshgpt.transformer.spelling import HintedHead, SpellingHead, SpeltEmbedding
from meshgpt.transformer.stack import Stack
from meshgpt.transformer.surroundings import SurroundingsEmbedding
from meshgpt.transformer.window import key_blocks, query_blocks

AIM = 0.3  # while it learns, the weight of a loss by which `CloudTips` alone should know what is said


class FaceWriter(nn.Module):
    """The weights of a `MeshTransformer` and its arithmetic, for codes that have been checked.

    A face's token is a projection of its codes' embeddings; the coarse stack reads the tokens of all faces so far, and
    its output begins the fine stack's sequence, which goes through the codes of the next face (Siddiqui et al.,
    arXiv:2311.15475; departs from the paper in that a coarse step is a face, not a code).
    """

    def __init__(self, config: MeshTransformerConfig, form: FaceForm, tokens: TokenReader):
        super().__init__()
        self.config, self.form, self._tokens = config, form, tokens
        self.vocab_size, self.tokens_per_face = form.vocab_size, form.tokens
        coarse, fine = config.dims
        digits = form.digits if config.code_digits > 1 else None
        code = (form.vocab_size, fine, config.code_digits)
        self.code_embed = CodeEmbedding(*code) if digits is None else SpeltEmbedding(digits, fine)
        self.corner_embed = nn.Parameter(0.1 * torch.randn(form.corners, 1, fine))
        self.level_embed = nn.Parameter(0.1 * torch.randn(form.tokens_per_corner, fine))
        self.position_embed = nn.Embedding(config.max_seq_len, fine) if config.abs_pos_emb else None
        self.to_face = nn.Sequential(nn.Linear(form.tokens * fine, coarse), nn.LayerNorm(coarse))
        context = (config.fine_context_faces, form.tokens, fine)
        self.context_embed = nn.Parameter(0.1 * torch.randn(context)) if config.fine_context_faces else None
        self.features = FaceFeatures(config.face_features, form.face_corners, coarse) if config.face_features else None
        self.distance_bias = DistanceBias(config.attn_heads) if config.distance_bias else None
        told = form.num_places if config.tell_surroundings else 0
        self.around = SurroundingsEmbedding(told, form.num_facts, form.bins, (coarse, fine)) if told else None
        self.start_tokens = nn.Parameter(torch.randn(config.num_sos_tokens, coarse))
        self.goes_on = nn.Parameter(torch.zeros(coarse)) if config.window else None  # a piece that is not the beginning
        bins = form.bins or form.vocab_size
        self.conditioner = Conditioner(config, bins) if config.is_conditioned else None
        if self.conditioner is not None:
            self.to_start = nn.Linear(coarse, coarse)
            self.film = nn.Linear(coarse, 2 * coarse) if config.text_cond_with_film else None
            width = nn.Linear(coarse, fine) if coarse != fine else nn.Identity()
            near = config.local_points
            self.cloud_reader = CloudReader(coarse, form.face_corners, near) if near else None
            self.context_to_fine = width if config.fine_cross_attend_text else None
        self.coarse = Stack(config.coarse_stack)
        self.to_fine = nn.Linear(coarse, fine) if coarse != fine else nn.Identity()
        self.fine_memory = nn.ModuleList(Recurrence(fine) for _ in range(config.fine_pre_gateloop_depth))
        self.fine = Stack(config.fine_stack)
        candidates = (config.copy_digit_faces + 1) * form.corners - 1 if config.copy_digit_faces else 0
        hints = form.num_hints if config.tell_surroundings else 0
        more = bool(config.cloud_vertices), form.tells_likely
        self.head = CodeHead(*code, candidates) if digits is None else SpellingHead(digits, fine, hints, *more)
        shape = (form.corners, form.tokens_per_corner, fine, config.copy_dim, config.window)
        self.pointer = CopyPointer(*shape) if config.copy_dim else None
        self.cloud_tips = CloudTips(fine, form.bins) if config.cloud_vertices else None
        self.draft = self._draft(config, form) if config.draft_dim else None

    def _draft(self, config: MeshTransformerConfig, form: FaceForm) -> Draft:
        """The head that guesses codes ahead, of a form that can do so."""
        if form.digits is None or form.tokens != 1 or self.around is None:
            what = f"draft_dim = {config.draft_dim} guesses codes from what surrounds them"
            raise ConfigError(f"{what}: use a PatchTokenizer with codes_per_step = 1 and tell_surroundings = True")
        return Draft(form.digits, form.num_hints, (self.around.to_fine.in_features, config.dims[1]), config.draft_dim)

    @property
    def device(self) -> torch.device:
        return self.start_tokens.device

    def likelihood(
        self,
        codes: Int[Tensor, "b n"],
        append_eos: bool = True,
        context: Context | None = None,
        pieces: Pieces | None = None,
    ) -> TransformerOutput:
        """The likelihood of codes padded -1, each row of whole faces followed by the end, where it is not a piece."""
        faces = fold_faces(codes, self.tokens_per_face)
        embedded, around = self.embed(faces), self.surroundings(faces)
        plans = self.plans(faces, embedded, context, around, pieces)
        hidden, group_rows, group_faces = self.hidden(faces, embedded, plans, context, around)
        all_targets, aimed = self._targets(faces, append_eos), None
        if pieces is not None:
            all_targets = all_targets.masked_fill((all_targets == self.vocab_size) & ~pieces.ends[:, None, None], -1)
        targets = all_targets[group_rows, group_faces]
        predicted = targets >= 0
        may_end = self.may_end.expand(len(targets), -1)
        asked = hidden[predicted], targets[predicted], may_end[predicted]
        memory = self.vertices_said(faces, embedded, plans)
        index = group_faces[:, None] * targets.shape[1] + torch.arange(targets.shape[1], device=targets.device)
        at = repeat(group_rows, "g -> g t", t=targets.shape[1])[predicted], index[predicted]
        if isinstance(self.head, SpellingHead):
            beside = around and around.select(at)
            told = self.tips_told(asked[0], at[0], beside, self.cloud_trace(faces, context))
            nats = self.head.nats(*asked, self.hints(beside), told)
            if told is not None and self.training:
                aimed = told.nats(self.head.digits_of(targets[predicted])[:, :3]).mean()
        else:
            nearby = self.nearby(self.faces_before(faces, group_rows, group_faces), targets)
            nats = self.head.nats(*asked, None if nearby is None else nearby[predicted])
        if self.pointer is not None and memory is not None:
            plain = nats.new_zeros(targets.shape).masked_scatter(predicted, nats)
            plain, hidden = (in_steps(x, all_targets.shape[:2], group_rows, group_faces) for x in (plain, hidden))
            nats = self.pointer.nats(plain, hidden, all_targets, memory)[group_rows, group_faces][predicted]
        row_bits = nats.detach().new_zeros(len(codes)).index_add(0, at[0], nats.detach()) / math.log(2)
        num_faces = int((faces[..., -1] >= 0).sum() if around is None else around.faces[:, -1].sum())
        loss = nats.sum() / max(nats.numel(), 1)
        loss = loss if aimed is None else loss + AIM * aimed
        if self.draft is not None and self.around is not None and around is not None and self.training:
            loss = loss + self._draft_loss(self.draft, self.around, codes, plans, all_targets, around)
        return TransformerOutput(
            loss=loss,
            bits_per_face=row_bits.sum() / max(num_faces, 1),
            row_bits=row_bits,
            num_faces=num_faces,
            nats=nats,
            at=at,
        )

    def _draft_loss(
        self,
        draft: Draft,
        reader: SurroundingsEmbedding,
        codes: Int[Tensor, "b n"],
        plans: Float[Tensor, "b n1 d"],
        targets: Int[Tensor, "b n1 1"],
        around: Surroundings,
    ) -> Float[Tensor, ""]:
        """What the extra head has to learn, which changes nothing else."""
        with torch.no_grad():
            told, hints = reader.told(around.places), self._tokens.hints(around.places)
        return draft.loss(told, codes, plans.detach(), hints, targets[..., 0])

    def next_logits(self, codes: Int[Tensor, "b n"], context: Context | None = None) -> Float[Tensor, "b n1 v"]:
        """Log-probabilities of each next code, the end last: (b, n + 1, vocab_size + 1); the i-th has seen i codes.

        -inf for the end where no face can start; 0 for what lies behind a row's padding.
        """
        faces = fold_faces(codes, self.tokens_per_face)
        embedded, around = self.embed(faces), self.surroundings(faces)
        plans = self.plans(faces, embedded, context, around)
        hidden, group_rows, group_faces = self.hidden(faces, embedded, plans, context, around)
        memory = self.vertices_said(faces, embedded, plans)
        said = F.pad(faces, (0, 0, 0, 1), value=-1)[group_rows, group_faces]
        before = self.faces_before(faces, group_rows, group_faces)
        per_place, trace = [], self.cloud_trace(faces, context)
        for place, may_end in enumerate(self.may_end):
            known = None if memory is None else memory.select(group_rows)
            index = (group_faces * faces.shape[2] + place).clamp(max=codes.shape[1])
            beside = around and around.select((group_rows, index))
            told = self.tips_told(hidden[:, place], group_rows, beside, trace)
            head = self.head_for(hidden[:, place], place, said, known, group_faces, before, beside, told)
            per_place.append(head.logits(hidden[:, place], may_end.expand(len(hidden))))
        flat = torch.stack(per_place, dim=1)
        logits = flat.new_zeros(len(codes), faces.shape[1] + 1, self.tokens_per_face, self.vocab_size + 1)
        logits[group_rows, group_faces] = flat
        seen = F.pad(codes >= 0, (1, 0), value=True)
        return rearrange(logits, "b nf t v -> b (nf t) v")[:, : codes.shape[1] + 1] * seen[..., None]

    def vertices_said(self, faces: Tensor, embedded: Tensor, plans: Tensor) -> CopyMemory | None:
        """What the pointer can point at, where the model has one; `plans` (b, nf + 1, d) are `plans()`."""
        return None if self.pointer is None else self.pointer.remember(faces, embedded, plans[:, 1:])

    def head_for(
        self,
        hidden: Float[Tensor, "b d"],
        place: int,
        said: Int[Tensor, "b t"],
        memory: CopyMemory | None,
        face: Int[Tensor, " b"],
        before: Int[Tensor, "b p t"],
        around: Surroundings | None = None,
        told: TipsTold | None = None,
    ) -> CodeHead | CopyingHead | HintedHead:
        """What answers for the code at `place` of face number `face`, of which `said` are the codes up to there.

        `before`: those of the faces before it, as `faces_before` gives them. `around`: what surrounds the code.
        `told`: what a cloud says of it.
        """
        if isinstance(self.head, SpellingHead):
            return HintedHead(self.head, self.hints(around), told)
        levels, vertices = self.form.tokens_per_corner, None
        if self.pointer is not None and memory is not None:
            asked = rearrange(hidden, "b d -> b 1 d"), place, rearrange(said, "b t -> b 1 t"), memory, face[:, None]
            sentinel, scores = self.pointer.scores(*asked)
            codes = rearrange(memory.codes[..., place % levels], "b nf k -> b (nf k)")
            vertices = PointedVertices(sentinel[:, 0], scores[:, 0], codes)
        nearby = None if self.head.pointer is None else codes_nearby(before, said, place, levels)
        is_plain = vertices is None and nearby is None
        return self.head if is_plain else CopyingHead(self.head, nearby, vertices)

    def nearby(self, before: Int[Tensor, "g p t"], said: Int[Tensor, "g t"]) -> Tensor | None:
        """The codes whose low digits can be pointed at from each place (g t c), where the model points at digits."""
        if self.head.pointer is None:
            return None
        places, levels = range(self.tokens_per_face), self.form.tokens_per_corner
        return torch.stack([codes_nearby(before, said, place, levels) for place in places], dim=1)

    def cloud_trace(self, faces: Int[Tensor, "b nf t"], context: Context | None) -> CloudTrace | None:
        """The cloud, and what all faces make of it, where a model of tips is told of one."""
        if context is None or context.sketch is None or self.cloud_tips is None:
            return None
        written = self._tokens.faces_written(faces.flatten(1))
        return CloudTrace.begin(context.sketch).cover(written, faces.new_zeros(len(faces)), self.form.bins)

    def tips_told(
        self,
        hidden: Float[Tensor, "m d"],
        rows: Int[Tensor, " m"],
        around: Surroundings | None,
        trace: CloudTrace | None,
    ) -> TipsTold | None:
        """What the cloud says of codes of some rows, with what surrounds each."""
        if trace is None or around is None or self.cloud_tips is None:
            return None
        return self.cloud_tips(hidden, rows, around, trace, self._tokens)

    def hints(self, around: Surroundings | None) -> Tensor | None:
        """Likely digits (... d c) of a code that is so surrounded, where the model is told of them."""
        if around is None or not isinstance(self.head, SpellingHead) or self.head.to_hints is None:
            return None
        return self._tokens.hints(around.places)

    def faces_before(
        self, faces: Int[Tensor, "b nf t"], rows: Int[Tensor, " g"], index: Int[Tensor, " g"]
    ) -> Int[Tensor, "g p t"]:
        """The codes of the last faces before face `index` of each of `rows`, as many as are pointed at; -1: none."""
        past = self.config.copy_digit_faces
        padded = F.pad(faces, (0, 0, past, 0), value=-1)
        return padded[rows[:, None], index[:, None] + torch.arange(past, device=faces.device)]

    @property
    def may_end(self) -> Tensor:
        """(t): True where a face starts; everywhere, where that is not known by the place."""
        places = torch.arange(self.tokens_per_face, device=self.device)
        return places == 0 if self.form.whole_faces else places >= 0

    def _targets(self, faces: Int[Tensor, "b nf t"], append_eos: bool) -> Int[Tensor, "b nf1 t"]:
        """What each place of each face should be: its code, the end behind the last whole face, -1 for nothing."""
        targets = F.pad(faces, (0, 0, 0, 1), value=-1)
        if append_eos and not self.form.whole_faces:
            lengths = (faces >= 0).flatten(1).sum(dim=1)
            targets.flatten(1)[torch.arange(len(faces), device=faces.device), lengths] = self.vocab_size
        elif append_eos:
            counts, whole = (faces[..., 0] >= 0).sum(dim=1), (faces[..., -1] >= 0).sum(dim=1)
            rows = torch.nonzero(counts == whole).squeeze(-1)
            targets[rows, counts[rows], 0] = self.vocab_size
        return targets

    def hidden(
        self,
        faces: Int[Tensor, "b nf t"],
        embedded: Float[Tensor, "b nf t d"],
        plans: Float[Tensor, "b nf1 d"],
        context: Context | None = None,
        around: Surroundings | None = None,
    ) -> tuple[Float[Tensor, "g t d"], Int[Tensor, " g"], Int[Tensor, " g"]]:
        """The fine stack's outputs for each begun face and the one behind the last; their rows and face indices.

        Only these are computed: padding costs nothing here.
        """
        slots = self.slots(embedded, plans, around)
        for layer in self.fine_memory:
            read = layer(rearrange(slots, "b nf t d -> b (nf t) d"))
            slots = rearrange(read, "b (nf t) d -> b nf t d", nf=slots.shape[1])
        begun = F.pad(faces[..., 0] >= 0, (1, 0), value=True)
        group_rows, group_faces = torch.nonzero(begun, as_tuple=True)
        past = self.config.fine_context_faces
        padded = F.pad(embedded, (0, 0, 0, 0, past, 0))
        before = [padded[group_rows, group_faces + index] for index in range(past)]
        sequence = [*self.fine_context(before), slots[group_rows, group_faces]]
        asked = self.fine_asked(None if context is None else context.without_points.select(group_rows))
        read = self.fine(torch.cat(sequence, dim=1), context=asked)
        return read[:, -self.tokens_per_face :], group_rows, group_faces

    def fine_asked(self, context: Context | None) -> Context | None:
        """What the fine stack attends to of what is asked, where it does."""
        if context is None or self.conditioner is None or self.context_to_fine is None:
            return None
        return dataclasses.replace(context, tokens=self.context_to_fine(context.tokens))

    def slots(
        self, embedded: Float[Tensor, "b nf t d"], plans: Float[Tensor, "b nf1 d"], around: Surroundings | None = None
    ) -> Float[Tensor, "b nf1 t d"]:
        """What the fine stack reads to predict each code: the coarse stack's word on the face, then earlier codes.

        And what surrounds each, where that is told.
        """
        following = F.pad(embedded, (0, 0, 0, 0, 0, 1))[:, : plans.shape[1], :-1]
        slots = torch.cat((rearrange(plans, "b nf d -> b nf 1 d"), following), dim=2)
        if self.around is None or around is None:
            return slots
        return slots + self.around.fine(by_step(around.places, *slots.shape[1:3]))

    def faces_in(self, codes: Int[Tensor, "b n"]) -> Int[Tensor, " b"]:
        """How many whole faces each row says."""
        if self.form.whole_faces:
            return (codes >= 0).sum(dim=1) // self.tokens_per_face
        return self._tokens.surroundings(codes).faces[:, -1]

    def surroundings(self, faces: Int[Tensor, "b nf t"]) -> Surroundings | None:
        """What surrounds each code and the one behind the last, (b, nf t + 1, ...), where faces share codes."""
        return None if self.form.whole_faces else self._tokens.surroundings(faces.flatten(1))

    def fine_context(self, before: list[Tensor]) -> list[Tensor]:
        """What stands before a face in the fine stack's sequence: the embedded codes (b t d) of the faces before it."""
        if self.context_embed is None:
            return []
        return [face + place for face, place in zip(before, self.context_embed, strict=True)]

    def embed(self, faces: Int[Tensor, "b nf t"], first_face: torch.Tensor | None = None) -> Float[Tensor, "b nf t d"]:
        """Code, corner, level and (where the config says so) sequence position of each code; padding reads as code 0.

        `first_face` (b): how many faces of each row come before, 0 if not given.
        """
        embedded = self.code_embed(faces.clamp(min=0)) + self.places
        if self.position_embed is None:
            return embedded
        before = torch.zeros(1, dtype=torch.long, device=faces.device) if first_face is None else first_face
        face = before[:, None] + torch.arange(faces.shape[1], device=faces.device)
        place = face[..., None] * self.tokens_per_face + torch.arange(faces.shape[2], device=faces.device)
        return embedded + self.position_embed(place.clamp(max=self.config.max_seq_len - 1))

    def embed_code(self, codes: Int[Tensor, " b"], place: int, face: Int[Tensor, " b"]) -> Float[Tensor, "b d"]:
        """The same for one code a row, at one place of face `face` (b)."""
        corner, level = divmod(place, self.form.tokens_per_corner)
        embedded = self.code_embed(codes) + (self.corner_embed[corner, 0] + self.level_embed[level])
        if self.position_embed is None:
            return embedded
        position = face * self.tokens_per_face + place
        return embedded + self.position_embed(position.clamp(max=self.config.max_seq_len - 1))

    @property
    def places(self) -> Float[Tensor, "t d"]:
        """A vector for each place in a face: its corner's and its level's."""
        return rearrange(self.corner_embed + self.level_embed, "k l d -> (k l) d")

    def coarse_inputs(
        self,
        faces: Int[Tensor, "b nf t"],
        embedded: Float[Tensor, "b nf t d"],
        context: Context | None = None,
        after: Surroundings | None = None,
        told: Tensor | None = None,
    ) -> CoarseInputs:
        """The coarse stack's input for each face, from that face alone; `context` tells whether its place matters.

        `after`: (b nf ...), the surroundings behind each, where faces share codes. `told`: (b nf e), what was read of
        them, if it was before.
        """
        tokens = self.to_face(rearrange(embedded, "b nf t d -> b nf (t d)"))
        if after is not None:
            if self.around is not None:
                told = self.around.told(after.places) if told is None else told
                tokens = tokens + self.around.to_coarse(told)
            return CoarseInputs(tokens, said=after.faces)
        reads_cloud = context is not None and context.cloud is not None
        if self.features is None and self.distance_bias is None and not reads_cloud:
            return CoarseInputs(tokens)
        whole = faces[..., -1] >= 0
        with torch.no_grad():
            corners = self._tokens.corners(faces[whole])
        if self.features is not None:
            seen = self.features(corners).to(tokens.dtype)
            tokens = tokens.index_put(torch.nonzero(whole, as_tuple=True), seen, accumulate=True)
        centres = tokens.new_zeros(*whole.shape, 3, dtype=torch.float32)
        centres[whole] = corners.float().mean(dim=1)
        placed = tokens.new_zeros(*whole.shape, self.form.face_corners, 3, dtype=torch.float32)
        placed[whole] = corners.float()
        return CoarseInputs(tokens, centres, placed, whole)

    def with_starts(
        self, inputs: CoarseInputs, context: Context | None = None, pieces: Pieces | None = None
    ) -> CoarseInputs:
        """Start tokens before the faces; what is asked is added to them, and whether there are faces before these."""
        starts = repeat(self.start_tokens, "n e -> b n e", b=len(inputs.tokens))
        if self.goes_on is not None:
            goes_on = starts.new_zeros(len(starts)) if pieces is None else (pieces.before > 0).to(starts.dtype)
            starts = starts + goes_on[:, None, None] * self.goes_on
        if context is not None:
            starts = starts + rearrange(self.to_start(context.vector), "b e -> b 1 e")
        tokens, count = torch.cat((starts, inputs.tokens), dim=1), starts.shape[1]
        if inputs.said is not None:
            return CoarseInputs(tokens, said=F.pad(inputs.said, (count, 0)))
        if inputs.places is None or inputs.corners is None or inputs.whole is None:
            return CoarseInputs(tokens)
        corners, whole = F.pad(inputs.corners, (0, 0, 0, 0, count, 0)), F.pad(inputs.whole, (count, 0))
        return CoarseInputs(tokens, F.pad(inputs.places, (0, 0, count, 0)), corners, whole)

    def plans(
        self,
        faces: Int[Tensor, "b nf t"],
        embedded: Float[Tensor, "b nf t d"],
        context: Context | None = None,
        around: Surroundings | None = None,
        pieces: Pieces | None = None,
    ) -> Float[Tensor, "b nf1 d"]:
        """What the coarse stack says about each next face, from all faces before it: (b, nf + 1, fine width)."""
        after = behind_steps(around, faces.shape[2])
        inputs, bias = self.with_starts(self.coarse_inputs(faces, embedded, context, after), context, pieces), None
        said = torch.arange(inputs.tokens.shape[1], device=faces.device) - (self.config.num_sos_tokens - 1)
        said = said.clamp(min=0)[None]
        said = said if pieces is None else said + pieces.before[:, None]
        inputs, _ = self.asked(inputs, said, context)
        if self.distance_bias is not None and inputs.places is not None:
            positions = torch.arange(inputs.tokens.shape[1], device=faces.device).expand(len(faces), -1)
            bias = self._bias(
                inputs.places, positions, inputs.places, positions, self.coarse.blocks(positions.shape[1])
            )
        return self.to_fine(self.coarse(inputs.tokens, bias, context)[:, self.config.num_sos_tokens - 1 :])

    def asked(
        self,
        inputs: CoarseInputs,
        said: Int[Tensor, "c n"],
        context: Context | None,
        covered: torch.Tensor | None = None,
    ) -> tuple[CoarseInputs, Tensor | None]:
        """The coarse stack's inputs with what is asked: FiLM, faces of a budget that remain after `said`, the cloud.

        And which points of the cloud (b p) are covered after these inputs, where `covered` were so before.
        """
        if context is None or self.conditioner is None:
            return inputs, None
        tokens = inputs.tokens
        if self.film is not None:
            scale, shift = rearrange(self.film(context.vector), "b (two e) -> two b 1 e", two=2)
            tokens = tokens * (1 + scale) + shift
        if context.budget is not None:
            said = said if inputs.said is None else inputs.said
            tokens = tokens + self.conditioner.remaining_faces(context.budget, said)
        if self.cloud_reader is not None and context.cloud is not None:
            covered = torch.zeros_like(context.cloud.mask) if covered is None else covered
            told, covered = self.cloud_reader(context.cloud, inputs.corners, inputs.whole, covered)
            tokens = tokens + told
        return dataclasses.replace(inputs, tokens=tokens), covered

    def coarse_step(
        self, inputs: CoarseInputs, cache: StackCache, context: Context | None = None
    ) -> Float[Tensor, "b n d"]:
        """The same for the next inputs of each row, after those that the cache holds."""
        bias, said = None, cache.positions(inputs.tokens.shape[1]) - (self.config.num_sos_tokens - 1)
        inputs, cache.covered = self.asked(inputs, said.clamp(min=0), context, cache.covered)
        if self.distance_bias is not None and inputs.places is not None:
            positions = cache.positions(inputs.tokens.shape[1])
            seen, key_positions = cache.write_places(inputs.places)
            blocks = self.coarse.blocks(positions.shape[1], cache)
            bias = self._bias(inputs.places, positions, seen, key_positions, blocks)
        return self.to_fine(self.coarse.step(inputs.tokens, cache, bias, context))

    def _bias(self, places: Tensor, positions: Tensor, seen: Tensor, key_positions: Tensor, blocks: int) -> Tensor:
        """The distance bias of n positions for m, (b h n m); with `blocks`, of n positions for themselves, in blocks.

        places, positions: (b n 3), (b n). seen, key_positions: (b m 3), (b m).
        """
        assert self.distance_bias is not None
        if not blocks:
            return self.distance_bias(places, positions, seen, key_positions, self.config.num_sos_tokens)
        queries = [query_blocks(x[:, None], blocks)[:, 0] for x in (places, positions[..., None])]
        keys = [key_blocks(x[:, None], blocks)[:, 0] for x in (places, positions[..., None])]
        ends = (queries[0], queries[1][..., 0], keys[0], keys[1][..., 0])
        return self.distance_bias(*ends, self.config.num_sos_tokens)
