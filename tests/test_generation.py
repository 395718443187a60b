"""Generation: cached is uncached, seeds, prompts, limits, filters, and nothing lost."""

import warnings

import pytest
import torch
from test_transformer import OPTIONS, every_option, make, make_codes
from toy_tokenizers import RawTokenizer

from meshgpt.errors import GenerationError, GenerationInterrupted
from meshgpt.tokenizers.autoencoder import MeshAutoencoder
from meshgpt.transformer.cache import empty_cache
from meshgpt.transformer.sampling import keep_min_p, keep_top_k, keep_top_p
from meshgpt.transformer.transformer import MeshTransformer


def lively(ends=2.0, **options):
    """A small model with some character, which ends after a few faces (never, with ends = -100)."""
    model = make(**options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        model.head.first.bias[-1] += ends
        if model.head.first.out_features > 200:
            model.head.first.bias[-1] += 2.0
    return model


def never_end(logits, **_):
    logits = logits.clone()
    logits[:, -1] = -torch.finfo(logits.dtype).max
    return logits


def length_of(codes):
    return int((codes >= 0).sum())


# cached is uncached


class Recorder:
    """A filter that changes nothing and remembers what it saw."""

    def __init__(self):
        self.seen = []

    def __call__(self, logits):
        self.seen.append(logits)
        return logits


@every_option
def test_cached_and_uncached_logits_agree_at_every_step(options):
    model = lively(**options)
    prompt = make_codes(model, [25, 12, 0, 6])
    runs = []
    for cache_kv in (True, False):
        recorder = Recorder()
        result = model.generate_result(
            prompt=prompt, cache_kv=cache_kv, seed=0, max_seq_len=57, filter_logits_fn=recorder
        )
        runs.append((result, recorder.seen))
    (cached, seen), (uncached, seen_uncached) = runs
    assert torch.equal(cached.codes, uncached.codes) and cached.stopped_by == uncached.stopped_by
    assert len(seen) == len(seen_uncached) > 15
    for one, other in zip(seen, seen_uncached, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["plain", "pointer", "both pointers", "recurrence", "many"])
def test_generated_logits_are_those_of_training(name):
    model = lively(ends=-100.0, **OPTIONS[name])
    recorder = Recorder()
    result = model.generate_result(seed=0, max_seq_len=30, filter_logits_fn=recorder)
    logits = model.eval().forward_on_codes(result.codes, return_loss=False)
    torch.testing.assert_close(torch.cat(recorder.seen), logits[0], atol=1e-4, rtol=0)


def test_lengths_need_not_be_whole_faces():
    model = lively(ends=-100.0)
    for length in (1, 5, 6, 7, 20):
        with pytest.warns(UserWarning, match="ran out of length"):
            codes = model.generate(max_seq_len=length, return_codes=True, seed=0)
        assert codes.shape == (1, length) and (codes >= 0).all()
        with pytest.warns(UserWarning, match="ran out of length"):
            coordinates, mask = model.generate(max_seq_len=length, seed=0)
        assert coordinates.shape == (1, length // 6, 3, 3) and mask.all()


def test_a_cache_grows_and_its_rows_may_differ_in_length():
    model = make(num_sos_tokens=1).eval()
    x = torch.randn(3, 150, 32)
    whole = model.coarse(x)
    cache = empty_cache(3, x.device, capacity=4)
    model.coarse.step(x[:, :20], cache)
    cache.set_lengths(torch.tensor([3, 20, 11]))
    for _ in range(60):
        rows = torch.arange(len(cache.lengths))
        out = model.coarse.step(x[rows, cache.lengths][:, None], cache)
        torch.testing.assert_close(out[:, 0], whole[rows, cache.lengths - 1], atol=1e-5, rtol=1e-4)
    cache = cache.select(torch.tensor([1]))
    assert cache.shared_length == 80 and cache.batch_size == 1
    piece = model.coarse.step(x[1:2, 80:90], cache)
    torch.testing.assert_close(piece, whole[1:2, 80:90], atol=1e-5, rtol=1e-4)


def test_the_coarse_stack_runs_once_a_face_and_rows_that_ended_cost_nothing():
    model, sizes = lively(), []
    step = model.coarse.step
    model.coarse.step = lambda x, *rest: sizes.append(x.shape[:2]) or step(x, *rest)
    result = model.generate_result(batch_size=6, seed=0, min_faces=2)
    counts = result.face_counts.tolist()
    assert len(set(counts)) > 1
    assert [tuple(s) for s in sizes] == [(6, 1)] + [(sum(c > face for c in counts), 1) for face in range(max(counts))]


def test_ctrl_c_carries_what_has_been_written():
    """Rows that ended are whole, the others reach to the last code before the interruption."""
    model = lively()
    whole = model.generate_result(batch_size=6, seed=0, min_faces=2)
    counts = whole.face_counts.tolist()
    last = max(counts) - 2
    assert min(counts) <= last

    def on_face(row, face, codes):
        if face == last:
            raise KeyboardInterrupt

    with pytest.raises(GenerationInterrupted) as caught:
        model.generate(batch_size=6, seed=0, min_faces=2, on_face=on_face)
    result = caught.value.result
    assert caught.value.meshes == [] and "interrupted" in result.stopped_by and "end" in result.stopped_by
    assert result.face_counts.tolist() == [min(count, last + 1) for count in counts]
    for row, reason, full in zip(result.codes, result.stopped_by, whole.codes, strict=True):
        assert torch.equal(row[row >= 0], full[full >= 0][: length_of(row)])
        assert reason == "interrupted" or length_of(row) == length_of(full)


def test_within_a_face_ctrl_c_loses_no_code():
    model, seen = lively(ends=-100.0), []

    def interrupting(logits):
        seen.append(logits)
        if len(seen) == 9:
            raise KeyboardInterrupt
        return logits

    with pytest.raises(GenerationInterrupted) as caught:
        model.generate_result(seed=0, filter_logits_fn=interrupting)
    assert caught.value.result.codes.shape == (1, 8) and caught.value.result.stopped_by == ("interrupted",)
    again = model.generate_result(seed=0, max_seq_len=8, filter_logits_fn=lambda logits: logits)
    assert torch.equal(again.codes, caught.value.result.codes)


def test_progress_may_be_a_function_of_the_face_and_the_rows():
    model, seen = lively(), []
    counts = model.generate_result(batch_size=6, seed=0, progress=lambda *step: seen.append(step)).face_counts
    assert seen == [(face, int((counts >= face).sum())) for face in range(int(counts.max()) + 1)]


# randomness


@pytest.mark.parametrize("options", [{}, {"copy_dim": 8}, {"copy_digit_faces": 1}, {"code_digits": 1}])
def test_what_a_seed_gives_does_not_depend_on_its_batch(options):
    model = lively(**options)
    together = model.generate_result(batch_size=4, seed=10, max_faces=8).codes
    for row in range(4):
        alone = model.generate_result(seed=10 + row, max_faces=8).codes
        given = model.generate_result(batch_size=2, seed=(99, 10 + row), max_faces=8).codes[1]
        length = length_of(alone)
        assert torch.equal(together[row, :length], alone[0]) and length_of(together[row]) == length == length_of(given)
    assert not torch.equal(together[0], together[1])


def test_without_a_seed_the_global_one_counts():
    model = lively()
    torch.manual_seed(3)
    first, second = model.generate_result().codes, model.generate_result().codes
    torch.manual_seed(3)
    assert torch.equal(model.generate_result().codes, first)
    assert first.shape != second.shape or not torch.equal(first, second)


@pytest.mark.parametrize("options", [{}, {"copy_dim": 8}])
def test_sampling_follows_the_probabilities(options):
    model = lively(tokenizer=RawTokenizer(), **options)
    prompt = make_codes(model, [18]).expand(4000, -1)
    drawn = model.generate_result(prompt=prompt, seed=0, max_seq_len=19).codes
    expected = model.eval().forward_on_codes(prompt[:1], return_loss=False)[0, -1].exp()
    ended = (drawn.shape[1] == 18) * 4000 if drawn.shape[1] == 18 else int((drawn[:, 18] < 0).sum())
    found = torch.bincount(drawn[:, 18][drawn[:, 18] >= 0], minlength=129).float()
    found[128] = ended
    assert (found / 4000 - expected).abs().sum() / 2 < 0.1  # exact draws are about 0.06 away


def test_temperature_0_takes_the_likeliest_code_of_the_joint_distribution():
    model = lively(ends=-100.0)
    codes = model.generate_result(temperature=0.0, max_seq_len=12).codes
    logits = model.eval().forward_on_codes(codes, return_loss=False)
    assert torch.equal(logits[0, :12].argmax(-1), codes[0])


def test_filters_keep_what_they_say():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    kept = lambda filtered: torch.isfinite(filtered)[0].tolist()  # noqa: E731
    assert kept(keep_top_k(logits, 2)) == [True, True, False, False]
    assert kept(keep_top_k(logits, 9)) == [True] * 4
    assert kept(keep_top_p(logits, 0.5)) == [True, False, False, False]
    assert kept(keep_top_p(logits, 0.6)) == [True, True, False, False]
    assert kept(keep_top_p(logits, 1.0)) == [True] * 4
    assert kept(keep_min_p(logits, 0.25)) == [True, True, True, False]


@pytest.mark.parametrize("sampling", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}, {"temperature": 1e-4}])
def test_the_strictest_filters_give_the_likeliest_code(sampling):
    model = lively(ends=-100.0)
    greedy = model.generate_result(temperature=0.0, max_seq_len=12).codes
    assert torch.equal(model.generate_result(seed=0, max_seq_len=12, **sampling).codes, greedy)


