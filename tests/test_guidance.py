"""Classifier-free guidance on log-probabilities."""

import pytest
import torch
from test_conditioning import EACH, asked, conditioned
from test_generation import Recorder

from meshgpt.errors import GenerationError
from meshgpt.transformer.guidance import Guidance, guided_log_probs


def zeros(count):
    return torch.zeros(count, dtype=torch.long)


def distributions(seed=0, rows=3, size=40):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(2, rows, size, generator=generator)
    logits[:, 1, -1] = -torch.inf  # a row that may not end
    return logits.log_softmax(dim=-1)


def guided(scale=3.0, seed=0, **options):
    asked, unasked = distributions(seed)
    guidance = Guidance(cond_scale=scale, **options)
    return guided_log_probs(asked, unasked, guidance.scale(zeros(len(asked))), guidance)


@pytest.mark.parametrize(
    "options", [{}, {"rescale_phi": 0.7}, {"remove_parallel_component": True, "keep_parallel_frac": 0.3}]
)
def test_the_result_is_a_distribution_and_the_impossible_stays_so(options):
    result = guided(**options)
    torch.testing.assert_close(result.exp().sum(dim=-1), torch.ones(3))
    assert result[1, -1] == -torch.inf and result[[0, 2]].isfinite().all()


@pytest.mark.parametrize("options", [{}, {"rescale_phi": 1.0}, {"remove_parallel_component": True}])
def test_scale_1_is_what_was_asked_and_scale_0_what_was_not(options):
    asked, unasked = distributions()
    torch.testing.assert_close(guided(1.0, **options), asked)
    if not options:
        torch.testing.assert_close(guided(0.0), unasked)


def test_plain_guidance_is_the_formula():
    asked, unasked = distributions()
    expected = (unasked + 3.0 * (asked - unasked))[0].log_softmax(dim=-1)
    torch.testing.assert_close(guided(3.0)[0], expected)


def test_constants_do_not_matter():
    asked, unasked = distributions()
    for options in ({"rescale_phi": 0.5}, {"remove_parallel_component": True}):
        guidance = Guidance(cond_scale=4.0, **options)
        scale = guidance.scale(zeros(3))
        moved = guided_log_probs(asked + 2.0, unasked - 1.0, scale, guidance)
        torch.testing.assert_close(moved, guided_log_probs(asked, unasked, scale, guidance), atol=1e-5, rtol=1e-4)


def test_keeping_the_whole_parallel_part_is_plain_guidance_and_removing_it_leaves_a_right_angle():
    plain = guided(3.0)
    kept = guided(3.0, remove_parallel_component=True, keep_parallel_frac=1.0)
    torch.testing.assert_close(plain, kept)
    asked, _ = distributions()
    removed = guided(3.0, remove_parallel_component=True)
    update = (removed - asked)[0]
    along = asked[0] - asked[0].mean()
    assert abs(float(((update - update.mean()) * along).sum())) < 1e-3


def test_rescaling_keeps_the_spread():
    asked, _ = distributions()
    whole = guided(6.0, rescale_phi=1.0)
    torch.testing.assert_close(whole[0].std(), asked[0].std(), atol=1e-4, rtol=1e-4)
    assert guided(6.0)[0].std() > 1.5 * asked[0].std()
    between = guided(6.0, rescale_phi=0.5)[0].std()
    assert asked[0].std() < between < guided(6.0)[0].std()


def test_a_single_possible_code_stays_possible():
    asked = torch.full((1, 5), -torch.inf)
    asked[0, 2] = 0.0
    for options in ({}, {"rescale_phi": 0.7}, {"remove_parallel_component": True}):
        guidance = Guidance(cond_scale=3.0, **options)
        result = guided_log_probs(asked, torch.zeros(1, 5).log_softmax(-1), guidance.scale(zeros(1)), guidance)
        assert result[0, 2] == 0 and (result[0, [0, 1, 3, 4]] == -torch.inf).all()


def test_a_schedule_goes_from_one_scale_to_the_other_and_stays():
    guidance = Guidance(cond_scale=5.0, cond_scale_end=1.0, schedule_faces=8)
    torch.testing.assert_close(guidance.scale(torch.tensor([0, 4, 8, 100])), torch.tensor([5.0, 3.0, 1.0, 1.0]))
    assert guidance.is_on and not Guidance(cond_scale=1.0, cond_scale_end=1.0).is_on
    assert Guidance(cond_scale=1.0, cond_scale_end=2.0).is_on


