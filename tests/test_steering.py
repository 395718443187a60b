"""A search that a shape steers: resampling by what has been written so far, the same for a seed, ends kept."""

import math

import numpy as np
import pytest
import torch
from conditioned_toys import CUBE, TETRAHEDRON, conditioned_pipeline

from meshgpt.errors import ConditionError, ConfigError, GenerationError, GenerationInterrupted
from meshgpt.mesh.clouds import PointCloud
from meshgpt.mesh.mesh import Mesh
from meshgpt.mesh.surface import compare_surfaces
from meshgpt.pipeline import MeshPipeline
from meshgpt.steering import Followed, SteeringConfig, steer, systematic
from meshgpt.tokenizers.patch import PatchTokenizer
from meshgpt.transformer.transformer import MeshTransformer

FEW = SteeringConfig(particles=4, chunk=2, points=128)
PLACE = np.array([5.0, -2.0, 30.0])


@pytest.fixture(scope="module")
def pipe():
    return conditioned_pipeline()


def triangles(mesh):
    """(1, nf, 3, 3) in the order of the faces."""
    return torch.from_numpy(mesh.vertices[mesh.faces].astype(np.float32))[None]


def followed(mesh, shape, faces=None):
    config = SteeringConfig(particles=1, points=2048)
    return Followed.of(shape, config).extended(triangles(mesh)[:, :faces])


# resampling


def test_each_is_drawn_as_often_as_its_chance_says():
    chances = np.array([0.0, 1.0, 2.0, 5.0])
    drawn = [np.bincount(systematic(chances, 8, offset), minlength=4) for offset in (0.0, 0.3, 0.99)]
    assert all(np.array_equal(counts, [0, 1, 2, 5]) for counts in drawn)
    counts = sum(np.bincount(systematic(np.array([1.0, 2.0]), 1, offset), minlength=2) for offset in np.arange(9) / 9)
    assert np.array_equal(counts, [3, 6])


# how far a begun mesh follows


def test_a_whole_mesh_is_scored_by_its_distances():
    moved = Mesh(CUBE.vertices + [0.1, 0, 0], CUBE.faces)
    assert followed(CUBE, CUBE).scores()[0] < 0.02
    high = Mesh(np.concatenate((moved.vertices, [[0, 9, 0]])), np.concatenate((moved.faces, [[8, 8, 8]])))
    state = followed(high, CUBE)  # the last face is above all: everything below is settled
    assert state.is_settled.all()
    assert state.scores()[0] == pytest.approx(compare_surfaces(moved, CUBE, 20_000).chamfer, abs=0.01)


def test_only_points_before_the_front_are_settled():
    begun = followed(TETRAHEDRON, CUBE, 1)
    assert torch.equal(begun.front, torch.zeros(1, 3))
    settled, points = begun.is_settled[0], begun.points
    assert settled[points[:, 1] < -0.05].all() and not settled[points[:, 1] > 0.05].any()


def test_what_is_added_later_changes_nothing_of_what_is_settled():
    order = np.argsort(CUBE.vertices[CUBE.faces][..., 1].min(axis=1), kind="stable")
    sorted_cube = Mesh(CUBE.vertices, CUBE.faces[order])
    state = Followed.of(CUBE, SteeringConfig(particles=1))
    settled, distances = None, None
    for face in range(12):
        state = state.extended(triangles(sorted_cube)[:, face : face + 1])
        if settled is not None:
            assert torch.equal(state.distances[settled], distances[settled])
        settled, distances = state.is_settled & (state.points[:, 1] < state.front[0, 1] - 0.01), state.distances


