"""3DShape2VecSet (Zhang et al. 2023, arXiv:2301.11445): a shape as a small set of vectors, and a field out of them.

    cloud ── farthest points look at all points ──> vectors ── bottleneck ──> latents (b, m, c)
    latents ── self-attention ──> tokens ── points look at them ──> inside or outside, or the signed distance

The latents are a set: their order means nothing, and no position may be added to them.
"""

import difflib
from dataclasses import dataclass
from typing import no_type_check

import torch
from jaxtyping import Float
from torch import Tensor, nn

from meshgpt.config import Config, resolve_config
from meshgpt.errors import ConditionError, ConfigError
from meshgpt.mesh.farthest import farthest_points
from meshgpt.mesh.isosurface import Field
from meshgpt.nn.attention import FeedForward
from meshgpt.nn.conditional import Gaussian
from meshgpt.nn.fourier import PointEmbedding
from meshgpt.nn.latents import Nearness, SetAttention, SetBlock
from meshgpt.nn.normalization import RMSNorm
from meshgpt.nn.precision import dtype_of
from meshgpt.shapes.field_model import FieldModel

BOTTLENECKS = ("kl", "normalised", "none")
QUERIES = ("points", "learned")
TARGETS = ("occupancy", "distance")
PLACE = 3  # numbers that say where a latent is, if it is located
TOLD = 4  # columns of a cloud beside the places: the normal, and whether it is of a sharp edge


@dataclass(frozen=True)
class VectorSetConfig(Config):
    """An autoencoder of shapes.

    dim: width. num_latents, dim_latent: of the set; with bottleneck "none", dim_latent is dim. fewest_latents: each
    batch of training has a number drawn between it and num_latents, so that sets of any such size can be decoded (as
    Hunyuan3D 2.1 does); None: always num_latents. bottleneck: "kl", a
    normal distribution for each number, weighed by `kl_weight`; "normalised", each vector at mean 0 and variance 1,
    with no weight to choose (VecSetX); "none". queries: "points", the farthest of the cloud, or "learned" ones. depth,
    heads, dim_head: of the self-attention after the bottleneck; cross_heads, each as wide as fits `dim`, of both
    cross-attentions. normals: the cloud tells normals and sharp edges too. target: "occupancy" or signed "distance".
    near_weight: of points near the surface, beside those of the volume. overlap_weight: of what the soft overlap of
    volumes falls short of 1, for occupancy; it does not let thin walls be outvoted by the space around them.
    feed_forward: one more after the last cross-attention, which then keeps its query. drop_path: share of residual
    paths that training leaves out. steepest: how fast the keenest head of located latents forgets what is far, see
    `Nearness`.
    """

    dim: int = 512
    num_latents: int = 512
    fewest_latents: int | None = None
    dim_latent: int = 32
    bottleneck: str = "kl"
    queries: str = "points"
    located: bool = False
    jitter: float = 0.0
    depth: int = 24
    heads: int = 8
    dim_head: int = 64
    cross_heads: int = 1
    num_frequencies: int = 8
    normals: bool = False
    target: str = "occupancy"
    near_weight: float = 0.1
    overlap_weight: float = 0.0
    kl_weight: float = 1e-3
    feed_forward: bool = False
    drop_path: float = 0.0
    steepest: float = 64.0

    def validate(self) -> None:
        for field in ("dim", "num_latents", "dim_latent", "heads", "dim_head", "cross_heads", "num_frequencies"):
            self.require(getattr(self, field) >= 1, field, "be at least 1")
        self.require(self.dim % self.cross_heads == 0, "cross_heads", f"divide dim ({self.dim})")
        self.require(self.depth >= 0, "depth", "not be negative")
        self.require(self.bottleneck in BOTTLENECKS, "bottleneck", f"be one of {', '.join(BOTTLENECKS)}")
        self.require(self.queries in QUERIES, "queries", f"be one of {', '.join(QUERIES)}")
        self.require(self.target in TARGETS, "target", f"be one of {', '.join(TARGETS)}")
        possible = self.queries == "points" and self.bottleneck == "normalised" and self.dim_latent > PLACE
        need = "need queries 'points', bottleneck 'normalised' and a dim_latent above 3"
        self.require(not self.located or possible, "located", need)
        if self.fewest_latents is not None:
            told = f"lie in [1, num_latents] ({self.num_latents})"
            self.require(1 <= self.fewest_latents <= self.num_latents, "fewest_latents", told)
            self.require(self.queries == "points", "fewest_latents", "be None with learned queries")
        for field in ("near_weight", "overlap_weight", "kl_weight", "jitter"):
            self.require(getattr(self, field) >= 0, field, "not be negative")
        needless = self.target == "occupancy" or self.overlap_weight == 0
        self.require(needless, "overlap_weight", "be 0 where distances are the target")
        self.require(self.steepest > 0, "steepest", "be above 0")
        self.require(0 <= self.drop_path < 1, "drop_path", "lie in [0, 1)")
        whole = self.bottleneck != "none" or self.dim_latent == self.dim
        self.require(whole, "dim_latent", f"be dim ({self.dim}) without a bottleneck")


