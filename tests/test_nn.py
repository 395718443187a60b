"""Bricks: embeddings, geometry, pooling, convolutions, attention."""

import math

import numpy as np
import pytest
import torch
import trimesh
from hypothesis import given
from hypothesis import strategies as st

from meshgpt.nn.attention import FaceAttentionBlock, LinearAttention, LocalAttention
from meshgpt.nn.convolution import GraphEncoder, SequenceResidualNetwork, vertex_edges
from meshgpt.nn.embedding import fourier_features, num_bits, sign_bits, to_bins
from meshgpt.nn.geometry import face_geometry, point_triangle_distances
from meshgpt.nn.pooling import scatter_mean


@given(st.integers(2, 5000))
def test_the_bits_of_a_bin_give_it_back(size):
    bins = torch.arange(size)
    signs = sign_bits(bins, num_bits(size))
    weights = 2 ** torch.arange(num_bits(size) - 1, -1, -1)
    assert torch.equal(((signs > 0).long() * weights).sum(dim=-1), bins)


def test_fourier_features_are_sines_and_cosines_of_octaves():
    features = fourier_features(torch.tensor([0.25]), 2)
    assert torch.allclose(features, torch.tensor([[math.sin(math.pi / 4), 1.0, math.cos(math.pi / 4), 0.0]]), atol=1e-6)


def test_values_outside_fall_into_the_outermost_bins():
    assert to_bins(torch.tensor([-9.0, -1.0, 0.0, 0.999, 9.0]), -1, 1, 4).tolist() == [0, 0, 2, 3, 3]


def test_scatter_mean_is_the_mean_and_zero_where_nothing_is():
    values = torch.tensor([[1.0], [3.0], [5.0]], requires_grad=True)
    out = scatter_mean(values, torch.tensor([2, 2, 0]), 4)
    assert out.squeeze(-1).tolist() == [5.0, 0.0, 2.0, 0.0]
    out.sum().backward()
    assert values.grad is not None and values.grad.squeeze(-1).tolist() == [0.5, 0.5, 1.0]
    half = scatter_mean(torch.ones(5000, 1).bfloat16(), torch.zeros(5000, dtype=torch.long), 1)
    assert half.item() == 1.0  # summed in float32: bfloat16 would stop counting at 256


def test_angles_areas_and_normals_are_those_of_the_triangle():
    corners = torch.tensor([[[0.0, 0, 0], [3, 0, 0], [0, 4, 0]]])
    geometry = face_geometry(corners)
    assert torch.allclose(geometry.angles, torch.tensor([[math.pi / 2, math.atan2(4, 3), math.atan2(3, 4)]]))
    assert geometry.areas.item() == pytest.approx(6.0)
    assert torch.allclose(geometry.normals, torch.tensor([[0.0, 0, 1]]))


def test_translation_changes_no_feature_of_a_face():
    corners = torch.randn(50, 3, 3) * 0.1
    here, there = face_geometry(corners), face_geometry(corners + torch.tensor([0.7, -0.4, 0.2]))
    for name in ("angles", "areas", "normals"):
        assert torch.allclose(getattr(here, name), getattr(there, name), atol=1e-4)


def test_quads_and_triangles_among_them_have_their_own_angles():
    square = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    triangle = square[[0, 1, 2, 2]]
    geometry = face_geometry(torch.stack((square, triangle)))
    assert torch.allclose(geometry.angles[0], torch.full((4,), math.pi / 2))
    assert torch.allclose(geometry.angles[1], torch.tensor([math.pi / 4, math.pi / 2, math.pi / 4, 0.0]), atol=1e-6)
    assert geometry.areas.tolist() == pytest.approx([1.0, 0.5])


def test_a_face_without_area_has_finite_features():
    geometry = face_geometry(torch.zeros(1, 3, 3))
    assert geometry.areas.item() == 0 and geometry.angles.isfinite().all() and (geometry.normals == 0).all()


