"""Vertex features to codes: residual lookup-free quantisation, or residual vector quantisation."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from vector_quantize_pytorch import ResidualLFQ, ResidualVQ

ENTROPY_BLOCK_BITS = 7  # the batch entropy is taken over blocks of so many bits: 2 blocks of 128 for 16,384 codes


@dataclass(frozen=True)
class Quantized:
    """features: (n, d) for the decoder. codes: (n, q). The losses are means over vertices."""

    features: Float[Tensor, "n d"]
    codes: Int[Tensor, "n q"]
    commit_loss: Float[Tensor, ""]
    entropy_loss: Float[Tensor, ""]


def bit_entropy(probability: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Entropy in nats of a coin that falls on one side with this probability."""
    p = probability.clamp(1e-6, 1 - 1e-6)
    return -p * p.log() - (1 - p) * (1 - p).log()


def block_distribution(probability: Float[Tensor, "n bits"]) -> Float[Tensor, "n codes"]:
    """The distribution over all 2^bits codes of independent bits, the first bit the highest."""
    joint = torch.ones_like(probability[:, :1])
    for bit in probability.unbind(dim=1):
        joint = rearrange(torch.stack((joint * (1 - bit)[:, None], joint * bit[:, None]), dim=-1), "n c s -> n (c s)")
    return joint


def mean_over_processes(values: Float[Tensor, "n c"]) -> Float[Tensor, " c"]:
    """Mean of the rows of all processes, each row counted once; gradients reach every process."""
    total, count = values.sum(dim=0), values.new_tensor(float(len(values)))
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        total = all_reduce(total)
        dist.all_reduce(count)
    return total / count.clamp(min=1)


def lookup_free_entropy(
    values: Float[Tensor, "n bits"], scale: float, inv_temperature: float
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Mean entropy of each sample's code, and entropy of the batch's mean code (arXiv:2310.05737, Equation 5), in nats.

    The probability of a code is a softmax over -(x - c)^2 * inv_temperature. Codes are signs, so it factorises into
    bits: the first term is a sum over bits, exactly. The second is taken over blocks of seven bits: the sum of the
    blocks' entropies, exact for independent blocks and an upper bound else. Both cost O(n 2^7), whatever the codebook.
    """
    probability = torch.sigmoid(4 * scale * inv_temperature * values)
    per_sample = bit_entropy(probability).sum(dim=-1).mean()
    batch = values.new_zeros(())
    for block in probability.split(ENTROPY_BLOCK_BITS, dim=-1):
        mean = mean_over_processes(block_distribution(block)).clamp(min=1e-9)
        batch = batch - (mean * mean.log()).sum()
    return per_sample, batch


class LookupFreeQuantizer(nn.Module):
    """Residual lookup-free quantisation: level l quantises what is left to signs times 2^-l, in float32.

    Codebooks and the reading of codes are vector-quantize-pytorch's `ResidualLFQ`; its losses are not used, because its
    batch entropy costs O(n codebook_size) and is wrong across processes. The decoder receives the signs of all levels.
    """

    def __init__(self, dim: int, codebook_size: int, num_quantizers: int, inv_temperature: float, gamma: float):
        super().__init__()
        bits = codebook_size.bit_length() - 1
        self.inv_temperature, self.gamma = inv_temperature, gamma
        self.project_in = nn.Linear(dim, bits)
        self.residual_lfq = ResidualLFQ(dim=bits, codebook_size=codebook_size, num_quantizers=num_quantizers).eval()
        self.project_out = nn.Linear(bits * num_quantizers, dim)

    def train(self, mode: bool = True) -> "LookupFreeQuantizer":
        super().train(mode)
        self.residual_lfq.eval()  # in training mode the library computes the losses that are replaced here
        return self

    def forward(self, x: Float[Tensor, "n d"]) -> Quantized:
        with torch.autocast(x.device.type, enabled=False):
            weight, bias = self.project_in.weight.float(), self.project_in.bias.float()
            residual = values = nn.functional.linear(x.float(), weight, bias)
            levels, codes, entropy_loss = [], [], values.new_zeros(())
            for level in self.residual_lfq.layers:
                quantized, index, _ = level(residual[None])
                levels.append((residual + (quantized[0] - residual).detach()) / level.codebook_scale)
                codes.append(index[0])
                if self.training and len(x):
                    entropy_loss = entropy_loss + self._entropy_loss(residual, level.codebook_scale)
                residual = residual - quantized[0].detach()
            commit_loss = residual.square().mean() if len(x) else values.new_zeros(())
        features = self.project_out(torch.cat(levels, dim=-1).to(x.dtype))
        return Quantized(features, torch.stack(codes, dim=-1), commit_loss, entropy_loss)

    def _entropy_loss(self, residual: Tensor, scale: float) -> Tensor:
        per_sample, batch = lookup_free_entropy(residual, scale, self.inv_temperature)
        return per_sample - self.gamma * batch

    def features_from_codes(self, codes: Int[Tensor, "n q"]) -> Float[Tensor, "n d"]:
        """The decoder's input for codes: what `forward` gives beside them."""
        all_codes = self.residual_lfq.get_codes_from_indices(codes[None])[:, 0]
        scales = all_codes.new_tensor([layer.codebook_scale for layer in self.residual_lfq.layers])
        signs = rearrange(all_codes / scales[:, None, None], "q n c -> n (q c)")
        return self.project_out(signs.to(self.project_out.weight.dtype))


class VectorQuantizer(nn.Module):
    """Residual vector quantisation with a codebook shared by all levels (vector-quantize-pytorch's `ResidualVQ`)."""

    def __init__(self, dim: int, codebook_size: int, num_quantizers: int):
        super().__init__()
        self.residual_vq = ResidualVQ(
            dim=dim,
            codebook_size=codebook_size,
            num_quantizers=num_quantizers,
            shared_codebook=True,
            commitment_weight=1.0,
            kmeans_init=False,
            threshold_ema_dead_code=2,
            rotation_trick=True,
        )

    def forward(self, x: Float[Tensor, "n d"]) -> Quantized:
        with torch.autocast(x.device.type, enabled=False):
            features, codes, losses = self.residual_vq(x.float()[None])
        zero = losses.new_zeros(())
        return Quantized(features[0].to(x.dtype), codes[0], losses.sum() if len(x) else zero, zero)

    def features_from_codes(self, codes: Int[Tensor, "n q"]) -> Float[Tensor, "n d"]:
        return self.residual_vq.get_output_from_indices(codes[None])[0]


def codebook_usage(codes: Int[Tensor, "n q"], codebook_size: int) -> tuple[Float[Tensor, " q"], Float[Tensor, " q"]]:
    """Of each level: the share of codes in use, and the perplexity (exponential of the entropy) of their use."""
    share, perplexity = [], []
    for level in codes.unbind(dim=-1):
        p = torch.bincount(level, minlength=codebook_size).float() / max(len(level), 1)
        share.append((p > 0).float().mean())
        perplexity.append((-(p * p.clamp(min=1e-12).log()).sum()).exp())
    return torch.stack(share), torch.stack(perplexity)