class VectorSetAutoencoder(FieldModel):
    """Clouds to sets of vectors and back to shapes: `latents = model.encode(clouds)`, `model.extract(latents)`.

    Clouds are (b, p, 3) or wider, all of equally many points, in [-1, 1]. `latent_mean` and `latent_std` (c,) are set
    by `measure_latents` over a data set and saved with the weights: diffusion works on `standardized` latents.
    """

    config_class = VectorSetConfig
    latent_mean: Tensor
    latent_std: Tensor

    @no_type_check
    def __init__(self, config: VectorSetConfig | None = None, **keywords):
        super().__init__()
        self.config = config = resolve_config(VectorSetConfig, config, keywords)
        dim, cross = config.dim, (config.cross_heads, config.dim // config.cross_heads)
        self.embed = PointEmbedding(dim, config.num_frequencies)
        self.embed_cloud = PointEmbedding(dim, config.num_frequencies, TOLD) if config.normals else None
        learned = config.queries == "learned"
        self.learned = nn.Parameter(torch.randn(config.num_latents, dim) * 0.02) if learned else None
        self.gather = SetBlock(dim, *cross, dim_context=dim)
        self.near_cloud, self.near_latents = (
            Nearness(cross[0], most=config.steepest) if config.located else None for _ in range(2)
        )
        self.narrow, self.widen = _bottleneck(config)
        self.blocks = nn.ModuleList([SetBlock(dim, config.heads, config.dim_head) for _ in range(config.depth)])
        self.ask = SetAttention(dim, *cross, dim_context=dim)
        self.after = FeedForward(dim) if config.feed_forward else None
        self.norm, self.to_value = RMSNorm(dim), nn.Linear(dim, 1)
        self.register_buffer("latent_mean", torch.zeros(config.dim_latent))
        self.register_buffer("latent_std", torch.ones(config.dim_latent))

    # clouds to latents

    @no_type_check
    def encode(
        self, clouds: Float[Tensor, "b p c"], noise: Tensor | None = None, num_latents: int | None = None
    ) -> Float[Tensor, "b m c"]:
        """The latents of shapes; of a "kl" bottleneck their means, or drawn by `noise` (b, m, c) where that is given.

        num_latents: m, as in training unless told otherwise; latents are a set, so others work as well, and located
        ones the better the more there are, up to some twice as many. The order of the points does not matter. Raises
        `ConditionError` for clouds of another shape and for a number of latents that learned queries do not have.
        """
        found = self.posterior(clouds, num_latents)
        return found.mean if noise is None or self.config.bottleneck != "kl" else found.sample(noise)

    @no_type_check
    def posterior(self, clouds: Float[Tensor, "b p c"], num_latents: int | None = None) -> Gaussian:
        """The distribution of the latents; but for a "kl" bottleneck it has no width."""
        x, places = self._gathered(self._checked(clouds), self._checked_number(num_latents))
        if self.config.bottleneck == "kl":
            return Gaussian(*self.narrow(x).chunk(2, dim=-1))
        latents = self.narrow(x)
        if self.config.bottleneck == "normalised":
            latents = nn.functional.layer_norm(latents, latents.shape[-1:])
        width = torch.full_like(latents, self.config.jitter)
        if self.config.located:
            latents = torch.cat((places.to(latents), latents), dim=-1)
            width = torch.cat((0.1 * width[..., :1].expand_as(places), width), dim=-1)
        return Gaussian(latents, 2 * width.log())

    def _gathered(
        self, clouds: Float[Tensor, "b p c"], num_latents: int
    ) -> tuple[Float[Tensor, "b m d"], Float[Tensor, "b m 3"]]:
        """The cloud as its queries see it, and where these are; learned ones are nowhere."""
        embedded = (self.embed_cloud or self.embed)(clouds)
        if self.learned is not None:
            queries = self.learned.to(embedded.dtype).expand(len(clouds), -1, -1)
            return self.gather(queries, embedded), clouds.new_zeros(*queries.shape[:2], 3)
        mask = torch.ones(clouds.shape[:2], dtype=torch.bool, device=clouds.device)
        chosen = farthest_points(clouds[..., :3], mask, num_latents)[..., None]
        queries = embedded.gather(1, chosen.expand(-1, -1, embedded.shape[-1]))
        places = clouds.gather(1, chosen.expand(-1, -1, clouds.shape[-1]))[..., :3]
        bias = None if self.near_cloud is None else self.near_cloud(places, clouds[..., :3])
        return self.gather(queries, embedded, bias=bias), places

    @no_type_check
    def _checked_number(self, num_latents) -> int:
        own = self.config.num_latents
        if num_latents is not None and (num_latents < 1 or (num_latents != own and self.learned is not None)):
            why = "1 at least" if self.learned is None else f"{own}, as many as it has learned queries"
            raise ConditionError(f"num_latents of this model must be {why}, got {num_latents}")
        return num_latents or own

    @no_type_check
    def _checked(self, clouds):
        wanted = 3 + TOLD if self.config.normals else 3
        if clouds.ndim != 3 or not clouds.shape[1] or clouds.shape[2] < wanted:
            raise ConditionError(f"this model reads clouds (b, p, {wanted}) of a point at least, got {clouds.shape}")
        return clouds[..., :wanted].to(dtype_of(self) if clouds.dtype != torch.float64 else clouds.dtype)

    # latents to fields

    def tokens(self, latents: Float[Tensor, "b m c"]) -> Float[Tensor, "b m d"]:
        """What points look at: latents after self-attention."""
        latents = latents.to(dtype_of(self))
        if self.config.located:
            x = self.embed(latents[..., :PLACE]) + self.widen(latents[..., PLACE:])
        else:
            x = self.widen(latents)
        for block in self.blocks:
            x = _dropped(x, block(x), self.config.drop_path if self.training else 0.0)
        return x

    def values(
        self, tokens: Float[Tensor, "b m d"], latents: Float[Tensor, "b m c"], points: Float[Tensor, "b n 3"]
    ) -> Float[Tensor, "b n"]:
        """A number at each point, positive inside: a logit or a distance; tokens are those of the latents."""
        queries = self.embed(points)
        bias = None if self.near_latents is None else self.near_latents(points, latents[..., :PLACE])
        x = self.ask(queries, tokens, bias=bias)
        if self.after is not None:
            x = x + queries
            x = x + self.after(x)
        return self.to_value(self.norm(x))[..., 0]

    @no_type_check
    def logits(self, latents: Float[Tensor, "b m c"], points: Float[Tensor, "b n 3"]) -> Float[Tensor, "b n"]:
        return self.values(self.tokens(latents), latents, points)

    @no_type_check
    def field(self, latents: Float[Tensor, "b m c"], index: int = 0) -> Field:
        """As `extract` asks it; the self-attention is done once."""
        latents = latents[index : index + 1]
        tokens = self.tokens(latents)
        return lambda points: self.values(tokens, latents, points.to(tokens)[None])[0]

    # their scale

    @no_type_check
    @torch.no_grad()
    def measure_latents(self, latents: Float[Tensor, "b m c"]) -> None:
        """Keeps mean and deviation of each number of the latents, of a whole data set and not of one batch of it."""
        flat = latents.flatten(0, 1).double()
        self.latent_mean.copy_(flat.mean(dim=0))
        self.latent_std.copy_(flat.std(dim=0).clamp(min=1e-6))

    def standardized(self, latents: Float[Tensor, "b m c"]) -> Float[Tensor, "b m c"]:
        """Latents with mean 0 and deviation 1 over the data that were measured."""
        return (latents - self.latent_mean) / self.latent_std

    def restored(self, latents: Float[Tensor, "b m c"]) -> Float[Tensor, "b m c"]:
        """Undoes `standardized`."""
        return latents * self.latent_std + self.latent_mean


class _Scaled(nn.Module):
    """A factor and a shift for each number."""

    def __init__(self, dim: int):
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.zeros(dim))

    def forward(self, x: Float[Tensor, "*n c"]) -> Float[Tensor, "*n c"]:
        return x * self.scale + self.shift


