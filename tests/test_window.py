"""Attention that sees a window back: one answer in blocks, by a mask and step by step, in memory that is bounded."""

import pytest
import torch
from test_cloud_tips import asked, model_of
from test_generation import Recorder, lively, never_end
from test_transformer import make, make_codes
from torch.nn.functional import pad
from toy_tokenizers import RawTokenizer

from meshgpt.errors import CodesError, ConfigError, GenerationError
from meshgpt.tokenizers.strip import StripTokenizer
from meshgpt.transformer.cache import empty_cache
from meshgpt.transformer.readers import CachedReader
from meshgpt.transformer.recurrence import Recurrence
from meshgpt.transformer.stack import DecoderRun
from meshgpt.transformer.transformer import MeshTransformer

OPTIONS = {
    "plain": {},
    "pointers": {"copy_dim": 8, "copy_digit_faces": 1},
    "recurrence": {"coarse_pre_gateloop_depth": 1, "fine_pre_gateloop_depth": 1},
    "memory, values, streams": {"attn_num_mem_kv": 2, "add_value_residual": True, "num_residual_streams": 2},
    "distance bias": {"distance_bias": True, "fine_context_faces": 1},
    "reversible": {"reversible": True, "distance_bias": True, "attn_num_mem_kv": 1, "num_sos_tokens": 3},
    "budget": {"condition_on_faces": True},
}
TINY = {"dim": 16, "attn_depth": 1, "attn_heads": 1, "attn_dim_head": 16, "fine_attn_depth": 1, "fine_attn_heads": 1}
every_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())


def masked(stack, x, bias=None):
    """The stack's outputs by one mask over all pairs of positions."""
    place = torch.arange(x.shape[1])
    back = place[:, None] - place
    mask = pad((back >= 0) & (back < stack.spec.window), (stack.spec.num_mem_kv, 0), value=True)[None, None]
    for part in stack.parts:
        is_run = not isinstance(part, Recurrence)
        x = DecoderRun(part, stack.spec, stack.angles(place[None]), mask, bias)(x) if is_run else part(x)
    return x


# one answer


@pytest.mark.parametrize("window", [1, 7, 39])
@pytest.mark.parametrize("name", ["plain", "recurrence", "memory, values, streams", "reversible"])
def test_blocks_see_what_a_mask_lets_through(name, window):
    stack = make(window=window, **{**OPTIONS[name], "distance_bias": False}).coarse.eval()
    x = torch.randn(2, 40, 32)
    torch.testing.assert_close(stack(x), masked(stack, x), atol=1e-5, rtol=1e-4)


def test_one_layer_sees_nothing_but_its_window():
    stack, x = make(window=5, attn_depth=1).coarse.eval(), torch.randn(2, 23, 32)
    out = stack(x)
    for place in range(23):
        alone = stack(x[:, max(0, place - 4) : place + 1])[:, -1]
        torch.testing.assert_close(out[:, place], alone, atol=1e-5, rtol=1e-4)


def test_distances_are_added_in_blocks_as_over_all_pairs():
    model = make(window=6, distance_bias=True, num_sos_tokens=3).eval()
    x, places, positions = torch.randn(2, 32, 32), torch.rand(2, 32, 3), torch.arange(32).expand(2, -1)
    whole = model.distance_bias(places, positions, places, positions, 3)
    blocks = model._bias(places, positions, places, positions, model.coarse.blocks(32))
    torch.testing.assert_close(model.coarse(x, blocks), masked(model.coarse, x, whole), atol=1e-5, rtol=1e-4)


@every_option
def test_a_window_as_long_as_the_row_is_no_window(options):
    windowed, plain = make(window=11 + options.get("num_sos_tokens", 1), **options), make(**options)
    plain.load_state_dict(windowed.state_dict(), strict=False)
    codes = make_codes(plain, [60, 37, 24])
    assert torch.equal(windowed.eval().losses(codes).loss, plain.eval().losses(codes).loss)
    assert not torch.equal(make(window=4, **options).eval().losses(codes).loss, plain.losses(codes).loss)


