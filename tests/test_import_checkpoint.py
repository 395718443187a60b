"""Weights of meshgpt-pytorch: every tensor accounted for, the same probabilities, nothing unpickled."""

import re

import pytest
import torch
from safetensors.torch import save_file
from toy_tokenizers import PairTokenizer

from meshgpt.errors import CheckpointError
from meshgpt.tokenizers.autoencoder import MeshAutoencoder
from meshgpt.transformer.import_checkpoint import import_autoencoder, import_transformer, read_foreign_tensors
from meshgpt.transformer.transformer import MeshTransformer

PEER = {
    "dim": 32,
    "attn_depth": 2,
    "attn_heads": 2,
    "attn_dim_head": 16,
    "fine_attn_depth": 1,
    "fine_attn_heads": 2,
    "fine_attn_dim_head": 16,
    "max_seq_len": 60,
    "code_digits": 1,
    "abs_pos_emb": True,
    "rotary_pos_emb": False,
}
EXTRAS = {
    "coarse_pre_gateloop_depth": 2,
    "fine_pre_gateloop_depth": 2,
    "attn_num_mem_kv": 4,
    "add_value_residual": True,
    "num_residual_streams": 4,
    "num_sos_tokens": 2,
}


def make(**options):
    torch.manual_seed(0)
    model = MeshTransformer(PairTokenizer(), **PEER, **options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model


def as_peer(model):
    """The model's tensors under the names that meshgpt-pytorch gives them."""
    before, tensors = len(model.coarse.parts) - 1, {}
    names = {
        r"start_tokens": "sos_token",
        r"level_embed": "quantize_level_embed",
        r"corner_embed": "vertex_embed",
        r"position_embed\.weight": "abs_pos_emb.weight",
        r"code_embed\.low\.weight": "token_embed.weight",
        r"to_face\.(.+)": r"to_face_tokens.\1",
        rf"coarse\.parts\.{before}\.(.+)": r"decoder.\1",
        r"coarse\.parts\.(\d+)\.norm\.weight": r"coarse_gateloop_block.gateloops.\1.norm.gamma",
        r"coarse\.parts\.(\d+)\.to_qva\.weight": r"coarse_gateloop_block.gateloops.\1.to_qkva.0.weight",
        r"fine_memory\.(\d+)\.norm\.weight": r"fine_gateloop_block.gateloops.\1.norm.gamma",
        r"fine_memory\.(\d+)\.to_qva\.weight": r"fine_gateloop_block.gateloops.\1.to_qkva.0.weight",
        r"fine\.parts\.0\.(.+)": r"fine_decoder.\1",
        r"head\.first\.(.+)": r"to_logits.\1",
    }
    for name, tensor in model.state_dict().items():
        pattern = next(p for p in names if re.fullmatch(p, name))
        tensors[re.sub(pattern, names[pattern], name)] = tensor
    tensors["vertex_embed"] = tensors["vertex_embed"][:, 0]
    tensors["token_embed.weight"] = torch.cat((tensors["token_embed.weight"], torch.zeros(1, 32)))
    return tensors


def save(tensors, path):
    torch.save({"model": tensors, "config": b"never read", "version": "1.8.1"}, path)
    return path


@pytest.mark.parametrize("extras", [{}, EXTRAS], ids=["plain", "all extras"])
def test_an_imported_transformer_gives_the_same_probabilities(tmp_path, extras):
    model = make(**extras)
    path = save({**as_peer(model), "autoencoder.coor_embed.weight": torch.zeros(2, 2)}, tmp_path / "peer.pt")
    again, report = import_transformer(path, PairTokenizer(), attn_heads=None if extras else 2)
    assert not report.left and not report.fresh and len(report.mapped) == len(model.state_dict())
    assert again.config == model.config
    codes = torch.randint(0, 2048, (2, 30))
    assert torch.equal(again.eval().losses(codes).loss, model.losses(codes).loss)


def test_safetensors_are_read_and_what_has_no_place_is_named(tmp_path):
    tensors = as_peer(make(**EXTRAS))
    tensors["coarse_post_gateloop_block.gateloops.0.norm.gamma"] = torch.ones(32)
    tensors["something.new"] = torch.ones(3)
    tensors["to_logits.bias"] = torch.ones(7)
    tensors["decoder.layers.99.weight"] = torch.ones(3)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "model.safetensors")
    _, report = import_transformer(tmp_path / "model.safetensors", PairTokenizer())
    assert report.left == {
        "coarse_post_gateloop_block.gateloops.0.norm.gamma": "has no effect in meshgpt-pytorch",
        "something.new": "has no counterpart here",
        "to_logits.bias": "is (7,), head.first.bias is (2049,)",
        "decoder.layers.99.weight": "coarse.parts.2.layers.99.weight is no part of this model",
    }
    assert report.fresh == ("head.first.bias",)
    assert "something.new: has no counterpart here" in str(report) and "fresh head.first.bias" in str(report)


