"""Meshes to one feature vector a vertex: what is known of each face, graph convolutions, and a mean over corners."""

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from meshgpt.data.batch import MeshBatch
from meshgpt.nn.attention import FaceAttentionBlock
from meshgpt.nn.convolution import GraphEncoder, vertex_edges
from meshgpt.nn.embedding import PositionEmbedding, to_bins
from meshgpt.nn.geometry import face_geometry
from meshgpt.nn.pooling import scatter_mean
from meshgpt.tokenizers.autoencoder_config import MeshAutoencoderConfig

# Areas are binned by their logarithm between these, in normalised units: a triangle of neighbouring grid points has
# 1.2e-4, the largest side of the cube 4.
AREA_RANGE = (1e-5, 8.0)


class FaceEmbedding(nn.Module):
    """Corner coordinates, interior angles, area and normal of each face, each binned and embedded, as one vector."""

    def __init__(self, config: MeshAutoencoderConfig):
        super().__init__()
        self.config = config
        c, k = config, config.corners
        self.coordinate = nn.Embedding(c.num_discrete_coors, c.dim_coor_embed)
        self.angle = nn.Embedding(c.num_discrete_angle, c.dim_angle_embed)
        self.area = nn.Embedding(c.num_discrete_area, c.dim_area_embed)
        self.normal = nn.Embedding(c.num_discrete_normals, c.dim_normal_embed)
        self.dim_out = 3 * k * c.dim_coor_embed + k * c.dim_angle_embed + c.dim_area_embed + 3 * c.dim_normal_embed

    def bins(self, corners: Float[Tensor, "nf k 3"]) -> dict[str, Tensor]:
        """The bins of angles, areas and normals; translating a mesh changes none of them."""
        geometry, c = face_geometry(corners), self.config
        low, high = (torch.tensor(value).log().item() for value in AREA_RANGE)
        return {
            "angle": to_bins(geometry.angles, 0.0, torch.pi, c.num_discrete_angle),
            "area": to_bins(geometry.areas.clamp(min=AREA_RANGE[0]).log(), low, high, c.num_discrete_area),
            "normal": to_bins(geometry.normals, -1.0, 1.0, c.num_discrete_normals),
        }

    def forward(self, corners: Float[Tensor, "nf k 3"], bins: Int[Tensor, "nf k 3"]) -> Float[Tensor, "nf d"]:
        derived = self.bins(corners)
        return torch.cat(
            (
                rearrange(self.coordinate(bins), "nf k c d -> nf (k c d)"),
                rearrange(self.angle(derived["angle"]), "nf k d -> nf (k d)"),
                self.area(derived["area"]),
                rearrange(self.normal(derived["normal"]), "nf c d -> nf (c d)"),
            ),
            dim=-1,
        )


class MeshEncoder(nn.Module):
    """A feature for each vertex: its position, read directly, plus what the graph of faces says about it.

    The SAGEConv network of MeshGPT (arXiv:2311.15475, section 3.1) over faces that share an edge, its output cut into
    corners and averaged over every shared vertex. The direct path beside it is ours: it keeps positions exact on
    meshes unlike those of the training set.
    """

    def __init__(self, config: MeshAutoencoderConfig):
        super().__init__()
        self.config, dim = config, config.dim_codebook
        self.position = PositionEmbedding(config.num_discrete_coors, dim)
        self.face_embedding = FaceEmbedding(config)
        depth = config.vertex_conv_depth
        self.vertex_graph = GraphEncoder(dim, (dim,) * depth, config.dropout) if depth else None
        vertex_features = config.corners * dim if depth else 0
        width = config.encoder_dims_through_depth[0]
        self.project_in = nn.Linear(self.face_embedding.dim_out + vertex_features, width)
        self.graph = GraphEncoder(width, config.encoder_dims_through_depth, config.dropout)
        dim_faces = self.graph.dim_out
        self.attention = nn.ModuleList(
            [FaceAttentionBlock(dim_faces, *config.attention_shape) for _ in range(config.attn_encoder_depth)]
        )
        self.norm = nn.LayerNorm(dim_faces)
        self.project_corners = nn.Linear(dim_faces, config.corners * dim)
        self.gate = nn.Parameter(torch.tensor(config.graph_gate_init))

    def forward(self, batch: MeshBatch, bins: Int[Tensor, "nv 3"]) -> Float[Tensor, "nv d"]:
        position = self.position(bins)
        return position + self.gate * self.graph_features(batch, bins, position)

    def graph_features(self, batch: MeshBatch, bins: Tensor, position: Tensor) -> Float[Tensor, "nv d"]:
        """What the faces around each vertex say about it, averaged over them."""
        corners = batch.corner_indices
        faces = self.face_embedding(batch.vertices[corners], bins[corners])
        if self.vertex_graph is not None:
            around = self.vertex_graph(position, vertex_edges(corners))
            faces = torch.cat((faces, rearrange(around[corners], "nf k d -> nf (k d)")), dim=-1)
        faces = self.graph(self.project_in(faces), batch.face_edges)
        if len(self.attention):
            padded, mask = batch.pad_faces(faces, 0.0), batch.face_mask
            for block in self.attention:
                padded = block(padded, mask)
            faces = padded[mask]
        per_corner = rearrange(self.project_corners(self.norm(faces)), "nf (k d) -> (nf k) d", k=self.config.corners)
        return scatter_mean(per_corner, corners.reshape(-1), len(bins))
