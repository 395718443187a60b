"""Farthest points and the point encoder: a cloud is a set, of any size, on any row of a batch."""

import pytest
import torch

from meshgpt.mesh.surface import farthest_points
from meshgpt.nn.fourier import PointEmbedding
from meshgpt.nn.latents import SetAttention
from meshgpt.nn.points import PointEncoder


def cloud(count, seed=0, rows=1):
    generator = torch.Generator().manual_seed(seed)
    positions = torch.rand(rows, count, 3, generator=generator) * 2 - 1
    normals = torch.nn.functional.normalize(torch.randn(rows, count, 3, generator=generator), dim=-1)
    return torch.cat((positions, normals), dim=-1)


def everywhere(points):
    return torch.ones(points.shape[:2], dtype=torch.bool)


def encoder(num_latents=8, depth=2, dim=32):
    torch.manual_seed(0)
    return PointEncoder(dim, num_latents, depth, heads=4, dim_head=8)


def farthest_by_hand(points, count):
    """The definition, one point at a time."""
    centre = (points.amin(dim=0) + points.amax(dim=0)) / 2
    chosen = [int((points - centre).square().sum(dim=-1).argmax())]
    while len(chosen) < count:
        distance = torch.stack([(points - points[i]).square().sum(dim=-1) for i in chosen]).amin(dim=0)
        chosen.append(int(distance.argmax()))
    return chosen


def test_farthest_points_are_those_of_the_definition_for_every_row_of_a_batch():
    points = cloud(100, rows=3)[..., :3]
    chosen = farthest_points(points, everywhere(points), 20)
    assert chosen.tolist() == [farthest_by_hand(row, 20) for row in points]


def test_farthest_points_of_a_symmetric_cloud_do_not_depend_on_the_order_of_its_points():
    axis = torch.linspace(-1, 1, 5)
    grid = torch.cartesian_prod(axis, axis, axis)[None]  # all corners equally far, and many ties after them
    chosen = grid[0, farthest_points(grid, everywhere(grid), 40)[0]]
    for seed in range(3):
        order = torch.randperm(125, generator=torch.Generator().manual_seed(seed))
        again = grid[:, order]
        assert torch.equal(again[0, farthest_points(again, everywhere(again), 40)[0]], chosen)
    assert torch.equal(chosen[0], torch.tensor([-1.0, -1.0, -1.0]))


def test_points_at_one_place_are_told_apart_by_their_normals():
    points = torch.zeros(1, 4, 6)
    points[0, :, 0] = torch.tensor([1.0, -1.0, 1.0, 0.0])
    points[0, :, 3] = torch.tensor([5.0, 0.0, -5.0, 0.0])
    chosen = points[0, farthest_points(points, everywhere(points), 3)[0]]
    flipped = points.flip(1)
    assert torch.equal(flipped[0, farthest_points(flipped, everywhere(flipped), 3)[0]], chosen)
    assert chosen[1].tolist() == [1, 0, 0, -5, 0, 0]


def test_padding_is_never_chosen_and_changes_nothing():
    points = cloud(30)
    padded = torch.cat((torch.full((1, 7, 6), torch.nan), points, torch.full((1, 11, 6), 1e6)), dim=1)
    mask = torch.zeros(1, 48, dtype=torch.bool)
    mask[:, 7:37] = True
    assert torch.equal(farthest_points(padded, mask, 12), farthest_points(points, everywhere(points), 12) + 7)


def test_a_small_cloud_repeats_its_points_in_turn():
    points = cloud(4)
    points[0, 3] = points[0, 1]  # three places
    chosen = points[0, farthest_points(points, everywhere(points), 9)[0]]
    assert torch.equal(chosen, chosen[:3].repeat(3, 1)) and len(chosen[:3].unique(dim=0)) == 3


def test_rows_without_points_and_batches_without_points_give_indices_that_exist():
    assert farthest_points(cloud(5), torch.zeros(1, 5, dtype=torch.bool), 3).max() < 5
    assert farthest_points(torch.zeros(2, 0, 3), torch.zeros(2, 0, dtype=torch.bool), 3).tolist() == [[0] * 3] * 2
    assert farthest_points(torch.zeros(0, 4, 3), torch.zeros(0, 4, dtype=torch.bool), 3).shape == (0, 3)


def test_half_precision_positions_are_compared_in_single_precision():
    points = cloud(200).bfloat16()
    assert torch.equal(
        farthest_points(points, everywhere(points), 30), farthest_points(points.float(), everywhere(points), 30)
    )


@pytest.mark.parametrize("num_points", [1, 3, 8, 50, 300])
def test_any_number_of_points_gives_the_same_number_of_latents(num_points):
    points = cloud(num_points, rows=2)
    latents = encoder()(points, everywhere(points))
    assert latents.shape == (2, 8, 32) and latents.isfinite().all()


