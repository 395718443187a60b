"""Conditions to what the stacks read: tokens to attend to, and one vector for the start, for norms and for FiLM."""

import dataclasses

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from meshgpt.nn.points import PointEncoder
from meshgpt.transformer.asks import Asks
from meshgpt.transformer.cloud_reader import Cloud
from meshgpt.transformer.cloud_sketch import Sketch
from meshgpt.transformer.conditions import FACE_BUCKETS, Conditions, face_bucket


@dataclasses.dataclass(frozen=True)
class Context:
    """What is asked of each row, as numbers. tokens: (b m d) to attend to, mask: (b m), vector: (b e), the sum of all.

    budget: (b), the number of faces asked for, -1 for any; None where the model does not take it. cloud: the points
    themselves, where the model reads them at each face. sketch: what they say of vertices, where the head is told.
    """

    tokens: Float[Tensor, "b m d"]
    mask: Bool[Tensor, "b m"]
    vector: Float[Tensor, "b e"]
    budget: Int[Tensor, " b"] | None = None
    cloud: Cloud | None = None
    sketch: Sketch | None = None

    def select(self, rows: Int[Tensor, " r"]) -> "Context":
        """The context of some of the rows."""
        budget = None if self.budget is None else self.budget[rows]
        cloud = None if self.cloud is None else self.cloud.select(rows)
        sketch = None if self.sketch is None else self.sketch.select(rows)
        return Context(self.tokens[rows], self.mask[rows], self.vector[rows], budget, cloud, sketch)

    @property
    def without_points(self) -> "Context":
        """The same without the points themselves, of which a copy for each face would be large."""
        return dataclasses.replace(self, cloud=None, sketch=None)


class Conditioner(nn.Module):
    """Projects each kind of condition to the config's first width; a kind that a row lacks adds nothing to it."""

    def __init__(self, config: Asks, bins: int = 128):
        super().__init__()
        self.config, self.bins, width = config, bins, config.dims[0]
        self.nothing = nn.Parameter(0.1 * torch.randn(width))  # the vector's start, for rows of which nothing is asked
        self.text = (
            nn.Sequential(nn.Linear(config.text_width, width), nn.LayerNorm(width)) if config.takes("text") else None
        )
        self.category = _table(len(config.categories), width) if config.takes("category") else None
        self.num_faces = _table(FACE_BUCKETS, width) if config.takes("num_faces") else None
        self.remaining = _table(FACE_BUCKETS, width) if config.takes("num_faces") else None
        heads = {"heads": config.attn_heads, "dim_head": config.attn_dim_head}
        shape = {"num_latents": config.num_point_latents, "depth": config.point_encoder_depth}
        self.points = PointEncoder(width, **shape, **heads) if config.takes("points") else None

    def forward(self, conditions: Conditions) -> Context:
        parts = [part for kind in conditions.kinds if (part := self._part(kind, conditions)) is not None]
        rows = conditions.batch_size
        vector = self.nothing.expand(rows, -1)
        for tokens, mask in parts:
            weight = mask.to(tokens.dtype)
            vector = vector + torch.einsum("bmd,bm->bd", tokens, weight) / weight.sum(dim=1, keepdim=True).clamp(min=1)
        if parts:
            tokens, mask = (torch.cat(group, dim=1) for group in zip(*parts, strict=True))
        else:
            tokens, mask = vector.new_zeros(rows, 1, vector.shape[-1]), vector.new_zeros(rows, 1, dtype=torch.bool)
        budget = None
        if self.remaining is not None:
            asked = conditions.num_faces
            budget = torch.full((rows,), -1, device=vector.device) if asked is None else asked
        cloud, sketch = self._cloud(conditions), None
        if cloud is not None and self.config.cloud_vertices:
            sketch = Sketch.of(cloud, self.config.cloud_vertices, self.bins)
        return Context(tokens, mask, vector, budget, cloud if self.config.local_points else None, sketch)

    def _cloud(self, conditions: Conditions) -> Cloud | None:
        """The points themselves, where the model reads them and there are any."""
        is_read = self.config.local_points or self.config.cloud_vertices
        if not is_read or conditions.points is None or conditions.point_mask is None:
            return None
        if conditions.points.shape[1] == 0:
            return None
        return Cloud.sorted(conditions.points, conditions.point_mask)

    def _part(self, kind: str, conditions: Conditions) -> tuple[Tensor, Tensor] | None:
        """(tokens (b m d), mask (b m)) of one kind of condition."""
        present, dtype = conditions.present(kind), self.nothing.dtype
        if kind == "text" and self.text is not None and conditions.text_embeds is not None:
            assert conditions.text_mask is not None
            return self.text(conditions.text_embeds.to(dtype)), conditions.text_mask
        if kind == "category" and self.category is not None and conditions.categories is not None:
            tokens = self.category(conditions.categories.clamp(min=0))
        elif kind == "num_faces" and self.num_faces is not None and conditions.num_faces is not None:
            tokens = self.num_faces(face_bucket(conditions.num_faces))
        elif kind == "points" and self.points is not None and conditions.points is not None:
            assert conditions.point_mask is not None
            latents = self.points(conditions.points, conditions.point_mask)
            return latents, present[:, None].expand(-1, latents.shape[1])
        else:
            return None
        return rearrange(tokens, "b d -> b 1 d"), present[:, None]

    def remaining_faces(self, budget: Int[Tensor, " b"], said: Int[Tensor, "c n"]) -> Float[Tensor, "b n d"]:
        """What a stack is told where `said` faces of a budget are written; nothing where there is no budget."""
        assert self.remaining is not None
        asked = (budget >= 0)[:, None]
        told = self.remaining(face_bucket(torch.where(asked, budget[:, None] - said, 1)))
        return told * asked[..., None]


def dropped_at_random(conditions: Conditions, config: Asks, cond_drop_prob: float | None = None) -> Conditions:
    """The conditions as a model learns from them: each kind missing at times, and sometimes all (arXiv:2207.12598).

    With `cond_drop_prob`, rows lose all they have with that probability and nothing else.
    """
    device, rows = _device_of(conditions), len(conditions)
    alone = {"text": config.text_condition_cond_drop_prob}
    together = config.unconditional_prob if cond_drop_prob is None else cond_drop_prob
    keep_any = torch.rand(rows, device=device) >= together
    kept = {}
    for kind in conditions.kinds:
        own = alone.get(kind, config.condition_drop_prob) if cond_drop_prob is None else 0.0
        kept[kind] = keep_any & (torch.rand(rows, device=device) >= own)
    return conditions.keep(kept)


def _device_of(conditions: Conditions) -> torch.device | None:
    for kind in conditions.kinds:
        return conditions.present(kind).device
    return None


def _table(count: int, width: int) -> nn.Embedding:
    table = nn.Embedding(count, width)
    nn.init.normal_(table.weight, std=0.5)
    return table
