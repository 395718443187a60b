"""`MeshTransformer`: a tokenizer's codes, their likelihood, and new meshes."""

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
from meshgpt.tokenizers.tokenizer import MeshTokenizer
from meshgpt.transformer.config import MeshTransformerConfig
from meshgpt.transformer.generation import GenerationResult, Request, write
from meshgpt.transformer.model import FaceForm, FaceWriter, TransformerOutput
from meshgpt.transformer.sampling import Chooser, Sampling


class _Held:
    """Keeps an object out of the modules, the state and the copies of the module that holds it."""

    def __init__(self, value: Any):
        self.value = value

    def __deepcopy__(self, memo: dict) -> "_Held":
        return self


class _FaceDecoder(_Held):
    """A tokenizer's single faces, wherever it computes; it stays as it was."""

    def __call__(self, codes: Tensor) -> Tensor:
        with as_in_evaluation(self.value) as tokenizer:
            corners = tokenizer.decode_faces_alone(codes.to(tokenizer_device(tokenizer, codes.device)))
        return corners.to(codes.device)


class MeshTransformer(FaceWriter, Pretrained):
    """Writes the codes of a tokenizer face by face.

    `MeshTransformer(tokenizer, config)` or `MeshTransformer(tokenizer, dim = 512, ...)`. The tokenizer is used and
    never changed: it is no part of `parameters()`, `state_dict()` or `.to(device)`.
    """

    config_class = MeshTransformerConfig
    part = "transformer"

    @typing.no_type_check
    def __init__(self, tokenizer, config=None, **keywords):
        config = resolve_config(MeshTransformerConfig, config, keywords)
        form = face_form(tokenizer)
        if config.max_seq_len < form.tokens:
            raise ConfigError(f"max_seq_len = {config.max_seq_len} is less than one face, which is {form.tokens} codes")
        super().__init__(config, form, _FaceDecoder(tokenizer))
        self._held = _Held(tokenizer)

    @property
    def tokenizer(self) -> MeshTokenizer:
        return self._held.value

    @typing.no_type_check
    def forward(self, *, vertices=None, faces=None, face_edges=None, codes=None, texts=None, text_embeds=None):
        """The loss of meshes (vertices (b nv 3), faces (b nf k) padded -1) or of their codes, in nats per token."""
        _no_conditions(texts, text_embeds)
        return self.losses(self.codes_of(vertices, faces, face_edges) if codes is None else codes).loss

    @typing.no_type_check
    def losses(self, codes) -> TransformerOutput:
        """The likelihood of codes (b n) or (b nf*k q), padded -1, each row followed by the end.

        An unfinished last face is predicted as far as it goes and is followed by no end. Raises `CodesError` for codes
        that do not fit the tokenizer, that have a gap, or that are longer than `max_seq_len`.
        """
        return self.likelihood(self.checked_codes(codes))

    @typing.no_type_check
    def forward_on_codes(self, codes=None, return_loss=True, append_eos=True, texts=None, text_embeds=None):
        """The loss of codes; with `return_loss = False` log-probabilities (b, n + 1, vocab_size + 1) of each next code.

        The end is the last class. No codes at all ask for the first code of one mesh.
        """
        _no_conditions(texts, text_embeds)
        codes = self.checked_codes(torch.zeros(1, 0, dtype=torch.long) if codes is None else codes)
        return self.likelihood(codes, append_eos).loss if return_loss else self.next_logits(codes)

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
        `Sampling` (temperature, top_k, top_p, min_p, seed, max_faces, min_faces), and cache_kv, max_seq_len, progress
        (True shows a bar), on_face(row, face, codes) called for each face. Raises `GenerationError`, `CodesError`.
        """
        options = _split_options(options)
        limit = self.config.max_seq_len if options["max_seq_len"] is None else options["max_seq_len"]
        if not 0 < limit <= self.config.max_seq_len:
            raise GenerationError(
                f"max_seq_len = {limit} must lie in 1 .. {self.config.max_seq_len}, what the model was made for"
            )
        sampling = _sampling(options["sampling"])
        prompt = self._checked_prompt(prompt, batch_size, limit, sampling)
        chooser = Chooser(sampling, filter_logits_fn, tuple((filter_kwargs or {}).items()))
        grammar = self.tokenizer.grammar if sampling.follow_grammar else None
        if sampling.follow_grammar and grammar is None:
            kind = type(self.tokenizer).__name__
            raise GenerationError(f"this {kind} has no grammar to follow: leave follow_grammar out")
        faces = limit // self.tokens_per_face if sampling.max_faces is None else sampling.max_faces
        with as_in_evaluation(self), tqdm(total=faces, disable=not options["progress"], unit=" faces") as bar:
            request = Request(prompt, chooser, limit, options["cache_kv"], grammar, options["on_face"], _shown_on(bar))
            return write(self, request)

    def _checked_prompt(self, prompt: Any, batch_size: int | None, limit: int, sampling: Sampling) -> Tensor:
        if prompt is None:
            if batch_size is not None and batch_size < 1:
                raise GenerationError(f"batch_size must be at least 1, got {batch_size}")
            return torch.empty(batch_size or 1, 0, dtype=torch.long, device=self.device)
        codes = self.checked_codes(prompt)
        if batch_size is not None and batch_size != len(codes):
            raise GenerationError(
                f"batch_size = {batch_size}, but the prompt has {len(codes)} rows: leave batch_size out"
            )
        longest = limit if sampling.max_faces is None else min(limit, sampling.max_faces * self.tokens_per_face)
        if codes.shape[1] > longest:
            raise GenerationError(
                f"a prompt of {codes.shape[1]} codes leaves no room: at most {longest} codes are to be written"
            )
        return codes

    @torch.no_grad()
    def decode(self, result: GenerationResult) -> tuple[Tensor, Tensor]:
        """Coordinates (b nf k 3) of the whole faces, NaN at padding, and the mask (b nf)."""
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
    def checked_codes(self, codes):
        """Codes (b n) or (b nf*k q) as int64 (b n) on the model's device; `CodesError` where they cannot be used."""
        codes = torch.as_tensor(codes, device=self.device)
        if codes.dtype.is_floating_point or codes.dtype == torch.bool or codes.ndim not in (2, 3):
            raise CodesError(
                f"codes must be integers of shape (b, n) or (b, n, q), got {tuple(codes.shape)} {codes.dtype}"
            )
        codes = (codes if codes.ndim == 2 else rearrange(codes, "b n q -> b (n q)")).long()
        _check_range(codes, self.vocab_size)
        length = int((codes >= 0).sum(dim=1).max()) if codes.numel() else 0
        if length > self.config.max_seq_len:
            raise CodesError(
                f"{length} codes are more than max_seq_len = {self.config.max_seq_len}: "
                "use fewer faces, or a model with a larger max_seq_len"
            )
        return codes[:, :length]


