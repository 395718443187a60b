"""What padding costs, and that it changes nothing."""

import ctypes

import numpy as np
import pytest
import torch
from toy_tokenizers import PairTokenizer

from meshgpt.data.dataset import MeshDataset
from meshgpt.training import memory
from meshgpt.training.memory import keep_freed_memory
from meshgpt.training.mesh_objectives import TransformerObjective, padding_of
from meshgpt.training.presets import TRANSFORMERS
from meshgpt.training.sampler import BatchSampler
from meshgpt.training.settings import TrainerConfig
from meshgpt.transformer.transformer import MeshTransformer

LENGTHS = (60, 37, 24, 6)
SIZES = {"dim": (32, 24), "attn_depth": 2, "attn_heads": 2, "attn_dim_head": 16, "max_seq_len": 240}
OPTIONS = {
    "plain": {},
    "one digit": {"code_digits": 1},
    "context faces": {"fine_context_faces": 2},
    "pointers": {"copy_dim": 8, "copy_digit_faces": 1},
    "recurrence": {"coarse_pre_gateloop_depth": 1, "fine_pre_gateloop_depth": 1},
    "checkpointing": {"checkpointing": True},
}


def a_model(**options):
    torch.manual_seed(0)
    return MeshTransformer(PairTokenizer(), **SIZES, fine_attn_heads=2, fine_attn_dim_head=8, **options)


def rows_of(model):
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, model.vocab_size, (length,), generator=generator) for length in LENGTHS]


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_rows_padded_to_one_length_have_the_loss_and_the_gradient_of_rows_alone(options):
    model = a_model(**options).double()
    together = model.losses(torch.nn.utils.rnn.pad_sequence(rows_of(model), True, -1))
    alone = [model.losses(row[None]) for row in rows_of(model)]
    total = sum(output.num_tokens for output in alone)
    loss = torch.stack([output.loss * (output.num_tokens / total) for output in alone]).sum()
    assert together.num_tokens == total
    torch.testing.assert_close(together.loss, loss)
    weights = list(model.parameters())
    found = (torch.autograd.grad(x, weights, allow_unused=True) for x in (together.loss, loss))
    for one, other in zip(*found, strict=True):
        if one is not None or other is not None:
            torch.testing.assert_close(one, other)


def test_the_fine_stack_computes_faces_that_are_there_and_one_to_end_with():
    model, seen = a_model(), []
    model.fine.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape))
    model.losses(torch.nn.utils.rnn.pad_sequence(rows_of(model), True, -1))
    begun = sum(-(-length // 6) for length in LENGTHS)
    assert [tuple(shape) for shape in seen] == [(begun + len(LENGTHS), 6, 24)]  # padded, 4 * 11 of them


# batches of like length


def padding_in(sizes, epochs=2, **options):
    sampler = BatchSampler(sizes, seed=0, **options)
    batches = [sizes[sampler.indices(number)] for number in range(epochs * sampler.batches_per_epoch)]
    return 1 - sum(batch.sum() for batch in batches) / sum(len(batch) * batch.max() for batch in batches)


def test_less_than_a_tenth_of_the_batches_of_the_bundled_data_is_padding():
    train, _ = MeshDataset("cc0-lowpoly").train_and_val()
    sizes = np.asarray(train.face_counts)
    assert padding_in(sizes, batch_size=TrainerConfig().batch_size) < 0.05
    for name, chosen in TRANSFORMERS.items():
        limit, count = chosen.training["max_faces_per_batch"], chosen.training["batch_size"]
        kept = sizes[sizes <= min(limit, chosen.model["max_seq_len"] // 6)]
        assert padding_in(kept, batch_size=count, max_size_per_batch=limit) < 0.06, name
        weights = np.random.default_rng(0).exponential(size=len(kept))
        assert padding_in(kept, batch_size=count, max_size_per_batch=limit, weights=weights) < 0.06, name


def test_examples_meet_others_of_their_size_in_each_epoch():
    sampler = BatchSampler(np.random.default_rng(0).integers(100, 200, 256), 16, seed=0)
    company = []
    for epoch in range(2):
        first = epoch * sampler.batches_per_epoch
        batches = [set(sampler.indices(first + i).tolist()) for i in range(sampler.batches_per_epoch)]
        company.append({example: batch - {example} for batch in batches for example in batch})
    shared = np.mean([len(company[0][example] & company[1][example]) for example in company[0]]) / 15
    assert shared < 0.5


def test_the_share_of_padding_is_told_while_learning():
    model = a_model()
    batch = TransformerObjective().collate(rows_of(model))
    losses = TransformerObjective().losses(model.train(), batch)
    assert losses.metrics["padding"].item() == pytest.approx(1 - sum(LENGTHS) / (60 * 4))
    assert losses.counts["padding"] == 240
    assert "padding" not in TransformerObjective().losses(model.eval(), batch).metrics
    assert padding_of(torch.zeros(1, 0, dtype=torch.bool))[1] == 0


# memory


def test_freed_memory_is_kept_where_the_c_library_can(monkeypatch):
    assert isinstance(keep_freed_memory(), bool)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert not keep_freed_memory()
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    assert not keep_freed_memory()