def test_vertex_edges_are_the_sides_of_faces():
    mesh = trimesh.creation.icosahedron()
    edges = vertex_edges(torch.tensor(np.array(mesh.faces)))
    sides = {tuple(pair) for pair in mesh.edges_unique.tolist()}
    expected = sides | {pair[::-1] for pair in sides}
    assert set(map(tuple, edges.T.tolist())) == expected


def test_graph_layers_see_neighbours_and_nothing_else():
    torch.manual_seed(0)
    network = GraphEncoder(4, (8,))
    edges = torch.tensor([[0, 1], [1, 0]])
    x = torch.randn(3, 4)
    changed = x.clone()
    changed[0] += 1
    difference = (network(x, edges) - network(changed, edges)).abs().sum(dim=-1)
    assert difference[0] > 0 and difference[1] > 0 and difference[2] == 0


@pytest.mark.parametrize(
    "network",
    [
        SequenceResidualNetwork(8, (8, 16)),
        LocalAttention(8, heads=2, dim_head=4, window=4),
        LinearAttention(8, heads=2, dim_head=4),
        FaceAttentionBlock(8, 2, 4, 4, True),
    ],
    ids=lambda network: type(network).__name__,
)
def test_padding_changes_nothing_and_gradients_reach_every_parameter(network):
    torch.manual_seed(0)
    x = torch.randn(1, 11, 8)
    alone = network(x, torch.ones(1, 11, dtype=torch.bool))
    padded = torch.cat((x, 100 * torch.randn(1, 9, 8)), dim=1)
    mask = torch.arange(20)[None] < 11
    assert torch.allclose(network(padded, mask)[:, :11], alone, atol=1e-5)
    alone.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_local_attention_reaches_no_further_than_the_next_window():
    torch.manual_seed(0)
    network = LocalAttention(8, heads=2, dim_head=4, window=4)
    x = torch.randn(1, 16, 8)
    mask = torch.ones(1, 16, dtype=torch.bool)
    changed = x.clone()
    changed[:, 12:] += 1
    difference = (network(x, mask) - network(changed, mask)).abs().sum(dim=-1)[0]
    assert (difference[:8] == 0).all() and (difference[8:] > 0).all()


def test_local_attention_is_ordinary_attention_within_one_window():
    torch.manual_seed(0)
    network = LocalAttention(8, heads=2, dim_head=4, window=16)
    x = torch.randn(2, 10, 8)
    q, k, v = network.to_qkv(network.norm(x)).view(2, 10, 3, 2, 4).permute(2, 0, 3, 1, 4)
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v).permute(0, 2, 1, 3).reshape(2, 10, 8)
    assert torch.allclose(network(x, torch.ones(2, 10, dtype=torch.bool)), network.to_out(out), atol=1e-5)


def test_distances_to_triangles_are_those_to_points_on_them():
    generator = torch.Generator().manual_seed(0)
    triangles = 2 * torch.rand(2, 8, 3, 3, generator=generator) - 1
    triangles[0, 0] = triangles[0, 0, :1]  # a point
    triangles[0, 1, 1] = (triangles[0, 1, 0] + triangles[0, 1, 2]) / 2  # a line
    points = 2 * torch.rand(2, 30, 3, generator=generator) - 1
    share = -torch.rand(20000, 3, generator=generator).log()
    share = torch.cat((share / share.sum(dim=1, keepdim=True), edges(400)))
    on_them = torch.einsum("sk,bnkc->bnsc", share, triangles)
    nearest = (points[:, None, :, None] - on_them[:, :, None]).norm(dim=-1).amin(dim=-1)
    torch.testing.assert_close(point_triangle_distances(points, triangles), nearest, atol=0.02, rtol=0)


def edges(count):
    """Shares of the three corners in points on the edges."""
    t = torch.linspace(0, 1, count)
    zero = torch.zeros(count)
    return torch.cat([torch.stack(row, dim=1) for row in ((t, 1 - t, zero), (zero, t, 1 - t), (t, zero, 1 - t))])
