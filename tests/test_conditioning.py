"""What a transformer is asked for: conditions as values, what they change, and what they must not change."""

import dataclasses
import warnings

import pytest
import torch
from test_generation import Recorder, lively
from test_transformer import OPTIONS, make_codes

from meshgpt.errors import CodesError, ConditionError, ConfigError
from meshgpt.tokenizers.autoencoder import MeshAutoencoder
from meshgpt.transformer.conditioning import dropped_at_random
from meshgpt.transformer.conditions import FACE_BUCKETS, Conditions, face_bucket
from meshgpt.transformer.config import LayerSpec, MeshTransformerConfig
from meshgpt.transformer.transformer import MeshTransformer

EACH = {
    "text": {"condition_on_text": True, "dim_text": 12},
    "category": {"categories": ("chair", "table", "teapot")},
    "num_faces": {"condition_on_faces": True},
    "points": {"condition_on_points": True, "num_point_latents": 5, "point_encoder_depth": 1},
}
ALL = {name: value for options in EACH.values() for name, value in options.items()}
WAYS = {
    "cross-attention": {},
    "fine as well": {"fine_cross_attend_text": True, "fine_context_faces": 1, "dim": 32},
    "film": {"text_cond_with_film": True, "num_sos_tokens": 4},
    "adaptive norms": {"coarse_adaptive_rmsnorm": True},
    "reversible": {"reversible": True, "coarse_adaptive_rmsnorm": True, "fine_cross_attend_text": True},
    "checkpointing": {"checkpointing": True, "add_value_residual": True},
    "memory, values, streams": {"attn_num_mem_kv": 2, "add_value_residual": True, "num_residual_streams": 2},
    "pointer, recurrence": {"copy_dim": 8, "coarse_pre_gateloop_depth": 1, "coarse_post_gateloop_depth": 1},
    "points nearby": {"local_points": 3},
    "face features, distances": {"face_features": ("area",), "distance_bias": True},
    "only before the second layer": {
        "coarse_layers": (
            LayerSpec("attention"),
            LayerSpec("recurrence"),
            LayerSpec("cross_attention"),
            LayerSpec("attention"),
        )
    },
}
every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
GUIDANCE = {
    "plain": {"cond_scale": 3.0},
    "rescaled": {"cond_scale": 3.0, "rescale_phi": 0.7},
    "orthogonal": {"cond_scale": 3.0, "remove_parallel_component": True},
    "mostly orthogonal": {"cond_scale": 5.0, "remove_parallel_component": True, "keep_parallel_frac": 0.2},
    "scheduled": {"cond_scale": 4.0, "cond_scale_end": 1.0, "schedule_faces": 3},
    "of one kind": {"cond_scale": 2.0, "guided": ("text",)},
}


def conditioned(seed=0, **options):
    """A small model of character that takes every condition unless `options` say which."""
    options = options if any(key in ALL for key in options) else {**ALL, **options}
    model = lively(seed=seed, **options)
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # what is asked should be heard
            if "conditioner" in name or "to_start" in name or "film" in name or "to_gamma" in name:
                parameter.mul_(2).add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return model


