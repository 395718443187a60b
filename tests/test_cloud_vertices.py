"""The head with a cloud at hand: places found in it, what it adds, and that all ways of asking agree."""

import numpy as np
import pytest
import torch
from conditioned_toys import CUBE, TETRAHEDRON
from test_generation import Recorder

from meshgpt.data.batch import MeshBatch
from meshgpt.errors import ConfigError
from meshgpt.mesh.canonical import canonicalize, dequantize
from meshgpt.mesh.clouds import PointCloud
from meshgpt.tokenizers.autoencoder import MeshAutoencoder
from meshgpt.tokenizers.coordinates import CoordinateTokenizer
from meshgpt.transformer.cloud_reader import Cloud
from meshgpt.transformer.cloud_sketch import GRID, Sketch, fits
from meshgpt.transformer.cloud_vertices import CloudVertices, CloudView, KnownVertices
from meshgpt.transformer.transformer import MeshTransformer

SMALL = {
    "dim": (16, 24), "attn_depth": 1, "attn_heads": 2, "attn_dim_head": 8, "fine_attn_depth": 1, "fine_attn_heads": 2,
    "fine_attn_dim_head": 8, "max_seq_len": 180, "condition_on_points": True, "condition_on_faces": True,
    "num_point_latents": 4, "point_encoder_depth": 1, "cloud_vertices": 40,
}  # fmt: skip
WAYS = {
    "pointer": {"copy_dim": 8},
    "alone": {},
    "pointer, cloud reader, a face before": {"copy_dim": 8, "local_points": 3, "fine_context_faces": 1},
}
every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())


def model_of(quads=False, **options):
    """A small model of some character, which heeds the cloud."""
    torch.manual_seed(0)
    model = MeshTransformer(CoordinateTokenizer(quads=quads), **{**SMALL, **options})
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_((0.3 if "cloud_vertices" in name else 0.05) * torch.randn_like(parameter))
    return model


def cloud_of(mesh, count=200, seed=0):
    return PointCloud.from_mesh(mesh, count, np.random.default_rng(seed)).tensor().float()


def codes_of(model, meshes):
    grids = [canonicalize(model.tokenizer.with_own_corners(mesh), 128).mesh() for mesh in meshes]
    return model.tokenizer.codes_from_batch(MeshBatch.from_meshes(grids))


def asked(model):
    """Codes of four rows and what is asked of them: clouds of two sizes, none, and one of very few points."""
    codes = codes_of(model, [CUBE, TETRAHEDRON, TETRAHEDRON, CUBE])
    points = [cloud_of(CUBE), cloud_of(TETRAHEDRON, 90, 1), None, cloud_of(CUBE, 3)[:, :3]]
    return codes, model.conditions_of(points=points)


def vertices_of(model) -> CloudVertices:
    assert model.cloud_vertices is not None
    return model.cloud_vertices


def sketch_of(mesh, count=600, places=40):
    points = cloud_of(mesh, count)[None]
    return Sketch.of(Cloud.sorted(points, torch.ones(points.shape[:2], dtype=torch.bool)), places, 128)


# what is found in a cloud


def test_corners_of_a_cube_are_found_in_a_cloud_of_it():
    sketch = sketch_of(CUBE)
    corners = torch.as_tensor(CUBE.vertices).float()
    apart = torch.cdist(corners, sketch.places[0][sketch.there[0]])
    assert (apart.amin(dim=1) < 1 / 64).sum() >= 7  # within the width of a bin; a corner may have no points nearby
    best = apart.argmin(dim=1)
    assert sketch.traits[0, best, 0].mean() > 2 * sketch.traits[0, :, 0].mean()  # they look like corners


def test_each_voxel_knows_the_point_nearest_to_it():
    sketch = sketch_of(CUBE, 300)
    centres = (torch.arange(GRID) + 0.5) / GRID * 2 - 1
    centres = torch.stack(torch.meshgrid(centres, centres, centres, indexing="ij"), dim=-1).reshape(-1, 3)
    known = sketch.nearest[0] >= 0
    assert 0 < known.float().mean() < 0.7
    apart = torch.cdist(centres[known], sketch.points[0])
    told = apart.gather(1, sketch.nearest[0][known][:, None]).squeeze(1)
    near = apart.amin(dim=1) < 4 / GRID  # beyond, only a cube of voxels around each point is looked at
    torch.testing.assert_close(told[near], apart.amin(dim=1)[near], atol=2e-3, rtol=0)


