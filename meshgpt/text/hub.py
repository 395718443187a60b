"""T5, CLIP, BGE and any other encoder of a model hub or of a folder, through transformers where that is installed.

Whether the hub can be reached is found out in a second and a half, before anything heavy is imported; models that are
on this machine already are used without asking it.
"""

import hashlib
import importlib
import importlib.util
import json
import os
import threading
import urllib.error
import urllib.parse
import urllib.request
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, no_type_check

import torch

from meshgpt.checkpoint import file_sha256
from meshgpt.errors import MissingExtraError, TextEncoderError
from meshgpt.text.embedding import WAYS_OUT, TextEmbedding, TextEncoder, as_embedding, embed_distinct
from meshgpt.text.language import is_foreign, warn_of_foreign

WIDTHS = {  # known without a network
    "google/t5-v1_1-small": 512,
    "google/t5-v1_1-base": 768,
    "google/t5-v1_1-large": 1024,
    "google/t5-v1_1-xl": 2048,
    "openai/clip-vit-base-patch32": 512,
    "openai/clip-vit-base-patch16": 512,
    "openai/clip-vit-large-patch14": 768,
    "BAAI/bge-small-en-v1.5": 384,
    "BAAI/bge-base-en-v1.5": 768,
    "BAAI/bge-large-en-v1.5": 1024,
}
WIDTH_KEYS = ("hidden_size", "d_model", "n_embd", "dim")
TEXT_PARTS = {  # model_type -> the class that holds the part that reads texts; AutoModel for all others
    "clip": "CLIPTextModel",
    "t5": "T5EncoderModel",
    "mt5": "MT5EncoderModel",
    "umt5": "UMT5EncoderModel",
    "siglip": "SiglipTextModel",
}
ENGLISH = ("t5-v1_1", "clip-vit", "-en", "minilm-l6")  # parts of names of models that know nothing else
SECONDS_TO_ANSWER = 1.5
AT_ONCE, MOST_TOKENS = 64, 256
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
INSTALL = "pip install 'meshgpt[text-hub]'"


class Loaded(NamedTuple):
    """A model in inference and its tokenizer, as transformers gives them."""

    model: Any
    tokenizer: Any
    width: int


