"""Encoders of a hub: reached or not within two seconds, read from this machine where they are here."""

import http.server
import importlib.util
import json
import socket
import sys
import threading
import time

import pytest
import torch

from meshgpt.errors import MissingExtraError, TextEncoderError
from meshgpt.text import encoder as registry
from meshgpt.text import hub
from meshgpt.text.encoder import dim_of, text_encoder
from meshgpt.text.hub import HubEncoder, why_out_of_reach
from meshgpt.text.language import UnknownLanguageWarning

WORDS = ("<pad>", "</s>", "<unk>", "a", "chair", "table", "small", "round")
with_transformers = pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="not installed")


@pytest.fixture
def online(monkeypatch, tmp_path):
    """As if the hub were not switched off, at an address that a test gives; the local cache is empty."""
    for name in (*hub.OFFLINE, "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "cached_file", lambda model, file: None)
    monkeypatch.setattr(registry, "_MADE", {})
    return lambda address: monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)


@pytest.fixture
def answering(online):
    """A hub on this machine that knows the model 'known/model' and no other."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(200 if "/known/model/" in self.path else 500 if "/broken/" in self.path else 404)
            self.end_headers()

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    online(f"http://127.0.0.1:{server.server_port}")
    yield
    server.shutdown()
    server.server_close()
    thread.join()


def pretend_transformers(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())


def seconds(function, kind):
    start = time.perf_counter()
    with pytest.raises(kind) as caught:
        function()
    return time.perf_counter() - start, str(caught.value)


def test_the_hub_says_what_it_has(answering):
    assert why_out_of_reach("known/model") is None
    assert "neither a folder nor a public model of the hub" in why_out_of_reach("no/such model?")
    assert "the hub answers 500" in why_out_of_reach("broken/model")


def test_a_hub_that_never_answers_is_left_in_time(online, monkeypatch):
    pretend_transformers(monkeypatch)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        online(f"http://127.0.0.1:{silent.getsockname()[1]}")
        taken, message = seconds(lambda: text_encoder("t5").embed("a chair"), TextEncoderError)
    assert taken < 2 and "'t5' (google/t5-v1_1-base)" in message
    for way in ("meshgpt[text]", "'minilm'", "folder", "function", "text_embeds="):
        assert way in message


def test_names_that_cannot_be_looked_up_in_time_are_left_too(online, monkeypatch):
    online("http://slow.invalid")
    monkeypatch.setattr(hub, "_asked", lambda address, seconds: time.sleep(3))
    start = time.perf_counter()
    assert "does not answer" in why_out_of_reach("some/model", seconds=0.2)
    assert time.perf_counter() - start < 1


def test_no_network_is_told_at_once(online, monkeypatch):
    pretend_transformers(monkeypatch)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    online(f"http://127.0.0.1:{port}")  # nobody listens there any more
    taken, message = seconds(lambda: text_encoder("minilmm").embed("a"), TextEncoderError)
    assert taken < 2 and "the hub cannot be reached" in message and message.endswith("Did you mean 'minilm'?")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    taken, message = seconds(lambda: text_encoder("bge").embed("a"), TextEncoderError)
    assert taken < 2 and "the hub is switched off (HF_HUB_OFFLINE)" in message


def test_without_transformers_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    taken, message = seconds(lambda: HubEncoder("clip").embed("a"), MissingExtraError)
    assert taken < 2 and "meshgpt[text-hub]" in message and "text_embeds=" in message


def test_what_transformers_complains_of_is_passed_on(monkeypatch, tmp_path):
    pretend_transformers(monkeypatch)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(TextEncoderError, match=r"cannot be loaded \(ModuleNotFoundError.*Ways out"):
        HubEncoder(tmp_path).embed("a")


@pytest.mark.parametrize(
    ("config", "width"),
    [({"hidden_size": 32}, 32), ({"d_model": 48}, 48), ({"text_config": {"hidden_size": 8}, "hidden_size": 9}, 8)],
)
def test_the_width_of_a_folder_is_read_from_its_config(tmp_path, config, width):
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert dim_of(tmp_path) == dim_of(str(tmp_path)) == HubEncoder(tmp_path).dim == width


def test_a_width_that_cannot_be_known_is_none(tmp_path):
    assert dim_of(tmp_path) is None and dim_of("some/model") is None and dim_of("not a name!") is None
    (tmp_path / "config.json").write_text("{")
    assert dim_of(tmp_path) is None


def save_tiny(folder, kind):
    """A model of random weights with eight words, as transformers saves it."""
    import tokenizers
    import transformers

    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({w: n for n, w in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words.post_processor = tokenizers.processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder)
    sizes = {"vocab_size": len(WORDS), "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    if kind == "t5":
        config = transformers.T5Config(vocab_size=len(WORDS), d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
        transformers.T5ForConditionalGeneration(config).save_pretrained(folder)
    elif kind == "bert":
        transformers.BertModel(transformers.BertConfig(**sizes, intermediate_size=32)).save_pretrained(folder)
    else:
        text = {**sizes, "intermediate_size": 32, "eos_token_id": 1, "bos_token_id": 0, "pad_token_id": 0}
        config = transformers.CLIPConfig(text_config=text, vision_config={**sizes, "intermediate_size": 32})
        transformers.CLIPModel(config).save_pretrained(folder)


@with_transformers
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["t5", "bert", "clip"])
def test_models_in_a_folder_are_read(kind, tmp_path):
    save_tiny(tmp_path, kind)
    encoder = HubEncoder(tmp_path)
    texts = ["a chair", "a small round table", "chair"]
    together = encoder.embed(texts)
    assert together.dim == encoder.dim == 16 and together.mask.sum(dim=1).tolist() == [3, 5, 2]
    for row, text in enumerate(texts):
        alone = encoder.embed(text)
        assert torch.allclose(together.select([row]).embeddings, alone.embeddings, atol=1e-5)
    assert not together.embeddings.requires_grad and HubEncoder(tmp_path).identity == encoder.identity
    with pytest.warns(UnknownLanguageWarning, match="一把高脚椅"):
        encoder.embed("一把高脚椅")
