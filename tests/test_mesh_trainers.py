"""The two real trainers on the bundled sample, and the codes that are kept for the transformer."""

import dataclasses
import functools
import json
import multiprocessing
import os
import resource
import threading
import time

import numpy as np
import pytest
import torch

from meshgpt.data.augment import Augmentation
from meshgpt.data.batch import MeshBatch
from meshgpt.errors import CheckpointError, DataError, TrainingError
from meshgpt.mesh.mesh import Mesh
from meshgpt.tokenizers.autoencoder import MeshAutoencoder
from meshgpt.training import tokens as tokens_module
from meshgpt.training.examples import MeshExamples, MeshView
from meshgpt.training.loader import BatchLoader
from meshgpt.training.log import read_metrics
from meshgpt.training.mesh_objectives import TransformerObjective, code_perplexity, codes_in_use
from meshgpt.training.mesh_trainers import MeshAutoencoderTrainer, MeshTransformerTrainer
from meshgpt.training.meter import Meter
from meshgpt.training.objective import Losses
from meshgpt.training.signals import StopSignals
from meshgpt.training.tokens import TokenCache, described_by_content, token_key, tokenized
from meshgpt.transformer.transformer import MeshTransformer
from tests.training_toys import equal_weights, weights_of


@pytest.fixture(scope="module")
def autoencoder():
    torch.manual_seed(0)
    sizes = {"encoder_dims_through_depth": (16, 16), "decoder_dims_through_depth": (16,), "dim_codebook": 48}
    return MeshAutoencoder(**sizes)


def transformer(autoencoder, seed=0, **keywords):
    torch.manual_seed(seed)
    sizes = {
        "dim": 32,
        "attn_depth": 1,
        "attn_heads": 2,
        "attn_dim_head": 16,
        "fine_attn_heads": 2,
        "max_seq_len": 1200,
    }
    return MeshTransformer(autoencoder, **sizes | keywords)


SETTINGS = {"num_train_steps": 6, "batch_size": 4, "learning_rate": 1e-3, "progress": False, "log_every": 2}


# the trainers


@pytest.fixture(scope="module")
def small_meshes(tiny_dataset):
    return tiny_dataset.filter(max_faces=60)


def test_the_autoencoder_trainer_learns_logs_and_saves(tmp_path, small_meshes):
    torch.manual_seed(0)
    sizes = {"encoder_dims_through_depth": (16, 16), "decoder_dims_through_depth": (16,), "dim_codebook": 48}
    model = MeshAutoencoder(**sizes, code_init="random")
    settings = SETTINGS | {"num_train_steps": 30, "learning_rate": 1e-2, "checkpoint_folder": str(tmp_path)}
    trainer = MeshAutoencoderTrainer(
        model, small_meshes, val_dataset=small_meshes[:8], augment=Augmentation(), **settings
    )
    trainer()
    lines = read_metrics(tmp_path)
    assert lines[-2]["recon_loss"] < 0.95 * lines[0]["recon_loss"]
    assert {"val_triangle_accuracy", "val_code_perplexity", "val_excess_loss", "val_codes_in_use"} <= set(lines[-1])
    assert 0 < lines[0]["codes_in_use"] < 1
    again = MeshAutoencoder.from_pretrained(tmp_path)
    assert equal_weights(weights_of(again), weights_of(trainer.ema_model))


def test_the_trainer_tokenizes_with_the_averaged_model(tmp_path, autoencoder, tiny_meshes):
    trainer = MeshAutoencoderTrainer(autoencoder, tiny_meshes, checkpoint_folder=str(tmp_path), **SETTINGS)
    trainer()
    vertices, faces = torch.randn(1, 5, 3).clamp(-1, 1), torch.tensor([[[0, 1, 2], [2, 3, 4]]])
    codes = trainer.tokenize(vertices, faces)
    assert codes.shape == (1, 6, 2)
    assert torch.equal(codes, trainer.ema_model.tokenize(vertices, faces))
    assert trainer.model.training


