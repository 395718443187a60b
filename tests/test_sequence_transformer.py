"""A transformer over tokenizers whose faces share codes: the same answers as over whole faces, only valid meshes."""

import math

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from meshgpt.errors import ConfigError, GenerationError, GenerationInterrupted, TokenError
from meshgpt.mesh.canonical import canonicalize
from meshgpt.pipeline import MeshPipeline, MeshPipelineConfig
from meshgpt.tokenizers.coordinates import CoordinateTokenizer
from meshgpt.tokenizers.half_edge import HalfEdgeTokenizer
from meshgpt.tokenizers.patch import PatchTokenizer
from meshgpt.tokenizers.strip import StripTokenizer
from meshgpt.training.mesh_trainers import MeshTransformerTrainer
from meshgpt.transformer.spelling import SpelledOut
from meshgpt.transformer.transformer import MeshTransformer

SMALL = {"dim": (32, 24), "attn_depth": 1, "attn_heads": 2, "attn_dim_head": 16, "fine_attn_depth": 1}
SMALL |= {"fine_attn_heads": 2, "fine_attn_dim_head": 12, "max_seq_len": 400}
KINDS = {"patches": (PatchTokenizer, {}), "half-edges": (HalfEdgeTokenizer, {}), "strips": (StripTokenizer, {})}
KINDS |= {"patches by 3": (PatchTokenizer, {"codes_per_step": 3, "fine_context_faces": 2, "num_sos_tokens": 2})}
KINDS |= {"recurrent": (StripTokenizer, {"fine_pre_gateloop_depth": 1, "condition_on_faces": True})}
KINDS |= {"untold": (PatchTokenizer, {"tell_surroundings": False, "codes_per_step": 2, "condition_on_faces": True})}
EACH = pytest.mark.parametrize("kind", KINDS)


def transformer(kind, **options):
    tokenizer, own = KINDS[kind]
    torch.manual_seed(0)
    return MeshTransformer(tokenizer(), **{**SMALL, **own, **options}).double().eval()


def rows_of(model, meshes, count=4):
    meshes = sorted(meshes, key=lambda mesh: mesh.num_faces)[:count]
    return pad_sequence([model.tokenizer.encode(mesh) for mesh in meshes], batch_first=True, padding_value=-1)


@EACH
def test_bits_are_those_of_the_next_codes_one_by_one(kind, tiny_meshes):
    model = transformer(kind)
    codes = rows_of(model, tiny_meshes)
    conditions = model.conditions_for(codes, {})
    output = model.losses(codes, conditions, 0.0)
    logits = model.next_logits(codes, model.context_of(conditions, len(codes), 0.0))
    sums = logits.exp().sum(dim=-1)[torch.nn.functional.pad(codes >= 0, (1, 0), value=True)]
    torch.testing.assert_close(sums, torch.ones_like(sums))
    for row, said, bits in zip(logits, codes, output.row_bits, strict=True):
        said = torch.cat((said[said >= 0], torch.tensor([model.vocab_size])))
        known = row[torch.arange(len(said)), said]
        torch.testing.assert_close(-known.sum() / math.log(2), bits)
    assert output.num_faces == int(model.tokenizer.faces_in(codes).sum())
    assert output.num_tokens == int((codes >= 0).sum()) + len(codes)


@pytest.mark.parametrize("tokenizer", [PatchTokenizer(), CoordinateTokenizer()])
def test_each_row_may_have_a_limit_of_faces(tokenizer):
    torch.manual_seed(0)
    model = MeshTransformer(tokenizer, **{**SMALL, "max_seq_len": 180}).double().eval()
    asked = {"batch_size": 3, "seed": 1, "min_faces": 12, "follow_grammar": True}
    whole = model.generate_result(max_faces=12, **asked)
    rows = model.generate_result(row_faces=(3, 40, 7), max_faces=12, **asked)
    assert rows.face_counts.tolist() == [3, 12, 7]
    assert rows.stopped_by == ("max_faces", whole.stopped_by[1], "max_faces")
    for row, codes in enumerate(rows.codes):
        codes = codes[codes >= 0]
        assert torch.equal(codes, whole.codes[row, : len(codes)])
    with pytest.raises(GenerationError, match="row_faces has 2 numbers for 3 rows"):
        model.generate_result(row_faces=(3, 4), **asked)
    with pytest.raises(GenerationError, match="row_faces must be at least 1"):
        model.generate_result(row_faces=(3, 0, 4), **asked)


