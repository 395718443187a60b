"""The author of sentences: one coarse step a face, and within a face one fine step a code."""

import dataclasses
import math
import typing
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from meshgpt.config import resolve_config
from meshgpt.data.batch import MeshBatch
from meshgpt.errors import CodesError, ConfigError, GenerationError
from meshgpt.tokenizers.tokenizer import MeshTokenizer
from meshgpt.transformer.config import MeshTransformerConfig
from meshgpt.transformer.heads import CodeEmbedding, CodeHead
from meshgpt.transformer.stack import Stack


@dataclasses.dataclass(frozen=True)
class TransformerOutput:
    """What `losses` gives. `loss` is in nats per predicted token, ends included."""

    loss: Tensor  # 0-d
    bits_per_face: Tensor  # 0-d: all bits, those of the ends included, over the number of faces
    row_bits: Tensor  # (b), bits of each row
    num_faces: int  # whole faces
    num_tokens: int  # predicted: codes and ends


class _Held:
    """Keeps an object out of the modules, the state and the copies of the module that holds it."""

    def __init__(self, value: Any):
        self.value = value

    def __deepcopy__(self, memo: dict) -> "_Held":
        return self


class MeshTransformer(nn.Module):
    """Writes the codes of a tokenizer face by face (Siddiqui et al., arXiv:2311.15475, with a fine decoder within a face).

    `MeshTransformer(tokenizer, config)` or `MeshTransformer(tokenizer, dim = 512, ...)`. The tokenizer is used and never changed:
    it is no part of `parameters()`, `state_dict()` or `.to(device)`. Departs from the paper in what a coarse step is: a face.
    """

    @typing.no_type_check
    def __init__(self, tokenizer, config=None, **keywords):
        super().__init__()
        self.config = config = resolve_config(MeshTransformerConfig, config, keywords)
        self._held = _Held(_checked_tokenizer(tokenizer))
        self.vocab_size, self.tokens_per_face = tokenizer.vocab_size, tokenizer.tokens_per_face
        if config.max_seq_len < self.tokens_per_face:
            raise ConfigError(f"max_seq_len = {config.max_seq_len} is less than one face, {self.tokens_per_face} codes")
        coarse, fine = config.dims
        corners, levels = _corners_and_levels(tokenizer)
        self.code_embed = CodeEmbedding(self.vocab_size, fine, config.code_digits)
        self.corner_embed = nn.Parameter(0.1 * torch.randn(corners, 1, fine))
        self.level_embed = nn.Parameter(0.1 * torch.randn(levels, fine))
        self.position_embed = nn.Embedding(config.max_seq_len, fine) if config.abs_pos_emb else None
        self.to_face = nn.Sequential(nn.Linear(self.tokens_per_face * fine, coarse), nn.LayerNorm(coarse))
        self.start_tokens = nn.Parameter(torch.randn(config.num_sos_tokens, coarse))
        self.coarse = Stack(config.coarse_stack)
        self.to_fine = nn.Linear(coarse, fine) if coarse != fine else nn.Identity()
        self.fine = Stack(config.fine_stack)
        self.head = CodeHead(self.vocab_size, fine, config.code_digits)

    @property
    def tokenizer(self) -> MeshTokenizer:
        return self._held.value

    @property
    def device(self) -> torch.device:
        return self.start_tokens.device

    # ------------------------------------------------------------------------------------------------ likelihood

    @typing.no_type_check
    def forward(self, *, vertices=None, faces=None, face_edges=None, codes=None, texts=None, text_embeds=None):
        """The loss of a batch of meshes (vertices (b nv 3), faces (b nf k) padded -1) or of their codes, nats per token."""
        if texts is not None or text_embeds is not None:
            raise GenerationError("this model is unconditional and takes no texts: leave out `texts` and `text_embeds`")
        return self.losses(self.codes_of(vertices, faces, face_edges) if codes is None else codes).loss

    @typing.no_type_check
    def codes_of(self, vertices, faces, face_edges=None):
        """Codes (b n), padded -1, of padded meshes by the tokenizer, which is in evaluation mode for that time only."""
        if vertices is None or faces is None:
            raise CodesError(
                "neither codes nor both vertices and faces are given: pass codes=, or vertices= and faces="
            )
        return tokenize_unchanged(self.tokenizer, MeshBatch.from_padded(vertices, faces, face_edges)).to(self.device)

    @typing.no_type_check
    def losses(self, codes) -> TransformerOutput:
        """The likelihood of codes (b n) or (b nf*k q), padded -1, each row followed by the end.

        An unfinished last face is predicted as far as it goes and is followed by no end. Raises `CodesError` for codes that do
        not fit the tokenizer, that have a gap, or that are longer than `max_seq_len`.
        """
        codes = self.checked_codes(codes)
        return self._losses(codes)

    def _losses(self, codes: Int[Tensor, "b n"], append_eos: bool = True) -> TransformerOutput:
        faces = fold_faces(codes, self.tokens_per_face)
        hidden, group_rows, group_faces = self.hidden(faces)
        targets = self._targets(faces, append_eos)[group_rows, group_faces]
        predicted = targets >= 0
        may_end = repeat(torch.arange(self.tokens_per_face, device=codes.device) == 0, "t -> g t", g=len(targets))
        nats = self.head.nats(hidden[predicted], targets[predicted], may_end[predicted])
        rows = repeat(group_rows, "g -> g t", t=self.tokens_per_face)[predicted]
        row_bits = nats.new_zeros(len(codes)).index_add(0, rows, nats) / math.log(2)
        num_faces, num_tokens = int((faces[..., -1] >= 0).sum()), max(nats.numel(), 1)
        return TransformerOutput(
            loss=nats.sum() / num_tokens,
            bits_per_face=row_bits.detach().sum() / max(num_faces, 1),
            row_bits=row_bits.detach(),
            num_faces=num_faces,
            num_tokens=nats.numel(),
        )

    def _targets(self, faces: Int[Tensor, "b nf t"], append_eos: bool) -> Int[Tensor, "b nf1 t"]:
        """What each place of each face should be: its code, the end behind the last whole face, -1 for nothing."""
        targets = F.pad(faces, (0, 0, 0, 1), value=-1)
        if append_eos:
            counts, whole = (faces[..., 0] >= 0).sum(dim=1), (faces[..., -1] >= 0).sum(dim=1)
            rows = torch.nonzero(counts == whole).squeeze(-1)
            targets[rows, counts[rows], 0] = self.vocab_size
        return targets

    def hidden(
        self, faces: Int[Tensor, "b nf t"]
    ) -> tuple[Float[Tensor, "g t d"], Int[Tensor, " g"], Int[Tensor, " g"]]:
        """The fine stack's outputs for each face that has begun and one more behind the last; with their rows and face indices."""
        embedded = self.embed(faces)
        conditions = self.conditions(faces, embedded)
        begun = F.pad(faces[..., 0] >= 0, (1, 0), value=True)
        group_rows, group_faces = torch.nonzero(begun, as_tuple=True)
        inputs = F.pad(embedded, (0, 0, 0, 0, 0, 1))[group_rows, group_faces, :-1]
        first = rearrange(conditions[group_rows, group_faces], "g d -> g 1 d")
        return self.fine(torch.cat((first, inputs), dim=1)), group_rows, group_faces

    def embed(self, faces: Int[Tensor, "b nf t"], first_face: int = 0) -> Float[Tensor, "b nf t d"]:
        """Code, corner, level and (where the config says so) sequence position of each code; padding reads as code 0."""
        places = rearrange(self.corner_embed + self.level_embed, "k l d -> (k l) d")
        embedded = self.code_embed(faces.clamp(min=0)) + places
        if self.position_embed is None:
            return embedded
        positions = first_face * self.tokens_per_face + torch.arange(faces[0].numel(), device=faces.device)
        return embedded + self.position_embed(positions.view(faces.shape[1:]).clamp(max=self.config.max_seq_len - 1))

    def conditions(self, faces: Int[Tensor, "b nf t"], embedded: Float[Tensor, "b nf t d"]) -> Float[Tensor, "b nf1 e"]:
        """What the coarse stack says about each next face, from all faces before it: (b, nf + 1, fine width)."""
        starts = repeat(self.start_tokens, "n d -> b n d", b=len(faces))
        sequence = torch.cat((starts, self.to_face(rearrange(embedded, "b nf t d -> b nf (t d)"))), dim=1)
        return self.to_fine(self.coarse(sequence)[:, self.config.num_sos_tokens - 1 :])

    # ------------------------------------------------------------------------------------------------ foreign codes

    @typing.no_type_check
    def checked_codes(self, codes, longest: int | None = None) -> Tensor:
        """Codes (b n) or (b nf*k q) as int64 (b n) on the model's device; raises `CodesError` where they cannot be used."""
        codes = torch.as_tensor(codes, device=self.device)
        if codes.dtype.is_floating_point or codes.dtype == torch.bool or codes.ndim not in (2, 3):
            raise CodesError(
                f"codes must be integers of shape (b, n) or (b, n, q), got {tuple(codes.shape)} {codes.dtype}"
            )
        codes = (codes if codes.ndim == 2 else rearrange(codes, "b n q -> b (n q)")).long()
        if codes.numel() and (codes.max() >= self.vocab_size or codes.min() < -1):
            row, place = (int(i) for i in torch.nonzero((codes >= self.vocab_size) | (codes < -1))[0])
            raise CodesError(
                f"code {int(codes[row, place])} at row {row}, position {place} is not in the tokenizer's vocabulary of "
                f"{self.vocab_size} codes (-1 is padding)"
            )
        real = codes >= 0
        gap = torch.nonzero(real[:, 1:] & ~real[:, :-1])
        if len(gap):
            raise CodesError(
                f"row {int(gap[0, 0])} has a code behind padding at position {int(gap[0, 1]) + 1}: pad with -1 at the end only"
            )
        longest = self.config.max_seq_len if longest is None else longest
        length = int(real.sum(dim=1).max()) if codes.numel() else 0
        if length > longest:
            raise CodesError(
                f"{length} codes are more than max_seq_len = {longest}: use fewer faces or a model with a larger max_seq_len"
            )
        return codes[:, :length]


