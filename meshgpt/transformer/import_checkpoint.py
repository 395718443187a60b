"""Reads the weights of meshgpt-pytorch into models of this package, and says what became of each tensor.

Of its transformer every tensor has a counterpart, and both give the same probabilities; one that is conditioned on text
is refused. Of its autoencoder, whose decoder works face by face where ours works vertex by vertex, only some tensors
have one: that is a warm start for training, not a tokenizer.
"""

import dataclasses
import pickle
import re
import typing
from collections.abc import Callable
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn

from meshgpt.checkpoint import read_tensors
from meshgpt.errors import CheckpointError
from meshgpt.tokenizers.tokenizer import MeshTokenizer
from meshgpt.transformer.transformer import MeshTransformer

NO_PLACE = "has no counterpart here"
TRANSFORMER_MARKS = ("token_embed.weight", "to_face_tokens.0.weight", "decoder.final_norm.gamma", "to_logits.weight")
CONDITIONED = ("conditioner.", "text_coarse_film_cond.", "text_fine_film_cond.", "cross_attn")


@dataclasses.dataclass(frozen=True)
class ImportReport:
    """What became of a foreign checkpoint. mapped: its name -> ours. left: its name -> why. fresh: ours, not filled."""

    mapped: dict[str, str]
    left: dict[str, str]
    fresh: tuple[str, ...]

    @property
    def summary(self) -> str:
        return f"{len(self.mapped)} tensors read, {len(self.left)} left, {len(self.fresh)} of ours as initialised"

    def __str__(self) -> str:
        lines = [self.summary]
        lines += [f"  left  {name}: {why}" for name, why in self.left.items()]
        return "\n".join([*lines, *(f"  fresh {name}" for name in self.fresh)])