def test_in_parts_or_at_once_and_in_any_row_a_mesh_is_scored_alike():
    config = SteeringConfig(particles=2)
    both = torch.cat((triangles(CUBE), triangles(CUBE) * 0.7))
    at_once = Followed.of(CUBE, config).extended(both)
    parts = Followed.of(CUBE, config).extended(both[:, :5]).extended(both[:, 5:])
    turned = at_once.select(torch.tensor([1, 0, 0]))
    assert np.allclose(at_once.scores(), parts.scores(), atol=1e-6)
    assert np.allclose(turned.scores(optimistic=True), at_once.scores(optimistic=True)[[1, 0, 0]], atol=1e-6)
    assert (at_once.scores(optimistic=True) <= at_once.scores() + 1e-6).all()
    assert at_once.scores()[0] < at_once.scores()[1]


# the search


def test_a_seed_gives_the_same_meshes_in_the_place_of_the_shape(pipe):
    dense = Mesh(CUBE.vertices * 7 + PLACE, CUBE.faces)
    found = steer(pipe, dense, seed=5, config=FEW)
    again = steer(pipe, dense, seed=5, config=FEW)
    assert found and len(found) == len(again) and all(item.seed == 5 for item in found)
    for one, other in zip(found, again, strict=True):
        assert torch.equal(one.codes, other.codes) and np.array_equal(one.mesh.vertices, other.mesh.vertices)
        assert one.fit is not None and np.abs(one.mesh.vertices - PLACE).max() < 8
    other = steer(pipe, dense, seed=6, config=FEW)
    assert [item.codes.tolist() for item in other] != [item.codes.tolist() for item in found]
    assert steer(pipe, dense, config=FEW)[0].seed >= 0