def fold_faces(codes: Int[Tensor, "b n"], tokens_per_face: int) -> Int[Tensor, "b nf t"]:
    """(b n) padded -1 -> (b nf t); the last face may be unfinished."""
    short = -codes.shape[1] % tokens_per_face
    return rearrange(F.pad(codes, (0, short), value=-1), "b (nf t) -> b nf t", t=tokens_per_face)


@torch.no_grad()
def tokenize_unchanged(tokenizer: MeshTokenizer, batch: MeshBatch) -> Tensor:
    """Codes (b n) of a batch; a tokenizer that is a module in training mode is in evaluation mode for that time only."""
    modules = [m for m in tokenizer.modules() if m.training] if isinstance(tokenizer, nn.Module) else []
    if isinstance(tokenizer, nn.Module):
        parameter = next(tokenizer.parameters(), None)
        batch = batch if parameter is None else batch.to(parameter.device)
        tokenizer.eval()
    try:
        return tokenizer.codes_from_batch(batch)
    finally:
        for module in modules:
            module.training = True


def _checked_tokenizer(tokenizer: Any) -> MeshTokenizer:
    if not isinstance(tokenizer, MeshTokenizer):
        raise ConfigError(
            f"the first argument must be a tokenizer such as MeshAutoencoder, got {type(tokenizer).__name__}"
        )
    if tokenizer.tokens_per_face is None:
        raise ConfigError(
            f"{type(tokenizer).__name__} has no fixed number of tokens a face, which one coarse step a face needs: "
            "use a tokenizer whose tokens_per_face is a number"
        )
    return tokenizer


def _corners_and_levels(tokenizer: MeshTokenizer) -> tuple[int, int]:
    """How the tokens of a face fall on its corners: (corners, tokens a corner), or (1, tokens) where they do not."""
    tokens, corners = tokenizer.tokens_per_face, tokenizer.corners
    return (corners, tokens // corners) if tokens % corners == 0 else (1, tokens)
