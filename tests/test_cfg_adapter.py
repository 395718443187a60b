"""The adapter to classifier-free-guidance-pytorch. Where that package is not installed, only its absence is tested."""

import importlib.util
import os
import sys

import pytest
import torch
from torch import nn

from meshgpt.errors import ConfigError, MissingExtraError
from meshgpt.transformer.cfg_adapter import PACKAGE, guidance_package, offer_encoder, register_text_encoder

installed = pytest.mark.skipif(importlib.util.find_spec(PACKAGE) is None, reason="not installed")


class WordCounts(nn.Module):
    """A text encoder small enough to check by hand: one vector a text, the number of words in every entry."""

    dim_latent, max_text_len = 8, 4

    def __init__(self, model_name=None, text_embed_pad_value=0.0):
        super().__init__()
        self.model_name = model_name

    def embed_text(self, texts, return_text_encodings=False, output_device=None):
        counts = torch.tensor([len(text.split()) for text in texts], dtype=torch.float32)
        return counts[:, None].expand(-1, self.dim_latent).to(output_device or "cpu")


class Net(nn.Module):
    def forward(self, x, texts=None, cond_drop_prob=0.0):
        return x * (1.0 if cond_drop_prob == 0.0 else 0.5)


def forget(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
        monkeypatch.delitem(sys.modules, name)


def test_without_the_package_the_error_gives_the_command_that_leaves_torch_alone(monkeypatch):
    forget(monkeypatch)
    monkeypatch.setitem(sys.modules, PACKAGE, None)  # as if it were not there
    with pytest.raises(MissingExtraError, match=r"meshgpt\[cfg\].*--no-deps 'classifier-free-guidance-pytorch"):
        guidance_package()


@installed
def test_the_package_is_imported_without_open_clip_and_transformers(monkeypatch):
    forget(monkeypatch)
    monkeypatch.setitem(sys.modules, "open_clip", None)
    monkeypatch.setitem(sys.modules, "transformers", None)
    package = guidance_package()
    assert package.__name__ == PACKAGE and guidance_package() is package
    assert sys.modules["open_clip"] is None and sys.modules["transformers"] is None, "the stand-ins were left behind"
    with pytest.raises(MissingExtraError, match="pip install transformers"):
        package.T5Adapter("some/model")
    with pytest.raises(MissingExtraError, match="pip install open-clip-torch"):
        package.OpenClipAdapter()


@installed
def test_importing_the_package_does_not_copy_a_dotenv_into_the_environment(monkeypatch, tmp_path):
    forget(monkeypatch)
    before = dict(os.environ)
    guidance_package()
    assert dict(os.environ) == before


@installed
def test_guidance_moves_away_from_the_unconditional_answer():
    guided = guidance_package().classifier_free_guidance(Net.forward)
    x = torch.randn(2, 3)
    cond, null = x, x * 0.5
    assert torch.allclose(guided(Net().eval(), x, cond_scale=3.0), cond + (cond - null) * 2.0)


@installed
def test_our_own_text_encoder_serves_the_packages_conditioners(monkeypatch):
    package = guidance_package()
    known = sys.modules[f"{PACKAGE}.{PACKAGE}"].CONDITION_CONFIG
    monkeypatch.setitem(known, "words", None)
    monkeypatch.delitem(known, "words")
    register_text_encoder("words", WordCounts)
    conditioner = package.TextConditioner(hidden_dims=(16,), model_types=("words",)).eval()
    (film,), _ = conditioner(["a chair", "a very long table"], cond_drop_prob=0.0)
    hidden = torch.randn(2, 16, 5)  # channels first is the default of that package
    assert film(hidden).shape == hidden.shape
    with pytest.raises(ConfigError, match="'words' exists already"):
        register_text_encoder("words", WordCounts)


def letters(texts):
    """One token a letter, each a vector of its code."""
    length = max(len(text) for text in texts)
    embeddings = torch.tensor([[[float(ord(c))] * 6 for c in text.ljust(length)] for text in texts])
    return embeddings, torch.tensor([[place < len(text) for place in range(length)] for text in texts])


@installed
def test_encoders_known_by_name_are_offered_to_the_package(monkeypatch):
    package = guidance_package()
    known = sys.modules[f"{PACKAGE}.{PACKAGE}"].CONDITION_CONFIG
    for name in ("minilm", "letters"):
        monkeypatch.setitem(known, name, None)
        monkeypatch.delitem(known, name)
    offer_encoder()  # loads nothing
    assert known["minilm"]().dim_latent == 384
    offer_encoder("letters", letters)
    adapted = known["letters"](None, text_embed_pad_value=-1.0)
    tokens = adapted.embed_text(["ab", "c"], return_text_encodings=True)
    assert tokens[:, :, 0].tolist() == [[97.0, 98.0], [99.0, -1.0]]
    assert adapted.embed_text(["ab", "c"])[:, 0].tolist() == [97.5, 99.0]
    conditioner = package.AttentionTextConditioner(hidden_dims=(16,), model_types="letters", flash=False).eval()
    (attend,), _ = conditioner(["a chair", "x"], cond_drop_prob=0.0)
    hidden = torch.randn(2, 16, 5)
    assert attend(hidden).shape == hidden.shape and attend(hidden).isfinite().all()


@installed
def test_a_text_encoder_without_its_parts_is_refused():
    with pytest.raises(ConfigError, match=r"'empty' \(object\) lacks dim_latent, max_text_len, embed_text"):
        register_text_encoder("empty", object)