def test_the_transformer_trainer_learns_logs_and_saves(tmp_path, autoencoder, small_meshes):
    model = transformer(autoencoder)
    settings = SETTINGS | {"num_train_steps": 20, "max_faces_per_batch": 400, "learning_rate": 5e-3}
    before = weights_of(autoencoder)
    trainer = MeshTransformerTrainer(
        model, small_meshes, val_dataset=small_meshes[:8], checkpoint_folder=str(tmp_path), **settings
    )
    trainer()
    lines = read_metrics(tmp_path)
    assert lines[-2]["bits_per_face"] < 0.95 * lines[0]["bits_per_face"]
    assert lines[-1]["val_perplexity"] == pytest.approx(np.exp(lines[-1]["val_loss"]))
    assert equal_weights(weights_of(autoencoder), before)
    again = MeshTransformer.from_pretrained(tmp_path, autoencoder)
    assert equal_weights(weights_of(again), weights_of(trainer.ema_model))


def test_the_logged_bits_per_face_are_all_bits_over_all_faces(tmp_path, autoencoder, tiny_dataset):
    settings = SETTINGS | {"val_num_batches": 100, "ema_decay": 0.0}
    data = tiny_dataset[:10]
    trainer = MeshTransformerTrainer(
        transformer(autoencoder), data, val_dataset=data, checkpoint_folder=str(tmp_path), **settings
    )
    figures = trainer.validate()
    objective, examples = TransformerObjective(), trainer.val_examples
    with torch.no_grad():
        rows = [trainer.model.eval().losses(objective.collate([examples.get(i, 0)]).codes) for i in range(10)]
    bits, faces = sum(float(row.row_bits.sum()) for row in rows), sum(row.num_faces for row in rows)
    assert figures["bits_per_face"] == pytest.approx(bits / faces, rel=1e-5)
    assert figures["loss"] == pytest.approx(bits * np.log(2) / sum(row.num_tokens for row in rows), rel=1e-5)


def test_a_transformer_run_goes_on_bit_for_bit_without_making_the_codes_again(tmp_path, autoencoder, small_meshes):
    def run(folder, seed=0, **keywords):
        settings = SETTINGS | {"checkpoint_folder": str(folder), "val_every": 2} | keywords
        model, data = transformer(autoencoder, seed, dropout=0.1), small_meshes[:10]
        options = {"augment": Augmentation(), "num_variants": 2, "cache_folder": tmp_path / "cache"}
        return MeshTransformerTrainer(model, data, **options, **settings)

    whole = run(tmp_path / "a")
    whole()
    first = run(tmp_path / "b", checkpoint_every=3)
    first._begin()
    for _ in range(3):
        first.train_step(StopSignals())
        first._after_step()
    second = run(tmp_path / "b", seed=9)
    assert second.resume() and second.step == 3
    second()
    assert equal_weights(weights_of(second.model), weights_of(whole.model))
    assert len(list((tmp_path / "cache").glob("*/codes.npy"))) == 1


def test_variants_without_augmentation_are_refused(tmp_path, autoencoder, tiny_dataset):
    with pytest.raises(TrainingError, match="num_variants = 3 needs augment"):
        MeshTransformerTrainer(
            transformer(autoencoder), tiny_dataset, num_variants=3, checkpoint_folder=str(tmp_path), **SETTINGS
        )


def test_sampling_weights_are_those_of_the_meshes_that_are_kept(tmp_path, autoencoder, tiny_dataset):
    order = np.argsort(tiny_dataset.face_counts)[::-1].tolist()
    data = tiny_dataset[order[:6]]
    longest = int(data.face_counts[2]) * autoencoder.tokens_per_face
    model = transformer(autoencoder, max_seq_len=longest)
    settings = SETTINGS | {"batch_size": 2, "checkpoint_folder": str(tmp_path)}
    with pytest.warns(UserWarning, match="left out"):
        trainer = MeshTransformerTrainer(model, data, weights=np.arange(6.0), **settings)
    kept = trainer.examples.kept
    assert 2 <= len(kept) < 6
    np.testing.assert_allclose(trainer.loader.sampler.weights, kept / kept.sum())


def test_several_processes_make_one_set_of_codes(tmp_path):
    """Two processes ask at once; one waits for the other's, and both read the same."""

    def ask(queue):
        def slowly(numbers):
            time.sleep(0.3)
            queue.put("made")
            return [np.array([number]) for number in numbers]

        codes, _ = TokenCache(tmp_path).get("key", 3, slowly)
        queue.put(codes.tolist())

    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=ask, args=(queue,)) for _ in range(2)]
    for process in processes:
        process.start()
    found = [queue.get(timeout=60) for _ in range(3)]
    for process in processes:
        process.join()
    assert sorted(map(str, found)) == ["[0, 1, 2]", "[0, 1, 2]", "made"]


