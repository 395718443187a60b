"""A small pipeline, untrained, whose model takes every kind of condition and hears them; its texts are letters."""

import pytest
import torch

from meshgpt.mesh.mesh import Mesh
from meshgpt.pipeline import MeshPipeline, MeshPipelineConfig
from meshgpt.text import encoder as registry
from meshgpt.text.embedding import CallableEncoder
from meshgpt.tokenizers.coordinates import CoordinateTokenizer
from meshgpt.transformer.transformer import MeshTransformer

SMALL = {
    "dim": 16, "attn_depth": 1, "attn_heads": 2, "attn_dim_head": 8, "fine_attn_depth": 1, "fine_attn_heads": 2,
    "fine_attn_dim_head": 8, "max_seq_len": 270,
}  # fmt: skip
ASKED = {
    "condition_on_text": True, "text_condition_model_types": ("letters",), "dim_text": 3, "condition_on_faces": True,
    "categories": ("chair", "table", "teapot"), "condition_on_points": True, "num_point_latents": 4,
    "point_encoder_depth": 1,
}  # fmt: skip
TETRAHEDRON = Mesh([[0, 0, 0], [0.9, 0, 0], [0, 0.9, 0], [0, 0, 0.9]], [[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
CUBE = Mesh(
    [[x, y, z] for x in (-0.9, 0.9) for y in (-0.9, 0.9) for z in (-0.9, 0.9)],
    [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]],
).triangulated()


def letters(texts):
    """One token a letter."""
    length = max(len(text) for text in texts)
    numbers = torch.tensor([[ord(letter) / 128 for letter in text.ljust(length)] for text in texts])
    mask = torch.tensor([[place < len(text) for place in range(length)] for text in texts])
    return torch.stack((numbers, numbers**2, 1 - numbers), dim=-1), mask


def conditioned_pipeline(config=None, **options) -> MeshPipeline:
    """options: fields of the transformer, in place of those that take every condition."""
    torch.manual_seed(0)
    tokenizer = CoordinateTokenizer()
    model = MeshTransformer(tokenizer, **SMALL, **(options or ASKED))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            loud = 0.5 if "conditioner" in name or "to_start" in name or "cross" in name else 0.1
            parameter.add_(loud * torch.randn(parameter.shape, generator=generator))
    if model.config.condition_on_text:
        model.use_text_encoder(CallableEncoder(letters, dim=3, name="letters"))
    return MeshPipeline(tokenizer, model, config or MeshPipelineConfig(max_faces=8, min_faces=3))


@pytest.fixture
def knows_letters(monkeypatch):
    """The encoder `letters` under its name, for models that are loaded."""
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))
    monkeypatch.setattr(registry, "_MADE", {})
    registry.register("letters", lambda: CallableEncoder(letters, dim=3, name="letters"), 3)
