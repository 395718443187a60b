"""The grammar of the canonical order: against brute force, on real meshes, and in what is generated."""

import itertools

import numpy as np
import pytest
import torch
from einops import rearrange

from meshgpt.data.batch import MeshBatch
from meshgpt.errors import GenerationError
from meshgpt.mesh.canonical import canonicalize
from meshgpt.mesh.grammar import LegalCodes, OrderGrammar
from meshgpt.mesh.mesh import Mesh
from meshgpt.tokenizers.autoencoder import MeshAutoencoder
from meshgpt.tokenizers.coordinates import CoordinateTokenizer
from meshgpt.transformer.heads import CodeHead
from meshgpt.transformer.sampling import Chooser, Sampling
from meshgpt.transformer.transformer import MeshTransformer

SMALL = {"dim": 16, "attn_depth": 1, "attn_heads": 2, "attn_dim_head": 8, "fine_attn_depth": 1, "fine_attn_heads": 2}


def tokenizers(quads: bool = False) -> list:
    tiny = {"dim_codebook": 24, "encoder_dims_through_depth": (8,), "decoder_dims_through_depth": ()}
    shallow = {"codebook_size": 128, "num_quantizers": 3}
    return [
        CoordinateTokenizer(quads=quads),
        MeshAutoencoder(**tiny, quads=quads).eval(),
        MeshAutoencoder(**tiny, **shallow, quads=quads).eval(),
    ]


def follows(previous: tuple, face: tuple) -> bool:
    """Whether `face` is a face in canonical order behind `previous`: the rules, written out."""
    valid = face[0] < min(face[1:]) and len(set(face)) == len(face)
    return valid and (previous is None or face > previous)


@pytest.mark.parametrize(("vocab", "levels"), [(6, 1), (3, 2)])
def test_a_code_is_legal_exactly_if_some_later_face_begins_with_it(vocab, levels):
    vertices = list(itertools.product(range(vocab), repeat=levels))
    faces = [face for face in itertools.product(vertices, repeat=3) if follows(None, face)]
    grammar, size = OrderGrammar(vocab, 3, levels), 3 * levels
    chosen = np.random.default_rng(0).permutation(len(faces))[:25].tolist()
    for previous in [None, faces[-2], faces[-3], *(faces[i] for i in chosen)]:
        after = [sum(face, ()) for face in faces if follows(previous, face)]
        for length in range(size):
            begun = sorted({face[:length] for face in after})
            before = torch.tensor([(-1,) * size if previous is None else sum(previous, ())]).expand(len(begun), -1)
            said = torch.tensor([rows + (-1,) * (size - length) for rows in begun])
            legal = grammar.legal(before, said, length).mask(vocab)
            for rows, row in zip(begun, legal, strict=True):
                possible = {face[length] for face in after if face[:length] == rows}
                assert set(row.nonzero().squeeze(-1).tolist()) == possible | {vocab}  # and the end


@pytest.mark.parametrize("quads", [False, True])
def test_every_code_of_real_meshes_is_legal(tiny_meshes, quads):
    meshes = tiny_meshes[:12]
    if quads:
        paired = [Mesh(m.vertices, np.pad(m.faces, ((0, 0), (0, 1)), constant_values=-1)) for m in meshes]
        square = Mesh(
            [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1]],
            [[0, 1, 2, 3], [0, 1, 2, -1], [0, 3, 4, 1], [1, 2, 3, 4], [1, 2, 4, 3]],
        )
        meshes = [square, *paired]
    for tokenizer in tokenizers(quads):
        for mesh in meshes:
            grid = canonicalize(mesh.normalized()).mesh()
            flat = tokenizer.codes_from_batch(MeshBatch.from_meshes([grid]))[0]
            faces = rearrange(flat, "(f t) -> f t", t=tokenizer.tokens_per_face)
            before = torch.cat((torch.full_like(faces[:1], -1), faces[:-1]))
            for place in range(tokenizer.tokens_per_face):
                legal = tokenizer.grammar.legal(before, faces, place)
                assert legal.allow(faces[:, place]).all()
                rows = torch.arange(len(faces))
                assert legal.mask(tokenizer.vocab_size)[rows, faces[:, place]].all()


@pytest.mark.parametrize("tokenizer", tokenizers(), ids=["coordinates", "two levels", "three levels"])
@pytest.mark.parametrize("temperature", [1.0, 0.8, 0.0])
def test_what_is_generated_is_in_canonical_order_already(tokenizer, temperature):
    torch.manual_seed(0)
    model = MeshTransformer(tokenizer, **SMALL, copy_dim=8, max_seq_len=90)
    options = {"seed": 3, "temperature": temperature, "max_faces": 8, "min_faces": 8, "follow_grammar": True}
    result = model.generate_result(batch_size=4, **options)
    uncached = model.generate_result(batch_size=4, cache_kv=False, **options)
    if temperature != 0.8:  # there a draw among 16,384 codes may fall on an edge that rounding moves
        assert torch.equal(result.codes, uncached.codes)
    unit = tokenizer.tokens_per_face
    for row in rearrange(result.codes, "b (f k l) -> b f k l", k=3, f=result.codes.shape[1] // unit).tolist():
        faces = [tuple(tuple(vertex) for vertex in face) for face in row]
        assert all(follows(None, face) for face in faces)
        assert all(a < b for a, b in itertools.pairwise(faces))


def test_a_seed_gives_its_mesh_whether_or_not_others_were_corrected():
    torch.manual_seed(0)
    model = MeshTransformer(CoordinateTokenizer(), **SMALL, max_seq_len=90)
    options = {"max_faces": 6, "follow_grammar": True}
    together = model.generate_result(batch_size=4, seed=10, **options)
    alone = model.generate_result(batch_size=1, seed=12, **options)
    length = int((alone.codes[0] >= 0).sum())
    assert torch.equal(together.codes[2][together.codes[2] >= 0], alone.codes[0, :length])


def test_drawing_again_gives_every_legal_code_its_share():
    torch.manual_seed(0)
    head = CodeHead(8, 4, 1)
    hidden = torch.randn(1, 4).expand(20_000, -1)
    legal = LegalCodes(torch.full((20_000,), 3), torch.full((20_000, 1), 5))
    chooser, may_end = Chooser(Sampling()), torch.zeros(20_000, dtype=torch.bool)
    codes = chooser(head, hidden, torch.rand(20_000, 3, dtype=torch.float64), may_end, legal)
    share = torch.bincount(codes, minlength=8) / 20_000
    expected = head.logits(hidden[:1], may_end[:1])[0, :8].exp() * legal.mask(8)[0, :8]
    # 20,000 draws: a share strays by more than 0.02 less than once in 10^7 runs
    assert torch.allclose(share, expected / expected.sum(), atol=0.02)
    assert share[[0, 1, 2, 5]].sum() == 0


def test_only_codes_that_hold_the_whole_position_have_a_grammar():
    assert MeshAutoencoder(num_quantizers=1).grammar is None
    assert MeshAutoencoder(code_init="random").grammar is None
    assert MeshAutoencoder(code_freedom=1.5).grammar is None
    assert MeshAutoencoder().grammar == OrderGrammar(16384, 3, 2)
    model = MeshTransformer(MeshAutoencoder(num_quantizers=1), **SMALL, max_seq_len=60)
    with pytest.raises(GenerationError, match="MeshAutoencoder has no grammar to follow"):
        model.generate(follow_grammar=True)
