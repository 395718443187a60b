"""Embeddings on disk: made once for each text, whoever asks, and never mixed up between encoders."""

import pickle
import types

import numpy as np
import pytest
import torch

from meshgpt.errors import CheckpointError, DataError
from meshgpt.fingerprint import described_by_content
from meshgpt.text.cache import TextEmbeddingCache
from meshgpt.text.embedding import CallableEncoder

TEXTS = ["a chair", "", "a small table", "a chair", "x"]


class Noted:
    """An encoder that notes what it is asked: one token a word, its vector drawn from `scale` and the word."""

    name, dim = "noted", 5

    def __init__(self, scale=1.0, identity="first"):
        self.scale, self.identity, self.asked = scale, identity, []

    def function(self, texts):
        length = max(len(text.split()) for text in texts)
        embeddings = torch.full((len(texts), length, 5), 9.0)
        mask = torch.zeros(len(texts), length, dtype=torch.bool)
        for row, text in enumerate(texts):
            for place, word in enumerate(text.split()):
                embeddings[row, place] = self.scale * torch.from_numpy(np.random.default_rng(len(word)).normal(size=5))
                mask[row, place] = True
        return embeddings, mask

    def embed(self, texts):
        self.asked += texts
        return CallableEncoder(self.function, name="noted").embed(texts)


def test_what_is_kept_is_what_the_encoder_gives(tmp_path):
    encoder = Noted()
    for dtype, tolerance in (("float16", 1e-3), ("float32", 0.0)):
        cached, fresh = TextEmbeddingCache(tmp_path, dtype).embed(encoder, TEXTS), encoder.embed(TEXTS)
        assert torch.equal(cached.mask, fresh.mask) and cached.embeddings.dtype == torch.float32
        assert torch.allclose(cached.embeddings, fresh.embeddings, atol=1e-6, rtol=tolerance)


def test_a_text_is_embedded_once_for_all_runs_and_gives_the_same_to_all(tmp_path):
    first, second = Noted(), Noted()
    made = TextEmbeddingCache(tmp_path).embed(first, TEXTS)
    assert first.asked == ["a chair", "a small table", "x"]
    found = TextEmbeddingCache(tmp_path).embed(second, [*TEXTS, "new"])
    assert second.asked == ["new"]
    assert torch.equal(found.embeddings[: len(TEXTS)], made.embeddings)
    assert len(list(tmp_path.glob("*.embeddings"))) == 1, "one file for the set"


def test_encoders_do_not_meet(tmp_path):
    cache = TextEmbeddingCache(tmp_path)
    one, other = Noted(scale=1.0, identity="one"), Noted(scale=2.0, identity="other")
    assert torch.allclose(cache.embed(one, TEXTS).embeddings * 2, cache.embed(other, TEXTS).embeddings, rtol=1e-2)
    assert cache.path(one) != cache.path(other) != TextEmbeddingCache(tmp_path, "float32").path(other)


def test_functions_are_known_by_what_they_hold(tmp_path):
    def scaled(factor):
        return lambda texts: torch.full((len(texts), 1, 2), factor)

    cache = TextEmbeddingCache(tmp_path)
    assert [float(cache.embed(scaled(factor), "a").embeddings[0, 0, 0]) for factor in (1.0, 2.0, 1.0)] == [1, 2, 1]
    assert len(list(tmp_path.glob("*.embeddings"))) == 2
    named = CallableEncoder(scaled(3.0), name="mine", identity="version 7")
    assert cache.path(named) == cache.path(CallableEncoder(scaled(4.0), name="mine", identity="version 7"))


def test_lookup_computes_nothing_and_names_what_is_missing(tmp_path):
    cache, encoder = TextEmbeddingCache(tmp_path), Noted()
    made = cache.embed(encoder, TEXTS)
    encoder.asked.clear()
    assert torch.equal(cache.lookup(TEXTS).embeddings, made.embeddings)
    assert torch.equal(cache.lookup(["", ""]).mask, torch.zeros(2, 1, dtype=torch.bool))
    with pytest.raises(DataError, match="2 of 3 texts are not in .*: 'never seen', 'nor this'; embed them first"):
        cache.lookup(["x", "never seen", "nor this"])
    other = TextEmbeddingCache(tmp_path)
    with pytest.raises(DataError, match="name the encoder"):
        other.lookup(TEXTS)
    assert torch.equal(other.lookup(TEXTS, encoder).embeddings, made.embeddings)
    assert encoder.asked == []


def test_a_cache_travels_to_other_processes(tmp_path):
    cache, encoder = TextEmbeddingCache(tmp_path), Noted()
    made = cache.embed(encoder, TEXTS)
    assert torch.equal(pickle.loads(pickle.dumps(cache)).lookup(TEXTS, encoder).embeddings, made.embeddings)


def test_vectors_too_large_for_half_precision_are_kept_whole(tmp_path):
    huge = CallableEncoder(lambda texts: torch.full((len(texts), 1, 2), 1e6), name="huge")
    assert TextEmbeddingCache(tmp_path).embed(huge, "a").embeddings.eq(1e6).all()


def test_an_encoder_that_sees_no_token_in_a_text_is_believed(tmp_path):
    deaf = CallableEncoder(lambda texts: (torch.ones(len(texts), 2, 3), torch.zeros(len(texts), 2)), name="deaf")
    for _ in range(2):
        found = TextEmbeddingCache(tmp_path).embed(deaf, ["a", "b"])
        assert found.dim == 3 and not found.mask.any() and found.embeddings.eq(0).all()


def test_wrong_requests_are_refused(tmp_path):
    with pytest.raises(DataError, match="float16 or float32, not as 'int8'"):
        TextEmbeddingCache(tmp_path, "int8")
    with pytest.raises(DataError, match="entry 1"):
        TextEmbeddingCache(tmp_path).embed(Noted(), ["a", None])
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot write"):
        TextEmbeddingCache(tmp_path / "file").embed(Noted(), ["a"])


def test_what_holds_itself_or_a_module_is_described_and_equal_things_alike():
    def make(size):
        thing = types.SimpleNamespace(size=size, library=types)
        thing.itself, thing.of_it = thing, lambda: thing.size
        return thing

    assert described_by_content(make(3)) == described_by_content(make(3)) != described_by_content(make(4))
