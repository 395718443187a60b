"""The learned tokenizer: faces to residual codes, shared by every face of a vertex, and back."""

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import no_type_check

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from meshgpt.checkpoint import Pretrained
from meshgpt.config import resolve_config
from meshgpt.data.batch import MeshBatch, checked_batch
from meshgpt.errors import CodesError
from meshgpt.mesh.canonical import dequantize, quantize
from meshgpt.mesh.grammar import OrderGrammar
from meshgpt.tokenizers.autoencoder_config import MeshAutoencoderConfig
from meshgpt.tokenizers.decoder import MeshDecoder
from meshgpt.tokenizers.encoder import MeshEncoder
from meshgpt.tokenizers.quantizer import GridCode, LookupFreeQuantizer, Quantized, VectorQuantizer
from meshgpt.tokenizers.tokenizer import MeshTokenizer


@dataclass(frozen=True)
class AutoencoderOutput:
    """What one pass over a batch gives. Losses are means over vertices, in nats; bins and codes follow `batch`."""

    loss: Float[Tensor, ""]
    recon_loss: Float[Tensor, ""]  # cross-entropy against the smoothed bins
    excess_loss: Float[Tensor, ""]  # what of recon_loss lies above its floor, the entropy of the smoothed bins
    commit_loss: Float[Tensor, ""]
    entropy_loss: Float[Tensor, ""]
    triangle_accuracy: Float[Tensor, ""]  # share of faces whose coordinates are all exact
    batch: MeshBatch  # without the vertices that no face uses
    codes: Int[Tensor, "nv q"]
    bins: Int[Tensor, "nv 3"]