@typing.no_type_check
def read_foreign_tensors(path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` or a `.pt` file: `{'model': tensors, ...}` or the tensors themselves.

    Nothing but plain data is ever unpickled. Raises `CheckpointError` for any other file.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        return read_tensors(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = str(error).strip().split("\n")[0]
        raise CheckpointError(
            f"{path} is no checkpoint of plain tensors; it was not unpickled, since that could run any code: {reason}"
        ) from error
    tensors = content.get("model", content) if isinstance(content, dict) else content
    if not isinstance(tensors, dict) or not tensors or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise CheckpointError(f"{path} holds no tensors by name, alone or under 'model'")
    return dict(tensors)


@typing.no_type_check
def import_transformer(path, tokenizer, attn_heads=None) -> tuple[MeshTransformer, ImportReport]:
    """A `MeshTransformer` with the weights of a meshgpt-pytorch transformer, for a tokenizer with the same codes.

    `attn_heads` is needed only where the checkpoint does not show it (no memory key-values and no value residual).
    Raises `CheckpointError` for another kind of file, a conditional model, or codes that differ from the tokenizer's.
    """
    tensors = _without_autoencoder(read_foreign_tensors(path))
    missing = [name for name in TRANSFORMER_MARKS if name not in tensors]
    if missing:
        raise CheckpointError(f"{path} is no transformer of meshgpt-pytorch: it has no {', '.join(missing)}")
    conditioned = [name for name in tensors if any(mark in name for mark in CONDITIONED)]
    if conditioned:
        raise CheckpointError(f"{path} is conditioned on text ({conditioned[0]}, ...), which cannot be read yet")
    model = MeshTransformer(tokenizer, **peer_config(tensors, tokenizer, attn_heads))
    return model, _fill(model, tensors, transformer_name)


@typing.no_type_check
def import_autoencoder(path, model: nn.Module) -> ImportReport:
    """Copies what fits of a meshgpt-pytorch autoencoder into `model`, a `MeshAutoencoder` of like sizes: a warm start.

    Raises `CheckpointError` where nothing at all fits.
    """
    report = _fill(model, read_foreign_tensors(path), autoencoder_name)
    if not report.mapped:
        raise CheckpointError(f"{path}: none of its {len(report.left)} tensors fits; the first: {report}"[:500])
    return report


def peer_config(tensors: dict[str, Tensor], tokenizer: MeshTokenizer, attn_heads: int | None) -> dict:
    """The fields of `MeshTransformerConfig` that a peer's tensors stand for, read from their shapes."""
    vocab_size, dim = tensors["token_embed.weight"].shape[0] - 1, tensors["token_embed.weight"].shape[1]
    tokens = tensors["to_face_tokens.0.weight"].shape[1] // dim
    if (vocab_size, tokens) != (tokenizer.vocab_size, tokenizer.tokens_per_face):
        raise CheckpointError(
            f"the checkpoint has {vocab_size} codes and {tokens} a face, the tokenizer {tokenizer.vocab_size} and "
            f"{tokenizer.tokens_per_face}: make the tokenizer with the same codebook_size, num_quantizers and quads"
        )
    heads = _heads(tensors) or attn_heads
    inner = tensors["decoder.layers.0.1.to_q.weight"].shape[0]
    if heads is None or inner % heads:
        what = (
            "does not show its number of heads" if heads is None else f"cannot have {heads} heads of {inner} channels"
        )
        raise CheckpointError(f"the checkpoint {what}: give attn_heads as it was trained")
    memory = tensors.get("decoder.layers.0.1.mem_k")
    streams = tensors.get("decoder.stream_emb")
    return {
        "dim": dim,
        "max_seq_len": tensors["abs_pos_emb.weight"].shape[0],
        "num_sos_tokens": tensors["sos_token"].shape[0],
        "attn_depth": _count(tensors, r"decoder\.layers\.\d+\.1\.to_q\.weight"),
        "fine_attn_depth": _count(tensors, r"fine_decoder\.layers\.\d+\.1\.to_q\.weight"),
        "attn_heads": heads,
        "fine_attn_heads": heads,
        "attn_dim_head": inner // heads,
        "fine_attn_dim_head": inner // heads,
        "ff_mult": tensors["decoder.layers.1.1.ff.2.weight"].shape[1] / dim,
        "coarse_pre_gateloop_depth": _count(tensors, r"coarse_gateloop_block\.gateloops\.\d+\.norm\.gamma"),
        "fine_pre_gateloop_depth": _count(tensors, r"fine_gateloop_block\.gateloops\.\d+\.norm\.gamma"),
        "attn_num_mem_kv": 0 if memory is None else memory.shape[1],
        "add_value_residual": any("to_value_residual_mix" in name for name in tensors),
        "num_residual_streams": 1 if streams is None else streams.shape[0],
        "code_digits": 1,
        "abs_pos_emb": True,
        "rotary_pos_emb": False,
    }


def transformer_name(name: str, tensor: Tensor, model: nn.Module) -> tuple[str, Tensor] | str:
    """Our name and form of a tensor of the peer's transformer, or why it is left."""
    before = len(typing.cast(MeshTransformer, model).coarse.parts) - 1
    simple = {
        "sos_token": "start_tokens",
        "quantize_level_embed": "level_embed",
        "abs_pos_emb.weight": "position_embed.weight",
        "to_logits.weight": "head.first.weight",
        "to_logits.bias": "head.first.bias",
    }
    if name in simple:
        return simple[name], tensor
    if name == "vertex_embed":
        return "corner_embed", rearrange(tensor, "k d -> k 1 d")
    if name == "token_embed.weight":
        return "code_embed.low.weight", tensor[:-1]  # the last row is the end, which is never read
    if name.startswith("coarse_post_gateloop_block."):
        return "has no effect in meshgpt-pytorch"
    patterns = {
        r"to_face_tokens\.(.+)": r"to_face.\1",
        r"coarse_gateloop_block\.gateloops\.(\d+)\.norm\.gamma": r"coarse.parts.\1.norm.weight",
        r"coarse_gateloop_block\.gateloops\.(\d+)\.to_qkva\.0\.weight": r"coarse.parts.\1.to_qva.weight",
        r"fine_gateloop_block\.gateloops\.(\d+)\.norm\.gamma": r"fine_memory.\1.norm.weight",
        r"fine_gateloop_block\.gateloops\.(\d+)\.to_qkva\.0\.weight": r"fine_memory.\1.to_qva.weight",
        r"decoder\.(.+)": rf"coarse.parts.{before}.\1",
        r"fine_decoder\.(.+)": r"fine.parts.0.\1",
    }
    return _renamed(name, tensor, patterns)


def autoencoder_name(name: str, tensor: Tensor, model: nn.Module) -> tuple[str, Tensor] | str:
    """Our name of a tensor of the peer's autoencoder that does the same work here, or why it is left."""
    if name == "angle_embed.weight":
        return "bins angles between position vectors there, interior angles here"
    block = re.fullmatch(r"encoders\.(\d+)\.lin_([lr])\.(weight|bias)", name)
    if block:
        return f"encoder.graph.blocks.{int(block[1]) + 1}.conv.lin_{block[2]}.{block[3]}", tensor
    patterns = {
        r"coor_embed\.weight": "encoder.face_embedding.coordinate.weight",
        r"init_sage_conv\.(lin_[lr])\.(.+)": r"encoder.graph.blocks.0.conv.\1.\2",
        r"project_dim_codebook\.(.+)": r"encoder.project_corners.\1",
        r"quantizer\.project_in\.(.+)": r"quantizer.project_in.\1",
    }
    return _renamed(name, tensor, patterns)


def _renamed(name: str, tensor: Tensor, patterns: dict[str, str]) -> tuple[str, Tensor] | str:
    for pattern, ours in patterns.items():
        if re.fullmatch(pattern, name):
            return re.sub(pattern, ours, name), tensor
    return NO_PLACE


def _fill(
    model: nn.Module,
    tensors: dict[str, Tensor],
    place: Callable[[str, Tensor, nn.Module], tuple[str, Tensor] | str],
) -> ImportReport:
    """Copies each tensor to its place, where there is one of the same shape."""
    state, mapped, left = model.state_dict(), {}, {}
    for name, tensor in tensors.items():
        found = place(name, tensor, model)
        if isinstance(found, str):
            left[name] = found
        elif found[0] not in state:
            left[name] = f"{found[0]} is no part of this model"
        elif state[found[0]].shape != found[1].shape:
            left[name] = f"is {tuple(found[1].shape)}, {found[0]} is {tuple(state[found[0]].shape)}"
        else:
            state[found[0]].copy_(found[1])
            mapped[name] = found[0]
    fresh = tuple(name for name in state if name not in set(mapped.values()))
    return ImportReport(mapped, left, fresh)


def _without_autoencoder(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("autoencoder.")}


def _heads(tensors: dict[str, Tensor]) -> int | None:
    """Heads of the coarse stack, from what has one row for each."""
    for pattern in (r"decoder\.layers\.\d+\.1\.mem_k", r"decoder\.layers\.\d+\.1\.to_value_residual_mix\.0\.bias"):
        for name, tensor in tensors.items():
            if re.fullmatch(pattern, name):
                return tensor.shape[0]
    return None


def _count(tensors: dict[str, Tensor], pattern: str) -> int:
    return sum(re.fullmatch(pattern, name) is not None for name in tensors)
