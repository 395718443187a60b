"""Vertex features to codes: residual lookup-free quantisation, or residual vector quantisation."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from vector_quantize_pytorch import ResidualLFQ, ResidualVQ

from meshgpt.nn.embedding import AXES, num_bits, sign_bits
from meshgpt.tokenizers.autoencoder_config import MeshAutoencoderConfig

READING_SCALE, READING_FLOOR = 6.0, 1e-4  # of grid codes: nats a sign is worth, and the least probability of a bin
SOFT_LIMIT = 2.0  # values without an anchor are kept within this by a tanh
ENTROPY_BLOCK_BITS = 7  # the batch entropy is taken over blocks of so many bits: 2 blocks for 16,384 codes


@dataclass(frozen=True)
class Quantized:
    """features: (n, d) for the decoder. codes: (n, q). The losses are means over vertices.

    signs: (n, q * bits), the bits of all levels as -1 and +1; no columns for vector quantisation.
    """

    features: Float[Tensor, "n d"]
    signs: Float[Tensor, "n s"]
    codes: Int[Tensor, "n q"]
    commit_loss: Float[Tensor, ""]
    entropy_loss: Float[Tensor, ""]


def bit_entropy(logits: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Entropy in nats of a coin, from the logarithm of its odds."""
    return nn.functional.softplus(logits) - logits * torch.sigmoid(logits)


def block_distribution(probability: Float[Tensor, "n bits"]) -> Float[Tensor, "n codes"]:
    """The distribution over all 2^bits codes of independent bits, the first bit the highest."""
    joint = torch.ones_like(probability[:, :1])
    for bit in probability.unbind(dim=1):
        joint = rearrange(torch.stack((joint * (1 - bit)[:, None], joint * bit[:, None]), dim=-1), "n c s -> n (c s)")
    return joint


def num_processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def mean_over_processes(total: Float[Tensor, "*shape"], count: int) -> Float[Tensor, "*shape"]:
    """The mean of the `count` things that sum to `total`, and of those of all processes; gradients reach every process.

    All processes must call it, those without things too. Zeros where none has any.
    """
    number = total.new_tensor(float(count))
    if num_processes() > 1:
        total = all_reduce(total)
        dist.all_reduce(number)
    return total / number.clamp(min=1)


