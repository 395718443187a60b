"""Steps in shapes that stay: the same numbers as the plain ones. Recordings are tested where there is a GPU."""

import pytest
import torch

from meshgpt.errors import GenerationError
from meshgpt.tokenizers.coordinates import CoordinateTokenizer
from meshgpt.tokenizers.patch import PatchTokenizer
from meshgpt.transformer import fixed, readers
from meshgpt.transformer.cache import empty_cache
from meshgpt.transformer.conditioning import Context
from meshgpt.transformer.config import StackSpec
from meshgpt.transformer.fixed import FixedCache, Recorded, fixed_copy
from meshgpt.transformer.stack import Stack
from meshgpt.transformer.transformer import MeshTransformer

SMALL = {"dim": (32, 24), "attn_depth": 1, "attn_heads": 2, "attn_dim_head": 16, "fine_attn_depth": 1}
SMALL |= {"fine_attn_heads": 2, "fine_attn_dim_head": 12, "max_seq_len": 270}
ON_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


def transformer(tokenizer=None, **options):
    torch.manual_seed(0)
    tokenizer = tokenizer or CoordinateTokenizer(num_discrete_coors=8)
    return MeshTransformer(tokenizer, **{**SMALL, **options}).double().eval()


@pytest.fixture
def unrecorded(monkeypatch):
    """Steps of fixed shapes without a GPU, of stores that are small at first; how often each was made."""
    monkeypatch.setattr(fixed, "SMALLEST", 4)
    monkeypatch.setattr(MeshTransformer, "_graphs", lambda self, asked, one_by_one: asked is True)
    made, run = [], FixedCache.run
    monkeypatch.setattr(FixedCache, "run", lambda self, x, step: made.append(self.batch_size) or run(self, x, step))
    return made


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("crosses", [False, True])
def test_a_stack_says_the_same_as_with_a_plain_cache(rows, crosses):
    torch.manual_seed(0)
    layers = ("attention", "cross_attention", "feedforward") if crosses else ("attention", "feedforward")
    stack = Stack(StackSpec(dim=16, layers=2 * layers, heads=2, dim_head=8, cross_num_mem_kv=1)).double().eval()
    told = torch.randn(rows, 3, 16).double(), torch.ones(rows, 3, dtype=torch.bool)
    told[1][-1, 1:] = False
    context = Context(*told, vector=told[0][:, 0]) if crosses else None
    cache, x = empty_cache(rows, torch.device("cpu")), torch.randn(rows, 14, 16).double()
    stack.step(x[:, :4], cache, context=context)
    cache.set_lengths(torch.arange(rows) % 3 + 2)
    other = fixed_copy(stack.spec, cache, x[:, 0], context, record=False)
    for begin, end in ((4, 5), (5, 8), (8, 9)):
        plain = stack.step(x[:, begin:end], cache, context=context)
        torch.testing.assert_close(stack.step(x[:, begin:end], other, context=context), plain)
    kept = torch.tensor([rows - 1])
    cache, other = cache.select(kept), other.select(kept)
    context = context and context.select(kept)
    plain = stack.step(x[kept, 9:10], cache, context=context)
    torch.testing.assert_close(stack.step(x[kept, 9:10], other, context=context), plain)
    assert torch.equal(other.positions(1), cache.positions(1))


MODELS = {
    "plain": {},
    "context": {"fine_context_faces": 1, "copy_dim": 8, "copy_digit_faces": 1},
    "recurrent": {"fine_pre_gateloop_depth": 1, "face_features": ("area",)},
}


@pytest.mark.parametrize("name", MODELS)
def test_generation_says_the_same(name, unrecorded):
    model = transformer(**MODELS[name])
    for options in ({"max_faces": 12, "min_faces": 12}, {"batch_size": 5, "max_faces": 9, "temperature": 2.0}):
        plain = model.generate_result(seed=3, **options)
        unrecorded.clear()
        same = model.generate_result(seed=3, cuda_graphs=True, **options)
        assert torch.equal(plain.codes, same.codes) and plain.stopped_by == same.stopped_by
        assert max(unrecorded) == (8 if "batch_size" in options else 1)