def test_generation_writes_by_the_guided_distribution():
    model = conditioned().eval()
    recorder = Recorder()
    conditions = model.conditions_of(**asked())
    model.generate_result(conditions=conditions, cond_scale=3.0, seed=0, max_seq_len=6, filter_logits_fn=recorder)
    first = model.forward_on_codes(torch.zeros(3, 0, dtype=torch.long), return_loss=False, conditions=conditions)[:, 0]
    unasked = model.forward_on_codes(torch.zeros(3, 0, dtype=torch.long), return_loss=False)[:, 0]
    guidance = Guidance(cond_scale=3.0)
    expected = guided_log_probs(first, unasked, guidance.scale(zeros(3)), guidance)
    torch.testing.assert_close(recorder.seen[0], expected, atol=1e-4, rtol=0)


def test_guidance_of_one_kind_keeps_the_others():
    model = conditioned().eval()
    recorder, empty = Recorder(), torch.zeros(3, 0, dtype=torch.long)
    conditions = model.conditions_of(**asked())
    options = {"cond_scale": 3.0, "guided": ("text",), "max_seq_len": 6, "filter_logits_fn": recorder}
    model.generate_result(conditions=conditions, seed=0, **options)
    logits = [
        model.forward_on_codes(empty, return_loss=False, conditions=each)[:, 0]
        for each in (conditions, conditions.without(("text",)))
    ]
    guidance = Guidance(cond_scale=3.0)
    expected = guided_log_probs(*logits, guidance.scale(zeros(3)), guidance)
    torch.testing.assert_close(recorder.seen[0], expected, atol=1e-4, rtol=0)


def test_negative_texts_are_what_guidance_leads_away_from():
    model = conditioned(**EACH["text"]).eval()
    model.use_text_encoder(
        lambda texts: (torch.tensor([[[float(len(t))] * 12] for t in texts]), torch.ones(len(texts), 1))
    )
    recorder, empty = Recorder(), torch.zeros(1, 0, dtype=torch.long)
    options = {"cond_scale": 2.0, "max_seq_len": 6, "filter_logits_fn": recorder}
    model.generate_result(texts=["ab"], negative_texts=["abcd"], seed=0, **options)
    logits = [model.forward_on_codes(empty, return_loss=False, texts=[text])[:, 0] for text in ("ab", "abcd")]
    guidance = Guidance(cond_scale=2.0)
    expected = guided_log_probs(*logits, guidance.scale(zeros(1)), guidance)
    torch.testing.assert_close(recorder.seen[0], expected, atol=1e-4, rtol=0)


def test_scale_1_runs_no_second_row():
    model = conditioned()
    sizes = []
    model.coarse.register_forward_hook(lambda *_: None)
    step = model.coarse.step
    model.coarse.step = lambda x, *rest: sizes.append(len(x)) or step(x, *rest)
    model.generate_result(seed=0, max_faces=2, cond_scale=1.0, **asked())
    assert max(sizes) == 3
    sizes.clear()
    model.generate_result(seed=0, max_faces=2, cond_scale=2.0, **asked())
    assert max(sizes) == 6


def test_rows_that_end_leave_both_halves():
    model = conditioned(seed=1)
    result = model.generate_result(categories=["chair"] * 6, cond_scale=2.0, seed=0, max_faces=12)
    for row in range(6):
        alone = model.generate_result(categories=["chair"], cond_scale=2.0, seed=row, max_faces=12)
        assert torch.equal(result.codes[row][result.codes[row] >= 0], alone.codes[0][alone.codes[0] >= 0])
    assert len(set(result.face_counts.tolist())) > 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cond_scale": -1.0}, "cond_scale must not be negative"),
        ({"cond_scale_end": -1.0}, "cond_scale_end must not be negative"),
        ({"schedule_faces": 0}, "schedule_faces must be at least 1"),
        ({"rescale_phi": 2.0}, r"rescale_phi must lie in \[0, 1\]"),
        ({"keep_parallel_frac": -0.1}, r"keep_parallel_frac must lie in \[0, 1\]"),
        ({"guided": ("words",)}, "guided must name some of text, category, num_faces, points"),
    ],
)
def test_impossible_guidance_is_refused(options, message):
    with pytest.raises(GenerationError, match=message):
        conditioned().generate(categories="chair", **options)