@EACH
def test_cached_writing_is_uncached_writing(kind, tiny_meshes):
    model = transformer(kind)
    prompt = rows_of(model, tiny_meshes, 3)[:, :20].clone()
    prompt[0, 9:], prompt[2] = -1, -1
    asked = {"num_faces": [9, 30, 20]} if model.config.condition_on_faces else {}
    options = {"temperature": 0 if kind == "strips" else 1, "max_seq_len": 34, "seed": 3}
    one = model.generate_result(prompt, **options, **asked)
    two = model.generate_result(prompt, cache_kv=False, **options, **asked)
    assert torch.equal(one.codes, two.codes) and one.stopped_by == two.stopped_by
    alone = model.generate_result(prompt[:1], **options, **{name: rows[:1] for name, rows in asked.items()})
    assert torch.equal(one.codes[0][one.codes[0] >= 0], alone.codes[0])


@pytest.mark.parametrize("hinted", [True, False])
def test_a_head_that_is_spelled_out_says_the_same(hinted, tiny_meshes):
    model = transformer("patches")
    generator = torch.Generator().manual_seed(0)
    for weight in (*model.head.to_hints.parameters(), *model.head.to_agreeing.parameters()):
        torch.nn.init.normal_(weight, generator=generator)
    hidden = torch.randn(5, 24, dtype=torch.float64, generator=generator)
    around = model.tokenizer.surroundings_of(rows_of(model, tiny_meshes, 1)[:, :40]).select((0, slice(20, 25)))
    hints = model.tokenizer.hints(around.places) if hinted else None
    may_end = torch.tensor([True, False, True, True, False])
    one, two = model.head.logits(hidden, may_end, hints), SpelledOut(model.head).logits(hidden, may_end, hints)
    torch.testing.assert_close(one, two)


def test_hints_that_agree_with_the_digits_before_count_alike_in_both_questions(tiny_meshes):
    model = transformer("patches")
    head, generator = model.head, torch.Generator().manual_seed(0)
    for weight in (*head.to_hints.parameters(), *head.to_agreeing.parameters()):
        torch.nn.init.normal_(weight, generator=generator)
    codes = rows_of(model, tiny_meshes, 1)[0, :40]
    hints = model.tokenizer.hints(model.tokenizer.surroundings_of(codes[None]).places)[0, :-1]
    hidden, may_end = torch.randn(40, 24, dtype=torch.float64, generator=generator), torch.ones(40, dtype=torch.bool)
    log_probs = head.logits(hidden, may_end, hints)
    torch.testing.assert_close(-head.nats(hidden, codes, may_end, hints), log_probs[torch.arange(40), codes])
    head.to_agreeing = None
    assert not torch.allclose(head.logits(hidden, may_end, hints), log_probs)
    drawn = [
        head.sample(hidden[:1], torch.rand(1, 2, dtype=torch.float64, generator=generator), may_end[:1], hints[:1])
    ]
    assert 0 <= int(drawn[0]) <= head.vocab_size


def test_guidance_reads_what_surrounds_both_rows(tiny_meshes):
    model = transformer("strips", condition_on_faces=True)
    options = {"num_faces": [10, 40], "cond_scale": 2.0, "max_seq_len": 50, "seed": 1}
    one, two = (model.generate_result(cache_kv=cached, **options) for cached in (True, False))
    assert torch.equal(one.codes, two.codes)
    assert not torch.equal(one.codes, model.generate_result(**{**options, "cond_scale": 1.0}).codes)


@EACH
def test_what_an_untrained_model_writes_is_a_valid_mesh_that_ends_in_time(kind):
    model = transformer(kind)
    result = model.generate_result(batch_size=30, max_seq_len=30, seed=0)
    assert result.stopped_by == ("end",) * 30
    for row, count in zip(result.codes, result.face_counts, strict=True):
        vertices, faces = model.tokenizer.decode_grid(row[row >= 0].numpy())
        assert len(faces) == count > 0
        assert (np.diff(np.sort(faces, axis=1)) > 0).all()  # none degenerate
        turned = [tuple(np.roll(face, -face.argmin())) for face in faces]
        assert len(set(turned)) == len(turned) and len(np.unique(faces)) == len(vertices)
    coordinates, mask = model.decode(result)
    assert torch.equal(mask.sum(dim=1), result.face_counts) and torch.equal(mask, ~coordinates.isnan().any(-1).any(-1))


