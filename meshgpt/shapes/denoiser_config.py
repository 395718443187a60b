"""What a denoiser of latent sets is made of."""

import dataclasses

from meshgpt.transformer.asks import Asks

KINDS_OF_DENOISER = ("adaptive", "token")


@dataclasses.dataclass(frozen=True)
class DenoiserConfig(Asks):
    """A transformer over sets of `num_latents` vectors of width `dim_latent`, and what it can be asked for.

    kind: "adaptive", in whose layers time and conditions set norms and gates (3DShape2VecSet, arXiv:2301.11445, section
    6.2), or "token", where time is one more vector of the set and the first half of the layers reaches the second over
    skips (as Hunyuan3D 2.1, arXiv:2506.15442). The last `expert_layers` of the latter may have `num_experts` each.
    """

    num_latents: int
    dim_latent: int
    kind: str = "adaptive"
    dim: int = 512
    depth: int = 12
    attn_heads: int = 8
    attn_dim_head: int = 64
    ff_mult: float = 4.0
    qk_norm: bool = True
    num_experts: int = 0
    expert_layers: int = 6
    experts_per_token: int = 2
    balance_weight: float = 0.01  # of how unevenly experts are asked, in the loss
    # what the model can be asked for; see `Conditions`
    condition_on_text: bool = False
    text_condition_model_types: tuple[str, ...] = ("minilm",)  # the text encoder's name, see `text_encoder`
    dim_text: int | None = None  # width of its embeddings; None: known from its name
    text_condition_cond_drop_prob: float = 0.0  # how often training leaves the text out, besides all
    categories: tuple[str, ...] = ()  # names; none: the model takes no category
    condition_on_points: bool = False
    num_point_latents: int = 64
    point_encoder_depth: int = 2
    condition_drop_prob: float = 0.0  # how often training leaves each other condition out, besides all
    unconditional_prob: float = 0.1  # how often training leaves all conditions out

    @property
    def dims(self) -> tuple[int, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The width of the set and of what conditions become."""
        return (self.dim,)

    def validate(self) -> None:
        self.require(self.kind in KINDS_OF_DENOISER, "kind", f"be one of {', '.join(KINDS_OF_DENOISER)}")
        for field in ("num_latents", "dim_latent", "dim", "depth", "attn_heads", "attn_dim_head", "experts_per_token"):
            self.require(getattr(self, field) >= 1, field, "be at least 1")
        for field in ("num_experts", "expert_layers", "balance_weight"):
            self.require(getattr(self, field) >= 0, field, "not be negative")
        self.require(self.ff_mult > 0, "ff_mult", "be positive")
        self.require(self.kind == "token" or self.num_experts == 0, "num_experts", "be 0 for the kind 'adaptive'")
        enough = f"be 0 or at least experts_per_token = {self.experts_per_token}"
        self.require(self.num_experts in (0, *range(self.experts_per_token, 10_000)), "num_experts", enough)
        self.validate_conditions()


# Sizes by name: `base` and `large` are those of 3DShape2VecSet, `mini` and `full` those of Hunyuan3D.
DENOISERS = {
    "tiny": {"dim": 64, "depth": 3, "attn_heads": 2, "attn_dim_head": 32},
    "small": {"dim": 128, "depth": 4, "attn_heads": 4, "attn_dim_head": 32},
    "base": {"dim": 512, "depth": 12, "attn_heads": 8, "attn_dim_head": 64},
    "large": {"dim": 512, "depth": 24, "attn_heads": 8, "attn_dim_head": 64},
    "mini": {"kind": "token", "dim": 768, "depth": 6, "attn_heads": 12, "attn_dim_head": 64},
    "full": {"kind": "token", "dim": 2048, "depth": 21, "attn_heads": 16, "attn_dim_head": 128, "num_experts": 8},
}
