"""`ViewNetwork`: a small network that tells categories by pictures, whose features compare sets of meshes (FID, KID).

It stands where papers have Inception-v3, which is large and learned from photographs. Its figures compare models here
and must not be compared with those of papers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import no_type_check

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from meshgpt.checkpoint import Pretrained
from meshgpt.config import Config, resolve_config
from meshgpt.evaluation.recognition import Residual, convolution
from meshgpt.evaluation.views import SIZE, VIEWS, views
from meshgpt.mesh.mesh import Mesh

AT_ONCE = 256  # pictures


@dataclass(frozen=True)
class ViewNetworkConfig(Config):
    """`categories`: what it tells apart; `accuracy`: how often it is right about meshes that it did not learn from."""

    categories: tuple[str, ...] = ()
    size: int = SIZE
    dim: int = 16  # channels at half resolution; they double with each halving
    accuracy: float | None = None

    def validate(self) -> None:
        self.require(len(self.categories) > 0, "categories", "name at least one")
        self.require(self.size >= 16 and self.size % 8 == 0, "size", "be a multiple of 8, and at least 16")
        self.require(self.dim >= 1, "dim", "be at least 1")


class ViewNetwork(nn.Module, Pretrained):
    """Grey pictures to features, 4 dim of each, and to logits of categories."""

    config_class, part = ViewNetworkConfig, "views"

    @no_type_check
    def __init__(self, config=None, **keywords):
        super().__init__()
        self.config = config = resolve_config(ViewNetworkConfig, config, keywords)
        dim = config.dim
        self.look = nn.Sequential(
            convolution(1, dim, stride=2),
            convolution(dim, 2 * dim, stride=2),
            Residual(2 * dim),
            convolution(2 * dim, 4 * dim, stride=2),
            Residual(4 * dim),
        )
        self.to_logits = nn.Linear(4 * dim, len(config.categories))

    @property
    def device(self) -> torch.device:
        return self.to_logits.weight.device

    def forward(self, pictures: Float[Tensor, "n h w"]) -> tuple[Float[Tensor, "n c"], Float[Tensor, "n d"]]:
        """Logits and features of pictures in [0, 1], 1 where there is nothing."""
        features = self.look(1 - pictures[:, None]).mean(dim=(2, 3))
        return self.to_logits(features), features

    @torch.no_grad()
    @no_type_check
    def features(self, meshes: Sequence[Mesh]) -> Float[Tensor, "n v d"]:
        """Features of the eight views of each mesh, in evaluation mode, on the CPU."""
        return self._seen(meshes)[1]

    @torch.no_grad()
    @no_type_check
    def logits(self, meshes: Sequence[Mesh]) -> Float[Tensor, "n c"]:
        """Mean logits of the views of each mesh."""
        return self._seen(meshes)[0].mean(dim=1)

    @no_type_check
    def _seen(self, meshes: Sequence[Mesh]) -> tuple[Float[Tensor, "n v c"], Float[Tensor, "n v d"]]:
        was_training = self.training
        self.eval()
        pictures = rearrange(views(meshes, VIEWS, self.config.size), "n v h w -> (n v) h w")
        parts = [self(some.to(self.device).float() / 255) for some in pictures.split(AT_ONCE)]
        self.train(was_training)
        logits, features = (torch.cat(kind).cpu() for kind in zip(*parts, strict=True))
        return logits.unflatten(0, (len(meshes), VIEWS)), features.unflatten(0, (len(meshes), VIEWS))