@pytest.mark.parametrize("kind", ["patches", "strips", "patches by 3"])
def test_faces_are_told_and_limited_one_by_one(kind):
    model, heard = transformer(kind), {0: [], 1: []}
    options = {"batch_size": 2, "seed": 5, "min_faces": 6, "max_faces": 8}
    result = model.generate_result(on_face=lambda row, face, codes: heard[row].append((face, codes)), **options)
    assert all(6 <= count <= 8 for count in result.face_counts.tolist())
    for row, faces in heard.items():
        assert [number for number, _ in faces] == list(range(int(result.face_counts[row])))
        said = result.codes[row]
        told = torch.cat([codes for _, codes in faces])
        assert torch.equal(told, said[: len(told)])
    whole = result.codes[:, : int((result.codes >= 0).sum(dim=1).min())]
    with pytest.raises(GenerationError, match="leaves no room for max_faces = 2"):
        model.generate_result(whole, max_faces=2)


def test_an_interruption_leaves_what_was_written():
    model = transformer("patches")

    def on_face(row, face, codes):
        if face == 4:
            raise KeyboardInterrupt

    with pytest.raises(GenerationInterrupted) as caught:
        model.generate_result(batch_size=2, seed=0, min_faces=9, on_face=on_face)
    assert max(caught.value.result.face_counts.tolist()) == 5
    assert "interrupted" in caught.value.result.stopped_by


def test_a_prompt_that_contradicts_itself_is_refused():
    model = transformer("patches")
    with pytest.raises(TokenError, match="no faces at their sides"):
        model.generate_result(torch.tensor([[model.tokenizer.layout.near + 1]]))
    with pytest.raises(TokenError):
        model(codes=torch.tensor([[model.tokenizer.layout.near + 1]]))


@pytest.mark.parametrize("field", ["copy_dim", "copy_digit_faces", "distance_bias", "face_features", "local_points"])
def test_what_needs_single_faces_is_refused(field):
    value = ("area",) if field == "face_features" else True if field == "distance_bias" else 2
    extra = {"condition_on_points": True} if field == "local_points" else {}
    with pytest.raises(ConfigError, match=f"{field} tells of single faces, and those of a PatchTokenizer share codes"):
        MeshTransformer(PatchTokenizer(), **{**SMALL, field: value, **extra})
    with pytest.raises(ConfigError, match="codes_per_step = 3, but a face of a CoordinateTokenizer is 9"):
        MeshTransformer(CoordinateTokenizer(), **SMALL, codes_per_step=3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["patches", "half-edges", "strips"])
def test_trained_on_a_mesh_it_writes_that_mesh(kind, tiny_dataset, tmp_path):
    data = tiny_dataset[[13]]
    tokenizer, own = KINDS[kind]
    torch.manual_seed(0)
    sizes = {"dim": (64, 64), "attn_dim_head": 32, "fine_attn_dim_head": 32, "condition_on_faces": True}
    model = MeshTransformer(tokenizer(), **{**SMALL, **own, **sizes, "condition_drop_prob": 0.0})
    settings = {"num_train_steps": 90, "learning_rate": 5e-3, "warmup_steps": 10, "ema_decay": 0.0}
    trainer = MeshTransformerTrainer(
        model, data, checkpoint_folder=str(tmp_path), max_faces_per_batch=200, log_every=90, **settings
    )
    trainer()
    grid = canonicalize(data[0].mesh.normalized())
    pipe = MeshPipeline(model.tokenizer, model, MeshPipelineConfig(temperature=0.0, min_faces=1))
    pipe.save_pretrained(tmp_path / "pipe")
    again = MeshPipeline.from_pretrained(tmp_path / "pipe")
    codes = again.generate(seed=0, faces=len(grid.faces))[0].codes
    vertices, faces = model.tokenizer.decode_grid(codes.numpy())
    assert canonicalize(model.tokenizer.decode(codes)) == grid and len(faces) == len(grid.faces)
    begun = again.generate(seed=0, faces=len(grid.faces), prompt=again.begun(data[0].mesh, 0.5))[0]
    assert begun.stopped_by == "end" and begun.mesh.num_faces > 0
