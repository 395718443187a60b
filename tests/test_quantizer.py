"""Residual codes against the library's own, entropies against brute force, the grid code."""

import math

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from vector_quantize_pytorch import LFQ, ResidualLFQ

from meshgpt.tokenizers.autoencoder_config import MeshAutoencoderConfig
from meshgpt.tokenizers.quantizer import (
    GridCode,
    LookupFreeQuantizer,
    VectorQuantizer,
    bit_entropy,
    block_distribution,
    block_means,
    codebook_usage,
    lookup_free_entropy,
)

SMALL = MeshAutoencoderConfig(dim_codebook=8, codebook_size=64, code_init="random", entropy_loss_weight=0.1)


def test_codes_are_those_of_the_library():
    torch.manual_seed(0)
    quantizer = LookupFreeQuantizer(SMALL).eval()
    library = ResidualLFQ(dim=6, codebook_size=64, num_quantizers=2).eval()
    x = torch.randn(40, 8)
    values = 2 * (quantizer.project_in(x) / 2).tanh()
    quantized, indices, _ = library(values[None])
    assert torch.equal(quantizer(x).codes, indices[0])
    signs = quantizer(x).signs.view(40, 2, 6) * torch.tensor([1.0, 0.5])[:, None]
    assert torch.allclose(signs.sum(dim=1), quantized[0])


@pytest.mark.parametrize("quantizer", [LookupFreeQuantizer, VectorQuantizer])
def test_codes_give_back_the_features_of_the_decoder(quantizer):
    torch.manual_seed(0)
    quantizer = quantizer(SMALL).eval()
    out = quantizer(torch.randn(30, 8))
    features, signs = quantizer.from_codes(out.codes)
    assert torch.allclose(features, out.features, atol=1e-6) and torch.allclose(signs, out.signs, atol=1e-6)
    assert out.codes.shape == (30, 2) and 0 <= int(out.codes.min()) and int(out.codes.max()) < 64


def test_gradients_pass_straight_through_to_what_is_quantised():
    quantizer = LookupFreeQuantizer(SMALL)
    x = torch.randn(10, 8, requires_grad=True)
    quantizer(x).features.square().sum().backward()
    assert x.grad is not None and (x.grad.abs().sum(dim=-1) > 0).all()


def test_training_mode_of_the_library_is_never_entered():
    quantizer = LookupFreeQuantizer(SMALL).train()
    assert quantizer.training and not any(module.training for module in quantizer.residual_lfq.modules())


def test_entropies_are_those_of_the_library_on_a_small_codebook():
    torch.manual_seed(0)
    values = torch.randn(50, 5) * 0.1
    library = LFQ(dim=5, codebook_size=32, entropy_loss_weight=1.0).train()
    _, breakdown = library(values[None], inv_temperature=3.0, return_loss_breakdown=True)
    # there, the distance is -2 x c: half the squared distance's slope, so our inverse temperature is half of its
    per_sample, batch = lookup_free_entropy(values, 1.0, 3.0)
    assert per_sample.item() == pytest.approx(breakdown.per_sample_entropy.item(), abs=1e-3)
    assert batch.item() == pytest.approx(breakdown.batch_entropy.item(), abs=1e-3)


def test_per_sample_entropy_is_exact_for_a_large_codebook_and_the_batch_term_an_upper_bound():
    torch.manual_seed(0)
    values = torch.randn(20, 10) * 0.2
    codes = block_distribution(torch.sigmoid(4 * 2.0 * values))
    brute_per_sample = -(codes * codes.clamp(min=1e-12).log()).sum(dim=-1).mean()
    mean = codes.mean(dim=0)
    per_sample, batch = lookup_free_entropy(values, 1.0, 2.0)
    assert per_sample.item() == pytest.approx(brute_per_sample.item(), rel=1e-3)
    assert batch.item() >= -(mean * mean.log()).sum().item() - 1e-4


def test_the_distribution_over_codes_counts_the_first_bit_highest():
    joint = block_distribution(torch.tensor([[0.9, 0.2]]))
    assert torch.allclose(joint, torch.tensor([[0.08, 0.02, 0.72, 0.18]]))
    assert bit_entropy(torch.tensor(0.0)).item() == pytest.approx(math.log(2))
    p = torch.tensor([0.9, 1e-6])
    torch.testing.assert_close(bit_entropy(p.logit()), -p * p.log() - (1 - p) * (1 - p).log())