def test_the_share_of_codes_in_use_is_that_of_all_batches_since_the_last_line_of_the_log():
    class Alone:
        num_processes, device = 1, torch.device("cpu")

    def losses(*codes):
        return Losses(torch.zeros(()), seen={"codes_in_use": codes_in_use(torch.tensor(codes), 8)})

    meter = Meter(Alone())
    meter.add(losses([0, 1], [2, 1]), 2.0)
    meter.add(losses([0, 7], [3, 7]), 2.0)
    meter.add(losses([5, 5]), 0.0)  # of what only stands in
    assert meter.means() == {"loss": 0.0, "codes_in_use": (3 + 2) / 16}
    meter.add(losses([5, 5]), 1.0)
    assert meter.means()["codes_in_use"] == 2 / 16


def test_code_perplexity_counts_equally_used_codes():
    codes = torch.tensor([[0, 5], [1, 5], [2, 5], [3, 5]])
    assert float(code_perplexity(codes)) == pytest.approx((4 + 1) / 2)


@pytest.mark.parametrize("quads", [False, True])
def test_what_stands_in_for_a_share_of_nothing_has_no_row_and_yet_touches_every_weight(tmp_path, small_meshes, quads):
    torch.manual_seed(0)
    sizes = {"encoder_dims_through_depth": (16,), "decoder_dims_through_depth": (16,), "dim_codebook": 16}
    model = MeshAutoencoder(**sizes, quads=quads, codebook_size=64, code_init="random", entropy_loss_weight=0.1)
    trainer = MeshAutoencoderTrainer(model, small_meshes[:5], **SETTINGS, checkpoint_folder=str(tmp_path))
    loader = BatchLoader(trainer.examples, trainer.objective, trainer.loader.sampler, process=1, processes=2)
    small = next(batch for batch in (loader[number] for number in range(2)) if not len(batch.indices))
    assert small.weight == 0 and small.batch.num_faces == len(small.batch.vertices) == 0
    assert small.batch.faces.shape[1] == model.corners
    trainer.module(small.batch, empty=True).loss.backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


# the codes that are kept


@pytest.fixture
def counted(autoencoder, monkeypatch):
    """Counts the meshes that the tokenizer is asked for."""
    calls = []
    original = type(autoencoder).codes_from_batch

    def counting(self, batch):
        calls.append(batch.batch_size)
        return original(self, batch)

    monkeypatch.setattr(type(autoencoder), "codes_from_batch", counting)
    return calls


def examples_of(data, autoencoder, augment=None, seed=0):
    return MeshExamples(data, MeshView(autoencoder.num_discrete_coors, autoencoder.corners, augment), seed)


def test_kept_codes_are_what_the_tokenizer_gives_for_each_mesh(tmp_path, autoencoder, tiny_dataset):
    examples = tokenized(autoencoder, examples_of(tiny_dataset, autoencoder), TokenCache(tmp_path))
    for index in (0, 13, 63):
        assert torch.equal(examples.get(index, 0), autoencoder.encode(tiny_dataset.mesh(index)))
    assert examples.sizes.tolist() == [len(examples.get(i, 0)) for i in range(64)]


def test_codes_are_made_once_and_shared(tmp_path, autoencoder, tiny_dataset, counted):
    first = tokenized(autoencoder, examples_of(tiny_dataset, autoencoder), TokenCache(tmp_path))
    made = sum(counted)
    second = tokenized(autoencoder, examples_of(tiny_dataset, autoencoder), TokenCache(tmp_path))
    assert made == 64 == sum(counted)
    assert torch.equal(first.get(3, 0), second.get(3, 0))


def test_variants_differ_and_take_turns(tmp_path, autoencoder, tiny_dataset):
    meshes = examples_of(tiny_dataset[:6], autoencoder, Augmentation())
    examples = tokenized(autoencoder, meshes, TokenCache(tmp_path), num_variants=3)
    one = [examples.get(2, epoch).tolist() for epoch in range(6)]
    assert one[:3] == one[3:] and one[0] != one[1] != one[2]


