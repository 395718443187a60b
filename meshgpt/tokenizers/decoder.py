"""Vertex features to coordinates: one position for each vertex, whatever faces it belongs to."""

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from meshgpt.nn.attention import FaceAttentionBlock
from meshgpt.nn.convolution import SequenceResidualNetwork
from meshgpt.nn.embedding import fourier_features
from meshgpt.nn.pooling import scatter_mean
from meshgpt.tokenizers.autoencoder_config import MeshAutoencoderConfig

NOISE_FREQUENCIES = 4


class FaceContext(nn.Module):
    """What the faces of each vertex, in their sequence, add to it: attention and a 1-D network, then a mean."""

    def __init__(self, config: MeshAutoencoderConfig):
        super().__init__()
        dims, features = config.decoder_dims_through_depth, config.corners * config.dim_codebook
        width = dims[0] if dims else config.dim_codebook
        self.project_in = nn.Linear(features, width)
        self.attention = nn.ModuleList(
            [FaceAttentionBlock(width, *config.attention_shape) for _ in range(config.attn_decoder_depth)]
        )
        self.sequence = (
            SequenceResidualNetwork(width, dims, config.init_decoder_conv_kernel, config.dropout) if dims else None
        )
        dim_faces = dims[-1] if dims else width
        self.norm = nn.LayerNorm(dim_faces)
        self.project_corners = nn.Linear(dim_faces, features)
        self.gate = nn.Parameter(torch.tensor(config.graph_gate_init))

    def forward(
        self, vertices: Float[Tensor, "nv d"], corners: Int[Tensor, "nf k"], face_mask: Bool[Tensor, "b n"]
    ) -> Float[Tensor, "nv d"]:
        faces = self.project_in(rearrange(vertices[corners], "nf k d -> nf (k d)"))
        padded = faces.new_zeros((*face_mask.shape, faces.shape[-1]))
        padded[face_mask] = faces
        for block in self.attention:
            padded = block(padded, face_mask)
        if self.sequence is not None:
            padded = self.sequence(padded, face_mask)
        per_corner = self.project_corners(self.norm(padded[face_mask]))
        per_corner = rearrange(per_corner, "nf (k d) -> (nf k) d", k=corners.shape[1])
        return self.gate * scatter_mean(per_corner, corners.reshape(-1), len(vertices))


class MeshDecoder(nn.Module):
    """Logits over coordinate bins for each vertex.

    A vertex's own feature reaches its logits directly. The 1-D residual network over the face sequence of MeshGPT
    (arXiv:2311.15475, section 3.1) and optional attention add what the faces around it say, averaged over its corners:
    so all faces of a vertex read one position, and a surface cannot crack.
    """

    def __init__(self, config: MeshAutoencoderConfig):
        super().__init__()
        dim = config.dim_codebook
        self.faces = FaceContext(config) if config.has_decoder_context else None
        self.noise = nn.Linear(2 * NOISE_FREQUENCIES, dim) if config.vertex_noise > 0 else None
        self.network = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.SiLU(), nn.Linear(2 * dim, dim))
        self.to_logits = nn.Linear(dim, 3 * config.num_discrete_coors)
        if config.has_grid_code:
            with torch.no_grad():
                self.to_logits.weight.mul_(0.1)

    def forward(
        self,
        vertices: Float[Tensor, "nv d"],
        corners: Int[Tensor, "nf k"],
        face_mask: Bool[Tensor, "b n"],
        noise_level: Float[Tensor, " nv"] | None = None,
    ) -> Float[Tensor, "nv 3 r"]:
        """`face_mask` has one True for each row of `corners`; `noise_level` in 0 .. 1 where the model has it."""
        if self.faces is not None:
            vertices = vertices + self.faces(vertices, corners, face_mask)
        if self.noise is not None:
            level = vertices.new_zeros(len(vertices)) if noise_level is None else noise_level
            vertices = vertices + self.noise(fourier_features(level, NOISE_FREQUENCIES).to(vertices.dtype))
        vertices = vertices + self.network(vertices)
        return rearrange(self.to_logits(vertices), "nv (c r) -> nv c r", c=3)
