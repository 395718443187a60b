"""Guessing ahead: the same meshes in fewer passes, whatever is guessed."""

import pytest
import torch

from meshgpt.errors import ConfigError, GenerationError, TrainingError
from meshgpt.tokenizers.coordinates import CoordinateTokenizer
from meshgpt.tokenizers.patch import PatchTokenizer
from meshgpt.training.mesh_trainers import MeshTransformerTrainer
from meshgpt.transformer.cache import empty_cache
from meshgpt.transformer.draft import AHEAD
from meshgpt.transformer.stack import Stack
from meshgpt.transformer.transformer import MeshTransformer

SMALL = {"dim": (32, 24), "attn_depth": 2, "attn_heads": 2, "attn_dim_head": 16, "fine_attn_depth": 1}
SMALL |= {"fine_attn_heads": 2, "fine_attn_dim_head": 12, "max_seq_len": 200}
PATCHES = PatchTokenizer()


def transformer(**options):
    """With a head that guesses, of random weights; the codes that it guesses are those that begin a mesh and go on."""
    torch.manual_seed(0)
    model = MeshTransformer(PATCHES, **{**SMALL, "draft_dim": 16, **options}).double().eval()
    likely = torch.zeros(PATCHES.vocab_size, dtype=torch.long)
    likely[: PATCHES.layout.block + 1000] = 1
    model.draft.learn_common(likely)
    for weight in model.draft.own.parameters():
        torch.nn.init.normal_(weight, std=2.0)
    return model


@pytest.fixture
def passes(monkeypatch):
    """The numbers of positions of the passes of `Stack.step_tree`."""
    made, step = [], Stack.step_tree

    def counted(self, x, *args):
        made.append(x.shape[1])
        return step(self, x, *args)

    monkeypatch.setattr(Stack, "step_tree", counted)
    return made


@pytest.mark.parametrize("past", [0, 1, 2])
@pytest.mark.parametrize("options", [{"temperature": 0.6}, {"temperature": 1.0, "top_p": 0.9}, {"temperature": 0}])
def test_guessing_changes_nothing(past, options, passes):
    model = transformer(fine_context_faces=past)
    for seed in range(2):
        plain = model.generate_result(seed=seed, max_seq_len=40, **options)
        ahead = model.generate_result(seed=seed, max_seq_len=40, speculate=9, **options)
        assert torch.equal(plain.codes, ahead.codes) and plain.stopped_by == ahead.stopped_by
        assert torch.equal(plain.face_counts, ahead.face_counts)
    assert max(passes) > 1  # it did guess


def test_nor_with_guidance_a_budget_and_a_prompt(passes, tiny_meshes):
    model = transformer(fine_context_faces=1, condition_on_faces=True)
    prompt = PATCHES.encode(min(tiny_meshes, key=lambda mesh: mesh.num_faces))[None, :15]
    asked = {"num_faces": [30], "seed": 2, "max_seq_len": 70, "temperature": 0.7}
    for options in ({}, {"cond_scale": 2.5}, {"cond_scale": 2.5, "rescale_phi": 0.5, "prompt": prompt}):
        plain = model.generate_result(**asked, **options)
        ahead = model.generate_result(**asked, **options, speculate=6)
        assert torch.equal(plain.codes, ahead.codes)
    assert passes


def test_several_rows_and_models_without_a_cache_do_not_guess(passes):
    model = transformer()
    options = {"seed": 0, "max_seq_len": 30, "speculate": 4}
    beside, alone = (model.generate_result(batch_size=rows, **options).codes[0] for rows in (2, 1))
    assert torch.equal(beside[beside >= 0], alone)
    count = len(passes)
    model.generate_result(batch_size=2, **options)
    model.generate_result(cache_kv=False, **options)
    assert len(passes) == count


def test_the_better_the_guesses_the_fewer_the_passes(monkeypatch, passes):
    model = transformer()
    options = {"seed": 1, "temperature": 0.8, "max_seq_len": 80, "min_faces": 20}
    codes = model.generate_result(**options).codes[0]
    told = model.around.told(PATCHES.surroundings_of(codes[None]).places[0])
    model.draft.common = codes.unique()[: len(model.draft.common)]

    def oracle(told_now, before, plan, hints):
        scores = torch.zeros(len(told_now), len(model.draft.common) + 1, dtype=torch.float64)
        for row, (one, code) in enumerate(zip(told_now, before, strict=True)):
            at = [i for i in range(1, len(codes)) if torch.allclose(told[i], one) and codes[i - 1] == code]
            for i in at:
                scores[row, (model.draft.common == codes[i]).nonzero()[0, 0]] = 30
        return scores

    monkeypatch.setattr(model.draft, "forward", oracle)
    assert torch.equal(model.generate_result(**options, speculate=40).codes[0], codes)
    assert len(passes) <= len(codes) / AHEAD + 12