class as_in_evaluation:  # noqa: N801 - reads as a verb in a with statement
    """Evaluation mode for the time of a with statement; then each submodule has its own mode back."""

    def __init__(self, thing: Any):
        self.thing = thing
        self.training = [m for m in thing.modules() if m.training] if isinstance(thing, nn.Module) else []

    def __enter__(self) -> Any:
        for module in self.training:
            module.training = False
        return self.thing

    def __exit__(self, *exception: object) -> None:
        for module in self.training:
            module.training = True


def face_form(tokenizer: Any) -> FaceForm:
    """How the codes of a face fall on its corners. Raises `ConfigError` for what is no tokenizer of faces."""
    if not isinstance(tokenizer, MeshTokenizer):
        raise ConfigError(
            f"the first argument must be a tokenizer such as MeshAutoencoder, got {type(tokenizer).__name__}"
        )
    tokens, corners = tokenizer.tokens_per_face, tokenizer.corners
    if tokens is None:
        raise ConfigError(
            f"{type(tokenizer).__name__} has no fixed number of codes a face, and a coarse step reads one face: "
            "use a tokenizer whose tokens_per_face is a number"
        )
    whole = tokens % corners == 0
    return FaceForm(tokenizer.vocab_size, *((corners, tokens // corners) if whole else (1, tokens)), corners)


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


def _no_conditions(*conditions: Any) -> None:
    if any(condition is not None for condition in conditions):
        raise GenerationError("this model is unconditional and takes no texts: leave out `texts` and `text_embeds`")


def _split_options(options: dict[str, Any]) -> dict[str, Any]:
    """The keywords of `generate_result`: its own, and under "sampling" the rest."""
    own = {"cache_kv": True, "max_seq_len": None, "on_face": None, "progress": False}
    _no_conditions(options.pop("texts", None), options.pop("text_embeds", None))
    taken = {name: options.pop(name, default) for name, default in own.items()}
    return {**taken, "sampling": options}