class HubEncoder(TextEncoder):
    """An encoder of the hub, "owner/name", or of a folder: the states of its last layer, one a token.

    Nothing is loaded, and no network touched, before the first text. Raises `MissingExtraError` without transformers
    and `TextEncoderError` for a model that is not here and cannot be fetched, both in under two seconds. `hint` ends
    the message of the latter. Texts of more than 256 tokens, or as many as the model can read, are cut.
    """

    @no_type_check
    def __init__(self, model, name=None, hint=""):
        self.model, self.name, self.hint = str(model), name or str(model), hint
        self._loaded = None

    @property
    def dim(self) -> int:
        return known_width(self.model) or self._load().width

    @cached_property
    def identity(self) -> str:
        """The hash of the files in the folder, or the revision of the repository that is on this machine."""
        folder = Path(self.model)
        if not folder.is_dir():
            if cached_file(self.model, "config.json") is None:
                self._load()
            config = cached_file(self.model, "config.json")
            return f"{self.model} {config.parent.name if config else 'newest'}"
        files = sorted(path for path in folder.iterdir() if path.is_file())
        told = "".join(f"{path.name} {file_sha256(path)} " for path in files)
        return hashlib.sha256(told.encode()).hexdigest()

    @no_type_check
    def embed(self, texts) -> TextEmbedding:
        """Warns (`UnknownLanguageWarning`) of a text that the encoder cannot be expected to understand."""
        return embed_distinct(texts, self._embed, lambda: self.dim)

    def _embed(self, texts: list[str]) -> TextEmbedding:
        parts = [self._embed_part(texts[start : start + AT_ONCE]) for start in range(0, len(texts), AT_ONCE)]
        english = any(part in self.model.lower() for part in ENGLISH)
        shares = [share for _, part in parts for share in part]
        foreign = [text for text, share in zip(texts, shares, strict=True) if is_foreign(text, share, english)]
        warn_of_foreign(foreign, self.name, "English" if english else "other languages")
        return TextEmbedding.join([embedding for embedding, _ in parts])

    def _embed_part(self, texts: list[str]) -> tuple[TextEmbedding, list[float]]:
        """Embeddings, and the share of tokens in each text that the tokenizer does not know."""
        model, tokenizer, _ = self._load()
        limit = min(tokenizer.model_max_length, MOST_TOKENS)
        read = tokenizer(texts, padding=True, truncation=True, max_length=limit, return_tensors="pt")
        ids, mask = read["input_ids"], read["attention_mask"].bool()
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            states = model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        unknown = tokenizer.unk_token_id
        if unknown is None or unknown in (tokenizer.eos_token_id, tokenizer.pad_token_id):
            unknown = -1
        shares = ((ids == unknown) & mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
        return as_embedding(states, mask, len(texts), self.name), shares.tolist()

    def _load(self) -> Loaded:
        if self._loaded is None:
            if importlib.util.find_spec("transformers") is None:
                command = f"{INSTALL}. Other ways: {WAYS_OUT}"
                raise MissingExtraError("transformers", "text-hub", f"the text encoder '{self.name}'", command)
            self._loaded = self._from_here() or self._read(local_files_only=False)
        return self._loaded

    def _from_here(self) -> Loaded | None:
        """The model as it lies on this machine; None where it can be fetched. Raises if neither."""
        is_folder, problem = Path(self.model).is_dir(), None
        if is_folder or cached_file(self.model, "config.json"):
            try:
                return self._read(local_files_only=True)
            except TextEncoderError as error:  # of the files of a repository, not all may be here
                problem = error
        reason = None if is_folder else why_out_of_reach(self.model)
        if reason and not problem:
            problem = TextEncoderError(f"the text encoder {self._title()} {reason}. Ways out: {WAYS_OUT}{self.hint}")
        if problem and (is_folder or reason):
            raise problem
        return None

    def _read(self, local_files_only: bool) -> Loaded:
        where = {"local_files_only": local_files_only}
        try:
            transformers = importlib.import_module("transformers")
            config = transformers.AutoConfig.from_pretrained(self.model, **where)
            kind = getattr(transformers, TEXT_PARTS.get(config.model_type, "AutoModel"))
            model = kind.from_pretrained(self.model, **where).float().eval()
            tokenizer = transformers.AutoTokenizer.from_pretrained(self.model, **where)
        except Exception as error:  # transformers and the hub have many kinds; all mean that there is no encoder
            reason = str(error).strip().split("\n")[0]
            raise TextEncoderError(
                f"the text encoder {self._title()} cannot be loaded ({type(error).__name__}: {reason}). Ways out: "
                f"{WAYS_OUT}"
            ) from error
        if model.config.is_encoder_decoder and model.config.model_type not in TEXT_PARTS:
            model = model.get_encoder()
        tokenizer.padding_side = "right"
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        return Loaded(model.requires_grad_(False), tokenizer, _width(model.config.to_dict()) or 0)

    def _title(self) -> str:
        return f"'{self.name}'" if self.name == self.model else f"'{self.name}' ({self.model})"


def known_width(model: str) -> int | None:
    """The width of the vectors of a model, as far as it is known without a network."""
    if model in WIDTHS:
        return WIDTHS[model]
    path = Path(model, "config.json") if Path(model).is_dir() else cached_file(model, "config.json")
    try:
        return _width(json.loads(path.read_text(encoding="utf-8"))) if path else None
    except (OSError, ValueError):
        return None


def _width(config: dict[str, Any]) -> int | None:
    parts = (config.get("text_config") or {}, config)
    return next((int(part[key]) for part in parts for key in WIDTH_KEYS if key in part), None)


def cached_file(model: str, file: str) -> Path | None:
    """Where a file of a repository lies in the local cache of the hub; None if it does not."""
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(model, file)
    except ValueError:  # no possible name of a repository
        return None
    return Path(found) if isinstance(found, str) else None


def why_out_of_reach(model: str, seconds: float = SECONDS_TO_ANSWER) -> str | None:
    """Why a model of the hub cannot be fetched now; None if it can. Answers within `seconds`, whatever the network."""
    switched_off = next(
        (name for name in OFFLINE if os.environ.get(name, "").lower() in ("1", "true", "yes", "on")), None
    )
    if switched_off:
        return f"is not on this machine, and the hub is switched off ({switched_off})"
    from huggingface_hub.constants import ENDPOINT

    answer: list[str | None] = []
    address = f"{ENDPOINT}/{urllib.parse.quote(model)}/resolve/main/config.json"
    thread = threading.Thread(target=lambda: answer.append(_asked(address, seconds)), daemon=True)
    thread.start()  # looking up a name can take longer than any time limit of a request
    thread.join(seconds)
    return answer[0] if answer else f"is not on this machine, and {ENDPOINT} does not answer"


def _asked(address: str, seconds: float) -> str | None:
    try:
        with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=seconds):
            return None
    except urllib.error.HTTPError as error:
        if error.code in (401, 403, 404):
            return f"is neither a folder nor a public model of the hub ({address}: {error.code} {error.reason})"
        return f"is not on this machine, and the hub answers {error.code} {error.reason}"
    except (OSError, ValueError) as error:
        return f"is not on this machine, and the hub cannot be reached ({error})"
