"""The pipeline: what comes out is finished, does not depend on the batch, and survives saving."""

import contextlib
import os
import re
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from meshgpt.checkpoint import save_model
from meshgpt.errors import CheckpointError, GenerationError, GenerationInterrupted
from meshgpt.mesh.canonical import canonicalize
from meshgpt.mesh.form import LOOSENESS, LOPSIDEDNESS, OPENNESS, PIECES, doubt
from meshgpt.mesh.mesh import Mesh
from meshgpt.mesh.surface import compare_surfaces
from meshgpt.mesh.topology import topology_report
from meshgpt.pipeline import (
    CANDIDATE_STRIDE,
    GeneratedMesh,
    MeshPipeline,
    MeshPipelineConfig,
    judged,
)
from meshgpt.tokenizers.autoencoder import MeshAutoencoder
from meshgpt.tokenizers.coordinates import CoordinateTokenizer
from meshgpt.transformer.transformer import MeshTransformer
from meshgpt.wishes import Wishes

SMALL = {
    "dim": 16, "attn_depth": 1, "attn_heads": 2, "attn_dim_head": 8, "fine_attn_depth": 1, "fine_attn_heads": 2,
    "fine_attn_dim_head": 8, "max_seq_len": 180,
}  # fmt: skip


@pytest.fixture(scope="module")
def pipeline() -> MeshPipeline:
    torch.manual_seed(0)
    autoencoder = MeshAutoencoder(dim_codebook=24, encoder_dims_through_depth=(8,), decoder_dims_through_depth=(8,))
    return MeshPipeline(autoencoder.eval(), MeshTransformer(autoencoder, **SMALL), MeshPipelineConfig(max_faces=12))