def test_triangles_on_the_surface_fit_better_than_those_through_the_air():
    sketch = sketch_of(CUBE)
    corners = torch.as_tensor(CUBE.vertices[CUBE.faces][:, :, [1, 2, 0]]).float()
    covered = torch.zeros(1, len(corners), sketch.points.shape[1], dtype=torch.bool)
    vertices = torch.as_tensor(CUBE.vertices[:, [1, 2, 0]]).float()
    found = fits(sketch, covered, corners[None, :, :2], vertices[None])[0]
    true = found[torch.arange(len(corners)), torch.as_tensor(CUBE.faces[:, 2])]
    through = found[torch.arange(len(corners)), 7 - torch.as_tensor(CUBE.faces[:, 0])]  # the corner opposite
    assert true[:, 0].mean() > 0.6 and true[:, 0].mean() > 2 * through[:, 0].mean()
    assert true[:, 5].median() > 0.9  # and face the way the surface does


def test_faces_cover_their_points_and_no_others():
    model = model_of()
    codes, sketch = codes_of(model, [CUBE]), sketch_of(CUBE)
    faces = codes.reshape(1, -1, 9)
    view = CloudView.after(sketch, faces, 128)
    assert not view.covered[0, 0].any() and view.covered[0, -1].all()
    assert (view.covered[:, 1:] >= view.covered[:, :-1]).all()
    step = CloudView.after(sketch, faces[:, :0], 128).at(torch.zeros(1).long(), torch.zeros(1).long())
    for face in range(faces.shape[1]):
        step = step.cover(faces[:, face : face + 1], 128)
        assert torch.equal(step.covered[:, 0], view.covered[:, face + 1])


def test_vertices_said_are_kept_once():
    codes = torch.tensor([[[[1, 2, 3], [4, 5, 6], [7, 8, 9]], [[4, 5, 6], [1, 2, 3], [9, 9, 9]], [[-1] * 3] * 3]])
    known = KnownVertices.of(codes, torch.arange(3)[None], sketch_of(CUBE), 128)
    told = known.spread(torch.arange(known.positions.shape[1])[None, None].float())
    assert told[0, 0, 0] == told[0, 0, 4] != told[0, 0, 1] == told[0, 0, 3]
    positions = known.positions[0][known.entries[0]]
    torch.testing.assert_close(positions[:6], dequantize(codes[0, :2], 128).flatten(0, 1))
    places = torch.cat((positions[5:6], positions[1:2] + 0.02, torch.zeros(1, 3)))[None]
    said = known.said_at(places, torch.arange(3)[None], 128)[0]
    assert said.tolist() == [[0, 0, 0], [0, 1, 0], [1, 1, 0]]


# what it adds


@every_way
def test_the_probability_of_a_mesh_is_the_product_of_those_of_its_codes(way):
    model = model_of(**way).eval()
    codes, conditions = asked(model)
    logits = model.forward_on_codes(codes, return_loss=False, conditions=conditions)
    bits = model.losses(codes, conditions).row_bits
    for row, row_codes in enumerate(codes):
        targets = torch.cat((row_codes[row_codes >= 0], torch.tensor([model.vocab_size])))
        log_probs = logits[row, : len(targets)]
        assert torch.allclose(log_probs.exp().sum(dim=-1), torch.ones(()), atol=1e-4)
        found = -log_probs.gather(-1, targets[:, None]).sum() / np.log(2)
        torch.testing.assert_close(found.float(), bits[row].float(), atol=2e-2, rtol=1e-4)


@every_way
def test_rows_without_a_cloud_are_as_if_the_head_were_told_nothing(way):
    model = model_of(**way).eval()
    codes, conditions = asked(model)
    told = model.forward_on_codes(codes, return_loss=False, conditions=conditions)
    model.cloud_vertices, kept = None, model.cloud_vertices
    plain = model.forward_on_codes(codes, return_loss=False, conditions=conditions)
    assert kept is not None and torch.equal(told[2, :37], plain[2, :37])
    assert (told[0] - plain[0]).nan_to_num(0).abs().max() > 1e-2
    unasked = model.forward_on_codes(codes[2:3, :36], return_loss=False)[0]
    torch.testing.assert_close(told[2, :37], unasked, atol=1e-4, rtol=0)


def test_a_new_model_is_told_nothing_at_first():
    model = MeshTransformer(CoordinateTokenizer(), **SMALL, copy_dim=8).eval()
    codes, conditions = asked(model)
    told = model.losses(codes, conditions).row_bits
    model.cloud_vertices = None
    torch.testing.assert_close(told, model.losses(codes, conditions).row_bits)


@every_way
def test_a_row_does_not_depend_on_its_batch(way):
    model = model_of(**way).eval()
    codes, conditions = asked(model)
    together = model.forward_on_codes(codes, return_loss=False, conditions=conditions)
    for row in range(4):
        alone, own = conditions.select(torch.tensor([row])), codes[row : row + 1, : int((codes[row] >= 0).sum())]
        logits = model.forward_on_codes(own, return_loss=False, conditions=alone)[0]
        torch.testing.assert_close(together[row, : len(logits)], logits, atol=2e-3, rtol=0)


