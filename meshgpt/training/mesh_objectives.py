"""How the two models of this package learn: a tokenizer from meshes, a transformer from their codes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from meshgpt.data.batch import MeshBatch
from meshgpt.training.examples import MeshExample
from meshgpt.training.objective import Losses, Objective


class AutoencoderObjective(Objective):
    """Reconstruction, commitment and entropy losses of a `MeshAutoencoder`, means over vertices."""

    def collate(self, examples: Sequence[MeshExample]) -> MeshBatch:
        return MeshBatch.from_meshes([example.mesh for example in examples])

    def weight(self, batch: MeshBatch) -> float:
        return float(len(batch.vertices))

    def losses(self, model: nn.Module, batch: MeshBatch) -> Losses:
        output: Any = model.losses(batch)  # type: ignore[operator]  # the model is a MeshAutoencoder or has its interface
        names = ("recon_loss", "excess_loss", "commit_loss", "entropy_loss", "triangle_accuracy")
        metrics = {name: getattr(output, name).detach() for name in names}
        metrics["code_perplexity"] = code_perplexity(output.codes)
        return Losses(output.loss, metrics, counts={"triangle_accuracy": float(batch.num_faces)})


@torch.no_grad()
def code_perplexity(codes: Int[Tensor, "nv q"]) -> Tensor:
    """How many codes are in use, were all used equally: exp of the entropy of each level, mean over levels (0-d)."""
    levels = []
    for level in codes.unbind(dim=1):
        counts = torch.unique(level, return_counts=True)[1].double()
        share = counts / counts.sum()
        levels.append((-(share * share.log()).sum()).exp())
    return torch.stack(levels).mean()


@dataclass(frozen=True)
class CodeBatch:
    """Codes (b, n), padded -1, and how many of them there are with the ends."""

    codes: Int[Tensor, "b n"]
    num_tokens: int

    def to(self, device: Any) -> "CodeBatch":
        return replace(self, codes=self.codes.to(device, non_blocking=True))


class TransformerObjective(Objective):
    """The likelihood of the codes of meshes under a `MeshTransformer`, in nats per token, ends included."""

    def collate(self, examples: Sequence[Tensor]) -> CodeBatch:
        codes = torch.nn.utils.rnn.pad_sequence(list(examples), batch_first=True, padding_value=-1)
        return CodeBatch(codes.long(), sum(len(row) + 1 for row in examples))

    def weight(self, batch: CodeBatch) -> float:
        return float(batch.num_tokens)

    def losses(self, model: nn.Module, batch: CodeBatch) -> Losses:
        output: Any = model.losses(batch.codes)  # type: ignore[operator]
        metrics = {"bits_per_face": output.bits_per_face.detach()}
        return Losses(output.loss, metrics, counts={"bits_per_face": float(output.num_faces)})

    def summary(self, means: dict[str, float]) -> dict[str, float]:
        return {**means, "perplexity": math.exp(min(means["loss"], 80.0))} if "loss" in means else means
