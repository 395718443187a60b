"""StripTokenizer: its sentences spelled out, and what every tokenizer of walks must do."""

import numpy as np
from walks import Walks, zigzag

from meshgpt.tokenizers.strip import StripTokenizer

START, REVERSED, SWAP, FLIP, SWAP_AND_FLIP = range(128, 133)


class TestStrips(Walks):
    kind, budget = StripTokenizer, 4.8


def faces_of(*ids):
    """The faces, as x coordinates of vertices (0, 0, x)."""
    vertices, faces = StripTokenizer().decode_grid(np.array(ids))
    return vertices[faces][..., 0].tolist()


def at(x):
    return 0, 0, x


def test_each_vertex_makes_a_face_with_the_two_before_wound_in_turn():
    assert faces_of(START, *at(1), *at(2), *at(3), *at(4), *at(5)) == [[3, 1, 2], [4, 3, 2], [5, 3, 4]]
    assert faces_of(REVERSED, *at(1), *at(2), *at(3), *at(4), *at(5)) == [[3, 2, 1], [4, 2, 3], [5, 4, 3]]


def test_a_swap_takes_the_side_of_the_last_vertex_and_the_last_but_two():
    # the strip 1 2 3: a plain step would keep 2 3, the swap keeps 1 3, then goes on over 3 4
    assert faces_of(START, *at(1), *at(2), *at(3), SWAP, *at(4), *at(5)) == [[3, 1, 2], [4, 1, 3], [5, 4, 3]]


def test_a_flip_turns_the_next_face_and_those_after_it():
    assert faces_of(START, *at(1), *at(2), *at(3), FLIP, *at(4), *at(5)) == [[3, 1, 2], [4, 2, 3], [5, 4, 3]]
    assert faces_of(START, *at(1), *at(2), *at(3), SWAP_AND_FLIP, *at(4)) == [[3, 1, 2], [4, 3, 1]]


def test_every_face_of_a_strip_but_the_first_takes_three_tokens():
    ids = StripTokenizer().encode_grid(zigzag(20))
    assert len(ids) == 10 + 3 * 19 and (ids >= 128).sum() == 1


def test_a_patch_wound_the_other_way_costs_one_mark():
    ids = StripTokenizer().encode_grid(zigzag(20, flipped=range(8, 20)))
    assert len(ids) == 10 + 3 * 19 + 1 and sorted(ids[ids >= 128])[1] in (FLIP, SWAP_AND_FLIP)