@every_way
def test_a_later_code_changes_no_earlier_logit(way):
    model = model_of(**way).eval()
    codes, conditions = asked(model)
    changed = codes.clone()
    changed[:, 13] = (changed[:, 13] + 40) % 128
    one, other = (model.forward_on_codes(c, return_loss=False, conditions=conditions) for c in (codes, changed))
    torch.testing.assert_close(one[:, :14], other[:, :14], atol=1e-4, rtol=0)
    assert (one[:, 14:] - other[:, 14:]).nan_to_num(0).abs().max() > 1e-4


@every_way
@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_cached_and_uncached_logits_agree(way, scale):
    model = model_of(**way).eval()
    codes, conditions = asked(model)
    runs = []
    for cache_kv in (True, False):
        recorder = Recorder()
        options = {"prompt": codes[:, :20], "conditions": conditions, "seed": 0, "max_seq_len": 54, "min_faces": 5}
        result = model.generate_result(**options, cache_kv=cache_kv, filter_logits_fn=recorder, cond_scale=scale)
        runs.append((result, recorder.seen))
    (cached, seen), (uncached, seen_uncached) = runs
    assert torch.equal(cached.codes, uncached.codes)
    assert len(seen) == len(seen_uncached) > 20
    for one, other in zip(seen, seen_uncached, strict=True):
        torch.testing.assert_close(one, other, atol=2e-3, rtol=0)


def test_what_is_sampled_follows_the_probabilities():
    model, draws = model_of(copy_dim=8, cloud_vertices=12).eval(), 200
    prompt, points = codes_of(model, [CUBE])[:, :13], cloud_of(CUBE, 40)
    log_probs = model.forward_on_codes(prompt, return_loss=False, points=[points])[0, -1]
    options = {"points": [points] * draws, "prompt": prompt.expand(draws, -1), "max_seq_len": 14, "seed": 0}
    drawn = model.generate_result(**options).codes[:, 13]
    often = torch.bincount(drawn, minlength=129)[:129] / draws
    assert (often - log_probs.exp()).abs().max() < 0.13  # more than 3.6 standard deviations


@every_way
def test_every_parameter_gets_a_gradient(way):
    model = model_of(**way).train()
    codes, conditions = asked(model)
    model.losses(codes, conditions, cond_drop_prob=0.0).loss.backward()
    for name, parameter in vertices_of(model).named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.abs().sum() > 0, name


def test_a_cloud_is_learned_from_within_a_few_steps():
    model = model_of(copy_dim=8).train()
    codes, conditions = asked(model)
    codes, conditions = codes[:1], conditions.select(torch.zeros(1).long())
    optimizer, found = torch.optim.Adam(vertices_of(model).parameters(), 3e-2), []
    for _ in range(25):
        output = model.losses(codes, conditions, cond_drop_prob=0.0)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        found.append(float(output.bits_per_face))
    assert found[-1] < 0.8 * found[0]


def test_faces_of_four_corners_are_told_as_well():
    model = model_of(quads=True, copy_dim=8).eval()
    codes = codes_of(model, [CUBE])
    conditions = model.conditions_of(points=[cloud_of(CUBE)])
    with torch.no_grad():
        log_probs = model.forward_on_codes(codes, return_loss=False, conditions=conditions)[0]
        bits = model.losses(codes, conditions).row_bits
    targets = torch.cat((codes[0], torch.tensor([model.vocab_size])))
    found = -log_probs.gather(-1, targets[:, None]).sum() / np.log(2)
    torch.testing.assert_close(found.float(), bits[0].float(), rtol=1e-3, atol=0)


# what it is not for


def test_a_model_of_other_codes_or_without_points_is_refused():
    with pytest.raises(ConfigError, match="cloud_vertices = 40 needs a tokenizer whose codes are coordinates"):
        MeshTransformer(
            MeshAutoencoder(dim_codebook=8, encoder_dims_through_depth=(8,), decoder_dims_through_depth=(8,)), **SMALL
        )
    with pytest.raises(ConfigError, match="at most 256 bins"):
        MeshTransformer(CoordinateTokenizer(num_discrete_coors=512), **SMALL)
    with pytest.raises(ConfigError, match="cloud_vertices"):
        MeshTransformer(CoordinateTokenizer(), **{**SMALL, "condition_on_points": False})
    with pytest.raises(ConfigError, match="cloud_vertices"):
        MeshTransformer(CoordinateTokenizer(), **{**SMALL, "cloud_vertices": -1})