@pytest.mark.parametrize("bits", [3, 7, 10, 14])
def test_mean_distributions_are_those_of_blocks_of_seven_bits(bits):
    probability = torch.rand(30, bits, generator=torch.Generator().manual_seed(0))
    for block, mean in zip(probability.split(7, dim=1), block_means(probability), strict=True):
        whole = torch.nn.functional.pad(block, (0, 7 - block.shape[1]))
        torch.testing.assert_close(mean, block_distribution(whole).mean(dim=0))


def _entropy_of_share(rank: int, values: torch.Tensor, path: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{path}/store", rank=rank, world_size=2)
    for rows in (12, 20):  # uneven on purpose, then nothing for the second
        share = values[:rows] if rank == 0 else values[rows:]
        share = share.clone().requires_grad_()
        per_sample, batch = lookup_free_entropy(share, 1.0, 1.0)
        (batch + 0 * per_sample).backward()
        torch.save((batch.detach(), share.grad), f"{path}/{rank}-{rows}.pt")
    dist.destroy_process_group()


def test_two_processes_give_the_batch_entropy_of_one(tmp_path):
    torch.manual_seed(0)
    values = torch.randn(20, 9)
    mp.spawn(_entropy_of_share, args=(values, str(tmp_path)), nprocs=2)
    whole = values.clone().requires_grad_()
    expected = lookup_free_entropy(whole, 1.0, 1.0)[1]
    expected.backward()
    assert whole.grad is not None
    for rows in (12, 20):
        (one, grad_one), (two, grad_two) = (torch.load(tmp_path / f"{rank}-{rows}.pt") for rank in range(2))
        assert one.item() == pytest.approx(expected.item(), rel=1e-5) and two.item() == pytest.approx(one.item())
        # every process back-propagates the same global value, so their mean is that of one process
        assert torch.allclose(torch.cat((grad_one, grad_two)) / 2, whole.grad, atol=1e-6)


@pytest.mark.parametrize(("codebook_size", "levels"), [(16384, 2), (128, 3), (2**16, 2), (2**11, 2)])
def test_grid_codes_hold_every_position_exactly(codebook_size, levels):
    config = MeshAutoencoderConfig(codebook_size=codebook_size, num_quantizers=levels)
    grid = GridCode(config)
    quantizer = LookupFreeQuantizer(config).eval()
    quantizer.project_in.weight.data.normal_()  # whatever has been learned
    quantizer.project_in.bias.data.normal_()
    bins = torch.randint(0, 128, (500, 3))
    out = quantizer(torch.randn(500, config.dim_codebook), grid.anchor(bins))
    logits = grid.logits(quantizer.from_codes(out.codes)[1], torch.eye(128))
    assert torch.equal(logits.argmax(dim=-1), bins)


def test_too_few_bits_leave_out_the_lowest():
    config = MeshAutoencoderConfig(codebook_size=2**7, num_quantizers=2)  # 14 bits: 5 of y, 5 of z, 4 of x
    grid, quantizer = GridCode(config), LookupFreeQuantizer(config).eval()
    bins = torch.randint(0, 128, (200, 3))
    out = quantizer(torch.zeros(200, config.dim_codebook), grid.anchor(bins))
    read = grid.logits(quantizer.from_codes(out.codes)[1], torch.eye(128)).softmax(dim=-1)
    near = torch.stack([read[:, axis].gather(1, bins[:, axis : axis + 1]) for axis in range(3)], dim=1).squeeze(-1)
    assert torch.allclose(near, torch.tensor([1 / 8, 1 / 4, 1 / 4]).expand(200, 3), atol=1e-2)


def test_bits_to_spare_start_constant():
    config = MeshAutoencoderConfig()
    grid, quantizer = GridCode(config), LookupFreeQuantizer(config).eval()
    grid.start(quantizer)
    out = quantizer(torch.randn(300, config.dim_codebook), grid.anchor(torch.randint(0, 128, (300, 3))))
    assert (out.codes[:, 1] % 128 == 0).all()


def test_usage_and_perplexity_of_a_codebook():
    share, perplexity = codebook_usage(torch.tensor([[0, 1], [1, 1], [2, 1], [3, 1]]), 8)
    assert share.tolist() == [0.5, 0.125] and perplexity.tolist() == pytest.approx([4.0, 1.0])
