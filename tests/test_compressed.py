"""Matrices in fewer bits: nearly the same likelihoods, whole meshes, and nothing that could be trained by mistake."""

import pytest
import torch
from torch import nn

from meshgpt.errors import ConfigError
from meshgpt.pipeline import MeshPipeline
from meshgpt.tokenizers.coordinates import CoordinateTokenizer
from meshgpt.tokenizers.patch import PatchTokenizer
from meshgpt.transformer.compressed import Int8Linear, compressed
from meshgpt.transformer.transformer import MeshTransformer

SMALL = {
    "dim": (64, 48),
    "attn_depth": 2,
    "attn_heads": 2,
    "attn_dim_head": 32,
    "fine_attn_heads": 2,
    "max_seq_len": 600,
}


def model_over(tokenizer):
    torch.manual_seed(0)
    return MeshTransformer(tokenizer, **SMALL).eval()


@pytest.mark.parametrize("shape", [(1, 5), (3, 4, 5), (0, 5)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_in_eight_bits_is_nearly_that_layer(shape, bias):
    torch.manual_seed(0)
    layer, x = nn.Linear(5, 7, bias=bias), torch.randn(shape)
    small = Int8Linear(layer)(x)
    assert small.shape == layer(x).shape and small.dtype == x.dtype
    torch.testing.assert_close(small, layer(x), atol=0.05, rtol=0.05)


@pytest.mark.parametrize("kind", ["int8", "bfloat16"])
@pytest.mark.parametrize("tokenizer", [CoordinateTokenizer, PatchTokenizer])
def test_likelihoods_are_nearly_those_of_the_model(kind, tokenizer, tiny_meshes):
    model = model_over(tokenizer())
    mesh = min(tiny_meshes, key=lambda mesh: mesh.num_faces)
    codes, before = model.tokenizer.encode(mesh)[None], [weight.clone() for weight in model.parameters()]
    small = compressed(model, kind)
    one, two = (float(each.losses(codes).row_bits) for each in (model, small))
    assert one != two and abs(one - two) < 0.02 * one
    assert all(torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))
    assert not any(weight.requires_grad for weight in small.parameters())


@pytest.mark.parametrize("kind", ["int8", "bfloat16"])
def test_it_writes_valid_meshes_and_cached_as_uncached(kind):
    small = compressed(model_over(PatchTokenizer()), kind)
    result = small.generate_result(batch_size=3, seed=0, max_seq_len=60)
    assert result.stopped_by == ("end",) * 3
    for row in result.codes:
        small.tokenizer.decode(row[row >= 0])
    assert torch.equal(result.codes, small.generate_result(batch_size=3, seed=0, max_seq_len=60).codes)


def test_what_cannot_be_compressed_is_told():
    model = model_over(CoordinateTokenizer())
    with pytest.raises(ConfigError, match="int8 or bfloat16, not as 'int4'"):
        compressed(model, "int4")
    with pytest.raises(ConfigError, match="this model is on meta"):
        compressed(model.to("meta"), "int8")


def test_a_pipeline_may_read_its_transformer_in_fewer_bits(tmp_path):
    MeshPipeline(CoordinateTokenizer(), model_over(CoordinateTokenizer())).save_pretrained(tmp_path)
    pipe = MeshPipeline.from_pretrained(tmp_path, weights="int8")
    assert any(isinstance(layer, Int8Linear) for layer in pipe.transformer.modules())
    assert pipe.generate(seed=0, max_faces=3)[0].codes.numel() > 0