def test_what_is_guessed_learns_beside_the_model_and_changes_nothing_of_it(tiny_meshes):
    model = transformer(dropout=0.0)
    codes = torch.nn.utils.rnn.pad_sequence(
        [PATCHES.encode(mesh) for mesh in sorted(tiny_meshes, key=lambda mesh: mesh.num_faces)[:3]], True, -1
    )
    assert model.losses(codes).loss == transformer_without().losses(codes).loss  # of validation
    grads = {}
    for dim in (0, 16):
        model = (transformer() if dim else transformer_without()).train()
        model.losses(codes).loss.backward()
        grads[dim] = {name: weight.grad for name, weight in model.named_parameters()}
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[16][name], grad)
    assert all(grad.abs().sum() > 0 for name, grad in grads[16].items() if name.startswith("draft.told"))


def test_a_run_learns_which_codes_are_common_and_may_learn_nothing_else(tiny_dataset, tmp_path):
    torch.manual_seed(0)
    model = MeshTransformer(PATCHES, **{**SMALL, "max_seq_len": 800}, draft_dim=16)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    data = tiny_dataset.filter(max_faces=60)
    settings = {"num_train_steps": 2, "batch_size": 4, "checkpoint_folder": str(tmp_path / "r"), "progress": False}
    trainer = MeshTransformerTrainer(model, data, train_only="draft", **settings)
    trainer()
    assert model.draft.is_ready
    changed = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    assert changed and all(name.startswith("draft.") for name in changed)
    assert all(weight.requires_grad for weight in model.parameters())  # as before the run
    again = MeshTransformer.from_pretrained(model.save_pretrained(tmp_path / "m"), PATCHES)
    assert torch.equal(again.draft.common, model.draft.common)
    with pytest.raises(TrainingError, match="none begins with 'craft'"):
        MeshTransformerTrainer(model, data, train_only="craft", **settings)
    assert all(weight.requires_grad for weight in model.parameters())


def test_what_comes_true_stays_in_the_cache():
    cache = empty_cache(1, torch.device("cpu"))
    cache.start_pass(2)
    cache.write(torch.tensor([0.0, 1.0]).view(1, 1, 2, 1), torch.zeros(1, 1, 2, 1))
    cache.advance(2)
    cache.start_pass(4)
    cache.write(torch.arange(10.0, 14.0).view(1, 1, 4, 1), torch.zeros(1, 1, 4, 1))
    cache.keep([0, 2, 3])
    assert cache.keys[0][0, 0, :5, 0].tolist() == [0, 1, 10, 12, 13] and cache.lengths.tolist() == [5]


def test_models_that_cannot_read_ahead_say_why():
    with pytest.raises(GenerationError, match="no extra head that guesses: train one with draft_dim"):
        transformer_without().generate_result(speculate=4)
    with pytest.raises(GenerationError, match="speculate = -1 must be 0, or how many"):
        transformer().generate_result(speculate=-1)
    fresh = MeshTransformer(PATCHES, **SMALL, draft_dim=16)
    with pytest.raises(GenerationError, match="has learned nothing yet"):
        fresh.generate_result(speculate=4)
    reasons = {
        "a window": {"window": 20},
        "its fine stack or its norms": {"condition_on_faces": True, "coarse_adaptive_rmsnorm": True},
        "recurrences, memory": {"attn_num_mem_kv": 2},
    }
    for reason, options in reasons.items():
        with pytest.raises(GenerationError, match=reason):
            transformer(**options).generate_result(speculate=4)


@pytest.mark.parametrize("options", [{"codes_per_step": 2}, {"tell_surroundings": False}])
def test_a_head_that_guesses_needs_patches_said_one_by_one(options):
    with pytest.raises(ConfigError, match="use a PatchTokenizer with codes_per_step = 1"):
        MeshTransformer(PATCHES, **SMALL, draft_dim=16, **options)
    with pytest.raises(ConfigError, match="use a PatchTokenizer"):
        MeshTransformer(CoordinateTokenizer(), **SMALL, draft_dim=16)


def transformer_without():
    torch.manual_seed(0)
    return MeshTransformer(PATCHES, **SMALL).double().eval()