def test_begun_meshes_are_told_while_they_are_written(pipe):
    told = []
    steer(pipe, CUBE, seed=0, config=FEW, on_chunk=lambda codes, scores: told.append((codes, scores)), max_faces=6)
    lengths = [codes.shape[1] // pipe.transformer.tokens_per_face for codes, _ in told]
    assert lengths == sorted(set(lengths)) and set(lengths) <= {2, 4, 6} and lengths
    assert all(len(codes) == len(scores) for codes, scores in told)
    assert all(pipe.decoded(row[row >= 0]).num_faces for codes, _ in told for row in codes)


def test_limits_hold_and_what_ends_is_told_from_what_is_cut(pipe):
    for item in steer(pipe, CUBE, seed=0, config=FEW, min_faces=4, max_faces=7):
        assert 4 <= len(item.codes) / pipe.tokenizer.tokens_per_face <= 7 and item.stopped_by in ("end", "max_faces")
    cut = steer(pipe, CUBE, seed=0, config=FEW, min_faces=3, max_faces=3, temperature=0)
    assert {len(item.codes) for item in cut} == {3 * pipe.tokenizer.tokens_per_face}
    short = steer(pipe, CUBE, seed=0, config=FEW, min_faces=1, max_seq_len=2 * pipe.tokenizer.tokens_per_face)
    assert all(len(item.codes) <= 2 * pipe.tokenizer.tokens_per_face for item in short)


def test_meshes_that_ended_are_told_once_each(pipe):
    found = steer(pipe, CUBE, seed=1, config=FEW, min_faces=1, max_faces=8)
    ended = [item for item in found if item.stopped_by == "end"]
    assert len({tuple(item.codes.tolist()) for item in ended}) == len(ended)


def test_the_nearer_of_two_begun_meshes_goes_on(pipe, monkeypatch):
    """The model writes one of two faces, on the shape or far from it: the first is gone on from."""
    near, far = (pipe.tokenizer.encode(mesh)[:9] for mesh in (CUBE, TETRAHEDRON))
    result = pipe.transformer.generate_result(batch_size=1, points=[CUBE.vertices], seed=0, min_faces=1, max_faces=1)
    calls = []

    def generate(self, prompt=None, batch_size=None, **options):
        calls.append(prompt)
        base = torch.zeros(batch_size, 0, dtype=torch.long) if prompt is None else prompt
        new = torch.stack([near if row % 2 else far for row in range(batch_size)])
        codes = torch.cat((base, new), dim=1)
        counts = torch.full((batch_size,), codes.shape[1] // 9)
        return result.__class__(codes, counts, ("max_faces",) * batch_size)

    monkeypatch.setattr(type(pipe.transformer), "generate_result", generate)
    config = SteeringConfig(particles=8, chunk=1, temperature=1e-4, points=256)
    steer(pipe, CUBE, seed=0, config=config, max_faces=2, min_faces=1)
    firsts = [row[:9].tolist() for row in calls[1]]
    assert calls[0] is None and firsts.count(near.tolist()) == 8


def test_ctrl_c_gives_what_there_is(pipe, monkeypatch):
    whole, calls = type(pipe.transformer).generate_result, []

    def interrupted(self, *arguments, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return whole(self, *arguments, **options)

    monkeypatch.setattr(type(pipe.transformer), "generate_result", interrupted)
    with pytest.raises(GenerationInterrupted) as caught:
        steer(pipe, CUBE, seed=0, config=FEW, min_faces=8)
    assert caught.value.written and {item.stopped_by for item in caught.value.written} == {"interrupted"}
    assert {len(item.codes) for item in caught.value.written} == {4 * pipe.tokenizer.tokens_per_face}


def test_a_cloud_a_category_and_a_budget_are_followed_too(pipe):
    cloud = PointCloud.from_mesh(CUBE, 300, 0)
    plain = steer(pipe, cloud, seed=0, config=FEW)
    asked = steer(pipe, cloud, 6, seed=0, config=FEW, category="chair")
    assert plain and asked and [item.codes.tolist() for item in plain] != [item.codes.tolist() for item in asked]


def test_meshes_whose_faces_share_codes_are_searched_as_well():
    torch.manual_seed(0)
    small = {
        "dim": 16,
        "attn_depth": 1,
        "attn_heads": 2,
        "attn_dim_head": 8,
        "fine_attn_depth": 1,
        "fine_attn_heads": 2,
    }
    small |= {"fine_attn_dim_head": 8, "max_seq_len": 60, "condition_on_points": True, "num_point_latents": 4}
    tokenizer = PatchTokenizer()
    patches = MeshPipeline(tokenizer, MeshTransformer(tokenizer, **small, point_encoder_depth=1, cloud_vertices=20))
    found = steer(patches, CUBE, seed=0, config=FEW, min_faces=4, max_faces=7)
    assert found and all(4 <= int(tokenizer.faces_in(item.codes[None])) <= 7 for item in found)
    again = steer(patches, CUBE, seed=0, config=FEW, min_faces=4, max_faces=7)
    assert [item.codes.tolist() for item in found] == [item.codes.tolist() for item in again]
    short = steer(patches, CUBE, seed=0, config=FEW, min_faces=1, max_seq_len=10)
    assert short and all(len(item.codes) <= 10 for item in short)
    state = Followed.of(CUBE, SteeringConfig(particles=1), in_order=False).extended(triangles(CUBE)[:, -1:])
    assert not state.is_settled.any()  # what comes later may lie anywhere


def test_a_seed_may_be_negative_and_not_endless(pipe):
    assert steer(pipe, CUBE, seed=-1, config=FEW, max_faces=4)[0].seed == -1
    with pytest.raises(GenerationError, match="within"):
        steer(pipe, CUBE, seed=2**70, config=FEW)


def test_what_cannot_be_searched_is_refused(pipe):
    with pytest.raises(ConditionError, match="trained without them"):
        steer(conditioned_pipeline(categories=("chair",)), CUBE)
    with pytest.raises(GenerationError, match="no option 'colour'"):
        steer(pipe, CUBE, seed=0, config=FEW, colour="red")
    for wrong in ({"particles": 0}, {"temperature": 0.0}, {"rounds": 0.0}, {"chunk": 0}, {"points": 0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            SteeringConfig(**wrong)
    assert math.isinf(-Followed.of(CUBE, FEW).front.max())
