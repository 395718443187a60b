"""How the two models of this package learn: a tokenizer from meshes, a transformer from their codes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from meshgpt.data.batch import MeshBatch
from meshgpt.mesh.mesh import Mesh
from meshgpt.training.asked import AskedCodes
from meshgpt.training.examples import MeshExample
from meshgpt.training.objective import Losses, Objective
from meshgpt.training.tokens import PieceCodes
from meshgpt.transformer.conditions import Conditions
from meshgpt.transformer.forms import Pieces


class AutoencoderObjective(Objective):
    """Reconstruction, commitment and entropy losses of a `MeshAutoencoder`, means over vertices."""

    def collate(self, examples: Sequence[MeshExample]) -> MeshBatch:
        return MeshBatch.from_meshes([example.mesh for example in examples])

    def stand_in(self, example: MeshExample) -> MeshBatch:
        """One mesh without faces: the entropy of the codes is that of the vertices of all processes."""
        return MeshBatch.from_meshes([Mesh(np.zeros((0, 3)), example.mesh.faces[:0])])

    def weight(self, batch: MeshBatch) -> float:
        return float(len(batch.vertices))

    def losses(self, model: nn.Module, batch: MeshBatch) -> Losses:
        output: Any = model.losses(batch)  # type: ignore[operator]  # the model is a MeshAutoencoder or has its interface
        names = ("recon_loss", "excess_loss", "commit_loss", "entropy_loss", "triangle_accuracy")
        metrics = {name: getattr(output, name).detach() for name in names}
        metrics["code_perplexity"] = code_perplexity(output.codes)
        seen = {"codes_in_use": codes_in_use(output.codes, model.config.codebook_size)}  # type: ignore[union-attr]
        counts = {"triangle_accuracy": float(batch.num_faces)}
        if model.training:
            metrics["padding"], counts["padding"] = padding_of(batch.face_mask)
        return Losses(output.loss, metrics, counts=counts, seen=seen)


def padding_of(real: Bool[Tensor, "b n"]) -> tuple[Tensor, float]:
    """The share of a padded batch that is padding (0-d), and of how many places."""
    return 1 - real.float().sum() / max(real.numel(), 1), float(real.numel())


@torch.no_grad()
def code_perplexity(codes: Int[Tensor, "nv q"]) -> Tensor:
    """How many codes are in use, were all used equally: exp of the entropy of each level, mean over levels (0-d)."""
    levels = []
    for level in codes.unbind(dim=1):
        counts = torch.unique(level, return_counts=True)[1].double()
        share = counts / counts.sum()
        levels.append((-(share * share.log()).sum()).exp())
    return torch.stack(levels).mean()


@torch.no_grad()
def codes_in_use(codes: Int[Tensor, "nv q"], codebook_size: int) -> Bool[Tensor, "q {codebook_size}"]:
    """True for the codes of each level that occur."""
    seen = torch.zeros(codes.shape[1], codebook_size, dtype=torch.bool, device=codes.device)
    return seen.scatter_(1, codes.T, True)


@dataclass(frozen=True)
class CodeBatch:
    """Codes (b, n), padded -1, how many of them there are with the ends, and what is asked of each row.

    pieces: what the rows are of their meshes, where they are not all of them.
    """

    codes: Int[Tensor, "b n"]
    num_tokens: int
    conditions: Conditions | None = None
    pieces: Pieces | None = None

    def to(self, device: Any) -> "CodeBatch":
        conditions = None if self.conditions is None else self.conditions.to(device, non_blocking=True)
        pieces = None if self.pieces is None else self.pieces.to(device)
        return replace(self, codes=self.codes.to(device, non_blocking=True), conditions=conditions, pieces=pieces)


class TransformerObjective(Objective):
    """The likelihood of the codes of meshes under a `MeshTransformer`, in nats per token, ends included.

    Of a model that takes conditions, validation also tells `bits_per_face_unasked`, by what it writes when not asked.
    """

    def collate(self, examples: Sequence[Tensor | PieceCodes | AskedCodes]) -> CodeBatch:
        told = [row.codes if isinstance(row, AskedCodes) else row for row in examples]
        asked = [row.conditions for row in examples if isinstance(row, AskedCodes)]
        parts = [row if isinstance(row, PieceCodes) else PieceCodes(row) for row in told]
        codes = torch.nn.utils.rnn.pad_sequence([part.codes for part in parts], batch_first=True, padding_value=-1)
        pieces = None
        if any(isinstance(row, PieceCodes) for row in told):
            before, ends = torch.tensor([part.before for part in parts]), torch.tensor([part.ends for part in parts])
            pieces = Pieces(before, ends)
        conditions = Conditions.join(asked) if asked else None
        return CodeBatch(codes.long(), sum(len(part) + part.ends for part in parts), conditions, pieces)

    def weight(self, batch: CodeBatch) -> float:
        return float(batch.num_tokens)

    def losses(self, model: nn.Module, batch: CodeBatch) -> Losses:
        output: Any = model.losses(batch.codes, batch.conditions, pieces=batch.pieces)  # type: ignore[operator]
        metrics = {"bits_per_face": output.bits_per_face.detach()}
        if batch.conditions is not None and not model.training:
            unasked = model.losses(batch.codes, pieces=batch.pieces)  # type: ignore[operator]
            metrics["bits_per_face_unasked"] = unasked.bits_per_face
        counts = dict.fromkeys(metrics, float(output.num_faces))
        if model.training:
            metrics["padding"], counts["padding"] = padding_of(batch.codes >= 0)
        return Losses(output.loss, metrics, counts=counts)

    def summary(self, means: dict[str, float]) -> dict[str, float]:
        return {**means, "perplexity": math.exp(min(means["loss"], 80.0))} if "loss" in means else means