def _bottleneck(config: VectorSetConfig) -> tuple[nn.Module, nn.Module]:
    """Layers before and after it."""
    if config.bottleneck == "none":
        return nn.Identity(), nn.Identity()
    if config.bottleneck == "kl":
        return nn.Linear(config.dim, 2 * config.dim_latent), nn.Linear(config.dim_latent, config.dim)
    told = config.dim_latent - PLACE * config.located
    return nn.Linear(config.dim, told), nn.Sequential(_Scaled(told), nn.Linear(told, config.dim))


def _dropped(before: Float[Tensor, "b m d"], after: Float[Tensor, "b m d"], share: float) -> Float[Tensor, "b m d"]:
    """What a block adds, left out for a share of the shapes, and more of it for the others (Huang et al. 2016)."""
    if not share:
        return after
    kept = torch.rand(len(before), 1, 1, device=before.device) >= share
    return before + (after - before) * (kept / (1 - share))


def _paper(**fields) -> VectorSetConfig:
    """Section 6 of the paper: 24 layers of 8 heads of 64."""
    return VectorSetConfig(drop_path=0.1, **fields)


def _heads(cross: int, own: int) -> dict:
    """Of sizes for a CPU."""
    return {"cross_heads": cross, "heads": own, "dim_head": 32, "feed_forward": True}


