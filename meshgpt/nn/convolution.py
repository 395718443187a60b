"""Graph and sequence convolutions with normalisation and residual paths."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from meshgpt.nn.normalization import RMSNorm


class GraphBlock(nn.Module):
    """One SAGEConv layer (arXiv:1706.02216) with LayerNorm, SiLU and a residual path."""

    def __init__(self, dim_in: int, dim_out: int, dropout: float = 0.0):
        from torch_geometric.nn import SAGEConv  # here, since it takes longer to import than torch itself

        super().__init__()
        self.conv = SAGEConv(dim_in, dim_out)
        self.norm = nn.LayerNorm(dim_out)
        self.dropout = nn.Dropout(dropout)
        self.skip = nn.Identity() if dim_in == dim_out else nn.Linear(dim_in, dim_out, bias=False)

    def forward(self, x: Float[Tensor, "n d"], edges: Int[Tensor, "2 e"]) -> Float[Tensor, "n d2"]:
        return self.skip(x) + self.dropout(nn.functional.silu(self.norm(self.conv(x, edges))))


class GraphEncoder(nn.Module):
    """SAGEConv layers of the given widths, one after another."""

    def __init__(self, dim_in: int, dims: Sequence[int], dropout: float = 0.0):
        super().__init__()
        pairs = zip((dim_in, *dims), dims, strict=False)
        self.blocks = nn.ModuleList([GraphBlock(a, b, dropout) for a, b in pairs])
        self.dim_out = dims[-1] if dims else dim_in

    def forward(self, x: Float[Tensor, "n d"], edges: Int[Tensor, "2 e"]) -> Float[Tensor, "n d2"]:
        for block in self.blocks:
            x = block(x, edges)
        return x


class SequenceBlock(nn.Module):
    """Two 1-D convolutions over a padded sequence, with RMSNorm, SiLU and a residual path."""

    def __init__(self, dim_in: int, dim_out: int, kernel: int = 3, dropout: float = 0.0):
        super().__init__()
        self.norms = nn.ModuleList([RMSNorm(dim_in), RMSNorm(dim_out)])
        self.convs = nn.ModuleList([nn.Conv1d(a, dim_out, kernel, padding=kernel // 2) for a in (dim_in, dim_out)])
        self.dropout = nn.Dropout(dropout)
        self.skip = nn.Identity() if dim_in == dim_out else nn.Linear(dim_in, dim_out, bias=False)

    def forward(self, x: Float[Tensor, "b n d"], mask: Bool[Tensor, "b n"]) -> Float[Tensor, "b n d2"]:
        out = x
        for norm, conv in zip(self.norms, self.convs, strict=True):
            out = nn.functional.silu(norm(out)).masked_fill(~mask[..., None], 0.0)
            out = conv(out.transpose(1, 2)).transpose(1, 2)
        return self.skip(x) + self.dropout(out)


class SequenceResidualNetwork(nn.Module):
    """The 1-D residual network of MeshGPT's decoder (arXiv:2311.15475, section 3.1) over a padded sequence of faces.

    Padding is set to zero before every convolution, so a mesh decodes alike alone and in any batch.
    """

    def __init__(self, dim_in: int, dims: Sequence[int], init_kernel: int = 7, dropout: float = 0.0):
        super().__init__()
        self.init_conv = nn.Conv1d(dim_in, dims[0], init_kernel, padding=init_kernel // 2)
        pairs = zip((dims[0], *dims), dims, strict=False)
        self.blocks = nn.ModuleList([SequenceBlock(a, b, dropout=dropout) for a, b in pairs])
        self.dim_out = dims[-1]

    def forward(self, x: Float[Tensor, "b n d"], mask: Bool[Tensor, "b n"]) -> Float[Tensor, "b n d2"]:
        if mask.shape[1] == 0:  # a convolution has no answer to a sequence of no faces
            return x.new_zeros((*mask.shape, self.dim_out))
        x = x.masked_fill(~mask[..., None], 0.0)
        x = self.init_conv(x.transpose(1, 2)).transpose(1, 2)
        for block in self.blocks:
            x = block(x, mask)
        return x.masked_fill(~mask[..., None], 0.0)


def vertex_edges(corners: Int[Tensor, "nf k"]) -> Int[Tensor, "2 e"]:
    """Pairs (both directions, distinct) of vertices that are neighbours along a side of some face."""
    start, end = corners.reshape(-1), corners.roll(-1, dims=1).reshape(-1)
    pairs = torch.cat((torch.stack((start, end)), torch.stack((end, start))), dim=1)
    pairs = pairs[:, pairs[0] != pairs[1]]
    size = int(corners.max()) + 1 if corners.numel() else 1
    packed = torch.unique(pairs[0] * size + pairs[1])
    return torch.stack((packed // size, packed % size))