class MeshAutoencoder(nn.Module, MeshTokenizer, Pretrained):
    """MeshGPT's tokenizer (arXiv:2311.15475, section 3.1) with lookup-free quantisation (arXiv:2310.05737).

    `MeshAutoencoder(config)` or `MeshAutoencoder(num_discrete_coors = 128)`: the keywords are the fields of
    `MeshAutoencoderConfig`. Padded tensors come in as vertices (b, nv, 3) and faces (b, nf, k) filled with -1.
    """

    config_class = MeshAutoencoderConfig
    part, beside = "tokenizer", "autoencoder"
    smoothing: Tensor

    def __init__(self, config: MeshAutoencoderConfig | None = None, **fields):
        super().__init__()
        self.config = config = resolve_config(MeshAutoencoderConfig, config, fields)
        self.vocab_size, self.corners = config.codebook_size, config.corners
        self.num_discrete_coors, self.coordinate_range = config.num_discrete_coors, config.coor_continuous_range
        self.tokens_per_face = config.corners * config.num_quantizers
        self.encoder = MeshEncoder(config)
        self.quantizer = LookupFreeQuantizer(config) if config.use_residual_lfq else VectorQuantizer(config)
        self.grid_code = GridCode(config) if config.has_grid_code else None
        # grid codes sort as vertices do, as long as they hold the whole position and features cannot move them
        ordered = self.grid_code is not None and self.grid_code.exact and config.code_freedom < 1
        self.grammar = OrderGrammar(config.codebook_size, config.corners, config.num_quantizers) if ordered else None
        if self.grid_code is not None and isinstance(self.quantizer, LookupFreeQuantizer):
            self.grid_code.start(self.quantizer)
        self.decoder = MeshDecoder(config)
        smoothing = smoothed_bins(config.num_discrete_coors, config.bin_smooth_blur_sigma)
        self.register_buffer("smoothing", smoothing, persistent=False)

    @property
    def device(self) -> torch.device:
        return self.encoder.gate.device

    # training

    @no_type_check
    def forward(
        self,
        *,
        vertices,
        faces,
        face_edges=None,
        return_codes=False,
        return_loss_breakdown=False,
        return_recon_faces=False,
        only_return_recon_faces=False,
    ):
        """The loss of a padded batch: vertices (b, nv, 3) in `coor_continuous_range`, faces (b, nf, k) filled with -1.

        return_codes: codes (b, nf * k, q) instead. return_loss_breakdown: (loss, (reconstruction, commitment and
        entropy losses)). only_return_recon_faces: coordinates (b, nf, k, 3), NaN at padding; return_recon_faces:
        (coordinates, loss[, breakdown]). Raises `MeshError` for tensors that are not such a batch.
        """
        batch = self.packed(vertices, faces, face_edges)
        if return_codes:
            return self._padded_codes(self.encode_vertices(batch)[0].codes, batch, faces)
        if only_return_recon_faces:
            return self._padded_coordinates(self.reconstruct(batch), batch, faces)
        out = self.losses(batch)
        loss = (out.loss, (out.recon_loss, torch.stack((out.commit_loss, out.entropy_loss))))
        result = loss if return_loss_breakdown else loss[:1]
        if return_recon_faces:
            result = (self._padded_coordinates(self.reconstruct(batch), batch, faces), *result)
        return result[0] if len(result) == 1 else result

    def losses(self, batch: MeshBatch) -> AutoencoderOutput:
        """Losses and accuracy of a packed batch."""
        batch = without_unused_vertices(batch)
        seen, level = (batch, None) if not self.training else self._with_noise(batch)
        quantized, _ = self.encode_vertices(seen)
        logits = self.decode_vertices(quantized.features, quantized.signs, batch.corner_indices, batch.face_mask, level)
        bins = self._bins(batch.vertices)
        log_prob = logits.float().log_softmax(dim=-1)
        count = max(len(bins), 1)
        recon_loss = -(self.smoothing[bins] * log_prob).sum() / (3 * count)
        floor = -torch.special.xlogy(self.smoothing, self.smoothing).sum(dim=-1)[bins].sum() / (3 * count)
        exact = (logits.argmax(dim=-1) == bins).all(dim=-1)[batch.corner_indices].all(dim=-1)
        c = self.config
        extra = c.commit_loss_weight * quantized.commit_loss + c.entropy_loss_weight * quantized.entropy_loss
        return AutoencoderOutput(
            loss=recon_loss + extra,
            recon_loss=recon_loss,
            excess_loss=recon_loss - floor,
            commit_loss=quantized.commit_loss,
            entropy_loss=quantized.entropy_loss,
            triangle_accuracy=exact.float().sum() / max(len(exact), 1),
            batch=batch,
            codes=quantized.codes,
            bins=bins,
        )

    def encode_vertices(self, batch: MeshBatch) -> tuple[Quantized, Int[Tensor, "nv 3"]]:
        """Codes and decoder features of every vertex of a packed batch, and its bins."""
        bins = self._bins(batch.vertices)
        features = self.encoder(batch, bins)
        anchor = None if self.grid_code is None else self.grid_code.anchor(bins)
        if self.config.checkpoint_quantizer and self.training:
            return checkpoint(self.quantizer, features, anchor, use_reentrant=False), bins
        return self.quantizer(features, anchor), bins

    def decode_vertices(
        self,
        features: Float[Tensor, "nv d"],
        signs: Float[Tensor, "nv s"],
        corners: Int[Tensor, "nf k"],
        face_mask: Bool[Tensor, "b n"],
        noise_level: Float[Tensor, " nv"] | None = None,
    ) -> Float[Tensor, "nv 3 r"]:
        """Logits over bins of every vertex: what the decoder says, added to what the signs stand for as grid codes."""
        logits = self.decoder(features, corners, face_mask, noise_level)
        return logits if self.grid_code is None else logits + self.grid_code.logits(signs, self.smoothing)

    def _with_noise(self, batch: MeshBatch) -> tuple[MeshBatch, Tensor | None]:
        """The batch with noise of a random level on each mesh, and the level (0 .. 1) of each vertex."""
        if self.config.vertex_noise == 0:
            return batch, None
        level = torch.rand(batch.batch_size, device=batch.vertices.device)
        level = torch.repeat_interleave(level, batch.vertex_counts)
        noise = torch.randn_like(batch.vertices) * level[:, None] * self.config.vertex_noise
        return replace(batch, vertices=batch.vertices + noise), level

    # meshes to codes

    @no_type_check
    def tokenize(self, vertices, faces, face_edges=None):
        """Codes (b, nf * k, q), -1 at padding, of a padded batch; (nf * k, q) of one mesh without the batch axis.

        The model's mode and gradients are left as they were. Raises `MeshError` as `forward` does.
        """
        if torch.is_tensor(vertices) and vertices.ndim == 2:
            edges = None if face_edges is None else face_edges[None]
            return self.tokenize(vertices[None], faces[None], edges)[0]
        batch = self.packed(vertices, faces, face_edges)
        with evaluating(self), torch.no_grad():
            return self._padded_codes(self.encode_vertices(batch)[0].codes, batch, faces)

    def codes_from_batch(self, batch: MeshBatch) -> Int[Tensor, "b n"]:
        batch = batch.to(self.device)
        with evaluating(self), torch.no_grad():
            codes = self.encode_vertices(batch)[0].codes[batch.corner_indices]
        return rearrange(batch.pad_faces(rearrange(codes, "nf k q -> nf (k q)"), -1), "b nf t -> b (nf t)")

    # codes to meshes

    @no_type_check
    def decode_from_codes_to_faces(self, codes, face_mask=None, return_discrete_codes=False):
        """(coordinates (b, nf, k, 3), NaN at padding; face_mask (b, nf)) of codes (b, n) or (b, nf * k, q).

        A face is padding where one of its codes is -1, or where `face_mask` is False. With `return_discrete_codes` the
        bins (b, nf, k, 3), -1 at padding, come between the two. Raises `CodesError` for codes that do not fit.
        """
        self.check_codes(codes)
        per_face = self._codes_by_face(codes)
        mask = (per_face != -1).all(dim=-1)
        mask = mask if face_mask is None else mask & face_mask
        with evaluating(self), torch.no_grad():
            bins = self._decode_packed(per_face[mask], mask)
        padded = bins.new_full((*mask.shape, self.corners, 3), -1)
        padded[mask] = bins
        low, high = self.config.coor_continuous_range
        coordinates = dequantize(padded, self.num_discrete_coors, low, high)
        coordinates = coordinates.masked_fill(~mask[..., None, None], torch.nan)
        return (coordinates, padded, mask) if return_discrete_codes else (coordinates, mask)

    def decode_faces_alone(self, codes: Int[Tensor, "f t"]) -> Float[Tensor, "f k 3"]:
        if len(codes) == 0:
            return torch.zeros((0, self.corners, 3), device=codes.device)
        return self.decode_from_codes_to_faces(codes)[0][:, 0]

    def _codes_by_face(self, codes: Tensor) -> Int[Tensor, "b nf t"]:
        if codes.ndim == 3:
            if codes.shape[1] % self.corners or codes.shape[2] != self.config.num_quantizers:
                want = f"(b, nf * {self.corners}, {self.config.num_quantizers})"
                raise CodesError(f"codes of shape {tuple(codes.shape)} are not {want}")
            return rearrange(codes, "b (nf k) q -> b nf (k q)", k=self.corners)
        return rearrange(codes, "b (nf t) -> b nf t", t=self.tokens_per_face)

    def _decode_packed(self, codes: Int[Tensor, "nf t"], mask: Bool[Tensor, "b n"]) -> Int[Tensor, "nf k 3"]:
        """Bins of each corner. Within a mesh, corners of equal codes are one vertex."""
        if len(codes) == 0:
            return codes.new_zeros((0, self.corners, 3))
        corner_codes = rearrange(codes, "nf (k q) -> (nf k) q", k=self.corners)
        owner = mask.nonzero()[:, 0].repeat_interleave(self.corners)
        keys = torch.cat((owner[:, None], corner_codes), dim=1)
        unique, inverse = torch.unique(keys, dim=0, return_inverse=True)
        corners = rearrange(inverse, "(nf k) -> nf k", k=self.corners)
        features, signs = self.quantizer.from_codes(unique[:, 1:])
        return self.decode_vertices(features, signs, corners, mask).argmax(dim=-1)[corners]

    def reconstruct(self, batch: MeshBatch) -> Float[Tensor, "nf k 3"]:
        """Corner coordinates, in `coor_continuous_range`, that the decoder gives for a packed batch, without codes."""
        quantized, _ = self.encode_vertices(batch)
        logits = self.decode_vertices(quantized.features, quantized.signs, batch.corner_indices, batch.face_mask)
        bins = logits.argmax(dim=-1)[batch.corner_indices]
        return dequantize(bins, self.num_discrete_coors, *self.config.coor_continuous_range)

    # padded and packed

    @no_type_check
    def packed(self, vertices, faces, face_edges=None):
        """A checked `MeshBatch`, in [-1, 1], of padded tensors in `coor_continuous_range`, on the model's device."""
        batch = checked_batch(vertices, faces, self.corners, face_edges, self.config.pad_id).to(self.device)
        low, high = self.coordinate_range
        if (low, high) == (-1.0, 1.0):
            return batch
        return replace(batch, vertices=(batch.vertices - low) / (high - low) * 2 - 1)

    def _bins(self, vertices: Tensor) -> Int[Tensor, "nv 3"]:
        return quantize(torch.nan_to_num(vertices), self.num_discrete_coors)

    def _padded_codes(self, codes: Tensor, batch: MeshBatch, faces: Tensor) -> Int[Tensor, "b c q"]:
        per_face = codes[batch.corner_indices]
        padded = per_face.new_full((*faces.shape, codes.shape[-1]), -1)
        padded[(faces[..., :3] != self.config.pad_id).all(dim=-1)] = per_face
        return rearrange(padded, "b nf k q -> b (nf k) q")

    def _padded_coordinates(self, corners: Tensor, batch: MeshBatch, faces: Tensor) -> Float[Tensor, "b nf k 3"]:
        padded = corners.new_full((*faces.shape, 3), torch.nan)
        padded[(faces[..., :3] != self.config.pad_id).all(dim=-1)] = corners
        return padded


