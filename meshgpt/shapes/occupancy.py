"""Occupancy networks (Mescheder et al. 2019, arXiv:1812.03828): a shape is where a network says "inside"."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, no_type_check

import torch
from jaxtyping import Float
from torch import Tensor, nn

from meshgpt.config import Config, resolve_config
from meshgpt.errors import ConditionError
from meshgpt.nn.conditional import ConditionalBatchNorm, ConditionalResidualBlock, Gaussian, ResidualBlock
from meshgpt.shapes.encoders import KINDS, EmbeddingEncoder, IndexEncoder, PointNetEncoder, VoxelEncoder
from meshgpt.shapes.field_model import FieldModel

DECODERS = ("batch-norm", "simple")


@dataclass(frozen=True)
class OccupancyFieldConfig(Config):
    """One linear layer 3 -> dim, `depth` hidden ones, ReLU after each, and one logit."""

    dim: int = 64
    depth: int = 4

    def validate(self) -> None:
        self.require(self.dim >= 1, "dim", "be at least 1")
        self.require(self.depth >= 0, "depth", "not be negative")


class OccupancyField(FieldModel):
    """One shape as a small network of points: `OccupancyField(dim = 64)`."""

    config_class = OccupancyFieldConfig

    @no_type_check
    def __init__(self, config: OccupancyFieldConfig | None = None, **keywords):
        super().__init__()
        self.config = config = resolve_config(OccupancyFieldConfig, config, keywords)
        layers: list[nn.Module] = [nn.Linear(3, config.dim), nn.ReLU()]
        for _ in range(config.depth):
            layers += [nn.Linear(config.dim, config.dim), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(config.dim, 1))

    def forward(self, points: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n"]:
        return self.layers(points)[..., 0]

    @no_type_check
    def logits(self, latents: None, points: Float[Tensor, "b n 3"]) -> Float[Tensor, "b n"]:
        return self(points)


@dataclass(frozen=True)
class OccupancyNetworkConfig(Config):
    """An occupancy network of many shapes.

    condition: by what a shape is told: "points" (a cloud), "voxels", "index" (of `num_shapes` known ones), "embedding"
    (a vector of `dim_embedding`), "none". decoder: "batch-norm", steered at every layer, or "simple", where vectors are
    added to the first. dim, num_blocks: of the decoder. dim_condition, dim_encoder: of what it is told. dim_latent: of
    a variable that is drawn besides, 0 for none; then the model is a variational autoencoder, and weighs `kl_weight`.
    """

    condition: str = "points"
    decoder: str = "batch-norm"
    dim: int = 256
    num_blocks: int = 5
    dim_condition: int = 256
    dim_encoder: int = 256
    dim_latent: int = 0
    kl_weight: float = 1.0
    num_shapes: int = 0
    dim_embedding: int = 0
    voxel_resolution: int = 32

    def validate(self) -> None:
        self.require(self.condition in KINDS, "condition", f"be one of {', '.join(KINDS)}")
        self.require(self.decoder in DECODERS, "decoder", f"be one of {', '.join(DECODERS)}")
        for field in ("dim", "num_blocks", "dim_condition", "dim_encoder"):
            self.require(getattr(self, field) >= 1, field, "be at least 1")
        self.require(self.dim_latent >= 0, "dim_latent", "not be negative")
        self.require(self.condition != "index" or self.num_shapes >= 1, "num_shapes", "be at least 1 for an index")
        self.require(self.condition != "embedding" or self.dim_embedding >= 1, "dim_embedding", "be at least 1")
        power = self.voxel_resolution >= 8 and self.voxel_resolution & (self.voxel_resolution - 1) == 0
        self.require(power, "voxel_resolution", "be a power of two, 8 at least")


class OccupancyNetwork(FieldModel):
    """Many shapes by one network: `latents = model.encode(cloud)`, `model.extract(latents)`.

    Latents are vectors (b, c): of the condition, then of the drawn variable, if the model has one.
    """

    config_class = OccupancyNetworkConfig

    @no_type_check
    def __init__(self, config: OccupancyNetworkConfig | None = None, **keywords):
        super().__init__()
        self.config = config = resolve_config(OccupancyNetworkConfig, config, keywords)
        self.encoder = _encoder(config)
        self.posterior = None if not config.dim_latent else LatentEncoder(config)
        told = (config.dim_condition if config.condition != "none" else 0) + config.dim_latent
        self.dim_latents = told
        decoder = BatchNormDecoder if config.decoder == "batch-norm" else SimpleDecoder
        self.decoder = decoder(config.dim, max(told, 1), config.num_blocks)

    @no_type_check
    def encode(self, condition: Any = None, batch_size: int = 1, noise: Tensor | None = None) -> Float[Tensor, "b c"]:
        """The latents of shapes: of their condition, or of `batch_size` without one. The drawn variable is `noise`
        (b, dim_latent), or 0, its most likely value. Raises `ConditionError` for a condition that does not fit."""
        if (self.encoder is None) != (condition is None):
            what = "takes no condition" if self.encoder is None else f"needs {self.config.condition}"
            raise ConditionError(f"this model {what}")
        weight = next(self.parameters())
        count = batch_size if self.encoder is None else len(condition)
        told = weight.new_zeros(count, 0) if self.encoder is None else self.encoder(condition)
        drawn = weight.new_zeros(count, self.config.dim_latent) if noise is None else noise
        return torch.cat((told, drawn), dim=1)

    @no_type_check
    def logits(self, latents: Float[Tensor, "b c"], points: Float[Tensor, "b n 3"]) -> Float[Tensor, "b n"]:
        told = latents if self.dim_latents else latents.new_zeros(len(latents), 1)
        return self.decoder(points, told)

    @no_type_check
    def forward(
        self, condition: Any, points: Float[Tensor, "b n 3"], inside: Float[Tensor, "b n"]
    ) -> tuple[Float[Tensor, "b n"], Float[Tensor, ""]]:
        """Logits at points, of which `inside` is 1 or 0, and the divergence of the drawn variable: a mean over shapes
        of the sum over its numbers, 0 without one."""
        latents = self.encode(condition, len(points))
        if self.posterior is None:
            return self.logits(latents, points), latents.new_zeros(())
        told, drawn = latents.split((latents.shape[1] - self.config.dim_latent, self.config.dim_latent), dim=1)
        found = self.posterior(points, inside, told)
        latents = torch.cat((told, found.sample() if self.training else found.mean), dim=1)
        return self.logits(latents, points), found.kl().sum(dim=1).mean()


class BatchNormDecoder(nn.Module):
    """Points to logits by residual blocks with conditional batch normalisation."""

    def __init__(self, dim: int, dim_told: int, num_blocks: int):
        super().__init__()
        self.embed = nn.Linear(3, dim)
        self.blocks = nn.ModuleList([ConditionalResidualBlock(dim, dim_told) for _ in range(num_blocks)])
        self.norm, self.to_logit = ConditionalBatchNorm(dim, dim_told), nn.Linear(dim, 1)

    def forward(self, points: Float[Tensor, "b n 3"], told: Float[Tensor, "b c"]) -> Float[Tensor, "b n"]:
        x = self.embed(points)
        for block in self.blocks:
            x = block(x, told)
        return self.to_logit(self.norm(x, told).relu())[..., 0]


class SimpleDecoder(nn.Module):
    """Points to logits by residual blocks after a sum of both embeddings."""

    def __init__(self, dim: int, dim_told: int, num_blocks: int):
        super().__init__()
        self.embed, self.tell = nn.Linear(3, dim), nn.Linear(dim_told, dim)
        self.blocks = nn.ModuleList([ResidualBlock(dim) for _ in range(num_blocks)])
        self.to_logit = nn.Linear(dim, 1)

    def forward(self, points: Float[Tensor, "b n 3"], told: Float[Tensor, "b c"]) -> Float[Tensor, "b n"]:
        x = self.embed(points) + self.tell(told)[:, None]
        for block in self.blocks:
            x = block(x)
        return self.to_logit(x.relu())[..., 0]


class LatentEncoder(nn.Module):
    """What the drawn variable was, by points, their occupancies and the condition."""

    def __init__(self, config: OccupancyNetworkConfig):
        super().__init__()
        told = config.dim_condition if config.condition != "none" else 0
        self.embed = nn.Linear(4 + told, config.dim_encoder)
        self.blocks = nn.ModuleList([ResidualBlock(config.dim_encoder) for _ in range(3)])
        self.to_out = nn.Linear(config.dim_encoder, 2 * config.dim_latent)

    @no_type_check
    def forward(self, points, inside, told) -> Gaussian:
        spread = told[:, None].expand(-1, points.shape[1], -1)
        x = self.embed(torch.cat((points, inside[..., None].to(points.dtype), spread), dim=-1))
        for block in self.blocks:
            x = block(x)
        return Gaussian(*self.to_out(x.amax(dim=1)).chunk(2, dim=-1))


def _encoder(config: OccupancyNetworkConfig) -> nn.Module | None:
    makers: dict[str, Callable[[], nn.Module | None]] = {
        "points": lambda: PointNetEncoder(config.dim_condition, config.dim_encoder),
        "voxels": lambda: VoxelEncoder(config.dim_condition, config.voxel_resolution),
        "index": lambda: IndexEncoder(config.dim_condition, config.num_shapes),
        "embedding": lambda: EmbeddingEncoder(config.dim_condition, config.dim_embedding),
        "none": lambda: None,
    }
    return makers[config.condition]()
