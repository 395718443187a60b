"""One model's weights as the start of another that takes other conditions: the same likelihoods, then more."""

import dataclasses

import pytest
import torch
from test_conditioning import ALL, EACH, asked, conditioned
from test_generation import lively
from test_transformer import OPTIONS, make, make_codes
from toy_tokenizers import RawTokenizer
from training_toys import equal_weights, weights_of

from meshgpt.errors import CheckpointError
from meshgpt.tokenizers.patch import PatchTokenizer
from meshgpt.transformer.config import LayerSpec
from meshgpt.transformer.transformer import MeshTransformer
from meshgpt.transformer.warm_start import initialise_from

FULL = {**ALL, "fine_cross_attend_text": True, "text_cond_with_film": True, "num_sos_tokens": 2}
ALIKE = ("plain", "one digit", "pointer", "context faces", "recurrence", "distance bias", "face features")


def bits(model, codes, **given):
    conditions = model.conditions_of(len(codes), **given) if given else None
    return model.eval().losses(codes, conditions).row_bits


def given_for(kinds):
    """The part of `asked` for some kinds of condition."""
    names = {"text": ("text_embeds", "text_mask"), "category": ("categories",)}
    wanted = [name for kind in kinds for name in names.get(kind, (kind,))]
    return {name: value for name, value in asked().items() if name in wanted}


def same(one, other):
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


# the same likelihood


@pytest.mark.parametrize("options", [*EACH.values(), ALL, FULL], ids=[*EACH, "all", "by every way"])
def test_a_model_that_takes_conditions_begins_where_one_without_stands(options):
    other = lively(num_sos_tokens=options.get("num_sos_tokens", 1))
    model, codes = make(seed=1, **options), make_codes(other, [24, 12, 6])
    report = initialise_from(model, other)
    assert not report.left and set(report.mapped) == set(other.state_dict())
    assert set(report.mapped.values()) | set(report.fresh) == set(model.state_dict())
    same(bits(model, codes), bits(other, codes))  # and what is asked says nothing yet:
    same(bits(model, codes, **given_for(model.config.kinds)), bits(other, codes))


@pytest.mark.parametrize("name", ALIKE)
def test_that_holds_for_every_kind_of_stack(name):
    options = OPTIONS[name]
    other, model = lively(**options), make(seed=1, **options, **ALL)
    codes = make_codes(other, [24, 12, 6])
    initialise_from(model, other)
    same(bits(model, codes, **asked()), bits(other, codes))


def test_a_model_that_is_told_of_more_places_begins_where_one_that_is_not_stands(tiny_meshes):
    sizes = {"dim": (32, 24), "attn_depth": 1, "attn_heads": 2, "attn_dim_head": 16, "fine_attn_depth": 1}
    other = MeshTransformer(PatchTokenizer(tell_likely=False), **sizes, max_seq_len=400)
    model = MeshTransformer(PatchTokenizer(), **sizes, max_seq_len=400)
    for weight in other.head.to_hints.parameters():
        torch.nn.init.normal_(weight)
    report = initialise_from(model, other)
    assert not report.left and all(name.startswith("head.to_agreeing") for name in report.fresh)
    codes = model.tokenizer.encode(min(tiny_meshes, key=lambda mesh: mesh.num_faces))[None]
    same(bits(model, codes), bits(other, codes))
    report = initialise_from(other, model)  # the other way less is told: those weights cannot be taken over
    assert {"around.read.0.weight", "head.to_hints.0.weight"} <= set(report.left)


def test_layers_are_matched_by_their_kind_in_order():
    plain = ("recurrence", "attention", "feedforward", "attention", "recurrence", "attention")
    crossed = ("recurrence", "attention", "cross_attention", "feedforward", "attention", "recurrence", "attention")
    crossed = (*crossed, "cross_attention")
    layers = [{"coarse_layers": tuple(LayerSpec(kind) for kind in kinds)} for kinds in (plain, crossed)]
    other, model = lively(**layers[0]), make(seed=1, **layers[1], **EACH["category"])
    codes = make_codes(other, [24, 12])
    report = initialise_from(model, other)
    assert not report.left
    assert report.mapped["coarse.parts.1.layers.2.1.to_q.weight"] == "coarse.parts.1.layers.3.1.to_q.weight"
    same(bits(model, codes), bits(other, codes))


@pytest.mark.parametrize("kind", EACH)
def test_a_model_with_other_conditions_begins_where_one_of_one_kind_stands(kind):
    other, model = conditioned(**EACH[kind]), make(seed=1, **ALL)
    codes, given = make_codes(other, [24, 12, 6]), given_for([kind])
    report = initialise_from(model, other)
    assert not report.left
    same(bits(model, codes, **given), bits(other, codes, **given))
    same(bits(model, codes), bits(other, codes))
    assert (bits(model, codes, **given) - bits(model, codes)).abs().max() > 1e-3


@pytest.mark.parametrize("kind", EACH)
def test_a_model_with_fewer_conditions_begins_where_one_with_all_stands(kind):
    other, model = conditioned(), make(seed=1, **EACH[kind])
    codes, given = make_codes(other, [24, 12, 6]), given_for([kind])
    report = initialise_from(model, other)
    assert not report.fresh and set(report.left.values()) == {"is no part of this model"}
    same(bits(model, codes, **given), bits(other, codes, **given))