@every_option
@pytest.mark.parametrize("checkpointing", [False, True])
def test_every_weight_learns_in_a_window(options, checkpointing):
    plain = make(window=4, **options)
    model = make(window=4, checkpointing=checkpointing, **options).train()
    model.load_state_dict(plain.state_dict())
    codes = make_codes(model, [90, 66])
    for each in (model, plain):
        torch.manual_seed(0)
        each.forward(codes=codes).backward()
    for (name, one), other in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert one.grad is not None, name
        torch.testing.assert_close(one.grad, other.grad, atol=1e-5, rtol=1e-3)


@every_option
def test_steps_say_what_training_says(options):
    """Rows of different length and prompts, past several times that the stores are emptied."""
    model = lively(ends=-3.0, window=2, **options)
    prompt = make_codes(model, [43, 12, 0, 19])
    given = {"num_faces": [8, 20, 12, 3]} if "condition_on_faces" in options else {}
    runs = []
    for cache_kv in (True, False):
        recorder = Recorder()
        given |= {"filter_logits_fn": recorder, "max_seq_len": 57, "seed": 0}
        runs.append((model.generate_result(prompt=prompt, cache_kv=cache_kv, **given).codes, recorder.seen))
    (cached, seen), (uncached, again) = runs
    assert torch.equal(cached, uncached) and len(seen) == len(again) > 40
    for one, other in zip(seen, again, strict=True):
        torch.testing.assert_close(one, other, atol=2e-4, rtol=0)


@pytest.mark.parametrize("window", [1, 3, 8])
def test_a_cache_that_forgets_gives_what_one_pass_gives(window):
    model = make(window=window, coarse_pre_gateloop_depth=1, attn_num_mem_kv=1).eval()
    x = torch.randn(3, 150, 32)
    whole = model.coarse(x)
    cache = empty_cache(3, x.device, capacity=4, window=window)
    model.coarse.step(x[:, :50], cache)
    assert cache.size == 50
    cache.set_lengths(torch.tensor([2, 50, 11]))
    assert cache.size == 2 * window
    for step in range(60):
        rows = torch.arange(len(cache.lengths))
        out = model.coarse.step(x[rows, cache.lengths][:, None], cache)
        torch.testing.assert_close(out[:, 0], whole[rows, cache.lengths - 1], atol=1e-5, rtol=1e-4)
        assert cache.size == 2 * window
        if step == 30:
            cache = cache.select(torch.tensor([1, 0]))
            whole, x = whole[[1, 0]], x[[1, 0]]
    assert cache.lengths.tolist() == [110, 62] and cache.shared_length == cache.max_length
    piece = model.coarse.step(torch.stack((x[0, 110:130], x[1, 62:82])), cache)  # more than a window at once
    torch.testing.assert_close(piece, torch.stack((whole[0, 110:130], whole[1, 62:82])), atol=1e-5, rtol=1e-4)
    cache.set_lengths(torch.tensor([113, 65]))
    again = model.coarse.step(torch.stack((x[0, 113:115], x[1, 65:67])), cache)
    torch.testing.assert_close(again, torch.stack((whole[0, 113:115], whole[1, 65:67])), atol=1e-5, rtol=1e-4)


def test_the_pointer_reaches_as_far_as_the_window():
    """A vertex said `window` faces ago can be pointed at, one said before that cannot."""
    model = make(window=3, copy_dim=8, attn_depth=1).eval()
    codes = make_codes(model, [48])
    memory = model.vertices_said(codes.view(1, 8, 6), model.embed(codes.view(1, 8, 6)), torch.randn(1, 9, 24))
    asked = torch.randn(1, 1, 24), 0, torch.full((1, 1, 6), -1), memory, torch.tensor([[8]])
    scores = model.pointer.scores(*asked)[1][0, 0].view(8, 3)
    assert (scores > -1e4).any(dim=1).tolist() == [False] * 5 + [True] * 3


def test_the_pointer_remembers_the_last_faces_of_rows_of_any_length():
    model = make(window=4, copy_dim=8).eval()
    faces = torch.full((3, 9, 6), -1)
    for row, count in enumerate((9, 2, 0)):
        faces[row, :count] = torch.randint(0, model.vocab_size, (count, 6))
    reader = CachedReader(model, faces)
    said = reader.vertices
    assert said.faces[0].tolist() == [5, 6, 7, 8] and torch.equal(said.codes[0].flatten(1), faces[0, 5:])
    assert (said.codes[1, :2] == -1).all() and torch.equal(said.codes[1, 2:].flatten(1), faces[1, :2])
    assert (said.codes[2] == -1).all()