def test_what_fits_of_an_autoencoder_is_a_warm_start(tmp_path):
    model = MeshAutoencoder(encoder_dims_through_depth=(16, 32), dim_codebook=16, dim_coor_embed=8, codebook_size=64)
    tensors = {
        "coor_embed.weight": torch.full((128, 8), 2.0),
        "encoders.0.lin_l.weight": torch.full((32, 16), 3.0),
        "init_sage_conv.lin_r.weight": torch.zeros(16, 99),
        "angle_embed.weight": torch.zeros(128, 16),
        "decoders.0.block1.proj.weight": torch.zeros(4, 4, 3),
    }
    report = import_autoencoder(save(tensors, tmp_path / "autoencoder.pt"), model)
    state = model.state_dict()
    assert (state["encoder.face_embedding.coordinate.weight"] == 2).all()
    assert (state["encoder.graph.blocks.1.conv.lin_l.weight"] == 3).all()
    assert set(report.left) == {"init_sage_conv.lin_r.weight", "angle_embed.weight", "decoders.0.block1.proj.weight"}


class Harmful:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code of a checkpoint was run')",))


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    torch.save({"model": Harmful()}, tmp_path / "harmful.pt")
    with pytest.raises(CheckpointError, match="was not unpickled, since that could run any code"):
        read_foreign_tensors(tmp_path / "harmful.pt")


def test_other_files_are_refused(tmp_path):
    (tmp_path / "text.pt").write_text("no checkpoint")
    with pytest.raises(CheckpointError, match="no checkpoint of plain tensors"):
        read_foreign_tensors(tmp_path / "text.pt")
    with pytest.raises(CheckpointError, match="cannot read .*absent.pt"):
        read_foreign_tensors(tmp_path / "absent.pt")
    torch.save({"model": {"a": 1}}, tmp_path / "numbers.pt")
    with pytest.raises(CheckpointError, match="holds no tensors by name"):
        read_foreign_tensors(tmp_path / "numbers.pt")
    (tmp_path / "cut.safetensors").write_bytes(b"12345")
    with pytest.raises(CheckpointError, match="cannot be read as safetensors"):
        read_foreign_tensors(tmp_path / "cut.safetensors")


def test_models_that_cannot_be_the_same_are_refused(tmp_path):
    tensors = as_peer(make())
    some = save({"coor_embed.weight": torch.zeros(2, 2)}, tmp_path / "some.pt")
    with pytest.raises(CheckpointError, match="no transformer of meshgpt-pytorch: it has no token_embed.weight"):
        import_transformer(some, PairTokenizer())
    with pytest.raises(CheckpointError, match="none of its 1 tensors fits"):
        import_autoencoder(some, MeshAutoencoder(dim_coor_embed=8))
    texts = save({**tensors, "conditioner.a": torch.zeros(1)}, tmp_path / "texts.pt")
    with pytest.raises(CheckpointError, match=r"is conditioned on text \(conditioner.a"):
        import_transformer(texts, PairTokenizer())
    plain = save(tensors, tmp_path / "plain.pt")
    with pytest.raises(CheckpointError, match="does not show its number of heads: give attn_heads"):
        import_transformer(plain, PairTokenizer())
    with pytest.raises(CheckpointError, match="cannot have 5 heads of 32 channels"):
        import_transformer(plain, PairTokenizer(), attn_heads=5)
    fewer = save({**tensors, "token_embed.weight": torch.zeros(1025, 32)}, tmp_path / "fewer.pt")
    with pytest.raises(CheckpointError, match="1024 codes and 6 a face, the tokenizer 2048 and 6"):
        import_transformer(fewer, PairTokenizer(), attn_heads=2)
