"""Raw coordinates: nothing is learned and nothing is lost on the grid."""

from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from meshgpt.checkpoint import Pretrained
from meshgpt.config import Config, resolve_config
from meshgpt.data.batch import MeshBatch
from meshgpt.mesh.canonical import dequantize, quantize
from meshgpt.mesh.grammar import OrderGrammar
from meshgpt.nn.embedding import AXES
from meshgpt.tokenizers.tokenizer import MeshTokenizer


@dataclass(frozen=True)
class CoordinateTokenizerConfig(Config):
    """Bins an axis, and whether faces have four corners."""

    num_discrete_coors: int = 128
    quads: bool = False

    def validate(self) -> None:
        self.require(self.num_discrete_coors >= 2, "num_discrete_coors", "be at least 2")


class CoordinateTokenizer(MeshTokenizer, Pretrained):
    """Three coordinates (y, z, x) a corner, each a code of its own: 9 a face, 12 with quads.

    As PolyGen (arXiv:2002.10880) writes vertices. A triangle among quads repeats its third corner.
    """

    config_class, part = CoordinateTokenizerConfig, "tokenizer"

    def __init__(self, config: CoordinateTokenizerConfig | None = None, **fields):
        self.config = config = resolve_config(CoordinateTokenizerConfig, config, fields)
        self.vocab_size = self.num_discrete_coors = config.num_discrete_coors
        self.corners = 4 if config.quads else 3
        self.tokens_per_face = 3 * self.corners
        self.grammar = OrderGrammar(self.vocab_size, self.corners, 3)

    def codes_from_batch(self, batch: MeshBatch) -> Int[Tensor, "b n"]:
        bins = quantize(batch.vertices, self.num_discrete_coors)[batch.corner_indices][..., AXES]
        return rearrange(batch.pad_faces(bins, -1), "b nf k c -> b (nf k c)")

    def decode_from_codes_to_faces(
        self, codes: Tensor, face_mask: Tensor | None = None
    ) -> tuple[Float[Tensor, "b nf k 3"], Bool[Tensor, "b nf"]]:
        self.check_codes(codes)
        flat = codes if codes.ndim == 2 else rearrange(codes, "b c q -> b (c q)")
        faces = rearrange(flat, "b (nf k c) -> b nf k c", k=self.corners, c=3)
        mask = (faces >= 0).flatten(2).all(dim=-1)
        mask = mask if face_mask is None else mask & face_mask
        positions = dequantize(faces[..., np.argsort(AXES)], self.num_discrete_coors)
        return positions.masked_fill(~mask[..., None, None], torch.nan), mask

    def decode_faces_alone(self, codes: Int[Tensor, "f t"]) -> Float[Tensor, "f k 3"]:
        return self.decode_from_codes_to_faces(codes)[0][:, 0]