def test_a_head_that_is_told_of_a_cloud_says_the_same_step_by_step_in_a_window():
    model, runs = model_of(window=2), []
    codes, conditions = asked(model)
    for cache_kv in (True, False):
        recorder = Recorder()
        options = {"conditions": conditions, "max_faces": 14, "min_faces": 14, "seed": 0, "filter_logits_fn": recorder}
        model.generate_result(prompt=codes, cache_kv=cache_kv, **options)
        runs.append(recorder.seen)
    for one, other in zip(*runs, strict=True):
        torch.testing.assert_close(one, other, atol=2e-4, rtol=0)


# long rows


class OneCode(RawTokenizer):
    """One code a face, so that there are few steps."""

    vocab_size, tokens_per_face, num_discrete_coors = 16, 1, 16


def test_8000_faces_fit_in_memory_that_does_not_grow(monkeypatch):
    """The last 200 are written one by one; the others, as a prompt, leave nothing behind but a window."""
    model = MeshTransformer(OneCode(), window=64, max_seq_len=1000, copy_dim=4, **TINY).eval()
    sizes, finish = set(), CachedReader.finish_face

    def watched(reader, *told):
        finish(reader, *told)
        stores = [*reader.coarse.keys, *reader.coarse.values, reader.vertices.keys]
        sizes.add(tuple(store.numel() for store in stores))

    monkeypatch.setattr(CachedReader, "finish_face", watched)
    prompt = make_codes(model, [7800])
    result = model.generate_result(prompt=prompt, max_faces=8000, min_faces=8000, seed=0)
    assert result.face_counts.tolist() == [8000] and result.stopped_by == ("max_faces",)
    assert sizes == {(128 * 16, 128 * 16, 64 * 4)}  # twice the window of keys and of values; vertices of one window


def test_memory_grows_up_to_twice_the_window():
    model, sizes = make(window=40).eval(), []
    cache = empty_cache(1, model.device, capacity=16, window=40)
    with torch.no_grad():
        for place in torch.randn(1, 300, 32).split(1, dim=1):
            model.coarse.step(place, cache)
            sizes.append(cache.size)
    assert sorted(set(sizes)) == [16, 32, 64, 80] and sizes[-1] == 80 and cache.lengths.tolist() == [300]


def test_only_an_endless_model_goes_beyond_what_it_was_made_for():
    short = {"max_seq_len": 60}
    endless, plain, prompt = make(window=4, **short), make(**short), make_codes(make(), [72])
    with pytest.raises(GenerationError, match="max_seq_len = 61 must lie in 1 .. 60.*only one with a window"):
        plain.generate(max_seq_len=61)
    with pytest.raises(GenerationError, match="max_seq_len = 61 must lie"):
        make(window=4, abs_pos_emb=True, **short).generate(max_seq_len=61)
    with pytest.raises(GenerationError, match="max_seq_len = 0 must lie"):
        endless.generate(max_seq_len=0)
    with pytest.raises(CodesError, match="72 codes are more than max_seq_len = 60"):
        plain.generate(prompt=prompt, max_faces=15)
    with pytest.raises(CodesError, match="72 codes are more than max_seq_len = 60"):
        endless.losses(prompt)
    with pytest.raises(ConfigError, match="window"):
        make(window=-1)
    options = {"filter_logits_fn": never_end, "seed": 0}
    assert plain.generate_result(max_faces=15, **options).stopped_by == ("max_seq_len",)
    assert endless.generate_result(max_seq_len=64, **options).codes.shape == (1, 64)
    result = endless.generate_result(prompt=prompt, max_faces=15, **options)
    assert result.codes.shape == (1, 90) and result.stopped_by == ("max_faces",)
    assert torch.equal(result.codes[:, :72], prompt)


def test_faces_that_share_codes_may_have_a_window_too():
    torch.manual_seed(0)
    sizes = {"attn_dim_head": 8, "fine_attn_dim_head": 8, "max_seq_len": 300}
    model = MeshTransformer(StripTokenizer(), **{**TINY, **sizes}, window=5).eval()
    options = {"max_faces": 9, "min_faces": 9, "seed": 0}
    runs = [model.generate_result(cache_kv=cache_kv, **options) for cache_kv in (True, False)]
    assert torch.equal(runs[0].codes, runs[1].codes) and runs[0].face_counts.tolist() == [9]