def block_means(probability: Float[Tensor, "n bits"]) -> Float[Tensor, "blocks codes"]:
    """The mean distribution, over the rows of all processes, of each block of seven bits; bits that lack are 0.

    The distribution of a block is the outer product of those of its halves, so that its sum over rows is a product of
    two narrow matrices, and costs little more for many codes than for few.
    """
    blocks, half = -(-probability.shape[1] // ENTROPY_BLOCK_BITS), ENTROPY_BLOCK_BITS // 2
    padded = nn.functional.pad(probability, (0, blocks * ENTROPY_BLOCK_BITS - probability.shape[1]))
    rows = rearrange(padded, "n (k bits) -> (k n) bits", k=blocks)
    halves = block_distribution(rows[:, :half]), block_distribution(rows[:, half:])
    first, second = (rearrange(part, "(k n) c -> k n c", k=blocks) for part in halves)
    return mean_over_processes(rearrange(first.mT @ second, "k a b -> k (a b)"), len(probability))


def lookup_free_entropy(
    values: Float[Tensor, "n bits"], scale: float, inv_temperature: float
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Mean entropy of each sample's code, and entropy of the batch's mean code (arXiv:2310.05737, Equation 5), in nats.

    The probability of a code is a softmax over -(x - c)^2 * inv_temperature. Codes are signs, so it factorises into
    bits: the first term is a sum over bits, exactly. The second is taken over blocks of seven bits: the sum of the
    blocks' entropies, exact for independent blocks and an upper bound else. Both cost O(n), whatever the codebook.
    """
    logits = 4 * scale * inv_temperature * values
    mean = block_means(torch.sigmoid(logits)).clamp(min=1e-9)
    return bit_entropy(logits).sum() / max(len(values), 1), -(mean * mean.log()).sum()


class LookupFreeQuantizer(nn.Module):
    """Residual lookup-free quantisation: level l quantises what is left to signs times 2^-l, in float32.

    Codebooks and the reading of codes are vector-quantize-pytorch's `ResidualLFQ`; its losses are not used, because its
    batch entropy costs O(n codebook_size) and is wrong across processes. The decoder receives the signs of all levels.
    """

    def __init__(self, config: MeshAutoencoderConfig):
        super().__init__()
        dim, codebook_size, num_quantizers = config.dim_codebook, config.codebook_size, config.num_quantizers
        bits = codebook_size.bit_length() - 1
        self.inv_temperature, self.gamma = config.entropy_inv_temperature, config.diversity_gamma
        self.entropy = config.entropy_loss_weight > 0
        self.reach = config.code_freedom * 2.0 ** (1 - num_quantizers)
        self.project_in = nn.Linear(dim, bits)
        self.residual_lfq = ResidualLFQ(dim=bits, codebook_size=codebook_size, num_quantizers=num_quantizers).eval()
        self.project_out = nn.Linear(bits * num_quantizers, dim)

    def train(self, mode: bool = True) -> "LookupFreeQuantizer":
        super().train(mode)
        self.residual_lfq.eval()  # in training mode the library computes the losses that are replaced here
        return self

    def forward(self, x: Float[Tensor, "n d"], anchor: Float[Tensor, "n bits"] | None = None) -> Quantized:
        """With an `anchor`, features move the values around it, at most by `self.reach`; else they are the values."""
        with torch.autocast(x.device.type, enabled=False):
            weight, bias = self.project_in.weight.float(), self.project_in.bias.float()
            values = nn.functional.linear(x.float(), weight, bias)
            limit = SOFT_LIMIT if anchor is None else self.reach
            values = limit * (values / limit).tanh()
            residual = values if anchor is None else values + anchor.float()
            levels, codes, entropy_loss = [], [], values.new_zeros(())
            for depth, level in enumerate(self.residual_lfq.layers):
                quantized, index, _ = level(residual[None])
                levels.append((residual + (quantized[0] - residual).detach()) * 2.0**depth)
                codes.append(index[0])
                if self.training and self.entropy:  # without rows too: other processes wait for this one
                    entropy_loss = entropy_loss + self._entropy_loss(residual, 2.0**-depth)
                residual = residual - quantized[0].detach()
            commit_loss = residual.square().mean() if len(x) else values.new_zeros(())
        signs = torch.cat(levels, dim=-1).to(x.dtype)
        return Quantized(self.project_out(signs), signs, torch.stack(codes, dim=-1), commit_loss, entropy_loss)

    def _entropy_loss(self, residual: Tensor, scale: float) -> Tensor:
        per_sample, batch = lookup_free_entropy(residual, scale, self.inv_temperature)
        return per_sample - self.gamma * batch

    def from_codes(self, codes: Int[Tensor, "n q"]) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n s"]]:
        """(features, signs) of codes: what `forward` gives beside them."""
        all_codes = self.residual_lfq.get_codes_from_indices(codes[None])[:, 0]
        scales = all_codes.new_tensor([layer.codebook_scale for layer in self.residual_lfq.layers])
        signs = rearrange(all_codes / scales[:, None, None], "q n c -> n (q c)")
        signs = signs.to(self.project_out.weight.dtype)
        return self.project_out(signs), signs


class VectorQuantizer(nn.Module):
    """Residual vector quantisation with a codebook shared by all levels (vector-quantize-pytorch's `ResidualVQ`)."""

    def __init__(self, config: MeshAutoencoderConfig):
        super().__init__()
        self.residual_vq = ResidualVQ(
            dim=config.dim_codebook,
            codebook_size=config.codebook_size,
            num_quantizers=config.num_quantizers,
            shared_codebook=True,
            commitment_weight=1.0,
            kmeans_init=False,
            threshold_ema_dead_code=2,
            rotation_trick=True,
        )

    def forward(self, x: Float[Tensor, "n d"], anchor: None = None) -> Quantized:
        rows = x.float()
        if not len(x) and self.training and num_processes() > 1:
            # the library replaces dead codes in common, and leaves out a process without rows: the others would wait
            rows = rows.new_zeros(1, rows.shape[1])
        with torch.autocast(x.device.type, enabled=False):
            features, codes, losses = self.residual_vq(rows[None])
        features, codes, zero = features[0, : len(x)], codes[0, : len(x)], losses.new_zeros(())
        return Quantized(features.to(x.dtype), x[:, :0], codes, losses.sum() if len(x) else zero, zero)

    def from_codes(self, codes: Int[Tensor, "n q"]) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n s"]]:
        features = self.residual_vq.get_output_from_indices(codes[None])[0]
        return features, features[:, :0]


class GridCode(nn.Module):
    """The code that lookup-free quantisation starts from: the bits of the position.

    `anchor` gives the values whose residual signs are those bits, `reading` the logits of bins that signs stand for.
    With 2 x 14 bits and 128 bins the first code is (y, z), and the second x and seven bits that have no anchor: those
    start as -1, and the encoder is free to use them. With too few bits the lowest of the position are left out. Nothing
    here is learned: encoder and decoder learn what to add.
    """

    weight: Tensor
    reading: Tensor

    def __init__(self, config: MeshAutoencoderConfig):
        super().__init__()
        self.bits, width = num_bits(config.num_discrete_coors), config.codebook_size.bit_length() - 1
        slots = self._position_bits(width * config.num_quantizers)
        self.exact = len(slots) == 3 * self.bits  # every bit of the position has its place
        weight = torch.zeros(width, 3 * self.bits)
        reading = torch.zeros(3, config.num_discrete_coors, width * config.num_quantizers)
        signs = sign_bits(torch.arange(config.num_discrete_coors), self.bits)
        for slot, position_bit in enumerate(slots):
            level, dim = divmod(slot, width)
            axis, bit = divmod(position_bit, self.bits)
            weight[dim, position_bit] = 2.0**-level
            reading[AXES[axis], :, slot] = READING_SCALE * signs[:, bit]
        self.first_free = max(0, len(slots) - width * (config.num_quantizers - 1))  # first with a bit to spare
        self.register_buffer("weight", weight, persistent=False)
        self.register_buffer("reading", reading, persistent=False)

    def _position_bits(self, slots: int) -> list[int]:
        """The bits of a position (numbered axis by axis, y z x, highest first) that find a place in `slots` bits."""
        by_weight = sorted(range(3 * self.bits), key=lambda i: (i % self.bits, i // self.bits))
        return sorted(by_weight[:slots])

    def start(self, quantizer: "LookupFreeQuantizer") -> None:
        """First weights of the quantizer's projection with which bits that have no anchor are -1."""
        with torch.no_grad():
            quantizer.project_in.weight.mul_(0.1)
            quantizer.project_in.bias.zero_()[self.first_free :] = -quantizer.reach

    def anchor(self, bins: Int[Tensor, "n 3"]) -> Float[Tensor, "n bits"]:
        signs = rearrange(sign_bits(bins[:, AXES], self.bits), "n a f -> n (a f)")
        return nn.functional.linear(signs, self.weight.float())

    def logits(self, signs: Float[Tensor, "n s"], smoothing: Float[Tensor, "r r"]) -> Float[Tensor, "n 3 r"]:
        """Log-probabilities of bins: those that agree with the signs, spread by the smoothing of the training targets.

        They meet the targets as they are, so the decoder has nothing to learn where codes already say everything.
        """
        matching = torch.einsum("ns,crs->ncr", signs.float(), self.reading.float()).softmax(dim=-1)
        return (matching @ smoothing.float() + READING_FLOOR).log().to(signs.dtype)


def codebook_usage(codes: Int[Tensor, "n q"], codebook_size: int) -> tuple[Float[Tensor, " q"], Float[Tensor, " q"]]:
    """Of each level: the share of codes in use, and the perplexity (exponential of the entropy) of their use."""
    share, perplexity = [], []
    for level in codes.unbind(dim=-1):
        p = torch.bincount(level, minlength=codebook_size).float() / max(len(level), 1)
        share.append((p > 0).float().mean())
        perplexity.append((-(p * p.clamp(min=1e-12).log()).sum()).exp())
    return torch.stack(share), torch.stack(perplexity)