def test_codes_are_made_again_when_anything_they_depend_on_changes(autoencoder, tiny_dataset):
    def key(tokenizer=autoencoder, data=tiny_dataset, augment=None, seed=0, variants=1):
        return token_key(tokenizer, examples_of(data, tokenizer, augment, seed), variants)

    torch.manual_seed(1)
    other = MeshAutoencoder(autoencoder.config)
    moved = [Mesh(mesh.mesh.vertices * (1, 1, 1 + (i == 5)), mesh.mesh.faces) for i, mesh in enumerate(tiny_dataset)]
    keys = [
        *(key(), key(tokenizer=other), key(data=tiny_dataset[:63]), key(data=moved)),
        *(key(augment=Augmentation()), key(augment=Augmentation(jitter=0.01))),
        *(key(augment=Augmentation(), seed=1), key(augment=Augmentation(), variants=2)),
    ]
    assert len(set(keys)) == len(keys)
    assert key() == key(seed=7) == key()
    assert key(augment=Augmentation()) == key(augment=Augmentation())


def test_functions_are_known_by_what_they_do():
    def scaled(factor):
        return lambda mesh, rng: Mesh(mesh.vertices * factor, mesh.faces)

    def other(mesh, rng):
        return mesh

    class Callable:
        def __init__(self, size):
            self.size, self.table = size, np.arange(size)

    known = [describe for value in (scaled(2), scaled(3), other, Callable(2), Callable(3), {"a": (1, None)})
             for describe in [str(described_by_content(value))]]  # fmt: skip
    assert len(set(known)) == len(known)
    assert described_by_content(scaled(2)) == described_by_content(scaled(2))


def test_settings_that_functions_are_bound_to_count():
    def with_default(factor):
        def scaled(mesh, rng, *, by=factor):
            return mesh

        return scaled

    def moved(mesh, rng, by=1):
        return mesh

    class Scaled:
        def __init__(self, factor):
            self.factor = factor

        def apply(self, mesh, rng):
            return mesh

    kinds = [
        with_default,
        lambda factor: functools.partial(moved, by=factor),
        lambda factor: functools.partial(with_default(factor)),
        lambda factor: Scaled(factor).apply,
        lambda factor: torch.tensor(factor),
        np.int64,
        np.array,
        lambda factor: {factor}.copy(),
    ]
    for make in kinds:
        one, again, other = (json.dumps(described_by_content(make(factor))) for factor in (2, 2, 3))
        assert one == again != other
    assert described_by_content(lock := threading.Lock()) != described_by_content(lock)  # nothing can be told of it


def test_functions_that_hold_modules_and_themselves_are_known_too():
    def make(factor, module):
        def halved(mesh, rng, depth=0):
            return module.path and halved(mesh, rng, depth + factor)

        return halved

    known = [json.dumps(described_by_content(make(*of))) for of in ((1, os), (1, os), (2, os), (1, functools))]
    assert known[0] == known[1] and len(set(known)) == 3
    held = []
    held.append(held)
    assert described_by_content(held) == [["within", 1]]


def test_damaged_codes_are_made_again(tmp_path, autoencoder, tiny_dataset, counted):
    data = tiny_dataset[:4]
    good = tokenized(autoencoder, examples_of(data, autoencoder), TokenCache(tmp_path)).get(1, 0)
    path = next(tmp_path.glob("*/codes.npy"))
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    again = tokenized(autoencoder, examples_of(data, autoencoder), TokenCache(tmp_path)).get(1, 0)
    assert torch.equal(good, again) and sum(counted) == 8


def test_an_interrupted_pass_goes_on_from_its_last_part(tmp_path, autoencoder, tiny_dataset, counted, monkeypatch):
    monkeypatch.setattr(tokens_module, "PART_SIZE", 16)
    expected = tokenized(autoencoder, examples_of(tiny_dataset, autoencoder), TokenCache(tmp_path / "whole"))
    counted.clear()
    original, left = tokens_module.np.savez, [2]

    def interrupted(*args, **keywords):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        original(*args, **keywords)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(tokens_module.np, "savez", interrupted)
        tokenized(autoencoder, examples_of(tiny_dataset, autoencoder), TokenCache(tmp_path / "cut"))
    counted.clear()
    found = tokenized(autoencoder, examples_of(tiny_dataset, autoencoder), TokenCache(tmp_path / "cut"))
    assert sum(counted) == 32
    assert np.array_equal(found.codes, expected.codes) and np.array_equal(found.offsets, expected.offsets)


