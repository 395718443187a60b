"""`MeshTransformer`: a tokenizer's codes, their likelihood, and new meshes."""

import dataclasses
import math
import typing
import warnings
from collections.abc import Callable
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from tqdm import tqdm

from meshgpt.checkpoint import Pretrained
from meshgpt.config import resolve_config
from meshgpt.errors import CodesError, ConfigError, GenerationError
from meshgpt.mesh.grammar import Surroundings
from meshgpt.tokenizers.tokenizer import MeshTokenizer
from meshgpt.transformer.conditioned import CONDITION_KEYWORDS, ConditionedWriter
from meshgpt.transformer.conditions import Conditions
from meshgpt.transformer.config import FACE_FIELDS, MeshTransformerConfig
from meshgpt.transformer.forms import FaceForm, TransformerOutput
from meshgpt.transformer.generation import GenerationResult, Request, write
from meshgpt.transformer.guidance import Guidance
from meshgpt.transformer.held import Held, as_in_evaluation
from meshgpt.transformer.infill import infill_prompt
from meshgpt.transformer.readers import why_no_graphs
from meshgpt.transformer.sampling import Chooser, Sampling
from meshgpt.transformer.speculation import why_not


class _TokenReader(Held):
    """What a model asks its tokenizer, wherever that computes; it stays as it was."""

    def corners(self, codes: Tensor) -> Tensor:
        with as_in_evaluation(self.value) as tokenizer:
            corners = tokenizer.decode_faces_alone(codes.to(tokenizer_device(tokenizer, codes.device)))
        return corners.to(codes.device)

    def surroundings(self, codes: Tensor) -> Surroundings:
        return self.value.surroundings_of(codes)

    def hints(self, places: Tensor) -> Tensor:
        return self.value.hints(places)

    def spelt(self, vertices: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        return self.value.spelt(vertices, places)

    def faces_written(self, codes: Tensor) -> Tensor:
        return self.value.faces_written(codes)


class MeshTransformer(ConditionedWriter, Pretrained):
    """Writes the codes of a tokenizer face by face.

    `MeshTransformer(tokenizer, config)` or `MeshTransformer(tokenizer, dim = 512, ...)`. The tokenizer is used and
    never changed: it is no part of `parameters()`, `state_dict()` or `.to(device)`; nor is the text encoder, which is
    found by its name when the first text comes, unless one is given: `text_encoder`, an encoder or any function of a
    list of texts that gives (embeddings (b n dt), mask (b n)).
    """

    config_class = MeshTransformerConfig
    part = "transformer"

    @typing.no_type_check
    def __init__(self, tokenizer, config=None, *, text_encoder=None, **keywords):
        config = resolve_config(MeshTransformerConfig, config, keywords)
        form = face_form(tokenizer, config)
        if config.max_seq_len < form.tokens:
            raise ConfigError(f"max_seq_len = {config.max_seq_len} is less than one face, which is {form.tokens} codes")
        super().__init__(config, form, _TokenReader(tokenizer))
        self._held = Held(tokenizer)
        if text_encoder is not None:
            self.use_text_encoder(text_encoder)

    @property
    def tokenizer(self) -> MeshTokenizer:
        return self._held.value

    @typing.no_type_check
    def forward(self, *, vertices=None, faces=None, face_edges=None, codes=None, cond_drop_prob=None, **conditions):
        """The loss of meshes (vertices (b nv 3), faces (b nf k) padded -1) or of their codes, in nats per token.

        The conditions are the keywords of `conditions_of`.
        """
        codes = self.checked_codes(self.codes_of(vertices, faces, face_edges) if codes is None else codes)
        return self.losses(codes, self.conditions_for(codes, conditions), cond_drop_prob).loss

    @typing.no_type_check
    def losses(self, codes, conditions=None, cond_drop_prob=None, pieces=None) -> TransformerOutput:
        """The likelihood of codes (b n) or (b nf*k q), padded -1, each row followed by the end.

        conditions: `Conditions` of the b rows. In training mode each kind of them is left out at random, as the config
        says; `cond_drop_prob` leaves out all of a row together with that probability instead, in any mode. An
        unfinished last face is predicted as far as it goes and is followed by no end. pieces: `Pieces`, for a model
        with a window: what each row is of its mesh, of which the conditions tell; no end follows where the mesh goes
        on. Raises `CodesError` for codes that do not fit the tokenizer, that have a gap, or that are longer than
        `max_seq_len`, and for pieces where the model needs whole meshes.
        """
        codes = self.checked_codes(codes)
        if pieces is not None and (reason := self.needs_whole_meshes):
            raise CodesError(f"pieces for a model that needs whole meshes: {reason}")
        pieces = None if pieces is None else pieces.to(self.device)
        return self.likelihood(codes, context=self.context_of(conditions, len(codes), cond_drop_prob), pieces=pieces)

    @property
    def needs_whole_meshes(self) -> str:
        """Why the model cannot learn from pieces of meshes; empty where it can."""
        if not self.form.whole_faces:
            return f"faces of a {type(self.tokenizer).__name__} share codes, and are not known without those before"
        if not self.config.window:
            return "without a window it sees all faces before each"
        if self.config.abs_pos_emb:
            return "its positions are learned (abs_pos_emb), and end with max_seq_len"
        if self.config.local_points or self.config.cloud_vertices:
            return "it is told which points no face before covers (local_points, cloud_vertices)"
        return ""

    @typing.no_type_check
    def forward_on_codes(self, codes=None, return_loss=True, append_eos=True, cond_drop_prob=None, **conditions):
        """The loss of codes; with `return_loss = False` log-probabilities (b, n + 1, vocab_size + 1) of each next code.

        The end is the last class. No codes at all ask for the first code of one mesh. The conditions are the keywords
        of `conditions_of`.
        """
        codes = self.checked_codes(torch.zeros(1, 0, dtype=torch.long) if codes is None else codes)
        context = self.context_of(self.conditions_of(len(codes), **conditions), len(codes), cond_drop_prob)
        return self.likelihood(codes, append_eos, context).loss if return_loss else self.next_logits(codes, context)

    @typing.no_type_check
    def codes_of(self, vertices, faces, face_edges=None):
        """Codes (b n), padded -1, of padded meshes by the tokenizer, which is in evaluation mode for that time only.

        Raises `MeshError` for meshes that the tokenizer cannot take.
        """
        if vertices is None or faces is None:
            raise CodesError(
                "neither codes nor both vertices and faces are given: pass codes=, or vertices= and faces="
            )
        with torch.no_grad(), as_in_evaluation(self.tokenizer) as tokenizer:
            batch = tokenizer.packed(vertices, faces, face_edges)
            batch = batch.to(tokenizer_device(tokenizer, self.device))
            return tokenizer.codes_from_batch(batch).to(self.device)

    @typing.no_type_check
    def generate(
        self,
        prompt=None,
        batch_size=None,
        filter_logits_fn=None,
        filter_kwargs=None,
        return_codes=False,
        face_coords_to_file=None,
        **options,
    ):
        """Writes meshes: (coordinates (b nf k 3) with NaN at padding, face_mask (b nf)), or codes (b n), or a list.

        The options are those of `generate_result`. Warns where a row ran out of length before the model ended it. With
        `face_coords_to_file`, gives a list of what that function makes of each row's (faces k 3).
        """
        result = self.generate_result(prompt, batch_size, filter_logits_fn, filter_kwargs, **options)
        cut = sum(reason == "max_seq_len" for reason in result.stopped_by)
        if cut:
            warnings.warn(
                f"{cut} of {len(result.stopped_by)} meshes ran out of length before the model ended them, their last "
                "faces are missing: raise max_seq_len, or see generate_result(...).stopped_by for which",
                stacklevel=2,
            )
        if return_codes:
            return result.codes
        coordinates, mask = self.decode(result)
        if face_coords_to_file is None:
            return coordinates, mask
        return [face_coords_to_file(row[keep]) for row, keep in zip(coordinates, mask, strict=True)]

    @typing.no_type_check
    def generate_result(
        self,
        prompt=None,
        batch_size=None,
        filter_logits_fn=None,
        filter_kwargs=None,
        **options,
    ) -> GenerationResult:
        """The same as codes, with why each row stopped.

        prompt: codes (b n) or (b nf*k q), padded -1, rows of any lengths, also within a face. filter_logits_fn(logits,
        **filter_kwargs): sees log-probabilities (b, vocab_size + 1), the end last. Further keywords: the fields of
        `Sampling` (temperature, top_k, top_p, min_p, seed, max_faces, min_faces) and of `Guidance` (cond_scale, ...),
        those of `conditions_of` (texts, categories, ...), negative_texts, from which guidance leads away, infill, an
        `Infill` of faces to keep among those written, and cache_kv, max_seq_len, progress (True shows a bar; or a
        function of (face, rows being written)), on_face(row, face, codes) called for each face, speculate: how many
        codes a single row guesses ahead of each pass, and cuda_graphs: whether a GPU records steps once and repeats
        them, which change nothing but the time. Raises `GenerationError`, also where the model cannot do as asked,
        `CodesError`, and for Ctrl-C `GenerationInterrupted`, with what was written in `.result`.
        """
        options = _split_options(options)
        sampling, guidance = _sampling(options["sampling"]), Guidance.from_dict(options["guidance"])
        limit = self._limit(options["max_seq_len"], sampling)
        prompt, infill = infill_prompt(prompt, options["infill"])
        prompt = None if prompt is None else self.checked_codes(prompt, limit)
        prompt, conditions = self._rows(prompt, batch_size, options["conditions"])
        prompt = self._checked_prompt(prompt, limit, sampling)
        infill = infill and infill.checked(self.tokenizer, self._longest(limit, sampling), len(prompt))
        context, guided = self.guided_context(conditions, options["negative_texts"], guidance)
        chooser = Chooser(sampling, filter_logits_fn, tuple((filter_kwargs or {}).items()))
        follows = sampling.follow_grammar or infill is not None or not self.form.whole_faces
        grammar = self.tokenizer.grammar if follows else None
        if sampling.follow_grammar and grammar is None:
            kind = type(self.tokenizer).__name__
            raise GenerationError(f"this {kind} has no grammar to follow: leave follow_grammar out")
        whole = self.form.whole_faces
        faces = (limit // self.tokens_per_face if whole else None) if sampling.max_faces is None else sampling.max_faces
        shown = options["progress"]
        with as_in_evaluation(self), tqdm(total=faces, disable=callable(shown) or not shown, unit=" faces") as bar:
            request = Request(
                prompt,
                chooser,
                limit,
                options["cache_kv"],
                context,
                guidance if guided else None,
                grammar,
                options["on_face"],
                shown if callable(shown) else _shown_on(bar),
                self._guesses(options["speculate"]),
                self._graphs(options["cuda_graphs"], options["cache_kv"] and not options["speculate"]),
                infill,
            )
            return write(self, request)

    @typing.no_type_check
    def _rows(self, prompt, batch_size: int | None, given: dict[str, Any]) -> tuple[Any, Conditions]:
        """The prompt and the conditions of as many rows as either, or `batch_size`, asks for."""
        if batch_size is not None and batch_size < 1:
            raise GenerationError(f"batch_size must be at least 1, got {batch_size}")
        if prompt is not None and len(prompt) != 1 and batch_size not in (None, len(prompt)):
            raise GenerationError(
                f"batch_size = {batch_size}, but the prompt has {len(prompt)} rows: leave batch_size out"
            )
        asked = batch_size if prompt is None or len(prompt) == 1 else len(prompt)
        conditions = self.conditions_of(asked, **given)
        if prompt is None:
            prompt = torch.empty(len(conditions), 0, dtype=torch.long, device=self.device)
        return prompt.expand(len(conditions), -1), conditions

    def _limit(self, asked: int | None, sampling: Sampling) -> int:
        """How many codes there is room for. A model with a window goes on as far as `max_faces` or `max_seq_len` say.

        Raises `GenerationError` for more than the model was made for.
        """
        made_for = self.config.max_seq_len
        if asked is None:
            a_face = self.tokens_per_face if self.form.whole_faces else self.tokenizer.many_codes_per_face
            more = (sampling.max_faces or 0) + 1  # room for one more: then it is max_faces that ends a row
            return max(made_for, math.ceil(more * a_face) if self.config.is_endless else 0)
        if asked < 1 or (asked > made_for and not self.config.is_endless):
            what = f"max_seq_len = {asked} must lie in 1 .. {made_for}, what the model was made for"
            raise GenerationError(f"{what}; only one with a window and without learned positions may go beyond")
        return asked

    def _guesses(self, asked: int) -> int:
        """How many codes to guess a pass. Raises `GenerationError` for a model that cannot read ahead."""
        if asked < 0:
            raise GenerationError(f"speculate = {asked} must be 0, or how many codes to guess a pass")
        reason = why_not(self) if asked else ""
        if reason:
            raise GenerationError(f"speculate = {asked}, but this model cannot read ahead: {reason}")
        return asked

    def _graphs(self, asked: bool, one_by_one: bool) -> bool:
        """Whether to record steps. Raises `GenerationError` where that is asked and cannot be."""
        reason = why_no_graphs(self) if one_by_one else "it is to guess ahead, or to write without a cache"
        if self.device.type != "cuda":
            reason = f"it is on the device {self.device}, and graphs are recorded by an NVIDIA GPU: move it to one"
        if asked and reason:
            raise GenerationError(f"cuda_graphs = True, but this model cannot: {reason}; or leave cuda_graphs out")
        return bool(asked)

    def _longest(self, limit: int, sampling: Sampling) -> int:
        """In codes. Where faces share them, what `max_faces` asks for shows while they are written."""
        if sampling.max_faces is None or not self.form.whole_faces:
            return limit
        return min(limit, sampling.max_faces * self.tokens_per_face)

    def _checked_prompt(self, codes: Tensor, limit: int, sampling: Sampling) -> Tensor:
        """Raises `GenerationError` for one that leaves no room, `TokenError` for one that contradicts itself."""
        longest = self._longest(limit, sampling)
        if codes.shape[1] > longest:
            raise GenerationError(
                f"a prompt of {codes.shape[1]} codes leaves no room: at most {longest} codes are to be written"
            )
        faces = 0 if self.form.whole_faces else int(self.faces_in(codes).max())
        if faces > (sampling.max_faces or faces):
            raise GenerationError(f"a prompt of {faces} faces leaves no room for max_faces = {sampling.max_faces}")
        return codes

    @torch.no_grad()
    def decode(self, result: GenerationResult) -> tuple[Tensor, Tensor]:
        """Coordinates (b nf k 3) of the whole faces, NaN at padding, and the mask (b nf)."""
        if not self.form.whole_faces:
            return self.tokenizer.decode_from_codes_to_faces(result.codes)
        most, t = int(result.face_counts.max()), self.tokens_per_face
        mask = torch.arange(most, device=self.device)[None] < result.face_counts[:, None]
        if most == 0:
            return torch.zeros(len(mask), 0, self.tokenizer.corners, 3, device=self.device), mask
        faces = rearrange(result.codes[:, : most * t], "b (nf t) -> b nf t", t=t).masked_fill(~mask[..., None], -1)
        with as_in_evaluation(self.tokenizer) as tokenizer:
            device = tokenizer_device(tokenizer, self.device)
            coordinates, _ = tokenizer.decode_from_codes_to_faces(rearrange(faces, "b nf t -> b (nf t)").to(device))
        return coordinates.to(self.device), mask

    @typing.no_type_check
    def checked_codes(self, codes, longest: int | None = None):
        """Codes (b n) or (b nf*k q) as int64 (b n) on the model's device; `CodesError` where they cannot be used.

        longest: how many codes a row may have, where these are more than `max_seq_len`.
        """
        codes = torch.as_tensor(codes, device=self.device)
        if codes.dtype.is_floating_point or codes.dtype == torch.bool or codes.ndim not in (2, 3):
            raise CodesError(
                f"codes must be integers of shape (b, n) or (b, n, q), got {tuple(codes.shape)} {codes.dtype}"
            )
        codes = (codes if codes.ndim == 2 else rearrange(codes, "b n q -> b (n q)")).long()
        _check_range(codes, self.vocab_size)
        length = int((codes >= 0).sum(dim=1).max()) if codes.numel() else 0
        longest = max(self.config.max_seq_len, longest or 0)
        if length > longest:
            raise CodesError(
                f"{length} codes are more than max_seq_len = {longest}: "
                "use fewer faces, or a model with a larger max_seq_len"
            )
        return codes[:, :length]


def face_form(tokenizer: Any, config: MeshTransformerConfig) -> FaceForm:
    """How the codes of a step fall on its corners. Raises `ConfigError` for what is no tokenizer, or does not fit."""
    if not isinstance(tokenizer, MeshTokenizer):
        raise ConfigError(
            f"the first argument must be a tokenizer such as MeshAutoencoder, got {type(tokenizer).__name__}"
        )
    tokens, corners, kind = tokenizer.tokens_per_face, tokenizer.corners, type(tokenizer).__name__
    if config.cloud_vertices and not tokenizer.says_tips:
        what = f"cloud_vertices = {config.cloud_vertices} tells where the next vertex of a patch may be"
        raise ConfigError(f"{what}: use a PatchTokenizer in place of a {kind}, or local_points")
    if tokens is None:
        for field in FACE_FIELDS:
            if getattr(config, field):
                raise ConfigError(f"{field} tells of single faces, and those of a {kind} share codes: leave it out")
        step = config.codes_per_step or tokenizer.codes_per_step or 1
        told = (tokenizer.num_places, tokenizer.num_facts, tokenizer.num_discrete_coors, tokenizer.digits)
        told += (tokenizer.num_hints, tokenizer.tells_likely)
        return FaceForm(tokenizer.vocab_size, 1, step, corners, False, *told, says_tips=tokenizer.says_tips)
    if config.codes_per_step not in (0, tokens):
        raise ConfigError(f"codes_per_step = {config.codes_per_step}, but a face of a {kind} is {tokens}: leave it out")
    whole = tokens % corners == 0
    form = (corners, tokens // corners) if whole else (1, tokens)
    return FaceForm(tokenizer.vocab_size, *form, corners)


def tokenizer_device(tokenizer: Any, default: torch.device) -> torch.device:
    """Where a tokenizer computes: where its first parameter lies; `default` for one without parameters."""
    parameter = next(tokenizer.parameters(), None) if isinstance(tokenizer, nn.Module) else None
    return default if parameter is None else parameter.device


def _check_range(codes: Tensor, vocab_size: int) -> None:
    wrong = torch.nonzero((codes >= vocab_size) | (codes < -1))
    if len(wrong):
        row, place = wrong[0].tolist()
        raise CodesError(
            f"code {int(codes[row, place])} at row {row}, position {place} is not in the tokenizer's vocabulary of "
            f"{vocab_size} codes (-1 is padding)"
        )
    gap = torch.nonzero((codes[:, 1:] >= 0) & (codes[:, :-1] < 0))
    if len(gap):
        row, place = gap[0].tolist()
        raise CodesError(f"row {row} has a code behind padding, at position {place + 1}: pad with -1 at the end only")


def _shown_on(bar: Any) -> Callable[[int, int], None]:
    """Moves a bar to the face being written, and says how many meshes are still being written."""

    def show(face: int, rows: int) -> None:
        bar.set_postfix(meshes=rows, refresh=False)
        bar.update(face - bar.n)

    return show


def _sampling(fields: dict[str, Any]) -> Sampling:
    try:
        return Sampling.from_dict(fields)
    except ConfigError as error:  # a name that is no option at all
        raise GenerationError(str(error).replace("Sampling has no field", "generate has no option")) from error


def _split_options(options: dict[str, Any]) -> dict[str, Any]:
    """The keywords of `generate_result`: its own, "conditions" and "guidance" with theirs, "sampling" with the rest."""
    own = {"cache_kv": True, "max_seq_len": None, "on_face": None, "progress": False, "negative_texts": None}
    own |= {"infill": None, "speculate": 0, "cuda_graphs": False}
    taken = {name: options.pop(name, default) for name, default in own.items()}
    asked = {name: options.pop(name) for name in CONDITION_KEYWORDS if name in options}
    fields = {field.name for field in dataclasses.fields(Guidance)}
    guidance = {name: options.pop(name) for name in sorted(fields & options.keys())}
    return {**taken, "conditions": asked, "guidance": guidance, "sampling": options}
