"""What a `MeshTransformer` is made of: one frozen config, and the list of layers of each of its two stacks."""

import dataclasses
from typing import Any, Self

from meshgpt.config import Config
from meshgpt.transformer.asks import Asks
from meshgpt.transformer.features import FACE_FEATURES

# Fields of a config that make something of single faces, and so need a tokenizer that says them one by one.
FACE_FIELDS = ("face_features", "distance_bias", "copy_dim", "copy_digit_faces", "local_points")
LAYER_KINDS = ("attention", "cross_attention", "feedforward", "recurrence")


@dataclasses.dataclass(frozen=True)
class LayerSpec(Config):
    """`count` layers of one kind: "attention", "cross_attention" (to the conditions), "feedforward" or "recurrence".

    Recurrence is gated and linear.
    """

    kind: str
    count: int = 1

    def validate(self) -> None:
        self.require(self.kind in LAYER_KINDS, "kind", f"be one of {', '.join(LAYER_KINDS)}")
        self.require(self.count >= 1, "count", "be at least 1")


def usual_layers(
    recurrence_before: int, attention: int, recurrence_after: int = 0, cross: bool = False
) -> tuple[LayerSpec, ...]:
    """Recurrence, then attention, cross-attention if asked for, and feed-forward in turn, then recurrence."""
    before, after = ((LayerSpec("recurrence", n),) if n else () for n in (recurrence_before, recurrence_after))
    block = ("attention", "cross_attention", "feedforward") if cross else ("attention", "feedforward")
    return (*before, *(LayerSpec(kind) for _ in range(attention) for kind in block), *after)


@dataclasses.dataclass(frozen=True)
class StackSpec:
    """One stack of layers of one width."""

    dim: int
    layers: tuple[str, ...]  # kinds, in order
    heads: int
    dim_head: int
    dropout: float = 0.0
    ff_mult: float = 4.0
    rotary: bool = True
    num_mem_kv: int = 0
    cross_num_mem_kv: int = 0
    adaptive_norm: bool = False
    window: int = 0  # positions that an attention layer sees back, its own included; 0: all
    value_residual: bool = False
    num_residual_streams: int = 1
    flash: bool = True
    checkpointing: bool = False
    reversible: bool = False

    @property
    def crosses(self) -> bool:
        """Whether a layer attends to what is asked."""
        return "cross_attention" in self.layers


