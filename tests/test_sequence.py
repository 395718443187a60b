"""What tokenizers without a fixed number of tokens a face tell of a sentence: by its ids and by the grammar alike."""

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from meshgpt.errors import CodesError, TokenError
from meshgpt.tokenizers.coordinates import CoordinateTokenizer
from meshgpt.tokenizers.half_edge import HalfEdgeTokenizer
from meshgpt.tokenizers.patch import PatchTokenizer
from meshgpt.tokenizers.strip import StripTokenizer

KINDS = pytest.mark.parametrize("kind", [PatchTokenizer, HalfEdgeTokenizer, StripTokenizer])


def rows_of(tokenizer, meshes):
    meshes = sorted(meshes, key=lambda mesh: mesh.num_faces)[:5]
    return meshes, pad_sequence([tokenizer.encode(mesh) for mesh in meshes], batch_first=True, padding_value=-1)


@KINDS
def test_surroundings_are_those_of_the_grammar_at_every_token(kind, tiny_meshes):
    tokenizer = kind()
    _, codes = rows_of(tokenizer, tiny_meshes)
    known, state = tokenizer.surroundings_of(codes), tokenizer.grammar.start(*codes.shape)
    begun = tokenizer.grammar.surroundings(tokenizer.grammar.begin(codes, codes.shape[1]))
    assert torch.equal(begun.places, known.places[:, -1]) and torch.equal(begun.faces, known.faces[:, -1])
    assert known.places.shape == (*codes.shape[:1], codes.shape[1] + 1, tokenizer.num_places + tokenizer.num_facts, 3)
    for place in range(codes.shape[1] + 1):
        told = tokenizer.grammar.surroundings(state)
        assert torch.equal(told.places, known.places[:, place])
        assert torch.equal(told.faces, known.faces[:, place])
        if place < codes.shape[1]:
            said = codes[:, place] >= 0
            state = tokenizer.grammar.advance(state, codes[:, place].clamp(min=0)).where(said, state)


@KINDS
def test_faces_are_counted_as_they_are_decoded(kind, tiny_meshes):
    tokenizer = kind()
    meshes, codes = rows_of(tokenizer, tiny_meshes)
    assert tokenizer.faces_in(codes).tolist() == [tokenizer.decode(row[row >= 0]).num_faces for row in codes]
    assert tokenizer.faces_in(codes[:, :0]).tolist() == [0] * len(meshes)
    begun = codes[-1, : codes.shape[1] // 2]
    assert tokenizer.faces_in(begun[None]).item() == tokenizer.decode(begun).num_faces


@KINDS
def test_there_are_no_surroundings_of_what_contradicts_itself(kind):
    tokenizer = kind()
    with pytest.raises(TokenError, match="got") as caught:
        tokenizer.surroundings(np.array([0, tokenizer.vocab_size - 1]))
    assert caught.value.position in (0, 1)


def test_faces_that_are_said_one_by_one_have_no_surroundings():
    with pytest.raises(CodesError, match="CoordinateTokenizer says faces one by one"):
        CoordinateTokenizer().surroundings_of(torch.zeros(1, 9, dtype=torch.long))