def _plain(dim: int, num_latents: int) -> VectorSetConfig:
    return _paper(dim=dim, num_latents=num_latents, dim_latent=dim, bottleneck="none")


PRESETS = {f"kl_d512_m512_l{c}": _paper(dim_latent=c) for c in (512, 64, 32, 16, 8, 4, 2, 1)}
PRESETS |= {f"ae_d512_m{m}": _plain(512, m) for m in (512, 256, 128, 64)}
PRESETS |= {f"ae_d{d}_m512": _plain(d, 512) for d in (256, 128, 64)}
PRESETS |= {
    "tiny": VectorSetConfig(dim=96, num_latents=48, dim_latent=8, depth=3, **_heads(3, 3)),  # minutes on a CPU
    "compact": VectorSetConfig(  # an hour on a CPU
        dim=128,
        num_latents=192,
        fewest_latents=64,
        dim_latent=16,
        depth=4,
        num_frequencies=6,
        bottleneck="normalised",
        located=True,
        steepest=512.0,
        jitter=0.05,
        normals=True,
        near_weight=0.5,
        overlap_weight=0.5,
        **_heads(4, 4),
    ),  # fmt: skip
    "small": VectorSetConfig(dim=192, num_latents=96, dim_latent=16, depth=6, **_heads(3, 6)),
}


@no_type_check
def vector_set_preset(name: str) -> VectorSetConfig:
    """The config of that name, of the paper's or for small machines; raises `ConfigError` that names the nearest."""
    if name not in PRESETS:
        near = difflib.get_close_matches(str(name), PRESETS, n=1)
        advice = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(PRESETS)}"
        raise ConfigError(f"no vector set preset is called {name!r}: {advice}")
    return PRESETS[name]