def test_a_model_without_conditions_takes_what_one_with_them_has_beside_them():
    other, model = conditioned(), make(seed=1)
    report = initialise_from(model, other)
    assert not report.fresh and "to_start.weight" in report.left
    assert report.left["conditioner.nothing"] == "is no part of this model"


def test_categories_keep_their_meaning_whatever_their_numbers():
    other = conditioned(categories=("chair", "table", "teapot"))
    model = make(seed=1, categories=("bed", "teapot", "lamp", "chair"))
    codes, fresh = make_codes(other, [24, 12]), weights_of(model)["conditioner.category.weight"]
    report = initialise_from(model, other)
    assert not report.left and "conditioner.category.weight" in report.mapped
    for name in ("chair", "teapot", None):
        same(bits(model, codes, categories=[name] * 2), bits(other, codes, categories=[name] * 2))
    table = model.conditioner.category.weight
    assert torch.equal(table[[0, 2]], fresh[[0, 2]]) and not torch.equal(table[3], fresh[3])


def test_what_is_new_learns_from_the_first_steps():
    other, model = lively(), make(seed=1, **FULL)
    report = initialise_from(model, other)
    before, codes = weights_of(model), make_codes(model, [24, 12, 6])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):  # in the first, only what was set to zero moves; the rest acts through it
        model.train()(codes=codes, cond_drop_prob=0.0, **asked()).backward()
        optimizer.step()
        optimizer.zero_grad()
    still = [name for name in report.fresh if torch.equal(model.state_dict()[name], before[name])]
    assert not still


def test_the_other_model_stays_what_it_was_and_shares_nothing():
    other, model = conditioned(), make(seed=1, **ALL)
    before = weights_of(other)
    initialise_from(model, other)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert equal_weights(weights_of(other), before)


def test_all_is_copied_between_equal_models():
    other, model = conditioned(), make(seed=1, **ALL)
    report = initialise_from(model, other)
    assert not report.left and not report.fresh and equal_weights(weights_of(model), weights_of(other))
    assert report.summary == f"{len(report.mapped)} tensors read, 0 left, 0 of ours as initialised"


# what does not fit


def test_another_text_encoder_has_its_own_projection():
    text = {"condition_on_text": True, "dim_text": 12}
    other = conditioned(**text, text_condition_model_types=("t5",))
    model = make(seed=1, **text, text_condition_model_types=("bge",))
    report = initialise_from(model, other)
    assert report.left["conditioner.text.0.weight"] == "reads the text encoder 't5', not 'bge'"
    assert {"conditioner.text.0.weight", "conditioner.text.1.bias"} <= set(report.fresh)
    codes = make_codes(other, [24, 12])
    same(bits(model, codes), bits(other, codes))


def test_texts_of_another_width_and_categories_of_other_names_are_left():
    options = dataclasses.replace(conditioned().config, dim_text=9, categories=("lamp",)).to_dict()
    other, model = conditioned(), type(conditioned())(make().tokenizer, **options)
    report = initialise_from(model, other)
    assert report.left == {
        "conditioner.text.0.weight": "is (32, 12), conditioner.text.0.weight is (32, 9)",
        "conditioner.category.weight": "has other categories",
    }
    codes, given = make_codes(other, [24, 12, 6]), given_for(["points", "num_faces"])
    same(bits(model, codes, **given), bits(other, codes, **given))


def test_a_deeper_model_takes_the_first_layers():
    other, model = lively(), make(seed=1, attn_depth=3, **EACH["text"])
    report = initialise_from(model, other)
    assert not report.left
    assert any(name.endswith("to_q.weight") and name.startswith("coarse") for name in report.fresh)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"dim": 48, "attn_dim_head": 8, "fine_attn_dim_head": 16},
            r"no attention layer of the other model fits this one: coarse\.parts\.0\.layers\.0\.1\.to_q\.weight is "
            r"\(32, 32\), coarse\.parts\.0\.layers\.0\.1\.to_q\.weight is \(16, 48\); make both of the same sizes",
        ),
        (
            {"coarse_layers": (LayerSpec("feedforward"),), "fine_layers": (LayerSpec("feedforward"),)},
            r"no attention layer .*is no part of this model",
        ),
    ],
)
def test_models_of_other_sizes_are_refused_and_left_as_they_were(options, message):
    other, model = lively(), make(seed=1, **options)
    before = weights_of(model)
    with pytest.raises(CheckpointError, match=message):
        initialise_from(model, other)
    assert equal_weights(weights_of(model), before)


def test_of_a_model_for_another_tokenizer_the_codes_are_left():
    other, model = lively(), make(RawTokenizer(), seed=1, **EACH["points"])
    report = initialise_from(model, other)
    assert any(name.startswith("code_embed") for name in report.left)
    assert any(name.startswith("head") for name in report.fresh)
    assert "coarse.parts.0.layers.0.1.to_q.weight" in report.mapped


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reversible": True}, "the coarse stack is reversible: new cross-attention in it changes"),
        ({"num_residual_streams": 2}, "the coarse stack is of several residual streams: new cross-attention"),
    ],
)
def test_stacks_in_which_no_layer_leaves_the_others_alone_are_told_of(options, message):
    other, model = lively(**options), make(seed=1, **options, **EACH["category"])
    with pytest.warns(UserWarning, match=message):
        initialise_from(model, other)
    again = make(seed=2, **options, **EACH["category"])
    initialise_from(again, model)  # nothing comes between: nothing to tell
    codes = make_codes(other, [24, 12])
    same(bits(again, codes, categories="chair"), bits(model, codes, categories="chair"))