def test_a_filter_sees_the_end_last_and_only_where_a_face_starts():
    model, recorder = lively(ends=-1.0), Recorder()
    model.generate_result(seed=0, max_faces=2, min_faces=2, filter_logits_fn=recorder)
    assert all(seen.shape == (1, model.vocab_size + 1) for seen in recorder.seen)
    may_end = [bool(seen[0, -1] > -torch.inf) for seen in recorder.seen]
    assert may_end == [False] * 12 + [True]  # at first too few faces, then within a face, then the last question


def test_a_filter_gets_its_options():
    model = lively(ends=-100.0)
    only = lambda logits, code: logits.masked_fill(torch.arange(logits.shape[-1]) != code, -torch.inf)  # noqa: E731
    codes = model.generate_result(max_seq_len=6, filter_logits_fn=only, filter_kwargs={"code": 7}).codes
    assert (codes == 7).all()


# prompts


def test_a_prompt_is_kept_and_gone_on_from_also_within_a_face():
    model = lively(ends=-100.0)
    prompt = make_codes(model, [13, 24, 0])
    result = model.generate_result(prompt=prompt, seed=(1, 2, 3), max_faces=6)
    for row, length in enumerate((13, 24, 0)):
        assert torch.equal(result.codes[row, :length], prompt[row, :length])
        alone = model.generate_result(prompt=prompt[row : row + 1, :length], seed=row + 1, max_faces=6)
        assert torch.equal(alone.codes[0], result.codes[row])
    assert result.face_counts.tolist() == [6, 6, 6]