def test_the_order_of_the_points_changes_nothing():
    points, model = cloud(60), encoder()
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    latents = model(points, everywhere(points))
    assert torch.allclose(model(points[:, order], everywhere(points)), latents, atol=1e-5)


def test_padding_and_the_rest_of_the_batch_change_nothing():
    small, large, model = cloud(5), cloud(40, seed=1), encoder()
    batch = torch.cat((torch.cat((small, torch.full((1, 35, 6), torch.nan)), dim=1), large))
    mask = torch.arange(40) < torch.tensor([[5], [40]])
    together = model(batch, mask)
    assert torch.allclose(together[:1], model(small, everywhere(small)), atol=1e-5)
    assert torch.allclose(together[1:], model(large, everywhere(large)), atol=1e-5)


def test_a_row_without_points_is_finite_and_the_same_whatever_lies_in_its_padding():
    model, nothing = encoder(), torch.zeros(1, 6, dtype=torch.bool)
    points = cloud(6).requires_grad_()
    latents = model(points, nothing)
    assert latents.isfinite().all()
    assert torch.allclose(latents, model(torch.full((1, 6, 6), torch.nan), nothing), atol=1e-6)
    assert torch.allclose(latents, model(torch.zeros(1, 0, 6), nothing[:, :0]), atol=1e-6)
    latents.square().sum().backward()
    assert points.grad is not None and (points.grad == 0).all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_gradients_reach_every_parameter_and_every_point():
    model, points = encoder(), cloud(40, rows=2).requires_grad_()
    (model(points, everywhere(points)) * torch.randn(2, 8, 32)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    assert points.grad is not None and (points.grad.abs().sum(dim=-1) > 0).all()


def test_every_point_and_every_normal_counts():
    model, points = encoder(), cloud(40)
    latents = model(points, everywhere(points))
    moved, unknown = points.clone(), points.clone()
    moved[0, 17, :3] += 0.01
    unknown[0, 17, 3:] = 0
    for changed in (moved, unknown):
        assert (model(changed, everywhere(changed)) - latents).abs().max() > 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions_give_nearly_the_same(dtype):
    model, points = encoder(), cloud(50)
    expected = model(points, everywhere(points))
    latents = model.to(dtype)(points.to(dtype), everywhere(points))
    assert latents.dtype == dtype
    if dtype == torch.float64:
        assert torch.allclose(latents.float(), expected, atol=1e-4)
    else:  # positions are rounded to 8 bits: similar, not equal
        similar = torch.nn.functional.cosine_similarity(latents.float().flatten(), expected.flatten(), dim=0)
        assert similar > 0.9
    mixed = model(points, everywhere(points))  # float32 points into weights of another precision
    assert mixed.dtype == dtype


def test_autocast_to_half_precision_is_close():
    model, points = encoder(), cloud(50)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        latents = model(points, everywhere(points))
    assert torch.allclose(latents.float(), model(points, everywhere(points)), atol=0.1)


def test_set_attention_is_the_formula():
    torch.manual_seed(0)
    attention = SetAttention(8, heads=2, dim_head=4, dim_context=6)
    x, context = torch.randn(2, 3, 8), torch.randn(2, 5, 6)
    mask = torch.arange(5) < torch.tensor([[5], [2]])
    assert attention.context_norm is not None
    q = attention.to_q(attention.norm(x)).view(2, 3, 2, 4)
    k, v = attention.to_kv(attention.context_norm(context)).view(2, 5, 2, 2, 4).unbind(dim=2)
    scores = torch.einsum("bmhd,bnhd->bhmn", q, k) / 2
    weights = scores.masked_fill(~mask[:, None, None], -torch.inf).softmax(dim=-1)
    out = torch.einsum("bhmn,bnhd->bmhd", weights, v).reshape(2, 3, 8)
    assert torch.allclose(attention(x, context, mask), attention.to_out(out), atol=1e-5)


def test_the_point_embedding_keeps_the_position_and_tells_near_points_apart():
    embed = PointEmbedding(16, num_frequencies=2, dim_extra=1).double()
    points = torch.tensor([[0.25, -0.5, 1.0, 7.0]], dtype=torch.float64)
    angles = points[:, :3, None] * torch.tensor([1.0, 2.0]) * torch.pi
    features = torch.cat((torch.cat((angles.sin(), angles.cos()), dim=-1).flatten(1), points), dim=-1)
    assert torch.allclose(embed(points), embed.project(features), atol=1e-12)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same():
    points, model = cloud(500, rows=2), encoder()
    mask = torch.arange(500) < torch.tensor([[500], [77]])
    assert torch.equal(farthest_points(points.cuda(), mask.cuda(), 32).cpu(), farthest_points(points, mask, 32))
    latents = model(points, mask)
    assert torch.allclose(model.cuda()(points.cuda(), mask.cuda()).cpu(), latents, atol=1e-4)
