"""Infill: what is kept stays, what is new stands in order between, and tokenizers that cannot do it say so."""

import itertools

import numpy as np
import pytest
import torch
from einops import rearrange

from meshgpt.errors import GenerationError
from meshgpt.mesh.canonical import canonicalize
from meshgpt.mesh.mesh import Mesh
from meshgpt.tokenizers.autoencoder import MeshAutoencoder
from meshgpt.tokenizers.coordinates import CoordinateTokenizer
from meshgpt.tokenizers.strip import StripTokenizer
from meshgpt.transformer.infill import Filling, Infill
from meshgpt.transformer.transformer import MeshTransformer

SMALL = {"dim": 16, "attn_depth": 1, "attn_heads": 2, "attn_dim_head": 8, "fine_attn_depth": 1, "fine_attn_heads": 2}


def make(max_faces=24, **options):
    torch.manual_seed(0)
    tokenizer = CoordinateTokenizer(**options)
    return MeshTransformer(tokenizer, **SMALL, max_seq_len=max_faces * (12 if tokenizer.corners == 4 else 9))


def part(mesh, count, seed=0):
    """Some faces of a mesh, not the first ones, where they lie in the whole."""
    grid = canonicalize(mesh.normalized())
    chosen = np.random.default_rng(seed).choice(np.arange(3, len(grid.faces)), count, replace=False)
    return Mesh(grid.mesh().vertices, grid.faces[np.sort(chosen)])


def faces_of(result, tokenizer):
    """The faces of each row as tuples of codes."""
    rows = rearrange(result.codes, "b (f t) -> b f t", t=tokenizer.tokens_per_face).tolist()
    return [[tuple(f) for f in row[:count]] for row, count in zip(rows, result.face_counts.tolist(), strict=True)]


def kept_of(infill):
    return [[tuple(face) for face in row if face[0] >= 0] for row in infill.kept.tolist()]


def is_valid(face):
    a, b, c = (face[i : i + 3] for i in (0, 3, 6))
    return a < min(b, c) and b != c


@pytest.mark.parametrize("cache_kv", [True, False])
def test_an_untrained_model_keeps_all_and_writes_in_order_between(tiny_meshes, cache_kv):
    model = make()
    infill = Infill.of(model.tokenizer, [part(mesh, 8, seed) for seed, mesh in enumerate(tiny_meshes[:4])], 8)
    result = model.generate_result(infill=infill, seed=1, cache_kv=cache_kv)
    new_before_last = 0
    for faces, kept in zip(faces_of(result, model.tokenizer), kept_of(infill), strict=True):
        assert set(kept) <= set(faces) and len(faces) == len(kept) + 8
        assert all(one < other for one, other in itertools.pairwise(faces)) and all(map(is_valid, faces))
        new_before_last += faces.index(kept[-1]) + 1 - len(kept)
    assert set(result.stopped_by) == {"end"} and new_before_last > 3


def test_cached_is_uncached_and_a_seed_gives_its_mesh_in_any_batch(tiny_meshes):
    model = make()
    infill = Infill.of(model.tokenizer, [part(mesh, 5) for mesh in tiny_meshes[:3]], [4, None, 9])
    cached = model.generate_result(infill=infill, seed=7)
    assert torch.equal(cached.codes, model.generate_result(infill=infill, seed=7, cache_kv=False).codes)
    alone = Infill.of(model.tokenizer, part(tiny_meshes[2], 5), 9)
    single = model.generate_result(infill=alone, seed=9)
    assert faces_of(single, model.tokenizer)[0] == faces_of(cached, model.tokenizer)[2]


def test_no_new_faces_give_back_what_was_kept(tiny_meshes):
    model, mesh = make(), part(tiny_meshes[0], 10)
    result = model.generate_result(infill=Infill.of(model.tokenizer, mesh, 0), seed=0)
    assert canonicalize(model.tokenizer.decode(result.codes[0])) == canonicalize(mesh)


def test_as_many_new_faces_as_the_model_writes_and_never_more_than_there_is_room(tiny_meshes):
    model = make()
    infill = Infill.of(model.tokenizer, part(tiny_meshes[0], 10))
    result = model.generate_result(infill=infill, batch_size=8, seed=0, max_faces=14)
    for faces in faces_of(result, model.tokenizer):
        assert set(kept_of(infill)[0]) <= set(faces) and len(faces) <= 14
    assert set(result.stopped_by) <= {"end", "max_faces"} and len(result.stopped_by) == 8


