"""HalfEdgeTokenizer: its sentences spelled out, and what every tokenizer of walks must do."""

import numpy as np
import pytest
from walks import Walks, empty, grid_of, zigzag

from meshgpt.errors import ConfigError, TokenError
from meshgpt.tokenizers.half_edge import HalfEdgeTokenizer

START, LEFT, RIGHT, LEFT_FLIPPED, RIGHT_FLIPPED = range(128, 133)


class TestHalfEdges(Walks):
    kind, budget = HalfEdgeTokenizer, 4.6


def marks(grid):
    ids = HalfEdgeTokenizer().encode_grid(grid)
    return ids[ids >= 128].tolist()


def test_a_square_spelled_out():
    square = grid_of([(1, 0, 0), (2, 0, 0), (2, 5, 0), (1, 5, 0)], [(0, 1, 2), (0, 2, 3)])
    a, b, c, d = (0, 0, 1), (0, 0, 2), (5, 0, 2), (5, 0, 1)  # as said: (y, z, x)
    # the first face is (a, b, c); its border (a, b) is said first, and left of the tip c lies (d, c's other side)
    assert HalfEdgeTokenizer().encode_grid(square).tolist() in (
        [START, *a, *b, *c, RIGHT, *d],
        [START, *b, *c, *a, LEFT, *d],
    )


def test_left_and_right_lie_beside_the_tip():
    faces = HalfEdgeTokenizer().decode_grid(np.array([START, 0, 0, 1, 0, 0, 2, 5, 0, 3, LEFT, 9, 0, 4, RIGHT, 9, 0, 5]))
    vertices, faces = faces
    assert vertices[faces][:, :, [1, 2, 0]].tolist() == [
        [[5, 0, 3], [0, 0, 1], [0, 0, 2]],
        [[9, 0, 4], [5, 0, 3], [0, 0, 2]],
        [[9, 0, 5], [5, 0, 3], [9, 0, 4]],
    ]


def test_every_face_of_a_strip_but_the_first_takes_four_tokens():
    ids = HalfEdgeTokenizer().encode_grid(zigzag(20))
    assert len(ids) == 10 + 4 * 19 and ids[0] == START


def test_only_a_face_wound_against_the_one_before_carries_the_mark_of_that():
    assert not set(marks(zigzag(12))) & {LEFT_FLIPPED, RIGHT_FLIPPED}
    turned = marks(zigzag(12, flipped=range(6, 12)))
    assert sum(mark in (LEFT_FLIPPED, RIGHT_FLIPPED) for mark in turned) == 1


def test_a_coordinate_between_faces_is_an_error_that_names_the_marks():
    ids = np.array([START, 0, 0, 1, 0, 0, 2, 5, 0, 3, 7])
    with pytest.raises(TokenError, match=r"token 10: expected a mark \(128 .. 132\) or the end, got coordinate 7"):
        HalfEdgeTokenizer().decode_grid(ids)


def test_no_faces_are_no_tokens_and_a_grid_needs_two_bins():
    assert len(HalfEdgeTokenizer().encode_grid(empty())) == 0
    assert HalfEdgeTokenizer().decode([]).num_faces == 0
    with pytest.raises(ConfigError, match="at least 2, got 1"):
        HalfEdgeTokenizer(num_discrete_coors=1)
