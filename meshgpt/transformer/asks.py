"""What a config says of the conditions that its model takes, whatever the model writes."""

from meshgpt.config import Config
from meshgpt.text.encoder import dim_of
from meshgpt.transformer.conditions import KINDS


class Asks(Config):
    """Base of the configs of conditioned models: what `Conditioner` and `Conditioned` read.

    The fields are those of the frozen dataclasses below it; of what a model does not offer, the value here stands.
    """

    dims: tuple[int, ...]  # the first is the width of what conditions become
    attn_heads: int
    attn_dim_head: int
    condition_on_text: bool
    text_condition_model_types: tuple[str, ...]
    dim_text: int | None
    text_condition_cond_drop_prob: float
    categories: tuple[str, ...]
    condition_on_faces: bool = False
    condition_on_points: bool
    num_point_latents: int
    point_encoder_depth: int
    local_points: int = 0
    cloud_vertices: int = 0
    condition_drop_prob: float
    unconditional_prob: float

    def validate_conditions(self) -> None:
        """Raises `ConfigError` for conditions that no model can take."""
        for field in ("text_condition_cond_drop_prob", "condition_drop_prob", "unconditional_prob"):
            self.require(0.0 <= getattr(self, field) <= 1.0, field, "lie in [0, 1]")
        self.require(self.num_point_latents >= 1, "num_point_latents", "be at least 1")
        self.require(self.point_encoder_depth >= 0, "point_encoder_depth", "not be negative")
        self.require(len(self.text_condition_model_types) == 1, "text_condition_model_types", "name one text encoder")
        self.require(len(set(self.categories)) == len(self.categories), "categories", "be different names")
        if self.condition_on_text:
            encoder = self.text_condition_model_types[0]
            known = f"be given for the text encoder '{encoder}', whose width is not known here"
            self.require((self.dim_text or dim_of(encoder) or 0) >= 1, "dim_text", known)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of condition that the model takes, of "text", "category", "num_faces" and "points"."""
        flags = (self.condition_on_text, bool(self.categories), self.condition_on_faces, self.condition_on_points)
        return tuple(kind for kind, flag in zip(KINDS, flags, strict=True) if flag)

    def takes(self, kind: str) -> bool:
        return kind in self.kinds

    @property
    def is_conditioned(self) -> bool:
        return bool(self.kinds)

    @property
    def text_width(self) -> int:
        """Width of text embeddings; only where `condition_on_text`."""
        return self.dim_text or dim_of(self.text_condition_model_types[0]) or 0