def asked(seed=0):
    """Conditions of three meshes, as a caller gives them; none has them all, the last has none."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]]).bool()
    return {
        "text_embeds": draw(3, 4, 12),
        "text_mask": mask,
        "categories": ["chair", None, None],
        "num_faces": [None, 12, None],
        "points": [draw(30, 3).clamp(-1, 1), draw(9, 6).clamp(-1, 1), None],
    }


# conditions are heard


@every_way
def test_every_parameter_gets_a_gradient(way):
    model = conditioned(**way).train()
    loss = model(codes=make_codes(model, [18, 12, 6]), cond_drop_prob=0.0, **asked())
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        tables = ("remaining", "num_faces", "category")  # of which some rows only are looked up
        never = (*(f"conditioner.{table}" for table in tables), "cloud_reader.bins")
        assert name.startswith(never) or parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("kind", EACH)
def test_each_condition_changes_the_first_code_and_a_missing_one_is_as_if_never_asked(kind):
    model = conditioned(**EACH[kind]).eval()
    argument = {"text": "text_embeds", "category": "categories"}.get(kind, kind)
    given = {name: value for name, value in asked().items() if name == argument}
    given |= {"text_mask": asked()["text_mask"]} if kind == "text" else {}
    logits = model.forward_on_codes(make_codes(model, [6, 6, 6]).fill_(3), return_loss=False, **given)
    unasked = model.forward_on_codes(make_codes(model, [6]).fill_(3), return_loss=False)[0]
    heard = 0 if kind in ("text", "category", "points") else 1
    assert (logits[heard, :6] - unasked[:6]).abs().nan_to_num(0).max() > 1e-3
    torch.testing.assert_close(logits[2], unasked, atol=1e-4, rtol=0)


@every_way
def test_conditions_of_a_row_do_not_depend_on_its_batch(way):
    model = conditioned(**way).eval()
    codes, conditions = make_codes(model, [12, 18, 6]), model.conditions_of(**asked())
    together = model.forward_on_codes(codes, return_loss=False, conditions=conditions)
    for row in range(3):
        alone = conditions.select(torch.tensor([row]))
        length = int((codes[row] >= 0).sum())
        logits = model.forward_on_codes(codes[row : row + 1, :length], return_loss=False, conditions=alone)
        torch.testing.assert_close(together[row, : length + 1], logits[0], atol=1e-4, rtol=0)


def test_a_later_code_changes_no_earlier_logit():
    model = conditioned(fine_cross_attend_text=True).eval()
    codes = make_codes(model, [24, 24, 24])
    changed = codes.clone()
    changed[:, 13] = (changed[:, 13] + 1) % model.vocab_size
    one, other = (model.forward_on_codes(c, return_loss=False, **asked()) for c in (codes, changed))
    torch.testing.assert_close(one[:, :14], other[:, :14], atol=1e-5, rtol=0)
    assert (one[:, 14:] - other[:, 14:]).nan_to_num(0).abs().max() > 1e-4


@every_way
def test_checkpointed_and_plain_training_agree(way):
    model = conditioned(**way)
    codes = make_codes(model, [18, 12, 6])
    plain = model.train()(codes=codes, cond_drop_prob=0.0, **asked())
    evaluated = model.eval()(codes=codes, **asked())
    torch.testing.assert_close(plain, evaluated, atol=1e-5, rtol=1e-5)


# generation


@every_way
@pytest.mark.parametrize("guidance", [{}, GUIDANCE["plain"]], ids=["no guidance", "guidance"])
def test_cached_and_uncached_logits_agree_for_every_way(way, guidance):
    compare(conditioned(**way), guidance, [])


@pytest.mark.parametrize("guidance", GUIDANCE.values(), ids=GUIDANCE.keys())
def test_cached_and_uncached_logits_agree_under_every_guidance(guidance):
    compare(conditioned(copy_dim=8), guidance, [])
    compare(conditioned(), guidance, [13, 6, 0])  # a prompt within a face, texts of different lengths


def compare(model, guidance, prompt):
    runs = []
    for cache_kv in (True, False):
        recorder = Recorder()
        options = {"prompt": make_codes(model, prompt)} if prompt else {}
        options |= {"filter_logits_fn": recorder, "seed": 0, "max_seq_len": 33}
        result = model.generate_result(cache_kv=cache_kv, **options, **asked(), **guidance)
        runs.append((result, recorder.seen))
    (cached, seen), (uncached, seen_uncached) = runs
    assert torch.equal(cached.codes, uncached.codes) and cached.stopped_by == uncached.stopped_by
    assert len(seen) == len(seen_uncached) > 5
    for one, other in zip(seen, seen_uncached, strict=True):
        torch.testing.assert_close(one, other, atol=2e-4, rtol=0)


@pytest.mark.parametrize("guidance", [{}, GUIDANCE["plain"], GUIDANCE["scheduled"]])
def test_what_a_seed_gives_does_not_depend_on_its_batch(guidance):
    model = conditioned()
    conditions = model.conditions_of(**asked())
    options = {"max_faces": 5, "return_codes": True, **guidance}
    together = model.generate(seed=(7, 8, 9), conditions=conditions, **options)
    for row in range(3):
        alone = model.generate(seed=7 + row, conditions=conditions.select(torch.tensor([row])), **options)[0]
        assert torch.equal(together[row][together[row] >= 0], alone[alone >= 0])


def test_one_condition_serves_a_whole_batch_and_a_prompt_goes_with_any_number():
    model = conditioned()
    prompt = make_codes(model, [6])
    codes = model.generate(prompt=prompt, categories="chair", batch_size=3, seed=0, max_faces=3, return_codes=True)
    assert codes.shape[0] == 3 and (codes[:, :6] == prompt).all()
    alone = model.generate(prompt=prompt, categories=["chair"], seed=2, max_faces=3, return_codes=True)
    assert torch.equal(codes[2][codes[2] >= 0], alone[0][alone[0] >= 0])


# dropping


def test_each_kind_is_dropped_as_often_as_the_config_says():
    options = {**ALL, "text_condition_cond_drop_prob": 0.5, "condition_drop_prob": 0.2, "unconditional_prob": 0.1}
    config = MeshTransformerConfig(dim=32, **options)
    torch.manual_seed(0)
    count = 4000
    everything = Conditions(
        count,
        torch.ones(count, 2, 12),
        torch.ones(count, 2, dtype=torch.bool),
        torch.zeros(count, dtype=torch.long),
        torch.full((count,), 5),
        torch.ones(count, 3, 6),
        torch.ones(count, 3, dtype=torch.bool),
    )
    left = dropped_at_random(everything, config)
    for kind, share in {"text": 0.9 * 0.5, "category": 0.9 * 0.8, "num_faces": 0.9 * 0.8, "points": 0.9 * 0.8}.items():
        assert left.present(kind).float().mean().item() == pytest.approx(share, abs=0.03)
    together = dropped_at_random(everything, config, cond_drop_prob=0.3)
    assert torch.equal(together.present("text"), together.present("points"))
    assert together.present("text").float().mean().item() == pytest.approx(0.7, abs=0.03)


def test_training_drops_and_evaluation_does_not():
    model = conditioned(**{**ALL, "unconditional_prob": 1.0})
    codes = make_codes(model, [6, 6, 6])
    unasked = model.eval().losses(codes).loss
    torch.testing.assert_close(model.train()(codes=codes, **asked()), unasked)
    torch.testing.assert_close(model(codes=codes, cond_drop_prob=1.0, **asked()), unasked)
    assert (model.eval()(codes=codes, **asked()) - unasked).abs() > 1e-4
    torch.testing.assert_close(model(codes=codes, cond_drop_prob=1.0, **asked()), unasked)


def test_a_mesh_has_as_many_faces_as_it_has_unless_told():
    model = conditioned(**EACH["num_faces"]).eval()
    codes = make_codes(model, [18, 6])
    torch.testing.assert_close(model(codes=codes), model(codes=codes, num_faces=[3, 1]))
    assert (model(codes=codes, num_faces=[300, 100]) - model(codes=codes)).abs() > 1e-4


# values


def test_joining_and_selecting_undo_each_other():
    model = conditioned()
    one = model.conditions_of(**asked())
    other = model.conditions_of(2, categories="table")
    joined = Conditions.join([one, other])
    assert len(joined) == 5 and joined.kinds == ("text", "category", "num_faces", "points")
    back = joined.select(torch.arange(3))
    for field in ("text_embeds", "text_mask", "categories", "num_faces", "points", "point_mask"):
        assert torch.equal(getattr(back, field), getattr(one, field))
    last = joined.select(torch.tensor([4]))
    assert [bool(last.present(kind)) for kind in last.kinds] == [False, True, False, False]


def test_buckets_of_faces_grow_and_end():
    counts = torch.tensor([-3, 0, 1, 2, 3, 4, 100, 107, 130, 200, 16384, 10**6])
    buckets = face_bucket(counts).tolist()
    assert buckets == sorted(buckets) and buckets[:3] == [0, 0, 1] and buckets[-1] == FACE_BUCKETS - 1
    assert buckets[6] == buckets[7] < buckets[8] < buckets[9]


def test_points_without_normals_and_any_number_of_them_are_taken():
    model = conditioned(**EACH["points"])
    cloud = torch.rand(7, 3)
    conditions = model.conditions_of(points=[cloud, torch.rand(1, 6)])
    assert conditions.points.shape == (2, 7, 6) and conditions.point_mask.sum(dim=1).tolist() == [7, 1]
    assert (conditions.points[0, :, 3:] == 0).all()
    torch.testing.assert_close(model.conditions_of(points=cloud).points, conditions.points[:1])


def test_texts_go_through_the_encoder_that_was_given():
    seen = []

    def encode(texts):
        seen.extend(texts)
        lengths = [len(text.split()) for text in texts]
        mask = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
        return torch.ones(*mask.shape, 12) * mask[..., None], mask

    model = conditioned(**EACH["text"])
    model.use_text_encoder(encode)
    conditions = model.conditions_of(texts=["a high chair", "teapot", None])
    assert seen[:2] == ["a high chair", "teapot"]
    assert conditions.text_mask.tolist() == [[True, True, True], [True, False, False], [False, False, False]]
    loss = model(codes=make_codes(model, [6, 6]), texts=["a high chair", "teapot"])
    assert loss.isfinite()
    assert len(model.generate(texts="a table", batch_size=2, cond_scale=3.0, max_faces=2, seed=0)[0]) == 2
    assert (
        len(model.generate(texts=["a table"], negative_texts=["a chair"], cond_scale=2.0, max_faces=2, seed=0)[0]) == 1
    )


def test_saved_and_loaded_it_writes_the_same(tmp_path):
    model = conditioned(fine_cross_attend_text=True)
    model.save_pretrained(tmp_path)
    again = MeshTransformer.from_pretrained(tmp_path, model.tokenizer)
    options = {"seed": 3, "max_faces": 4, "cond_scale": 2.0, "return_codes": True, **asked()}
    assert torch.equal(model.generate(**options), again.generate(**options))


def test_the_interface_of_the_first_readme_runs_with_texts_in_chinese_and_in_english():
    small = {"dim_codebook": 24, "encoder_dims_through_depth": (8,), "decoder_dims_through_depth": (8,)}
    autoencoder = MeshAutoencoder(num_discrete_coors=128, **small)
    vertices, faces = torch.randn((2, 121, 3)), torch.randint(0, 121, (2, 8, 3))
    transformer = MeshTransformer(
        autoencoder, dim=16, attn_depth=1, attn_heads=1, fine_attn_depth=1, max_seq_len=768, condition_on_text=True
    )
    loss = transformer(vertices=vertices, faces=faces, texts=["a high chair", "a small teapot"])
    loss.backward()
    with pytest.warns(UserWarning, match="一把高脚椅"):
        loss = transformer(vertices=vertices, faces=faces, texts=["一把高脚椅", "一个小茶壶"])
    assert loss.isfinite()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        faces_coordinates, face_mask = transformer.generate(texts=["a long table"], cond_scale=3.0, max_faces=3, seed=0)
        assert len(transformer.generate(texts=["一把高脚椅"], cond_scale=3.0, max_faces=2, seed=0)[0]) == 1
    assert faces_coordinates.shape == (1, *face_mask.shape[1:], 3, 3) and face_mask.shape[1] <= 3


# refusals


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"categories": "chiar"}, "unknown category 'chiar': did you mean 'chair'"),
        ({"categories": "xyz"}, "unknown category 'xyz': known are chair, table, teapot"),
        ({"categories": [7]}, "category 7 is none of the 3"),
        ({"num_faces": 0}, "num_faces must be at least 1, or None for any, got 0"),
        ({"points": torch.zeros(0, 3)}, "points 0 is an empty cloud"),
        (
            {"points": [torch.rand(4, 3), torch.full((2, 3), torch.nan)]},
            "points 1 has NaN or infinite values, first in",
        ),
        ({"points": torch.rand(4, 5)}, r"points 0 must be \(p, 3\), or \(p, 6\) with normals, got \(4, 5\)"),
        ({"points": 50 * torch.rand(4, 3)}, "normalise the cloud first"),
        ({"text_embeds": torch.rand(1, 4, 7)}, "text_embeds are 7 wide, the model takes 12"),
        ({"text_embeds": torch.zeros(1, 4, 12, dtype=torch.long)}, "text_embeds must be floats"),
        ({"text_embeds": torch.full((1, 4, 12), torch.nan)}, "NaN or infinite value in row 0, token 0"),
        ({"text_embeds": torch.rand(1, 4, 12), "text_mask": torch.ones(1, 3)}, r"text_mask is \(1, 3\)"),
        ({"texts": ["a"], "text_embeds": torch.rand(1, 4, 12)}, "both texts and text_embeds"),
        ({"texts": [3]}, "texts must be strings, or None for no text, got int"),
        ({"texts": []}, "no text is given"),
        ({"text_embeds": torch.rand(3, 4, 12), "batch_size": 2}, "2 for batch_size, 3 for text_embeds"),
        ({"categories": ["chair"] * 2, "num_faces": [3] * 3}, "2 for categories, 3 for num_faces"),
        ({"conditions": 3}, "conditions must be a Conditions, got int"),
        ({"conditions": Conditions(3), "batch_size": 2}, "conditions of 3 meshes for a batch of 2"),
        ({"conditions": Conditions(2), "categories": "chair"}, "both conditions and categories are given"),
    ],
)
def test_malformed_conditions_are_refused(given, message):
    with pytest.raises(ConditionError, match=message):
        conditioned().generate(**given)


def test_conditions_that_a_model_was_not_made_for_are_refused():
    model = conditioned(**EACH["category"])
    codes = make_codes(model, [6])
    with pytest.raises(ConditionError, match="takes no `texts`, it was made for categories"):
        model(codes=codes, texts=["a chair"])
    with pytest.raises(ConditionError, match="takes no `points`"):
        model.generate(points=torch.rand(5, 3))
    with pytest.raises(ConditionError, match="takes no `texts`"):
        model.losses(codes, Conditions(1, torch.rand(1, 2, 12), torch.ones(1, 2, dtype=torch.bool)))
    with pytest.raises(ConditionError, match="none is given: pass some of categories"):
        model.train()(codes=codes)
    with pytest.raises(ConditionError, match="a text encoder for a model that takes no text"):
        model.use_text_encoder(lambda texts: (torch.zeros(1, 1, 1), None))
    with pytest.raises(ConditionError, match="negative_texts without guidance"):
        conditioned().generate(categories="chair", negative_texts=["b"])
    unconditional = lively()
    with pytest.raises(ConditionError, match="unconditional and takes no text"):
        unconditional.losses(
            make_codes(unconditional, [6]), Conditions(1, torch.rand(1, 2, 12), torch.ones(1, 2).bool())
        )
    with pytest.raises(ConditionError, match="nothing to guide"):
        unconditional.generate(cond_scale=3.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"condition_on_text": True, "text_condition_model_types": ("owner/unheard-of",)}, "dim_text must be given"),
        ({"condition_on_text": True, "text_condition_model_types": ("minilm", "t5")}, "name one text encoder"),
        ({"categories": ("a", "a")}, "be different names"),
        ({"text_cond_with_film": True}, "for a model that takes no condition"),
        ({"unconditional_prob": 1.5}, r"lie in \[0, 1\]"),
        ({"condition_on_faces": True, "cross_attn_num_mem_kv": 0}, "be at least 1"),
        ({"condition_on_points": True, "point_encoder_depth": -1}, "not be negative"),
        ({"coarse_layers": (LayerSpec("cross_attention"),)}, "no cross_attention without a condition"),
    ],
)
def test_impossible_configs_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        MeshTransformerConfig(**options)


def test_without_conditions_nothing_is_added():
    plain, other = lively(**OPTIONS["many"]), lively(**OPTIONS["many"])
    assert plain.conditioner is None and not any("cross" in name for name, _ in other.named_parameters())
    assert dataclasses.asdict(plain.config) == dataclasses.asdict(other.config)


def test_codes_are_checked_before_conditions():
    model = conditioned()
    with pytest.raises(CodesError, match="not in the tokenizer's vocabulary"):
        model(codes=torch.full((1, 6), 10**6), categories="chair")