def test_quads_are_kept_among_quads_and_triangles():
    model = make(quads=True)
    vertices = np.array([[-0.9, -0.9, 0], [0.9, -0.9, 0], [0.9, 0.9, 0], [-0.9, 0.9, 0], [0, 0, 0.9]])
    mesh = Mesh(vertices, [[0, 1, 2, 3], [1, 2, 4, -1]])
    infill = Infill.of(model.tokenizer, mesh, 6)
    result = model.generate_result(infill=infill, seed=2)
    [faces], [kept] = faces_of(result, model.tokenizer), kept_of(infill)
    assert set(kept) <= set(faces) and len(faces) == 8 and faces == sorted(faces)


def test_a_kept_face_is_as_likely_as_all_from_it_on_are_together():
    """One place at a time: proposals before the kept face stand, all others become it."""
    kept = torch.tensor([[[3, 5]]])
    filling = Filling(kept.expand(4, 1, 2), torch.full((4,), -1), 9)
    counts, said = torch.zeros(4, dtype=torch.long), torch.full((4, 2), -1)
    first = filling.choose(torch.tensor([2, 3, 6, 9]), said, 0, counts, end=9)
    assert first.tolist() == [2, 3, 3, 3]
    said[:, 0] = first
    second = filling.choose(torch.tensor([8, 4, 1, 0]), said, 1, counts, end=9)
    assert second.tolist() == [8, 4, 5, 5]  # new and before, new and before, kept, kept
    filling.finish_face(torch.stack((first, second), dim=1))
    assert filling.place.tolist() == [0, 0, 1, 1]


def test_new_faces_may_stand_before_the_first_and_behind_the_last_kept_face():
    model, corner = make(), 0.5
    mesh = Mesh([[0, 0, 0], [corner, 0, 0], [0, corner, 0]], [[0, 1, 2]])
    infill = Infill.of(model.tokenizer, mesh, 6)
    places = []
    for faces in faces_of(model.generate_result(infill=infill, batch_size=20, seed=0), model.tokenizer):
        places.append(faces.index(kept_of(infill)[0][0]))
    assert max(places) > 0 and min(places) < 6 and len(places) == 20


def test_other_tokenizers_say_that_they_cannot(tiny_meshes):
    with pytest.raises(
        GenerationError, match=r"StripTokenizer cannot infill: it says a face by those before it.*Use a C"
    ):
        Infill.of(StripTokenizer(), tiny_meshes[0])
    small = {"dim_codebook": 24, "encoder_dims_through_depth": (8,), "decoder_dims_through_depth": ()}
    learned = MeshAutoencoder(**small, num_quantizers=3, codebook_size=128)
    with pytest.raises(GenerationError, match="MeshAutoencoder cannot infill: it gives the vertices of a face codes"):
        Infill.of(learned, tiny_meshes[0])
    infill = Infill.of(CoordinateTokenizer(), part(tiny_meshes[0], 3))
    with pytest.raises(GenerationError, match="MeshAutoencoder cannot infill"):
        MeshTransformer(learned, **SMALL, max_seq_len=360).generate(infill=infill)
    with pytest.raises(GenerationError, match="faces of 9 codes are to be kept, the model's have 12"):
        make(quads=True).generate(infill=infill)


def test_what_cannot_be_kept_is_refused(tiny_meshes):
    tokenizer, good = CoordinateTokenizer(), part(tiny_meshes[0], 3)
    for given, message in (
        ([], "the list is empty"),
        (["chair"], "must be a Mesh, got str"),
        (Mesh(good.vertices * 3, good.faces), r"mesh 0 reaches beyond \[-1, 1\]"),
        ([good, Mesh([[0, 0, 0]], [[0, 0, 0]])], "mesh 1 has no face left on the grid"),
    ):
        with pytest.raises(GenerationError, match=message):
            Infill.of(tokenizer, given)
    for new_faces in (-2, [1, 2]):
        with pytest.raises(GenerationError, match="new_faces must be 0 or more"):
            Infill.of(tokenizer, good, new_faces)


def test_an_infill_that_does_not_fit_the_request_is_refused(tiny_meshes):
    model = make(max_faces=8)
    good = part(tiny_meshes[0], 3)
    infill = Infill.of(model.tokenizer, good, 6)
    with pytest.raises(GenerationError, match="9 faces, kept and new, are 81 codes, and 72 are to be written at most"):
        model.generate(infill=infill)
    with pytest.raises(GenerationError, match="36 are to be written at most"):
        model.generate(infill=Infill.of(model.tokenizer, good, 2), max_faces=4)
    with pytest.raises(GenerationError, match="both a prompt and an infill"):
        model.generate(prompt=torch.zeros(1, 9, dtype=torch.long), infill=infill)
    with pytest.raises(GenerationError, match="must be an Infill, got Mesh"):
        model.generate(infill=good)
    with pytest.raises(GenerationError, match="batch_size = 3"):
        model.generate(infill=Infill.of(model.tokenizer, [good, good]), batch_size=3)
