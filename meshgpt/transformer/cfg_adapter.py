"""classifier-free-guidance-pytorch, for those who build on it: imported only when asked for, without its heavy needs.

That package imports open_clip and transformers at once, for text encoders of its own. open_clip asks for one exact
torchvision, which asks for one exact torch and fails at import beside a CPU torch. Here both are replaced, where they
cannot be imported, by stand-ins that complain only when used. Install it without its dependencies:

    pip install 'meshgpt[cfg]' && pip install --no-deps 'classifier-free-guidance-pytorch>=0.7.1,<0.8'
"""

import contextlib
import importlib
import os
import sys
import warnings
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any, no_type_check

import torch

from meshgpt.errors import ConfigError, MissingExtraError
from meshgpt.text.encoder import text_encoder

PACKAGE = "classifier_free_guidance_pytorch"
INSTALL = "pip install 'meshgpt[cfg]' && pip install --no-deps 'classifier-free-guidance-pytorch>=0.7.1,<0.8'"
ENCODER_NEEDS = {
    "open_clip": ("create_model_and_transforms", "get_tokenizer"),
    "transformers": ("AutoConfig", "AutoModel", "AutoTokenizer", "T5Config", "T5EncoderModel", "T5Tokenizer"),
}
PIP_NAMES = {"open_clip": "open-clip-torch", "transformers": "transformers"}
MOST_TOKENS = 256  # that our encoders give for a text
TEXT_ENCODER_NEEDS = ("dim_latent", "max_text_len", "embed_text")


def guidance_package() -> ModuleType:
    """The imported package: its guidance decorators and text conditioners work whatever else is installed.

    Its import would also copy a `.env` into the environment; that is undone. Raises `MissingExtraError` if the package,
    or something it cannot do without, is not there.
    """
    if sys.modules.get(PACKAGE) is not None:
        return sys.modules[PACKAGE]
    with _same_environment(), _stand_ins(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is annotated in a style that beartype calls deprecated
        try:
            return importlib.import_module(PACKAGE)
        except ImportError as error:
            missing = (error.name or PACKAGE).replace("_", "-")
            raise MissingExtraError(missing, "cfg", "classifier-free guidance as a decorator", INSTALL) from error


def register_text_encoder(name: str, encoder: type) -> None:
    """Makes `encoder` known to the package's text conditioners under `name`, beside its own 't5', 'clip' and 'bge'.

    encoder: a class made with `(model_name, text_embed_pad_value=)` that has `dim_latent`, `max_text_len` and
    `embed_text(texts, return_text_encodings, output_device)`. Raises `ConfigError` for a name in use and for a class
    that lacks one of the three.
    """
    known = importlib.import_module(f"{guidance_package().__name__}.{PACKAGE}").CONDITION_CONFIG
    if name in known:
        raise ConfigError(f"text encoder '{name}' exists already; known: {', '.join(sorted(known))}")
    lacking = [need for need in TEXT_ENCODER_NEEDS if need not in dir(encoder)]
    if lacking:
        raise ConfigError(f"text encoder '{name}' ({encoder.__name__}) lacks {', '.join(lacking)}")
    known[name] = encoder


@no_type_check
def offer_encoder(name: str = "minilm", encoder: Any = None) -> None:
    """Makes one of our text encoders known to the package's text conditioners under `name`.

    encoder: what `text_encoder` takes; the encoder called `name` if not given. Their `model_names` may name another
    one of ours. Nothing is loaded before the first text. Raises `ConfigError` for a name that is known already.
    """
    register_text_encoder(name, _adapted(name if encoder is None else encoder))


@no_type_check
def _adapted(encoder: Any) -> type:
    class Adapted:
        """One of our text encoders as the package asks for it; vectors are `pad` where there is no token."""

        max_text_len = MOST_TOKENS

        def __init__(self, model_name=None, text_embed_pad_value=0.0):
            self.encoder, self.pad = text_encoder(model_name or encoder), text_embed_pad_value

        @property
        def dim_latent(self):
            return self.encoder.dim

        def embed_text(self, texts, return_text_encodings=False, output_device=None):
            found = self.encoder.embed(texts)
            tokens = torch.where(found.mask[..., None], found.embeddings, self.pad)
            return (tokens if return_text_encodings else found.pooled).to(output_device or "cpu")

    return Adapted


@contextlib.contextmanager
def _same_environment() -> Iterator[None]:
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def _stand_ins() -> Iterator[None]:
    """Stand-ins in `sys.modules` for the encoder packages that cannot be imported, for as long as the block lasts."""
    broken = [module for module, names in ENCODER_NEEDS.items() if not _works(module, names)]
    before = {module: sys.modules[module] for module in broken if module in sys.modules}
    sys.modules.update({module: _stand_in(module) for module in broken})
    try:
        yield
    finally:
        for module in broken:
            del sys.modules[module]
        sys.modules.update(before)


def _works(module: str, names: tuple[str, ...]) -> bool:
    """Whether all `names` can be taken from `module`; a broken torchvision raises more than ImportError."""
    try:
        return all(getattr(importlib.import_module(module), name) for name in names)
    except Exception:
        return False


def _stand_in(module: str) -> ModuleType:
    stand_in = ModuleType(module, "Takes the place of a package that cannot be imported; its parts raise when used.")
    for name in ENCODER_NEEDS[module]:
        setattr(stand_in, name, _part(module, name))
    setattr(stand_in, "logging", SimpleNamespace(set_verbosity_error=lambda: None))  # noqa: B010
    return stand_in


def _part(module: str, name: str) -> type:
    """A class that raises `MissingExtraError` when called and when its `from_pretrained` is."""

    def unavailable(*args: Any, **kwargs: Any) -> Any:
        command = f"pip install {PIP_NAMES[module]} (which may bring another torch)"
        raise MissingExtraError(PIP_NAMES[module], "cfg", f"the text encoder built on {module}.{name}", command)

    return type(name, (), {"__new__": unavailable, "from_pretrained": staticmethod(unavailable)})
