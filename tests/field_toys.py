"""A small pipeline of fields, untrained, whose field is a ball as large as its latents say."""

import pytest
import torch

from meshgpt.shapes.latent_diffusion import LatentDiffusion
from meshgpt.shapes.pipeline import ShapePipeline, ShapePipelineConfig
from meshgpt.shapes.vecset import VectorSetAutoencoder
from meshgpt.text.embedding import CallableEncoder

AUTOENCODER = {"dim": 16, "num_latents": 6, "dim_latent": 3, "depth": 1, "heads": 2, "dim_head": 8}
PRIOR = {"num_latents": 6, "dim_latent": 3, "dim": 16, "depth": 1, "attn_heads": 2, "attn_dim_head": 8}
ASKED = {
    "condition_on_text": True, "text_condition_model_types": ("letters",), "dim_text": 3,
    "categories": ("chair", "table"), "condition_on_points": True, "num_point_latents": 4, "point_encoder_depth": 1,
}  # fmt: skip
COARSE = ShapePipelineConfig(resolution=16, num_points=64, asked_points=32, num_steps=3)


def small_autoencoder(**fields):
    torch.manual_seed(0)
    return VectorSetAutoencoder(**{**AUTOENCODER, **fields}).eval()


def small_prior(letters=None, **fields):
    """A prior whose weights that begin at 0 are moved; letters: the encoder of its texts."""
    torch.manual_seed(1)
    prior = LatentDiffusion(**{**PRIOR, **fields})
    with torch.no_grad():
        for weight in prior.parameters():
            weight.add_(0.1 * torch.randn(weight.shape))
    if letters is not None:
        prior.use_text_encoder(CallableEncoder(letters, dim=3, name="letters"))
    prior.fit_latents(torch.randn(8, 6, 3))
    return prior.eval()


def small_pipeline(config=COARSE, **fields):
    """fields: of the prior, in place of two categories."""
    return ShapePipeline(small_autoencoder(), small_prior(**(fields or {"categories": ("chair", "table")})), config)


@pytest.fixture
def balls(monkeypatch):
    """Fields are balls with radii between 0.4 and 0.6; to be set below 0 for empty ones, above 2 for full ones."""
    size = {"radius": 0.5}

    def values(self, tokens, latents, points):
        return size["radius"] + 0.1 * torch.tanh(tokens.mean(dim=(1, 2)))[:, None] - points.norm(dim=-1)

    monkeypatch.setattr(VectorSetAutoencoder, "values", values)
    return size
