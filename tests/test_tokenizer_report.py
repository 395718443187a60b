"""The report on tokenizers: what it counts, what it refuses, and the command that prints it."""

import numpy as np
import pytest
import torch

import meshgpt
from meshgpt import tokenizers
from meshgpt.cli.inputs import LOSSLESS, named_tokenizer
from meshgpt.cli.main import main
from meshgpt.errors import CodesError, DataError, MeshFileError
from meshgpt.evaluation.tokenizer_report import bucket, grouped_reports, table, tokenizer_report
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


def test_faces_that_come_back_turned_are_not_accurate_but_their_vertices_are():
    report = tokenizer_report(Turning(), [TETRAHEDRON])
    assert (report.triangle_accuracy, report.winding_agreement, report.vertex_accuracy) == (0, 0, 1)


class Leaving(CoordinateTokenizer):
    """Moves the highest corner of each mesh by one bin, and says another code for it."""

    def decode(self, ids):
        mesh = super().decode(ids)
        vertices = mesh.vertices.copy()
        vertices[vertices[:, 1].argmax(), 1] -= 2 / 128
        return Mesh(vertices, mesh.faces)


def test_accuracy_counts_faces_and_vertices_with_every_bin_exact():
    report = tokenizer_report(Leaving(), [TETRAHEDRON, TETRAHEDRON])
    assert (report.faces, report.vertices, report.exact) == (8, 8, 0)
    assert report.triangle_accuracy == 1 / 4 and report.vertex_accuracy == 3 / 4 and report.winding_agreement == 1
    assert report.distance == pytest.approx(2 / 128 / 4)  # 3 of its 12 corners are moved by one bin


def test_codes_in_use_and_their_perplexity():
    report = tokenizer_report(CoordinateTokenizer(), [TETRAHEDRON])
    counts = torch.bincount(CoordinateTokenizer().encode(TETRAHEDRON))
    share = counts[counts > 0] / counts.sum()
    assert report.codes_in_use == len(share)
    assert report.perplexity == pytest.approx(float((-(share * share.log()).sum()).exp()), rel=1e-5)
    assert report.to_dict()["perplexity"] == report.perplexity and report.to_dict()["meshes"] == 1


@pytest.mark.parametrize("name", LOSSLESS)
def test_a_lossless_tokenizer_is_accurate_and_moves_nothing(name, tiny_meshes):
    report = tokenizer_report(named_tokenizer(name), tiny_meshes[8:12])
    assert report.triangle_accuracy == report.vertex_accuracy == report.winding_agreement == 1
    assert report.distance < 1e-6


def test_reports_by_size_and_category_add_up(tiny_meshes):
    meshes, tokenizer = [*tiny_meshes[:6], NOTHING], CoordinateTokenizer()
    groups = grouped_reports(tokenizer, meshes, ["a", "b", "a", "b", "c", "a", "none"])
    assert list(groups) == ["all", "faces", "category"] and list(groups["category"]) == ["a", "b", "c"]
    for reports in groups.values():
        assert sum(report.meshes for report in reports.values()) == 6
        assert sum(report.faces for report in reports.values()) == groups["all"]["all"].faces
    assert groups["all"]["all"].triangle_accuracy == 1 and "category" not in grouped_reports(tokenizer, meshes[:1])


def test_buckets_end_with_the_number_that_they_name():
    assert [bucket(n) for n in (1, 100, 101, 800, 801)] == ["1-100", "1-100", "101-200", "401-800", "801-"]


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
