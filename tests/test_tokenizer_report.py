"""The report on tokenizers: what it counts, what it refuses, and the command that prints it."""

import numpy as np
import pytest
import torch

import meshgpt
from meshgpt import tokenizers
from meshgpt.cli.inputs import LOSSLESS, named_tokenizer
from meshgpt.cli.main import main
from meshgpt.errors import CodesError, DataError, MeshFileError
from meshgpt.evaluation.tokenizer_report import table, tokenizer_report
from meshgpt.mesh.mesh import Mesh
from meshgpt.tokenizers.coordinates import CoordinateTokenizer

TRIANGLE = Mesh(np.eye(3), [[0, 1, 2]])
TETRAHEDRON = Mesh([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], [[0, 2, 1], [0, 1, 3], [1, 2, 3], [0, 3, 2]])
NOTHING = Mesh(np.zeros((0, 3)), np.zeros((0, 3), dtype=int))


class Turning(CoordinateTokenizer):
    """Gives every face back with the other winding, and refuses meshes of one face."""

    def codes_from_batch(self, batch):
        if batch.num_faces == 1:
            raise CodesError("too few faces")
        return super().codes_from_batch(batch)

    def decode(self, ids):
        return super().decode(ids).flipped()


def test_meshes_that_are_refused_or_wound_otherwise_are_counted_as_such():
    report = tokenizer_report(Turning(), [TETRAHEDRON, TRIANGLE, NOTHING, TETRAHEDRON])
    assert (report.meshes, report.accepted, report.exact, report.winding_exact) == (3, 2, 2, 0)
    assert (report.faces, report.tokens, report.tokens_per_face) == (8, 72, 9.0)


def test_bits_are_those_of_the_vocabulary_and_of_how_often_tokens_occur():
    report = tokenizer_report(CoordinateTokenizer(), [TETRAHEDRON])
    ids = CoordinateTokenizer().encode(TETRAHEDRON)
    share = torch.bincount(ids).double() / len(ids)
    assert report.vocabulary_bits == 63
    assert report.unigram_bits == pytest.approx(float(-torch.special.xlogy(share, share).sum() / np.log(2) * 9))
    assert report.encode_microseconds > 0 and report.decode_microseconds > 0


@pytest.mark.parametrize("name", LOSSLESS)
def test_every_lossless_tokenizer_keeps_faces_and_winding(name, tiny_meshes):
    report = tokenizer_report(named_tokenizer(name), tiny_meshes[:8])
    assert report.accepted == report.exact == report.winding_exact == report.meshes == 8


@pytest.mark.parametrize("name", LOSSLESS.values())
def test_lossless_tokenizers_have_one_name_everywhere(name):
    assert getattr(meshgpt, name) is getattr(tokenizers, name) and getattr(tokenizers, name)().num_discrete_coors == 128
    with pytest.raises(AttributeError, match=f"no attribute '{name}s'"):
        getattr(tokenizers, f"{name}s")


def test_the_table_has_a_row_for_each():
    lines = table([("some", tokenizer_report(CoordinateTokenizer(), [TRIANGLE]))]).splitlines()
    assert len(lines) == 3 and lines[2].startswith("| some | 1/1 | 100.0% | 100.0% | 9.00 | 63.00 |")


def test_the_command_prints_it(capsys):
    assert main(["tokenize", "--report", "tiny", "--model", "patches"]) == 0
    assert "| patches | 64/64 | 100.0% | 100.0% |" in capsys.readouterr().out


def test_a_report_needs_meshes_and_tokenizing_a_file():
    with pytest.raises(DataError, match="has no mesh of split"):
        main(["tokenize", "--report", "tiny", "--split", "none-of-these", "--debug"])
    with pytest.raises(MeshFileError, match="no mesh file is named"):
        main(["tokenize", "--debug"])
