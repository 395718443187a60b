"""Two lossless tokenizers without learning, small enough to read: what the transformer's tests run on."""

import torch
from einops import rearrange
from torch import Tensor

from meshgpt.data.batch import MeshBatch
from meshgpt.mesh.canonical import dequantize, quantize
from meshgpt.tokenizers.tokenizer import MeshTokenizer

BINS = 128


def face_bins(batch: MeshBatch) -> Tensor:
    """(nf, k, 3) bins of each corner."""
    return torch.as_tensor(quantize(batch.vertices.double(), BINS)).long()[batch.corner_indices]


class RawTokenizer(MeshTokenizer):
    """Nine coordinates a face."""

    vocab_size, tokens_per_face, corners, num_discrete_coors = BINS, 9, 3, BINS

    def codes_from_batch(self, batch: MeshBatch) -> Tensor:
        return rearrange(batch.pad_faces(self.codes_of_bins(face_bins(batch))), "b nf t -> b (nf t)")

    def codes_of_bins(self, bins: Tensor) -> Tensor:
        return rearrange(bins, "f k c -> f (k c)")

    def bins_of_codes(self, codes: Tensor) -> Tensor:
        return rearrange(codes, "f (k c) -> f k c", k=3)

    def decode_faces_alone(self, codes: Tensor) -> Tensor:
        return torch.as_tensor(dequantize(self.bins_of_codes(codes), BINS)).float()

    def decode_from_codes_to_faces(self, codes: Tensor, face_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        faces = rearrange(codes, "b (nf t) -> b nf t", t=self.tokens_per_face)
        mask = faces[..., 0] >= 0
        coordinates = torch.full((*mask.shape, 3, 3), torch.nan, device=codes.device)
        coordinates[mask] = self.decode_faces_alone(faces[mask])
        return coordinates, mask


class PairTokenizer(RawTokenizer):
    """Two codes a corner out of 2 ** 11: the 21 bits of its bins, the upper 11 and the lower 10 (times 2)."""

    vocab_size, tokens_per_face = 2**11, 6

    def codes_of_bins(self, bins: Tensor) -> Tensor:
        number = (bins[..., 0] * BINS + bins[..., 1]) * BINS + bins[..., 2]
        return rearrange(torch.stack((number // 1024, number % 1024 * 2), dim=-1), "f k q -> f (k q)")

    def bins_of_codes(self, codes: Tensor) -> Tensor:
        upper, lower = rearrange(codes, "f (k q) -> q f k", q=2)
        number = upper * 1024 + lower // 2
        return torch.stack((number // BINS**2, number // BINS % BINS, number % BINS), dim=-1)