@contextmanager
def evaluating(model: nn.Module):
    """The model in evaluation mode inside the block, and every module as it was after it."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield model
    finally:
        for module, mode in modes.items():
            module.training = mode


def without_unused_vertices(batch: MeshBatch) -> MeshBatch:
    """The batch without the vertices that no face uses, so that losses count real ones only."""
    used = torch.zeros(len(batch.vertices), dtype=torch.bool, device=batch.faces.device)
    used[batch.corner_indices.reshape(-1)] = True
    number = used.cumsum(0) - 1
    owner = torch.repeat_interleave(torch.arange(batch.batch_size, device=used.device), batch.vertex_counts)
    counts = torch.bincount(owner[used], minlength=batch.batch_size)
    faces = torch.where(batch.faces < 0, -1, number[batch.faces])
    return replace(batch, vertices=batch.vertices[used], faces=faces, vertex_counts=counts)


def smoothed_bins(size: int, sigma: float) -> Float[Tensor, "{size} {size}"]:
    """Row t: a Gaussian of `sigma` bins around bin t, normalised over all bins; the identity for sigma 0."""
    if sigma == 0:
        return torch.eye(size)
    bins = torch.arange(size, dtype=torch.float64)
    weight = torch.exp(-0.5 * ((bins[None] - bins[:, None]) / sigma) ** 2)
    weight = torch.where(weight > 1e-6, weight, 0.0)
    return (weight / weight.sum(dim=1, keepdim=True)).float()
