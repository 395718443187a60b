"""Sizes and settings that go together, by name: `meshgpt train tokenizer|transformer DATA --preset tiny|small|base`."""

import difflib
from dataclasses import dataclass
from typing import Any, no_type_check

from meshgpt.errors import ConfigError
from meshgpt.transformer.config import FACE_FIELDS

LEARNED_CODES = 6  # of a face, in the table of transformers


@dataclass(frozen=True)
class Preset:
    """Keywords of a model, of its trainer, and how many augmented variants of each mesh a transformer learns from."""

    model: dict[str, Any]
    training: dict[str, Any]
    num_variants: int = 1

    @no_type_check
    def model_for(self, tokenizer) -> dict[str, Any]:
        """Keywords of a transformer over `tokenizer`: room for as many faces as with the codes of a learned one.

        Without what only faces that are said one by one have, where they share codes.
        """
        faces, codes = self.model["max_seq_len"] // LEARNED_CODES, tokenizer.tokens_per_face
        fields = {**self.model, "max_seq_len": faces * (codes or tokenizer.many_codes_per_face)}
        return fields if codes else {name: value for name, value in fields.items() if name not in FACE_FIELDS}


def _tokenizer(encoder: tuple, decoder: tuple, width: int, steps: int, batch: int, rate: float) -> Preset:
    model = {"encoder_dims_through_depth": encoder, "decoder_dims_through_depth": decoder, "dim_codebook": width}
    training = {"num_train_steps": steps, "batch_size": batch, "learning_rate": rate}
    return Preset(model, {**training, **_times(steps)})


def _transformer(
    dim: tuple[int, int], depth: int, heads: tuple[int, int], max_seq_len: int, steps: int, faces: int, rate: float
) -> Preset:
    model = {"dim": dim, "attn_depth": depth, "attn_heads": heads[0], "fine_attn_heads": heads[1]}
    model |= {"attn_dim_head": dim[0] // heads[0], "fine_attn_dim_head": dim[1] // heads[1]}
    model |= {"max_seq_len": max_seq_len, "fine_context_faces": 1, "ff_mult": 2.7}
    model |= {"copy_dim": 48, "copy_digit_faces": 1}
    training = {"num_train_steps": steps, "batch_size": 64, "max_faces_per_batch": faces, "learning_rate": rate}
    training |= {"warmup_steps": max(100, steps // 100), "scheduler": "wsd", "decay_fraction": 0.3}
    training |= {"weight_decay": 0.05, "betas": (0.9, 0.98), "ema_decay": 0.998}
    return Preset(model, {**training, **_times(steps)}, num_variants=12)


def _times(steps: int) -> dict[str, int]:
    """How often a run of `steps` is validated and saved."""
    return {"val_every": max(steps // 20, 1), "checkpoint_every": max(steps // 20, 1), "val_num_batches": 20}


# fmt: off
#                     encoder                    decoder              width  steps batch  rate    (cc0-lowpoly: exact)
TOKENIZERS = {
    "tiny":  _tokenizer((32, 64, 64),              (64, 64),              96,    300,  16, 1e-3),  # 100 % of val faces
    "small": _tokenizer((64, 128, 256),            (128, 128, 192),      192,   5000,  16, 5e-4),
    "base":  _tokenizer((64, 128, 256, 256, 384),  (128, 128, 192, 192), 192,  50000,  64, 2e-4),
}
#                       (coarse, fine) depth    heads    codes   steps  faces    rate
TRANSFORMERS = {
    "tiny":  _transformer((160,  96),    4,   (4,  4),   1200,   7500,    400, 1.5e-3),
    "small": _transformer((384, 256),    8,   (6,  4),   2400,  40000,   3200, 6e-4),
    "base":  _transformer((768, 512),   16,  (12,  8),   4800, 200000,  12800, 3e-4),
}
# fmt: on


def field_training(model: str, name: str) -> dict[str, Any]:
    """Keywords of the trainer of a model of fields, "autoencoder" or "denoiser", for a size by its name.

    Sizes of papers, which are not listed, get as many steps as a GPU takes in a day.
    """
    steps, batch, rate, decay = FIELD_TRAINING[model].get(name, (100_000, 64, 1e-4, 0.999))
    training = {"num_train_steps": steps, "batch_size": batch, "learning_rate": rate, "ema_decay": decay}
    return {**training, **_times(steps)}


# fmt: off
FIELD_TRAINING = {  #  steps  batch  rate  average
    "autoencoder": {
        "tiny":     (2_500,   8, 1e-3, 0.99),   # ten minutes on a core
        "compact":  (6_000,  16, 1e-3, 0.99),
        "small":    (8_000,  16, 5e-4, 0.99),
    },
    "denoiser": {
        "tiny":     (1_500,  64, 1e-3, 0.995),
        "small":    (5_000,  64, 5e-4, 0.999),
    },
}
# fmt: on


@no_type_check
def preset(part: str, name: str) -> Preset:
    """The preset `name` of "tokenizer" or "transformer"; raises `ConfigError` that names the nearest, or all."""
    table = {"tokenizer": TOKENIZERS, "transformer": TRANSFORMERS}.get(part)
    if table is None:
        raise ConfigError(f"there are presets for 'tokenizer' and 'transformer', not for {part!r}")
    return named(table, name, part)


@no_type_check
def named(table: dict[str, Any], name: str, part: str) -> Any:
    """What a table has under a name; raises `ConfigError` that names the nearest, or all."""
    if name not in table:
        near = difflib.get_close_matches(str(name), table, n=1)
        advice = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(table)}"
        raise ConfigError(f"no {part} preset is called {name!r}: {advice}")
    return table[name]