def test_a_prompt_of_quantizer_levels_and_a_full_prompt_are_taken():
    model = lively(ends=-100.0)
    prompt = make_codes(model, [12])
    full = model.generate_result(prompt=prompt.view(1, 6, 2), max_faces=2, seed=0)
    assert torch.equal(full.codes, prompt) and full.stopped_by == ("max_faces",)


# limits and results


def test_running_out_of_length_is_reported_and_nothing_is_lost():
    model = lively(ends=0.0)
    result = model.generate_result(batch_size=12, seed=0, max_seq_len=20)
    assert set(result.stopped_by) == {"end", "max_seq_len"}
    for row, reason in enumerate(result.stopped_by):
        assert result.finished[row] == (reason == "end")
        assert length_of(result.codes[row]) == (20 if reason == "max_seq_len" else 6 * int(result.face_counts[row]))
    cut = result.stopped_by.count("max_seq_len")
    with pytest.warns(UserWarning, match=f"{cut} of 12 meshes ran out of length"):
        codes = model.generate(batch_size=12, seed=0, max_seq_len=20, return_codes=True)
    assert torch.equal(codes, result.codes)


def test_a_face_limit_that_was_asked_for_is_no_warning():
    model = lively(ends=-100.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        coordinates, mask = model.generate(batch_size=2, max_faces=3, seed=0)
    assert coordinates.shape == (2, 3, 3, 3) and mask.all()


def test_a_row_that_ends_exactly_at_its_limit_has_ended():
    model = lively(ends=100.0)
    assert model.generate_result(min_faces=2, max_faces=2, seed=0).stopped_by == ("end",)


def test_meshes_of_no_face_at_all_are_fine():
    coordinates, mask = lively(ends=100.0).generate(batch_size=2, seed=0)
    assert coordinates.shape == (2, 0, 3, 3) and mask.shape == (2, 0)


def test_coordinates_are_those_of_the_codes_with_nan_at_padding():
    model = lively(tokenizer=RawTokenizer())
    result = model.generate_result(batch_size=5, seed=0, max_faces=6)
    coordinates, mask = model.generate(batch_size=5, seed=0, max_faces=6)
    assert mask.sum(dim=1).tolist() == result.face_counts.tolist() and len(set(result.face_counts.tolist())) > 1
    assert torch.equal(coordinates.isnan().any(dim=-1).any(dim=-1), ~mask)
    expected = RawTokenizer().decode_faces_alone(result.codes[0, : 9 * int(result.face_counts[0])].view(-1, 9))
    assert torch.equal(coordinates[0][mask[0]], expected)


def test_each_face_is_announced_as_it_is_written():
    model, heard = lively(), []
    result = model.generate_result(
        prompt=make_codes(model, [8, 6]), seed=0, on_face=lambda row, face, codes: heard.append((row, face, codes))
    )
    assert {(row, face) for row, face, _ in heard} == {
        (row, face) for row in (0, 1) for face in range(1, int(result.face_counts[row]))
    }
    for row, face, codes in heard:
        assert torch.equal(codes, result.codes[row, 6 * face : 6 * face + 6])


def test_faces_go_to_a_function_of_the_caller():
    model = lively()
    files = model.generate(batch_size=3, seed=0, face_coords_to_file=lambda faces: tuple(faces.shape))
    counts = model.generate_result(batch_size=3, seed=0).face_counts.tolist()
    assert files == [(count, 3, 3) for count in counts]


def test_progress_is_shown_only_when_asked_for(capsys):
    model = lively(ends=-100.0)
    model.generate_result(max_faces=2, seed=0)
    assert capsys.readouterr().err == ""
    model.generate_result(max_faces=2, seed=0, progress=True)
    assert "faces" in capsys.readouterr().err


def test_generation_leaves_modes_as_they_were():
    model = make(dropout=0.5)
    assert model.training
    model.coarse.eval()
    a, b = (model.generate_result(seed=0, max_faces=2).codes for _ in range(2))
    assert torch.equal(a, b) and model.training and not model.coarse.training and model.fine.training


def test_the_learned_tokenizer_generates_with_every_feature_of_its_faces():
    torch.manual_seed(0)
    autoencoder = MeshAutoencoder(
        encoder_dims_through_depth=(16, 16), decoder_dims_through_depth=(16,), dim_codebook=16
    )
    model = MeshTransformer(
        autoencoder, dim=32, attn_depth=1, attn_heads=2, fine_attn_heads=2, max_seq_len=120, copy_dim=8,
        distance_bias=True, face_features=("angles", "area", "normal", "corners"),
    )  # fmt: skip
    runs = [
        model.generate_result(batch_size=2, seed=0, max_faces=4, cache_kv=cache_kv).codes for cache_kv in (True, False)
    ]
    assert torch.equal(*runs)
    coordinates, mask = model.generate(batch_size=2, seed=0, max_faces=4)
    assert coordinates[mask].isfinite().all() and autoencoder.training


# errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "temperature must be 0 .* or more, got -1.0"),
        ({"top_k": 0}, "top_k must be at least 1, got 0"),
        ({"top_p": 0.0}, r"top_p must lie in \(0, 1\].*got 0.0"),
        ({"top_p": 1.5}, r"top_p must lie in \(0, 1\]"),
        ({"min_p": -0.1}, r"min_p must lie in \(0, 1\]"),
        ({"max_faces": 0}, "max_faces must be at least 1"),
        ({"min_faces": -1}, "min_faces must not be negative"),
        ({"min_faces": 5, "max_faces": 4}, "min_faces must not exceed max_faces"),
        ({"max_seq_len": 241}, "max_seq_len = 241 must lie in 1 .. 240"),
        ({"max_seq_len": 0}, "max_seq_len = 0 must lie in 1 .. 240"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"seed": (1, 2), "batch_size": 3}, "2 seeds for 3 samples"),
        ({"prompt": torch.zeros(2, 6, dtype=torch.long), "batch_size": 3}, "batch_size = 3, but the prompt has 2 rows"),
        ({"prompt": torch.zeros(1, 13, dtype=torch.long), "max_faces": 2}, "a prompt of 13 codes leaves no room"),
        ({"filter_logits_fn": lambda logits: logits[:, :5]}, "filter_logits_fn must keep the shape"),
        (
            {"filter_logits_fn": lambda logits: logits * torch.nan},
            "filter_logits_fn left a row without any possible code",
        ),
        (
            {"filter_logits_fn": lambda logits: logits - torch.inf},
            "filter_logits_fn left a row without any possible code",
        ),
    ],
)
def test_requests_that_cannot_be_served_are_refused(options, message):
    with pytest.raises(GenerationError, match=message):
        make().generate(**options)


def test_a_misspelt_option_is_named_with_the_nearest_one():
    with pytest.raises(GenerationError, match="did you mean 'top_p'"):
        make().generate(top_q=0.9)