@dataclasses.dataclass(frozen=True)
class MeshTransformerConfig(Asks):
    """Widths, depths and options of a `MeshTransformer`. `max_seq_len` counts codes, not faces.

    `code_digits = 2` writes a code as a high and a low digit, each with its own small softmax, where the vocabulary has
    more than 256 codes; `code_digits = 1` is one softmax over all codes.

    With a `window` an attention layer of the coarse stack sees so many faces back (steps, where faces share codes), its
    own included, in training and in writing; the pointer reaches as far. Start tokens count as faces and scroll out of
    sight; memory keys (`attn_num_mem_kv`) and conditions that are attended to stay. Then memory is bounded, and more
    may be written than `max_seq_len`, unless positions are learned (`abs_pos_emb`).
    """

    dim: int | tuple[int, ...] = 512  # or (coarse, fine)
    max_seq_len: int = 8192
    attn_depth: int = 12
    attn_heads: int = 16
    attn_dim_head: int = 64
    fine_attn_depth: int = 2
    fine_attn_heads: int = 8
    fine_attn_dim_head: int = 32
    dropout: float = 0.0
    ff_mult: float = 4.0
    num_sos_tokens: int = 1
    code_digits: int = 2
    coarse_pre_gateloop_depth: int = 0
    coarse_post_gateloop_depth: int = 0
    fine_pre_gateloop_depth: int = 0  # before the fine stack, over the codes of all faces so far
    coarse_layers: tuple[LayerSpec, ...] = ()  # in place of the depths above
    fine_layers: tuple[LayerSpec, ...] = ()
    face_features: tuple[
        str, ...
    ] = ()  # of "angles", "area", "normal", "corners": what the coarse stack is told of a face
    fine_context_faces: int = 0  # how many faces before the current one the fine stack reads code by code
    copy_dim: int = 0  # width of the pointer to vertices said before; 0: none
    copy_digit_faces: int = 0  # in how many faces before the current one a low digit is pointed at; 0: in none
    codes_per_step: int = 0  # that a coarse step reads where faces share codes; 0: as the tokenizer proposes
    tell_surroundings: bool = True  # there, tells the stacks which vertices a code is said upon
    draft_dim: int = 0  # there, width of an extra head that guesses codes ahead, for `generate(speculate=...)`; 0: none
    distance_bias: bool = False  # attention between faces knows their distance, in the sequence and in space
    window: int = 0  # how many faces a coarse attention layer sees back; 0: all
    rotary_pos_emb: bool = True
    abs_pos_emb: bool = False  # a learned vector for each place in the sequence
    attn_num_mem_kv: int = 0
    add_value_residual: bool = False
    num_residual_streams: int = 1
    # what the model can be asked for; see `Conditions`
    condition_on_text: bool = False
    text_condition_model_types: tuple[str, ...] = ("minilm",)  # the text encoder's name, see `text_encoder`
    dim_text: int | None = None  # width of its embeddings; None: known from its name
    text_condition_cond_drop_prob: float = 0.25  # how often training leaves the text out
    categories: tuple[str, ...] = ()  # names; none: the model takes no category
    condition_on_faces: bool = False  # how many faces the mesh should have
    condition_on_points: bool = False
    num_point_latents: int = 64
    point_encoder_depth: int = 2
    local_points: int = (
        0  # the coarse stack is told, at each face, of so many points around each corner; see `CloudReader`
    )
    cloud_vertices: int = (
        0  # over patches: the head is told where in a cloud the next vertex may be, one of so many places; `CloudTips`
    )
    condition_drop_prob: float = 0.25  # how often training leaves each other condition out
    unconditional_prob: float = 0.1  # how often training leaves all conditions out
    fine_cross_attend_text: bool = False  # the fine stack attends to conditions as well
    text_cond_with_film: bool = False  # scales and shifts what the coarse stack reads (arXiv:1709.07871)
    coarse_adaptive_rmsnorm: bool = False  # norms of the coarse stack scaled by the conditions
    cross_attn_num_mem_kv: int = 4  # learned keys and values that are there when nothing is asked
    flash_attn: bool = True
    checkpointing: bool = False  # compute activations again in the backward pass
    reversible: bool = False  # reconstruct activations in the backward pass

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """As in `Config`; layers may be plain dicts, as JSON has them."""
        values = dict(values)
        for field in {"coarse_layers", "fine_layers"} & values.keys():
            specs = (LayerSpec.from_dict(item) if isinstance(item, dict) else item for item in values[field])
            values[field] = tuple(specs)
        return super().from_dict(values)

    def validate(self) -> None:
        dims = self.dims
        self.require(
            len(dims) == 2 and all(isinstance(d, int) and d >= 1 for d in dims),
            "dim",
            "be a width or a pair (coarse, fine)",
        )
        for field in ("max_seq_len", "attn_heads", "fine_attn_heads", "num_sos_tokens", "num_residual_streams"):
            self.require(getattr(self, field) >= 1, field, "be at least 1")
        for field in ("attn_dim_head", "fine_attn_dim_head"):
            self.require(getattr(self, field) >= 4 and getattr(self, field) % 2 == 0, field, "be even and at least 4")
        self.require(self.attn_depth >= 1 or bool(self.coarse_layers), "attn_depth", "be at least 1")
        self.require(self.fine_attn_depth >= 1 or bool(self.fine_layers), "fine_attn_depth", "be at least 1")
        for field in (
            "coarse_pre_gateloop_depth",
            "coarse_post_gateloop_depth",
            "fine_pre_gateloop_depth",
            "fine_context_faces",
            "copy_dim",
            "copy_digit_faces",
            "codes_per_step",
            "draft_dim",
            "window",
            "attn_num_mem_kv",
        ):
            self.require(getattr(self, field) >= 0, field, "not be negative")
        self.require(self.code_digits in (1, 2), "code_digits", "be 1 or 2")
        self._validate_conditions()
        self.require(0.0 <= self.dropout < 1.0, "dropout", "lie in [0, 1)")
        self.require(self.ff_mult > 0, "ff_mult", "be positive")
        unknown = [name for name in self.face_features if name not in FACE_FEATURES]
        self.require(not unknown, "face_features", f"be some of {', '.join(FACE_FEATURES)}")
        if self.reversible:
            self.require(not self.add_value_residual, "add_value_residual", "be False with reversible = True")
            self.require(self.dropout == 0.0, "dropout", "be 0 with reversible = True")
            self.require(self.num_residual_streams == 1, "num_residual_streams", "be 1 with reversible = True")

    def _validate_conditions(self) -> None:
        self.validate_conditions()
        self.require(self.cross_attn_num_mem_kv >= 1, "cross_attn_num_mem_kv", "be at least 1")
        for field in ("local_points", "cloud_vertices"):
            self.require(getattr(self, field) >= 0, field, "not be negative")
        unread = "be 0 for a model that takes no points (condition_on_points)"
        for field in ("local_points", "cloud_vertices"):
            self.require(self.condition_on_points or getattr(self, field) == 0, field, unread)
        for field in ("fine_cross_attend_text", "text_cond_with_film", "coarse_adaptive_rmsnorm"):
            needs = "be False for a model that takes no condition (condition_on_text, categories, ...)"
            self.require(self.is_conditioned or not getattr(self, field), field, needs)
        crosses = any(layer.kind == "cross_attention" for layer in (*self.coarse_layers, *self.fine_layers))
        self.require(
            self.is_conditioned or not crosses, "coarse_layers", "have no cross_attention without a condition to read"
        )

    @property
    def is_endless(self) -> bool:
        """Whether more may be written than the model has learned from at once."""
        return self.window > 0 and not self.abs_pos_emb

    @property
    def dims(self) -> tuple[int, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """(coarse, fine) widths."""
        return self.dim if isinstance(self.dim, tuple) else (self.dim, self.dim)

    @property
    def coarse_stack(self) -> StackSpec:
        depths = (self.coarse_pre_gateloop_depth, self.attn_depth, self.coarse_post_gateloop_depth)
        layers = _kinds(self.coarse_layers or usual_layers(*depths, cross=self.is_conditioned))
        stack = self._stack(self.dims[0], layers, self.attn_heads, self.attn_dim_head, self.rotary_pos_emb)
        return dataclasses.replace(stack, adaptive_norm=self.coarse_adaptive_rmsnorm, window=self.window)

    @property
    def fine_stack(self) -> StackSpec:
        layers = _kinds(self.fine_layers or usual_layers(0, self.fine_attn_depth, cross=self.fine_cross_attend_text))
        return self._stack(self.dims[1], layers, self.fine_attn_heads, self.fine_attn_dim_head, False)

    def _stack(self, dim: int, layers: tuple[str, ...], heads: int, dim_head: int, rotary: bool) -> StackSpec:
        return StackSpec(
            dim=dim,
            layers=layers,
            heads=heads,
            dim_head=dim_head,
            dropout=self.dropout,
            ff_mult=self.ff_mult,
            rotary=rotary,
            num_mem_kv=self.attn_num_mem_kv,
            cross_num_mem_kv=self.cross_attn_num_mem_kv,
            value_residual=self.add_value_residual,
            num_residual_streams=self.num_residual_streams,
            flash=self.flash_attn,
            checkpointing=self.checkpointing,
            reversible=self.reversible,
        )


def _kinds(specs: tuple[LayerSpec, ...]) -> tuple[str, ...]:
    return tuple(spec.kind for spec in specs for _ in range(spec.count))