def test_a_disk_that_is_full_while_codes_are_kept_is_a_clear_error(tmp_path, autoencoder, tiny_dataset):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot write .*file"):
        tokenized(autoencoder, examples_of(tiny_dataset[:2], autoencoder), TokenCache(tmp_path / "file"))


def test_meshes_that_are_too_long_or_empty_are_left_out_with_a_warning(tmp_path, autoencoder, tiny_meshes):
    flat = Mesh(np.zeros((3, 3)), [[0, 1, 2]])
    data = sorted(tiny_meshes[:6], key=lambda mesh: mesh.num_faces)
    longest = data[3].num_faces * autoencoder.tokens_per_face
    fitting = sum(mesh.num_faces <= data[3].num_faces for mesh in data)
    with pytest.warns(
        UserWarning, match=f"of 7 meshes, {6 - fitting} need more than the {longest} codes .* 1 have no face"
    ):
        examples = tokenized(
            autoencoder, examples_of([flat, *data], autoencoder), TokenCache(tmp_path), 1, longest
        )  # fmt: skip
    assert len(examples) == fitting and examples.name(0) == "mesh 1"
    assert torch.equal(examples.get(0, 0), autoencoder.encode(data[0]))


def test_when_no_mesh_fits_it_is_an_error(tmp_path, autoencoder, tiny_dataset):
    with pytest.raises(DataError, match="nothing is left to train on; raise max_seq_len"):
        tokenized(autoencoder, examples_of(tiny_dataset[:3], autoencoder), TokenCache(tmp_path), 1, longest=5)


def test_large_sets_are_tokenised_in_batches_of_bounded_size(tmp_path, autoencoder, tiny_dataset, monkeypatch):
    monkeypatch.setattr(tokens_module, "FACES_AT_ONCE", 300)
    sizes = []
    original = MeshBatch.from_meshes

    def noting(meshes, texts=None):
        sizes.append(sum(mesh.num_faces for mesh in meshes))
        return original(meshes, texts)

    monkeypatch.setattr(tokens_module.MeshBatch, "from_meshes", staticmethod(noting))
    examples = tokenized(autoencoder, examples_of(tiny_dataset, autoencoder), TokenCache(tmp_path))
    assert max(sizes) <= 300 and len(sizes) > 3
    assert sum(len(examples.get(i, 0)) for i in range(64)) == sum(sizes) * autoencoder.tokens_per_face


def test_a_tokenizer_without_weights_has_a_key_too(tiny_dataset):
    @dataclasses.dataclass
    class Grid:
        num_discrete_coors: int = 128
        corners: int = 3

    keys = [token_key(Grid(size), examples_of(tiny_dataset, Grid(size)), 1) for size in (64, 128)]
    assert keys[0] != keys[1]


def test_more_parts_than_files_may_be_open_are_joined(tmp_path, monkeypatch):
    monkeypatch.setattr(tokens_module, "PART_SIZE", 1)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/dev/fd")) + 20, before[1]))
    try:
        codes, offsets = TokenCache(tmp_path).get("key", 60, lambda numbers: [np.array([i]) for i in numbers])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert codes.tolist() == list(range(60)) and offsets.tolist() == list(range(61))


def test_a_run_that_goes_on_with_codes_of_another_tokenizer_says_so(tmp_path, autoencoder, small_meshes):
    torch.manual_seed(1)
    other = MeshAutoencoder(autoencoder.config)
    settings = SETTINGS | {"num_train_steps": 1, "checkpoint_folder": str(tmp_path)}
    MeshTransformerTrainer(transformer(autoencoder), small_meshes, **settings)()
    with pytest.warns(UserWarning, match=r"1 of .*: tokenizer was [0-9a-f]{12}, is now [0-9a-f]{12}; the run goes on"):
        MeshTransformerTrainer(transformer(other), small_meshes, **settings).resume()
