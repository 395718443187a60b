"""Presets: each builds its model and its trainer's settings, and they grow with their names."""

import pytest
import torch

from meshgpt.errors import ConfigError
from meshgpt.tokenizers.autoencoder_config import MeshAutoencoderConfig
from meshgpt.tokenizers.coordinates import CoordinateTokenizer
from meshgpt.tokenizers.half_edge import HalfEdgeTokenizer
from meshgpt.tokenizers.patch import PatchTokenizer
from meshgpt.tokenizers.strip import StripTokenizer
from meshgpt.training.presets import TOKENIZERS, TRANSFORMERS, preset
from meshgpt.training.settings import TrainerConfig
from meshgpt.transformer.config import MeshTransformerConfig
from meshgpt.transformer.transformer import MeshTransformer


@pytest.mark.parametrize("name", ["tiny", "small", "base"])
def test_every_preset_is_a_valid_model_and_training(name):
    MeshAutoencoderConfig(**preset("tokenizer", name).model)
    config = MeshTransformerConfig(**preset("transformer", name).model)
    assert config.max_seq_len % 6 == 0
    for part in ("tokenizer", "transformer"):
        assert TrainerConfig(**preset(part, name).training).checkpoint_every >= 1
    limit = preset("transformer", name).training["max_faces_per_batch"]
    assert limit >= config.max_seq_len // 6  # the longest mesh that the model takes fits into a batch


def test_larger_names_are_larger_models():
    from meshgpt.tokenizers.autoencoder import MeshAutoencoder

    with torch.device("meta"):
        tokenizer = MeshAutoencoder(encoder_dims_through_depth=(8,), decoder_dims_through_depth=(8,))
        sizes = [
            sum(weight.numel() for weight in MeshTransformer(tokenizer, **row.model).parameters())
            for row in TRANSFORMERS.values()
        ]
    assert sizes == sorted(sizes) and sizes[0] < 3e6 and sizes[-1] > 5e7
    assert list(TOKENIZERS) == list(TRANSFORMERS) == ["tiny", "small", "base"]


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(ConfigError, match=r"no tokenizer preset is called 'smal': did you mean 'small'\?"):
        preset("tokenizer", "smal")
    with pytest.raises(ConfigError, match="there are: tiny, small, base"):
        preset("transformer", "enormous")
    with pytest.raises(ConfigError, match="presets for 'tokenizer' and 'transformer', not for 'pipeline'"):
        preset("pipeline", "tiny")


@pytest.mark.parametrize("kind", [CoordinateTokenizer, PatchTokenizer, HalfEdgeTokenizer, StripTokenizer])
def test_a_preset_has_room_for_the_same_meshes_whatever_the_tokenizer(kind, tiny_meshes):
    tokenizer, chosen = kind(), preset("transformer", "tiny")
    fields = chosen.model_for(tokenizer)
    config = MeshTransformerConfig(**fields)
    assert (config.copy_dim > 0) == (tokenizer.tokens_per_face is not None)
    MeshTransformer(tokenizer, **fields)
    for mesh in tiny_meshes:
        if mesh.num_faces <= 200:
            assert len(tokenizer.encode(mesh)) <= config.max_seq_len
