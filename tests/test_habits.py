"""Whole faces guessed ahead: the same meshes in fewer passes, whatever is guessed."""

import pytest
import torch

from meshgpt.errors import GenerationError
from meshgpt.tokenizers.coordinates import CoordinateTokenizer
from meshgpt.transformer.habits import FaceGuessingReader, Habits
from meshgpt.transformer.model import FaceWriter
from meshgpt.transformer.transformer import MeshTransformer

SMALL = {"dim": (32, 24), "attn_depth": 1, "attn_heads": 2, "attn_dim_head": 16, "fine_attn_depth": 1}
SMALL |= {"fine_attn_heads": 2, "fine_attn_dim_head": 12, "max_seq_len": 270}
STRIP = [[0, 0, 0, 0, x, 0, 1, x, 0] for x in range(8)]  # a fan: each face shares two corners with the one before


def transformer(**options):
    torch.manual_seed(0)
    return MeshTransformer(CoordinateTokenizer(num_discrete_coors=8), **{**SMALL, **options}).double().eval()


def saying(codes):
    """A filter with which nothing but these codes are said, one after the other."""
    left = iter(codes.tolist())

    def only(logits):
        return torch.full_like(logits, -torch.inf).index_fill(1, torch.tensor([next(left)]), 0.0)

    return only


@pytest.fixture
def passes(monkeypatch):
    """The numbers of positions of the coarse passes."""
    made, step = [], FaceWriter.coarse_step

    def counted(self, inputs, *args):
        made.append(inputs.tokens.shape[1])
        return step(self, inputs, *args)

    monkeypatch.setattr(FaceWriter, "coarse_step", counted)
    return made


def test_a_strip_is_guessed_once_it_has_gone_on_for_a_while():
    habits = Habits(3, 8)
    assert habits.guesses(2) == []
    for face in STRIP[:4]:
        habits.hear(face)
    assert habits.guesses(2) == STRIP[4:6] and len(habits.faces) == 4


VARIANTS = {
    "plain": {},
    "context": {"fine_context_faces": 2, "abs_pos_emb": True},
    "pointers": {"copy_dim": 8, "copy_digit_faces": 2, "code_digits": 2},
    "window": {"window": 6, "copy_dim": 8},
    "told": {"face_features": ("normal", "area"), "distance_bias": True, "attn_num_mem_kv": 1},
    "recurrent": {"coarse_pre_gateloop_depth": 1, "add_value_residual": True},
    "streams": {"num_residual_streams": 2},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_guessing_changes_nothing(variant, passes):
    model = transformer(**VARIANTS[variant])
    for seed, options in enumerate([{"temperature": 0.0}, {}, {"temperature": 0.5, "min_faces": 14, "top_p": 0.9}]):
        plain = model.generate_result(seed=seed, max_faces=14, **options)
        passes.clear()
        ahead = model.generate_result(seed=seed, max_faces=14, speculate=20, **options)
        assert torch.equal(plain.codes, ahead.codes) and plain.stopped_by == ahead.stopped_by
    assert max(passes) > 1  # it did guess


@pytest.mark.parametrize("most", [9, 30])
def test_nor_where_guesses_come_true_in_part(most, passes):
    model, odd = transformer(copy_dim=8, fine_context_faces=1), [[5, 5, 5, 5, 6, 5, 7, 7, 7]]
    codes = torch.tensor([*STRIP, *odd, *STRIP, *STRIP]).flatten()
    seen = {}
    for speculate in (0, most):
        states = seen[speculate] = []
        say = saying(torch.cat((codes, torch.tensor([model.vocab_size]))))
        passes.clear()
        result = model.generate_result(
            seed=0, speculate=speculate, filter_logits_fn=lambda x, say=say, states=states: states.append(x) or say(x)
        )
        assert torch.equal(result.codes[0], codes)
    for plain, ahead in zip(seen[0], seen[most], strict=True):
        torch.testing.assert_close(plain, ahead)
    assert len(passes) < len(codes) / 9 - 4  # some faces needed none


def test_nor_with_guidance_a_budget_and_a_prompt(passes):
    model = transformer(condition_on_faces=True, coarse_adaptive_rmsnorm=True)
    asked = {"num_faces": [30], "seed": 2, "max_faces": 12, "temperature": 0.7, "min_faces": 12}
    prompt = torch.tensor(STRIP[:5]).flatten()[None]
    for options in ({}, {"cond_scale": 2.5}, {"cond_scale": 2.5, "prompt": prompt}, {"prompt": prompt[:, :-4]}):
        plain = model.generate_result(**asked, **options)
        ahead = model.generate_result(**asked, **options, speculate=18)
        assert torch.equal(plain.codes, ahead.codes)
    assert max(passes[-6:]) > 1


def test_several_rows_do_not_guess(monkeypatch):
    model = transformer()
    monkeypatch.setattr(FaceGuessingReader, "read_code", None)
    model.generate_result(batch_size=2, seed=0, max_faces=3, speculate=9)
    model.generate_result(seed=0, max_faces=3, speculate=9, cache_kv=False)


@pytest.mark.parametrize("options", [{"fine_pre_gateloop_depth": 1}, {"local_points": 4, "condition_on_points": True}])
def test_models_that_cannot_read_ahead_say_why(options):
    with pytest.raises(GenerationError, match="its fine stack reads what is asked, or all codes, or it is told of"):
        transformer(**options).generate_result(speculate=9)