def test_so_it_does_when_asked_for_something_with_guidance_and_prompts(unrecorded):
    model = transformer(condition_on_faces=True, code_digits=2)
    prompt = torch.randint(8, (3, 20))
    prompt[1, 9:], prompt[2, 12:] = -1, -1
    asked = {"num_faces": [5, 9, 30], "prompt": prompt, "cond_scale": 2.0, "seed": 1, "max_faces": 10}
    same = model.generate_result(**asked, cuda_graphs=True)
    assert torch.equal(model.generate_result(**asked).codes, same.codes) and max(unrecorded) == 8


def test_and_of_patches(unrecorded):
    model = transformer(PatchTokenizer(), max_seq_len=100)
    asked = {"batch_size": 2, "seed": 1, "max_seq_len": 20}
    assert torch.equal(model.generate_result(**asked).codes, model.generate_result(**asked, cuda_graphs=True).codes)
    assert unrecorded


def test_a_step_is_made_once_for_each_shape(unrecorded, monkeypatch):
    made, begin = [], Recorded.__init__
    monkeypatch.setattr(Recorded, "__init__", lambda self, *args: made.append(1) or begin(self, *args))
    transformer().generate_result(seed=0, max_faces=14, min_faces=14, cuda_graphs=True)
    assert len(made) == 1 + 3  # the fine stack's; the coarse stack's with room for 4, 8 and 16 positions


def test_what_cannot_be_recorded_runs_as_it_is(monkeypatch):
    def fails(*_):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.cuda, "Stream", fails)
    step = Recorded(lambda: torch.ones(2), record=True)
    with pytest.warns(UserWarning, match="without CUDA graphs, for none can be recorded: operation not permitted"):
        assert torch.equal(step(), torch.ones(2))
    assert torch.equal(step(), torch.ones(2))  # and says so once


def test_graphs_without_a_gpu_are_refused_and_left_out_where_not_asked_for():
    model = transformer()
    with pytest.raises(GenerationError, match="cuda_graphs = True, but this model cannot: it is on the device cpu"):
        model.generate_result(cuda_graphs=True)
    assert not model._graphs(False, True)


@pytest.mark.parametrize("options", [{"window": 4}, {"distance_bias": True}, {"attn_num_mem_kv": 1}])
def test_models_whose_shapes_do_not_stay_say_why(options):
    assert "it has" in readers.why_no_graphs(transformer(**options))


def test_nor_do_they_in_float16_or_under_autocast():
    assert not readers.why_no_graphs(transformer()) and not readers.why_no_graphs(transformer().bfloat16())
    assert "float16 or under autocast" in readers.why_no_graphs(transformer().half())
    with torch.autocast("cpu", torch.bfloat16):
        assert "float16 or under autocast" in readers.why_no_graphs(transformer())


def test_in_bfloat16_the_same_is_said_but_for_rounding(unrecorded):
    model, seen = transformer().bfloat16(), {}
    codes = [0, 0, 0, 1, 0, 0, 1, 1, 0, 0, 1, 0, 2, 0, 0, 2, 1, 0, model.vocab_size]

    def saying(logits, kept):
        kept.append(logits)
        return torch.full_like(logits, -torch.inf).index_fill(1, torch.tensor([codes[len(kept) - 1]]), 0.0)

    for graphs in (False, True):
        options = {"filter_logits_fn": saying, "filter_kwargs": {"kept": seen.setdefault(graphs, [])}}
        model.generate_result(seed=0, cuda_graphs=graphs, **options)
    torch.testing.assert_close(torch.cat(seen[False])[::9], torch.cat(seen[True])[::9], rtol=0.05, atol=0.05)


@ON_GPU
@pytest.mark.parametrize("name", MODELS)
def test_recorded_steps_say_the_same(name):
    model = transformer(**MODELS[name]).cuda()
    for options in ({"max_faces": 12, "min_faces": 12}, {"batch_size": 5, "max_faces": 9, "temperature": 2.0}):
        plain = model.generate_result(seed=3, cuda_graphs=False, **options)
        same = model.generate_result(seed=3, cuda_graphs=True, **options)
        assert torch.equal(plain.codes, same.codes)