@pytest.fixture(scope="module")
def tetrahedron() -> Mesh:
    return Mesh([[0, 0, 0], [0.9, 0, 0], [0, 0.9, 0], [0, 0, 0.9]], [[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])


def quietly(pipeline: MeshPipeline, **options) -> list[Mesh]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pipeline(**options)


def same(one: Mesh, two: Mesh) -> bool:
    return np.array_equal(one.vertices, two.vertices) and np.array_equal(one.faces, two.faces)


def test_what_comes_out_is_welded_clean_wound_and_on_the_ground(pipeline):
    for mesh in quietly(pipeline, seed=0, num_meshes=4):
        report = topology_report(mesh)
        assert mesh.num_faces > 0 and report.degenerate_faces == report.duplicate_faces == 0
        assert len(np.unique(mesh.vertices, axis=0)) == mesh.num_vertices
        low, high = mesh.bounds
        assert low[1] == 0 and np.allclose((low + high)[[0, 2]], 0)


def test_finishing_welds_drops_and_winds(pipeline, tetrahedron):
    turned = Mesh(tetrahedron.vertices, tetrahedron.faces[[0, 1, 2, 3, 0]][:, [0, 2, 1]])
    codes = pipeline.tokenizer.encode(turned)
    doubled = torch.cat((codes, codes))
    mesh = pipeline.finished(torch.cat((doubled, codes[:4])))  # an incomplete face at the end is left out
    assert mesh.num_faces == 4 and topology_report(mesh).watertight
    centres = mesh.vertices[mesh.faces].mean(axis=1) - mesh.vertices.mean(axis=0)
    assert ((centres * mesh.face_vectors).sum(axis=1) > 0).all()


def test_faces_without_area_are_dropped(pipeline, tetrahedron):
    vertices = [*tetrahedron.vertices.tolist(), [0.45, 0, 0]]
    flat = Mesh(vertices, [*tetrahedron.faces.tolist(), [0, 4, 1]])
    mesh = pipeline.finished(pipeline.tokenizer.encode(flat))
    assert mesh.num_faces == 4 and mesh.num_vertices == 4 and (mesh.face_areas > 0).all()


def test_a_seed_gives_one_mesh_whatever_else_is_written(pipeline):
    together = quietly(pipeline, seed=5, num_meshes=4)
    in_batches = quietly(pipeline, seed=5, num_meshes=4, batch_size=3)
    alone = quietly(pipeline, seed=7)[0]
    assert all(same(a, b) for a, b in zip(together, in_batches, strict=True)) and same(together[2], alone)
    listed = quietly(pipeline, seed=[8, 5], num_meshes=2)
    assert same(listed[0], together[3]) and same(listed[1], together[0])


def test_seeds_that_were_drawn_are_told_and_give_the_mesh_again(pipeline):
    written = pipeline.generate(num_meshes=2)
    assert written[0].seed != written[1].seed
    assert same(quietly(pipeline, seed=written[1].seed)[0], written[1].mesh)


def test_triangles_begin_a_mesh_of_quads(tetrahedron):
    torch.manual_seed(0)
    tokenizer = CoordinateTokenizer(quads=True)
    pipeline = MeshPipeline(tokenizer, MeshTransformer(tokenizer, **SMALL))
    [begun] = pipeline.prompt_codes(tetrahedron)
    assert topology_report(pipeline.finished(begun)).watertight and len(begun) == 4 * tokenizer.tokens_per_face


def test_numbers_of_numpy_are_seeds(pipeline):
    one, two = (quietly(pipeline, seed=seed)[0] for seed in (np.int64(3), [np.int64(3)]))
    assert same(one, two) and same(one, quietly(pipeline, seed=3)[0])


def test_a_prompt_comes_first_and_stays_where_it_is(pipeline, tetrahedron):
    written = pipeline.generate(seed=0, num_meshes=2, prompt=tetrahedron)
    prompt = pipeline.prompt_codes(tetrahedron)[0]
    assert len(prompt) == 24
    for item in written:
        assert torch.equal(item.codes[:24], prompt)
        decoded = pipeline.tokenizer.decode(item.codes[:24])
        assert canonicalize(decoded) == canonicalize(tetrahedron)


def test_faces_are_streamed_with_the_number_of_their_mesh(pipeline):
    heard = []
    written = pipeline.generate(
        seed=1, num_meshes=3, batch_size=2, on_face=lambda mesh, face, codes: heard.append((mesh, face, codes))
    )
    for index, item in enumerate(written):
        codes = torch.cat([codes for mesh, _, codes in heard if mesh == index])
        assert torch.equal(codes, item.codes[: len(codes)]) and len(item.codes) - len(codes) < 6


def at_face(mesh, face):
    """Ctrl-C when face `face` of mesh `mesh` has been written."""

    def on_face(*place):
        if place[:2] == (mesh, face):
            raise KeyboardInterrupt

    return on_face


@pytest.mark.parametrize("call", [MeshPipeline.generate, MeshPipeline.__call__])
def test_ctrl_c_loses_no_mesh_and_no_face(pipeline, call):
    options = {"seed": 1, "num_meshes": 6, "batch_size": 2, "min_faces": 4}
    whole = pipeline.generate(**options)
    with pytest.raises(GenerationInterrupted) as caught:
        call(pipeline, on_face=at_face(3, 2), **options)
    written = caught.value.written
    assert [item.seed for item in written] == [1, 2, 3, 4]
    assert [item.stopped_by for item in written[2:]] == ["interrupted"] * 2
    for item, full in zip(written, whole, strict=False):
        assert torch.equal(item.codes, full.codes[: len(item.codes)])
    assert all(same(item.mesh, full.mesh) for item, full in zip(written[:2], whole, strict=False))
    assert caught.value.meshes == [item.mesh for item in written] and written[3].mesh.num_faces == 3
    assert caught.value.result.face_counts.tolist() == [3, 3]


def test_ctrl_c_before_the_first_face_keeps_the_batches_before(pipeline, monkeypatch):
    def interrupted(self, prompt, batch_size, **options):
        if options["seed"] == (2,):
            raise KeyboardInterrupt
        return generate_result(self, prompt, batch_size, **options)

    generate_result = MeshTransformer.generate_result
    monkeypatch.setattr(MeshTransformer, "generate_result", interrupted)
    with pytest.raises(GenerationInterrupted) as caught:
        pipeline.generate(seed=0, num_meshes=4, batch_size=1)
    assert [item.seed for item in caught.value.written] == [0, 1] and caught.value.result is None


def test_ctrl_c_in_a_later_round_keeps_the_best_candidates(pipeline):
    """A candidate that was cut off never stands before a whole one."""
    rounds = []

    def on_face(mesh, face, codes):
        rounds.append(face == 0 and mesh == 0)
        if sum(rounds) == 3 and face == 2:
            raise KeyboardInterrupt

    options = {"seed": 0, "num_meshes": 3, "max_faces": 25, "min_faces": 4}
    with pytest.raises(GenerationInterrupted) as caught:
        pipeline.generate(candidates=5, on_face=on_face, **options)
    kept = pipeline.generate(candidates=2, **options)
    assert all(same(one, other.mesh) for one, other in zip(caught.value.meshes, kept, strict=True))


def test_ctrl_c_while_a_mesh_is_handed_over_loses_none(pipeline):
    def on_mesh(index, item):
        handed.append(item)
        if index == 2:
            raise KeyboardInterrupt

    handed = []
    with pytest.raises(GenerationInterrupted) as caught:
        pipeline.generate(seed=0, num_meshes=6, batch_size=2, on_mesh=on_mesh)
    assert len(handed) == 3 and len(caught.value.written) == 4
    assert all(same(one.mesh, other) for one, other in zip(handed, caught.value.meshes, strict=False))


def test_one_bar_counts_the_meshes_of_all_batches_and_candidates(pipeline, capsys):
    pipeline.generate(seed=0, num_meshes=5, batch_size=2, candidates=3, max_faces=25, progress=True)
    shown = capsys.readouterr().err
    assert " 0/15 [" in shown and "15/15 [" in shown and shown.count("\n") == 1
    counts = [int(count) for count in re.findall(r"(\d+)/15 \[", shown)]
    assert counts == sorted(counts)


def test_a_judge_chooses_among_candidates_that_were_asked_for_something():
    torch.manual_seed(0)
    tokenizer = CoordinateTokenizer(num_discrete_coors=8)
    sizes = {
        "dim": 16,
        "attn_depth": 1,
        "attn_heads": 2,
        "attn_dim_head": 8,
        "fine_attn_heads": 2,
        "fine_attn_dim_head": 8,
    }
    model = MeshTransformer(tokenizer, **sizes, fine_attn_depth=1, max_seq_len=300, categories=("a", "b")).eval()
    pipe = MeshPipeline(tokenizer, model)
    options = {"num_meshes": 2, "max_faces": 12, "seed": 0, "candidates": 6, "min_faces": 3}

    def many_faces(meshes, texts, categories):
        assert texts == [None] * len(meshes) and set(categories) == {"b"}
        return [100.0 * mesh.num_faces for mesh in meshes]

    rounds = [
        pipe.generate(category="b", **{**options, "candidates": 1, "seed": CANDIDATE_STRIDE * number})
        for number in range(6)
    ]
    kept = pipe.generate(category="b", judge=many_faces, **options)
    for index, item in enumerate(kept):
        ended = [each[index] for each in rounds if each[index].stopped_by == "end"] or [each[index] for each in rounds]
        assert item.mesh.num_faces == max(each.mesh.num_faces for each in ended)
        assert item.match == 100.0 * item.mesh.num_faces
    assert all(item.match is None for item in pipe.generate(judge=many_faces, **options))  # nothing was asked for


def test_a_judge_is_not_asked_of_meshes_that_follow_a_shape(pipeline, tetrahedron):
    items = pipeline.generate(seed=0, num_meshes=3, max_faces=8)
    items[1] = replace(items[1], fit=compare_surfaces(tetrahedron, tetrahedron, 8))
    heard = []

    def judge(meshes, texts, categories):
        heard.append((meshes, texts, categories))
        return [-1.0] * len(meshes)

    wishes = Wishes(4, texts=["a", "b", "c", "d"])
    told = judged(items, [1, 2, 3], wishes, judge)
    assert heard == [([items[0].mesh, items[2].mesh], ["b", "d"], [None, None])]
    assert [item.match for item in told] == [-1.0, None, -1.0]
    assert judged(items[1:2], [0], wishes, judge) == items[1:2] and len(heard) == 1


def test_of_several_candidates_the_one_with_the_fewest_faults_is_kept(pipeline):
    def faults(item: GeneratedMesh) -> tuple[bool, float]:
        return item.stopped_by != "end", doubt(item.mesh)

    options = {"num_meshes": 3, "max_faces": 25}
    rounds = [pipeline.generate(seed=CANDIDATE_STRIDE * number, **options) for number in range(3)]
    kept = pipeline.generate(seed=0, candidates=3, **options)
    for index, item in enumerate(kept):
        assert item.seed == index
        assert faults(item) == min(faults(candidates[index]) for candidates in rounds)
        assert any(same(item.mesh, candidates[index].mesh) for candidates in rounds)
    for batch_size in (1, 2, 16):  # candidates of one mesh share a batch
        assert same(pipeline.generate(seed=1, candidates=3, batch_size=batch_size, max_faces=25)[0].mesh, kept[1].mesh)


def test_doubt_is_for_open_edges_for_parts_in_the_air_too_and_for_want_of_symmetry(tetrahedron):
    solid = np.array([[-1, 0, -1], [1, 0, -1], [0, 0, 1], [0, 1, 0]])  # alike left and right, and closed
    faces = np.array([[0, 1, 2], [0, 3, 1], [1, 3, 2], [2, 3, 0]])
    assert doubt(Mesh(solid, faces)) == 0
    assert doubt(Mesh(solid, faces[1:])) == OPENNESS * 3 / 6
    two = Mesh(np.concatenate((solid, solid + [0, 2, 0])), np.concatenate((faces, faces + 4)))
    assert doubt(two) == pytest.approx(PIECES * np.log(2) + LOOSENESS / 2)
    touching = Mesh(np.concatenate((solid, solid + [0, 1, 0])), two.faces)
    assert doubt(touching) == pytest.approx(PIECES * np.log(2))
    assert doubt(tetrahedron) == pytest.approx(LOPSIDEDNESS * 0.5)
    assert doubt(Mesh(solid[:0], faces[:0])) == np.inf


def test_running_out_of_room_is_said_and_loses_nothing(pipeline):
    with pytest.warns(UserWarning, match=r"of 3 meshes were cut off .*max_faces.*allow more faces"):
        meshes = pipeline(seed=0, num_meshes=3, max_faces=2, min_faces=2)
    assert all(1 <= mesh.num_faces <= 2 for mesh in meshes)


def test_saving_and_loading_gives_the_same_meshes(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "model")
    again = MeshPipeline.from_pretrained(tmp_path / "model")
    assert again.config == pipeline.config
    assert same(quietly(again, seed=3)[0], quietly(pipeline, seed=3)[0])
    assert (tmp_path / "model" / "transformer" / "model.safetensors").stat().st_size < 300_000  # no tokenizer inside


def test_half_the_bytes_still_decode_every_mesh_exactly(pipeline, tmp_path, tiny_meshes):
    pipeline.save_pretrained(tmp_path / "model", dtype="bfloat16")
    tokenizer = MeshAutoencoder.from_pretrained(tmp_path / "model")
    for mesh in tiny_meshes[:10]:
        assert canonicalize(tokenizer.decode(tokenizer.encode(mesh))) == canonicalize(mesh.normalized())


@pytest.mark.parametrize("failing", range(12))
def test_a_save_that_fails_at_any_moment_leaves_the_old_pipeline_or_the_new_one(
    pipeline, tmp_path, monkeypatch, failing
):
    """Never a tokenizer of one with a transformer of the other; other files in the folder stay."""
    tokenizer = CoordinateTokenizer()
    other = MeshPipeline(tokenizer, MeshTransformer(tokenizer, **SMALL), MeshPipelineConfig(max_faces=3))
    pipeline.save_pretrained(tmp_path)
    (tmp_path / "README.md").write_text("mine")
    rename, renames = os.rename, []

    def killed(*paths):
        renames.append(paths)
        if len(renames) > failing:
            raise OSError(5, "killed")
        rename(*paths)

    with monkeypatch.context() as patch, contextlib.suppress(CheckpointError):
        patch.setattr(os, "rename", killed)
        other.save_pretrained(tmp_path)
    found = MeshPipeline.from_pretrained(tmp_path)
    assert type(found.tokenizer) is (MeshAutoencoder if failing == 0 else CoordinateTokenizer)
    assert found.config == (pipeline if failing == 0 else other).config
    pipeline.save_pretrained(tmp_path)
    assert type(MeshPipeline.from_pretrained(tmp_path).tokenizer) is MeshAutoencoder
    assert sorted(os.listdir(tmp_path)) == ["README.md", "pipeline", "tokenizer", "transformer"]


def test_a_pipeline_of_which_a_part_cannot_be_written_does_not_appear(pipeline, tmp_path):
    with pytest.raises(CheckpointError, match="not as 'float8'"):
        pipeline.save_pretrained(tmp_path / "model", dtype="float8")
    assert os.listdir(tmp_path / "model") == []


def test_another_tokenizer_makes_a_pipeline_too(tmp_path):
    torch.manual_seed(0)
    tokenizer = CoordinateTokenizer()
    MeshPipeline(tokenizer, MeshTransformer(tokenizer, **SMALL)).save_pretrained(tmp_path)
    meshes = quietly(MeshPipeline.from_pretrained(tmp_path), seed=0, max_faces=5)
    assert meshes[0].num_faces > 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"text": "a chair"}, "trained without conditions"),
        ({"num_meshes": 0}, "at least 1, got 0"),
        ({"batch_size": 0}, "at least 1"),
        ({"candidates": 0}, "candidates must be at least 1"),
        ({"seed": [1, 2], "num_meshes": 3}, "2 seeds for 3 meshes"),
        ({"prompt": "chair.glb"}, "prompt must be a Mesh, got str"),
        ({"prompt": Mesh(np.eye(3) * 5, [[0, 1, 2]])}, "reaches to 5, outside"),
        ({"prompt": Mesh(np.eye(3), [[0, 0, 1]])}, "no face of the prompt"),
        ({"temperature": -1.0}, "temperature must be 0"),
        ({"texts": "a chair"}, "no option texts: here it is text"),
        ({"usual_faces": (10, 20)}, "generate has no option 'usual_faces'"),
    ],
)
def test_requests_that_cannot_be_served_are_refused(pipeline, options, says):
    with pytest.raises(GenerationError, match=says):
        pipeline.generate(**options)


def test_missing_and_unknown_models_are_named(tmp_path):
    with pytest.raises(CheckpointError, match="no bundled model 'nosuch'"):
        MeshPipeline.from_pretrained("nosuch")

    class Strange:
        pass

    save_model(Strange(), MeshPipelineConfig(), tmp_path / "tokenizer")
    with pytest.raises(CheckpointError, match="holds a Strange, which is none of the tokenizers"):
        MeshPipeline.from_pretrained(tmp_path)
