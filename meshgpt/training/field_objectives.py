"""How models of fields learn."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from meshgpt.errors import ConditionError
from meshgpt.shapes.encoders import voxelized
from meshgpt.training.field_examples import FieldBatch, FieldExample, PointBatch
from meshgpt.training.objective import Losses, Objective

cross_entropy = nn.functional.binary_cross_entropy_with_logits


def overlap(found: Bool[Tensor, "b n"], true: Bool[Tensor, "b n"]) -> Float[Tensor, ""]:
    """The mean over shapes of intersection over union by their points; 1 for a shape of which both hold no point."""
    both, either = (found & true).sum(dim=1).float(), (found | true).sum(dim=1).float()
    return torch.where(either > 0, both / either.clamp(min=1), 1.0).mean()


def soft_overlap(logits: Float[Tensor, "b n"], inside: Float[Tensor, "b n"]) -> Float[Tensor, " b"]:
    """`overlap` of each shape with probabilities for points, which has a gradient (Rahman and Wang 2016).

    0, whatever was found, of a shape that holds none of the points.
    """
    chance = logits.sigmoid()
    both = (chance * inside).sum(dim=1)
    either = (chance + inside - chance * inside).sum(dim=1)
    return both / either.clamp(min=1)


class PointObjective(Objective):
    """The cross-entropy of an `OccupancyField`; an example is a block of points, a batch holds one or more."""

    def collate(self, examples: Sequence[PointBatch]) -> PointBatch:
        points = torch.cat([example.points for example in examples])
        return PointBatch(points, torch.cat([example.inside for example in examples]))

    def weight(self, batch: PointBatch) -> float:
        return float(len(batch.points))

    def losses(self, model: nn.Module, batch: PointBatch) -> Losses:
        logits = model(batch.points)
        true = batch.inside > 0.5
        iou = overlap((logits > 0)[None], true[None]).detach()
        return Losses(cross_entropy(logits, batch.inside), {"iou": iou})


class OccupancyObjective(Objective):
    """The cross-entropy of an `OccupancyNetwork`, a mean over points (the paper sums over them, and weighs the
    divergence of a drawn variable with 1: here it is divided by their number)."""

    def collate(self, examples: Sequence[FieldExample]) -> FieldBatch:
        return FieldBatch.of(examples)

    def weight(self, batch: FieldBatch) -> float:
        return float(len(batch))

    def losses(self, model: nn.Module, batch: FieldBatch) -> Losses:
        config: Any = model.config
        logits, divergence = model(condition_of(config, batch), batch.points, batch.inside)
        entropy = cross_entropy(logits, batch.inside)
        volume = slice(0, batch.num_volume or None)
        iou = overlap(logits[:, volume] > 0, batch.values[:, volume] > 0)
        metrics = {"iou": iou.detach(), "entropy": entropy.detach()}
        if config.dim_latent:
            metrics["divergence"] = divergence.detach()
        return Losses(entropy + config.kl_weight * divergence / batch.points.shape[1], metrics)


class VectorSetObjective(Objective):
    """A `VectorSetAutoencoder`: points of the volume, those near the surface by `near_weight`, what the soft overlap of
    both lacks by `overlap_weight`, and the divergence of the latents, a mean over their numbers, by `kl_weight`.
    Cross-entropy, or the absolute error of distances."""

    def collate(self, examples: Sequence[FieldExample]) -> FieldBatch:
        return FieldBatch.of(examples)

    def weight(self, batch: FieldBatch) -> float:
        return float(len(batch))

    def losses(self, model: nn.Module, batch: FieldBatch) -> Losses:
        config: Any = model.config
        number = self._number(config) if model.training else None
        found = model.posterior(batch.clouds, number)  # type: ignore[operator]
        drawn = model.training and (config.bottleneck == "kl" or config.jitter > 0)
        values = model.logits(found.sample() if drawn else found.mean, batch.points)  # type: ignore[operator]
        parts = (slice(0, batch.num_volume), slice(batch.num_volume, None))
        volume, near = (self._error(config.target, values[:, part], batch.values[:, part]) for part in parts)
        loss = volume + config.near_weight * near
        metrics = {"volume": volume.detach(), "near": near.detach()}
        if config.overlap_weight:
            lacking = [1 - soft_overlap(values[:, part], (batch.values[:, part] > 0).float()).mean() for part in parts]
            loss = loss + config.overlap_weight * sum(lacking)
        if config.bottleneck == "kl":
            divergence = found.kl().mean()
            loss, metrics["divergence"] = loss + config.kl_weight * divergence, divergence.detach()
        metrics["iou"] = overlap(values[:, parts[0]] > 0, batch.values[:, parts[0]] > 0).detach()
        return Losses(loss, metrics)

    @staticmethod
    def _number(config: Any) -> int | None:
        """Of the latents of a batch that is trained on; None: as many as the model has."""
        least = config.fewest_latents
        return None if least is None else int(torch.randint(least, config.num_latents + 1, ()))

    @staticmethod
    def _error(target: str, values: Float[Tensor, "b n"], true: Float[Tensor, "b n"]) -> Float[Tensor, ""]:
        if not true.shape[1]:
            return values.sum() * 0.0
        return cross_entropy(values, (true > 0).float()) if target == "occupancy" else (values - true).abs().mean()


def condition_of(config: Any, batch: FieldBatch) -> Any:
    """What a model with this config is told of the shapes of a batch. Raises `ConditionError` where that is missing."""
    if config.condition == "embedding" and batch.embeddings is None:
        raise ConditionError("the model is told by embeddings: give them to FieldExamples")
    if config.condition in ("points", "voxels") and not batch.clouds.shape[1]:
        raise ConditionError(f"the model is told by {config.condition}: have FieldView.cloud above 0")
    told = {"points": lambda: batch.clouds, "index": lambda: batch.index, "embedding": lambda: batch.embeddings}
    told |= {"voxels": lambda: voxelized(batch.clouds, config.voxel_resolution), "none": lambda: None}
    return told[config.condition]()
