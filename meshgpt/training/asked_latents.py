"""Latents of the shapes of a data set, each encoded several times, with all that a prior can be asked for."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, no_type_check

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from meshgpt.config import Config
from meshgpt.errors import DataError
from meshgpt.mesh.clouds import CloudAugmentation, PointCloud
from meshgpt.shapes.latents import cached_latents, encoded
from meshgpt.text.cache import TextEmbeddingCache
from meshgpt.text.captions import CaptionWriter
from meshgpt.training.asked import (
    CLOUDS,
    Asking,
    Categories,
    Place,
    Told,
    captions_of,
    warn_where_nothing_is_said,
)
from meshgpt.training.field_examples import FieldExamples
from meshgpt.training.identity import described
from meshgpt.training.latent_trainer import LatentBatch, LatentExamples
from meshgpt.transformer.conditions import Conditions

AT_ONCE = 32  # clouds that are encoded together
COLUMNS = ("name", "caption", "category")


@no_type_check
def latents_of_shapes(autoencoder, shapes: FieldExamples, variants: int = 1, path=None) -> Float[Tensor, "n m d"]:
    """All shapes as they are seen first, then all as they are seen next, ..., `variants` times.

    path: a file that keeps them; the latents in it are taken where autoencoder, data and view are the same. Raises
    `DataError` for shapes with fewer points than the view wants.
    """
    if variants < 1:
        raise DataError(f"shapes are encoded at least once, got variants = {variants}")

    def clouds() -> Iterator[Tensor]:
        rows = [(index, variant) for variant in range(variants) for index in range(len(shapes))]
        for start in range(0, len(rows), AT_ONCE):
            part = [shapes.get(index, variant).sample.surface for index, variant in rows[start : start + AT_ONCE]]
            yield torch.from_numpy(np.stack(part))

    if path is None:
        return encoded(autoencoder, clouds())
    key = [weights_digest(autoencoder), shapes.fingerprint, shapes.view.to_dict(), shapes.seed, variants]
    return cached_latents(path, json.dumps(key), lambda: encoded(autoencoder, clouds()))


def weights_digest(model: nn.Module) -> str:
    """A hash of all weights and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.detach().double().cpu().numpy().tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class SeenClouds:
    """Of a shape as it was encoded, the points; `augment` makes them worse, anew each epoch."""

    shapes: FieldExamples
    augment: CloudAugmentation | None = None

    def __call__(self, place: Place) -> dict[str, Tensor]:
        surface = self.shapes.get(place.mesh, place.entry).sample.surface
        cloud = PointCloud(surface[:, :3], surface[:, 3:6])
        points = (cloud if self.augment is None else self.augment(cloud, place.rng)).tensor()
        return {"points": points[None], "point_mask": torch.ones(1, len(points), dtype=torch.bool)}


class AskedLatents(LatentExamples):
    """Latents, variant after variant of n shapes, and what is asked of them, which depends on (seed, epoch, row) alone.

    asking: {kind: what asks it}. settings: plain values and configs on which the asking depends.
    """

    @no_type_check
    def __init__(self, latents, shapes: FieldExamples, asking: dict[str, Asking], seed: int, settings: dict[str, Any]):
        super().__init__(latents)
        if len(self.dataset) % len(shapes):
            raise DataError(f"{len(self.dataset)} sets of latents are no whole number of times {len(shapes)} shapes")
        self.shapes, self.asking, self.seed, self.settings = shapes, asking, seed, settings

    def get(self, index: int, epoch: int) -> LatentBatch:
        variant, shape = divmod(int(index), len(self.shapes))
        parts: dict[str, Tensor] = {}
        for number, asking in enumerate(self.asking.values()):
            rng = np.random.default_rng((self.seed, epoch, int(index), number))
            parts |= asking(Place(shape, epoch, variant, 0, rng))
        return LatentBatch(self.dataset[index : index + 1], Conditions(1, **parts))

    def name(self, index: int) -> str:
        return self.shapes.name(int(index) % len(self.shapes))

    @property
    def fingerprint(self) -> str:
        settings = [value.to_dict() if isinstance(value, Config) else value for value in self.settings.values()]
        return hashlib.sha256(f"{super().fingerprint} {json.dumps(settings)}".encode()).hexdigest()

    @property
    def identity(self) -> dict[str, Any]:
        identity = super().identity
        for name, value in sorted(self.settings.items()):
            identity |= described(name, value)
        return identity


@no_type_check
def asked_latents(
    model, latents, shapes: FieldExamples, folder, seed=0, captions=None, clouds=None, exact=False
) -> LatentExamples:
    """`latents` of shapes (see `latents_of_shapes`) with all that the model can be asked for.

    folder: where embedded texts are kept. captions: words the captions of the data set, anew each epoch, the usual
    `CaptionWriter` if not given. clouds: makes points worse. exact: captions as they are and points as they were
    encoded, for validation. Warns where nothing is said of any shape.
    """
    config, dataset = model.config, shapes.dataset
    if not config.is_conditioned:
        return LatentExamples(latents)
    columns = [[str(value) for value in dataset.column(name)] for name in COLUMNS]
    words = [{**dict(zip(COLUMNS, row, strict=True)), "theme": ""} for row in zip(*columns, strict=True)]
    writer, clouds = captions or CaptionWriter(), clouds or CLOUDS
    asking: dict[str, Asking] = {}
    if config.takes("text"):
        told = Told(words, [None] * len(words), of_records=True)
        asking["text"] = captions_of(told, model, TextEmbeddingCache(Path(folder)), writer, exact, seed)
    if config.takes("category"):
        asking["category"] = Categories.of(words, config.categories)
    if not exact:
        warn_where_nothing_is_said(asking)
    if config.takes("points"):
        asking["points"] = SeenClouds(shapes, None if exact else clouds)
    settings = {"captions": writer if config.takes("text") else None, "exact": exact}
    settings |= {"clouds": clouds if config.takes("points") else None}
    return AskedLatents(latents, shapes, asking, seed, settings)
