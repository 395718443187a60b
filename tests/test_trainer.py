"""The trainer: exact resume, weighted means, EMA, validation, signals, NaN, the order of the data, tokens kept."""

import json
import os
import re
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from torch import nn

from meshgpt.data.augment import Augmentation
from meshgpt.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    MissingExtraError,
    NonFiniteLossError,
    TrainingError,
)
from meshgpt.training import processes as processes_module
from meshgpt.training.checkpoints import RunCheckpoints
from meshgpt.training.ema import Ema
from meshgpt.training.examples import Examples, MeshExample, MeshExamples, MeshView, as_example
from meshgpt.training.identity import changes, short_hash
from meshgpt.training.log import RunLog, read_metrics, require_trackers
from meshgpt.training.processes import on_main, warn_of_missing_processes
from meshgpt.training.sampler import BatchSampler, share_of_process
from meshgpt.training.settings import TrainerConfig, learning_rate_at
from meshgpt.training.signals import StopSignals
from meshgpt.training.trainer import Trainer
from tests.training_toys import Toy, ToyExamples, ToyObjective, equal_weights, toy_trainer, weights_of


class FixedOrder:
    """A sampler that gives the batches it is given, over and over."""

    def __init__(self, batches):
        self.batches, self.batches_per_epoch = batches, len(batches)

    def place(self, batch):
        return divmod(batch, self.batches_per_epoch)

    def indices(self, batch):
        return np.array(self.batches[self.place(batch)[1]])


# resuming


@pytest.mark.parametrize("cut", [3, 4, 7])
def test_a_run_that_was_stopped_mid_epoch_goes_on_bit_for_bit(tmp_path, cut):
    """With dropout, an uneven last batch, validation, EMA and random numbers from torch, numpy and Python."""
    whole = toy_trainer(tmp_path / "a", dropout=0.3, val_every=2, log_every=1)
    whole.val_examples = ToyExamples(7, seed=1)
    whole()
    first = toy_trainer(tmp_path / "b", dropout=0.3, val_every=2, log_every=1, checkpoint_every=cut)
    first.val_examples = ToyExamples(7, seed=1)
    first._begin()
    for _ in range(cut):
        first.train_step(StopSignals())
        first._after_step()
    first.log_file.end()
    np.random.rand(3), torch.rand(3)  # the random states come from the checkpoint, not from what happened since
    second = toy_trainer(tmp_path / "b", model=Toy(dropout=0.3), val_every=2, log_every=1)
    second.val_examples = ToyExamples(7, seed=1)
    assert second.resume() and second.step == cut
    second()
    assert equal_weights(weights_of(second.model), weights_of(whole.model))
    assert equal_weights(weights_of(second.ema_model), weights_of(whole.ema_model))
    for step in ("loss", "val_loss"):
        assert [line[step] for line in read_metrics(tmp_path / "a") if step in line and line["step"] > cut] == [
            line[step] for line in read_metrics(tmp_path / "b") if step in line and line["step"] > cut
        ]


def test_resume_in_an_empty_folder_says_so_and_starts(tmp_path):
    assert not toy_trainer(tmp_path).resume()


def test_a_second_run_in_the_same_folder_is_refused(tmp_path):
    toy_trainer(tmp_path, num_train_steps=2)()
    with pytest.raises(TrainingError, match="has the checkpoints of a run up to step 2: go on with it"):
        toy_trainer(tmp_path)()


def test_a_finished_run_goes_on_with_more_steps(tmp_path):
    toy_trainer(tmp_path, num_train_steps=2)()
    more = toy_trainer(tmp_path, num_train_steps=3)
    more.resume()
    more()
    assert more.step == 3 and more.checkpoints.steps() == [2, 3]


def test_other_settings_are_warned_of_when_resuming(tmp_path):
    toy_trainer(tmp_path, num_train_steps=2)()
    with pytest.warns(UserWarning, match="batch_size was 4, is now 5; the run goes on, but not as it would have"):
        toy_trainer(tmp_path, batch_size=5).resume()


@pytest.mark.parametrize(
    ("field", "before", "now"),
    [
        ("betas", (0.9, 0.99), (0.9, 0.95)),
        ("weight_decay", 0.0, 0.1),
        ("scheduler", "cosine", "wsd"),
        ("num_train_steps", 10, 20),
        ("warmup_steps", 0, 2),
        ("ema_decay", 0.999, 0.99),
        ("max_grad_norm", 1.0, None),
        ("weights", None, [1.0] * 21),
        ("max_faces_per_batch", None, 30),
    ],
)
def test_each_change_of_a_setting_is_named_with_both_values(tmp_path, field, before, now):
    first = toy_trainer(tmp_path, **{field: before})
    first._begin()
    first.train_step(StopSignals())
    first.save()
    later = short_hash(np.ones(21)) if field == "weights" else list(now) if isinstance(now, tuple) else now
    before = list(before) if isinstance(before, tuple) else before
    with pytest.warns(UserWarning) as caught:
        toy_trainer(tmp_path, **{field: now}).resume()
    [warning] = caught
    what = f"step 1 of {tmp_path}: {field} was {before}, is now {later}; the run goes on, but not as it would have"
    assert str(warning.message) == what


def test_a_run_that_goes_on_takes_the_settings_it_is_given_now(tmp_path):
    toy_trainer(tmp_path, num_train_steps=2, weight_decay=0.5)()
    again = toy_trainer(tmp_path, num_train_steps=4, betas=(0.5, 0.6), weight_decay=0.1)
    with pytest.warns(UserWarning, match=r"weight_decay was 0.5, is now 0.1; betas was \[0.9, 0.99\], is now"):
        again.resume()
    again()
    groups = again.optimizer.param_groups
    assert [(group["betas"], group["weight_decay"]) for group in groups] == [((0.5, 0.6), 0.1), ((0.5, 0.6), 0.0)]


def test_several_changes_are_one_warning_and_those_of_the_model_are_among_them(tmp_path):
    toy_trainer(tmp_path, num_train_steps=2)()
    with pytest.warns(UserWarning, match=r"seed was 0, is now 1; model.dropout was 0.0, is now 0.5; the run") as caught:
        toy_trainer(tmp_path, dropout=0.5, seed=1, log_every=7, num_workers=1).resume()
    assert len(caught) == 1


def test_another_way_to_augment_is_named(tmp_path, tiny_meshes):
    def flat(mesh, rng):
        return mesh

    def identity(augment):
        return MeshExamples(tiny_meshes, MeshView(128, 3, augment)).identity

    none, usual, turned, own = (identity(each) for each in (None, Augmentation(), Augmentation(turns=8), flat))
    assert changes(usual, turned, 1) == ["augment.turns was 4, is now 8"]
    assert changes(none, usual, 1) == ["augment was None, is now Augmentation"]
    [change] = changes(usual, own, 1)
    assert re.fullmatch(r"augment was Augmentation, is now .*flat \([0-9a-f]{12}\)", change)
    assert changes(own, identity(flat), 1) == changes(usual, identity(Augmentation()), 1) == []


def test_save_and_load_take_a_path(tmp_path):
    first = toy_trainer(tmp_path / "a", num_train_steps=3)
    first()
    first.save(tmp_path / "here")
    for path in (tmp_path / "here", tmp_path / "a"):
        second = toy_trainer(tmp_path / "b", model=Toy())
        second.load(path)
        assert second.step == 3 and equal_weights(weights_of(second.model), weights_of(first.model))


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    from meshgpt.training.checkpoints import RunState, write_checkpoint

    write_checkpoint(tmp_path / "x", RunState(1, {}, {"model": {}}))
    with pytest.raises(CheckpointError, match="is not the checkpoint of a run: it has no optimizer, random, run"):
        toy_trainer(tmp_path / "run").load(tmp_path / "x")


def test_a_run_without_an_average_can_begin_one_when_it_goes_on(tmp_path):
    toy_trainer(tmp_path, num_train_steps=2, ema_decay=0.0)()
    second = toy_trainer(tmp_path)
    with pytest.warns(UserWarning, match="ema_decay was 0.0, is now 0.999"):
        second.resume()
    assert equal_weights(weights_of(second.ema_model), weights_of(second.model))


def test_the_folder_of_a_run_is_the_averaged_model(tmp_path):
    trainer = toy_trainer(tmp_path)
    trainer()
    assert equal_weights(weights_of(Toy.from_pretrained(tmp_path)), weights_of(trainer.ema_model))
    assert not equal_weights(weights_of(trainer.ema_model), weights_of(trainer.model))


# one step


def test_accumulated_batches_train_as_one_big_batch(tmp_path):
    """Though the batches hold different numbers of rows."""
    small = toy_trainer(tmp_path / "a", grad_accum_every=3)
    small.loader.sampler = FixedOrder([[0, 1], [2, 3, 4], [5, 6]])
    big = toy_trainer(tmp_path / "b")
    big.loader.sampler = FixedOrder([[0, 1, 2, 3, 4, 5, 6]])
    small(), big()
    for first, second in zip(small.model.parameters(), big.model.parameters(), strict=True):
        assert torch.allclose(first, second, atol=1e-6)
    assert read_metrics(tmp_path / "a")[-1]["loss"] == pytest.approx(read_metrics(tmp_path / "b")[-1]["loss"], rel=1e-5)


def test_the_trainer_does_what_a_plain_loop_does(tmp_path):
    trainer = toy_trainer(tmp_path, max_grad_norm=0.5, weight_decay=0.1, scheduler="cosine", warmup_steps=2)
    model = Toy()
    model.load_state_dict(trainer.model.state_dict())
    weights, biases = ([p for p in model.parameters() if (p.ndim >= 2) is wide] for wide in (True, False))
    groups = [{"params": weights, "weight_decay": 0.1}, {"params": biases, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99))
    for step in range(10):
        batch = trainer.loader[step].batch
        ToyObjective().losses(model, batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step, trainer.config)
        optimizer.step()
        optimizer.zero_grad()
    trainer()
    for first, second in zip(trainer.model.parameters(), model.parameters(), strict=True):
        assert torch.allclose(first, second, atol=1e-6)


def test_bf16_trains_with_float32_weights_and_loss(tmp_path):
    trainer = toy_trainer(tmp_path, mixed_precision="bf16")
    trainer()
    assert trainer.model.head.weight.dtype == torch.float32
    assert np.isfinite(read_metrics(tmp_path)[-1]["loss"])


def test_two_trainers_of_different_precision_live_in_one_process(tmp_path):
    toy_trainer(tmp_path / "a", mixed_precision="bf16")
    assert toy_trainer(tmp_path / "b").accelerator.mixed_precision == "no"


def test_accelerator_keywords_are_used_and_not_changed(tmp_path):
    keywords = {"mixed_precision": "bf16"}
    trainer = toy_trainer(tmp_path, use_wandb_tracking=False, accelerator_kwargs=keywords)
    assert trainer.accelerator.mixed_precision == "bf16" and keywords == {"mixed_precision": "bf16"}


def test_a_model_without_weights_to_train_is_refused(tmp_path):
    with pytest.raises(TrainingError, match="Toy has no weights to train"):
        toy_trainer(tmp_path, model=Toy().requires_grad_(False))


def test_compiling_with_shape_checks_on_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("TYPECHECK", "True")
    with pytest.raises(ConfigError, match="compile_model = True and TYPECHECK exclude each other"):
        toy_trainer(tmp_path, compile_model=True)


def test_batches_from_workers_are_the_same(tmp_path):
    alone, helped = toy_trainer(tmp_path / "a"), toy_trainer(tmp_path / "b", num_workers=2, dropout=0.0)
    alone(), helped()
    assert equal_weights(weights_of(alone.model), weights_of(helped.model))


# EMA


def test_the_average_follows_its_formula():
    model = nn.Linear(2, 1, bias=False)
    average = nn.Linear(2, 1, bias=False)
    average.load_state_dict(model.state_dict())
    ema = Ema(model, average, decay=0.5, warmup=True)
    expected = model.weight.detach().clone()
    for update in range(1, 12):
        nn.init.constant_(model.weight, float(update))
        ema.update()
        decay = min(0.5, update / (9 + update))
        expected = decay * expected + (1 - decay) * model.weight
        assert torch.allclose(ema.model.weight, expected)
    assert ema.current_decay() == 0.5 and not ema.model.weight.requires_grad


def test_without_warm_up_the_decay_is_constant_and_buffers_are_copied():
    model, average = Toy(), Toy()
    ema = Ema(model, average, decay=0.9, warmup=False)
    model.seen.fill_(4.0)
    before = average.head.bias.detach().clone()
    ema.update()
    assert average.seen == 4.0 and torch.allclose(average.head.bias, 0.9 * before + 0.1 * model.head.bias)


def test_without_an_average_the_model_itself_is_exported(tmp_path):
    trainer = toy_trainer(tmp_path, ema_decay=0.0, num_train_steps=2)
    trainer()
    assert trainer.ema_model is trainer.model
    assert equal_weights(weights_of(Toy.from_pretrained(tmp_path)), weights_of(trainer.model))


def test_the_average_is_updated_every_few_steps(tmp_path):
    trainer = toy_trainer(tmp_path, ema_every=3)
    trainer()
    assert trainer.ema.updates == 3


# validation


class Recording(ToyObjective):
    """Notes the mode of each module, and whether its dropout is alive, at every call."""

    def __init__(self):
        self.modes = []

    def losses(self, model, batch):
        dropped = bool((model.net[2](torch.ones(1000)) == 0).any())
        self.modes.append((model.training, dropped))
        return super().losses(model, batch)


@pytest.mark.parametrize("with_ema", [True, False])
def test_validation_leaves_the_model_in_training_mode_and_dropout_alive(tmp_path, with_ema):
    objective = Recording()
    trainer = toy_trainer(
        tmp_path, dropout=0.5, objective=objective, val_every=1, val_num_batches=1, val_with_ema=with_ema
    )
    trainer.val_examples = ToyExamples(4)
    trainer()
    assert objective.modes == [(True, True), (False, False)] * 10


def test_a_part_that_was_frozen_in_evaluation_mode_stays_so(tmp_path):
    trainer = toy_trainer(tmp_path, val_with_ema=False)
    trainer.val_examples = ToyExamples(4)
    trainer.model.train()
    trainer.model.net.eval()
    trainer.validate()
    assert trainer.model.training and not trainer.model.net.training


def test_how_often_one_validates_changes_nothing(tmp_path):
    often, never = toy_trainer(tmp_path / "a", dropout=0.3, val_every=1), toy_trainer(tmp_path / "b", dropout=0.3)
    often.val_examples = ToyExamples(9)
    often(), never()
    assert equal_weights(weights_of(often.model), weights_of(never.model))


def test_validation_is_the_mean_over_rows_not_over_batches(tmp_path):
    trainer = toy_trainer(tmp_path, val_num_batches=100, batch_size=4)
    trainer.val_examples = ToyExamples(6)
    rows = torch.cat(list(trainer.val_examples.dataset))
    with torch.no_grad():
        expected = float((trainer.ema_model(rows) - rows.sum(dim=1)).square().mean())
    assert trainer.validate()["loss"] == pytest.approx(expected, rel=1e-5)


def test_validating_without_data_is_an_error(tmp_path):
    with pytest.raises(TrainingError, match="nothing to validate on: give val_dataset"):
        toy_trainer(tmp_path).validate()


# what stops a run


class Signalling(ToyObjective):
    """Sends this process a signal, or makes the loss not finite, at one step."""

    def __init__(self, at, what):
        self.calls, self.at, self.what = 0, at, what

    def losses(self, model, batch):
        losses = super().losses(model, batch)
        self.calls += 1
        if self.calls == self.at and isinstance(self.what, int):
            os.kill(os.getpid(), self.what)
        elif self.calls == self.at:
            losses.loss.data.mul_(self.what)
        return losses


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_signal_saves_and_says_how_to_go_on(tmp_path, number, error, capsys):
    whole = toy_trainer(tmp_path / "a", dropout=0.3)
    whole()
    stopped = toy_trainer(tmp_path / "b", dropout=0.3, objective=Signalling(4, int(number)), progress=True)
    with pytest.raises(error) as caught:
        stopped()
    assert stopped.checkpoints.steps() == [4]
    assert "stopped at step 4 and saved" in capsys.readouterr().out
    if error is SystemExit:
        assert caught.value.code == 128 + 15
    again = toy_trainer(tmp_path / "b", dropout=0.3)
    again.resume()
    again()
    assert equal_weights(weights_of(again.model), weights_of(whole.model))


SLOWLY = """
import sys, time
from tests.training_toys import ToyObjective, toy_trainer

class Slow(ToyObjective):
    def losses(self, model, batch):
        time.sleep(0.02)
        return super().losses(model, batch)

if __name__ == "__main__":
    toy_trainer(sys.argv[1], objective=Slow(), num_train_steps=2000, num_workers=2, progress=True, log_every=5)()
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_of_a_terminal_leaves_the_workers_to_the_trainer(tmp_path, number):
    """Which saves and says how to go on."""
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1", "TYPECHECK": "False"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [sys.executable, "-W", "ignore", "-c", SLOWLY, str(tmp_path)]
    with subprocess.Popen(command, env=environment, start_new_session=True, **pipes) as run:
        try:
            first = run.stdout.readline()
            os.killpg(run.pid, number)
            output, errors = run.communicate(timeout=60)
        finally:
            run.kill()
    [step] = RunCheckpoints(tmp_path / "checkpoints").steps()
    assert first.startswith("step 5/2000") and 5 <= step < 2000
    assert f"stopped at step {step} and saved to {tmp_path}; go on with resume" in output
    assert "worker" not in errors and run.returncode == (143 if number == signal.SIGTERM else -signal.SIGINT)


def test_a_second_ctrl_c_interrupts_at_once():
    before = signal.getsignal(signal.SIGINT)  # ignored, where a shell runs the tests in the background
    with StopSignals() as signals, pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.received == signal.SIGINT
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_training_works_outside_the_main_thread(tmp_path):
    trainer = toy_trainer(tmp_path)
    thread = threading.Thread(target=trainer)
    thread.start()
    thread.join()
    assert trainer.step == 10


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_with_the_batch_named_and_the_state_before_it_kept(tmp_path, value):
    trainer = toy_trainer(tmp_path / "b", dropout=0.3, objective=Signalling(6, value))
    with pytest.raises(NonFiniteLossError, match=r"step 5: the loss is (nan|inf) in batch 5 \(example \d+, ") as caught:
        trainer()
    assert "the state before this step is in" in str(caught.value)
    assert all(str(i) in str(caught.value) for i in trainer.loader[5].indices)
    again, whole = toy_trainer(tmp_path / "b", dropout=0.3), toy_trainer(tmp_path / "a", dropout=0.3)
    assert again.resume() and again.step == 5
    again(), whole()
    assert equal_weights(weights_of(again.model), weights_of(whole.model))


def test_a_run_that_stopped_at_its_first_step_goes_on(tmp_path):
    with pytest.raises(NonFiniteLossError, match="step 0: "):
        toy_trainer(tmp_path, objective=Signalling(1, float("nan")))()
    again = toy_trainer(tmp_path)
    assert again.resume() and again.step == 0
    again()
    assert again.step == 10


def test_a_batch_in_which_there_is_nothing_changes_nothing(tmp_path):
    class Weightless(ToyObjective):
        def weight(self, batch):
            return 0.0

    trainer = toy_trainer(tmp_path, num_train_steps=2, objective=Weightless())
    before = weights_of(trainer.model)
    trainer()
    assert equal_weights(before, weights_of(trainer.model))


def test_data_that_cannot_be_validated_on_are_refused_before_training(tmp_path):
    with pytest.raises(DataError, match="the data set is empty"):
        toy_trainer(tmp_path, val_examples=ToyExamples(0))
    with pytest.raises(DataError, match="example 4 has size 5, more than the 4"):
        toy_trainer(tmp_path, count=4, val_examples=ToyExamples(10), max_faces_per_batch=4)


def test_a_gradient_that_is_not_finite_stops_too(tmp_path):
    class Steep(ToyObjective):
        def losses(self, model, batch):
            losses = super().losses(model, batch)
            return type(losses)(losses.loss + (model.head.bias * 0).sqrt().sum(), {})

    with pytest.raises(NonFiniteLossError, match=r"but its gradient is nan"):
        toy_trainer(tmp_path, objective=Steep())()


def test_weights_that_are_not_finite_replace_no_good_checkpoint(tmp_path):
    trainer = toy_trainer(tmp_path, num_train_steps=2)
    trainer()
    trainer.config = trainer.config.replace(num_train_steps=5)
    trainer.model.seen.fill_(torch.nan)
    trainer.objective = trainer.module.objective = Signalling(1, float("nan"))
    with pytest.raises(NonFiniteLossError, match="could not be kept: the weights are not finite"):
        trainer()
    assert trainer.checkpoints.steps() == [2]


def test_a_disk_that_is_full_is_a_clear_error(tmp_path, monkeypatch):
    trainer = toy_trainer(tmp_path, checkpoint_every=3)
    original, left = trainer.checkpoints.save, [1]

    def full(state):
        left[0] -= 1
        if left[0] < 0:
            raise CheckpointError("cannot write: No space left on device")
        return original(state)

    monkeypatch.setattr(trainer.checkpoints, "save", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        trainer()
    assert trainer.checkpoints.load_newest().step == 3


def test_what_fails_on_the_main_process_fails_on_all(tmp_path, monkeypatch):
    class Second:
        is_main_process, num_processes = False, 2

    monkeypatch.setattr(processes_module, "gather_object", lambda values: ["disk full", *values])
    with pytest.raises(TrainingError, match="the main process failed: disk full"):
        on_main(Second(), lambda: None)


# schedules


@pytest.mark.parametrize("scheduler", ["constant", "cosine", "linear", "wsd"])
def test_schedules_warm_up_and_end_where_they_should(scheduler):
    config = TrainerConfig(
        num_train_steps=100, warmup_steps=10, learning_rate=2.0, scheduler=scheduler, min_lr_ratio=0.1
    )
    rates = [learning_rate_at(step, config) for step in range(101)]
    assert rates[:10] == pytest.approx([2.0 * (i + 1) / 10 for i in range(10)])
    assert rates[10] == pytest.approx(2.0) and rates[100] == pytest.approx(2.0 if scheduler == "constant" else 0.2)
    assert all(late <= early + 1e-12 for early, late in zip(rates[10:], rates[11:], strict=False))
    if scheduler == "wsd":
        assert rates[81] == pytest.approx(2.0) and rates[91] == pytest.approx(1.1)
    if scheduler == "cosine":
        assert rates[55] == pytest.approx(1.1)


def test_warm_up_is_two_percent_unless_said():
    assert TrainerConfig(num_train_steps=500).num_warmup_steps == 10
    assert TrainerConfig(num_train_steps=10**6).num_warmup_steps == 1000
    assert learning_rate_at(0, TrainerConfig(num_train_steps=10, warmup_steps=0)) == 2e-4


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[(name, 0) for name in ("num_train_steps", "batch_size", "grad_accum_every", "ema_every", "val_every")],
        *[(name, 0) for name in ("val_num_batches", "log_every", "checkpoint_every", "keep_checkpoints")],
        *[(name, 0) for name in ("max_faces_per_batch", "expected_processes", "learning_rate", "decay_fraction")],
        *[("max_grad_norm", 0.0), ("scheduler", "steps"), ("mixed_precision", "fp4"), ("trackers", ("mlflow",))],
        *[("weight_decay", -1.0), ("warmup_steps", -1), ("min_lr_ratio", 2.0), ("ema_decay", 1.0), ("num_workers", -1)],
    ],
)
def test_impossible_settings_are_named(field, value):
    with pytest.raises(ConfigError, match=f"TrainerConfig.{field} must"):
        TrainerConfig(**{field: value})


# the order of the data


def batches_of(sampler, epoch):
    first = epoch * sampler.batches_per_epoch
    return [sampler.indices(first + i) for i in range(sampler.batches_per_epoch)]


@pytest.mark.parametrize("limit", [None, 900])
def test_every_example_is_in_one_batch_of_every_epoch(limit):
    sizes = np.random.default_rng(0).integers(12, 800, 333)
    sampler = BatchSampler(sizes, 16, seed=3, max_size_per_batch=limit)
    for epoch in (0, 1, 5):
        batches = batches_of(sampler, epoch)
        assert sorted(np.concatenate(batches)) == list(range(333))
        assert all(len(batch) <= 16 for batch in batches)
        assert limit is None or all(sizes[batch].sum() <= limit for batch in batches)


def test_the_order_depends_on_seed_and_number_alone():
    sizes = np.arange(100)
    first, second = BatchSampler(sizes, 8, seed=1), BatchSampler(sizes, 8, seed=1)
    numbers = [40, 3, 17, 0, 40]
    assert [list(first.indices(n)) for n in numbers] == [list(second.indices(n)) for n in reversed(numbers)][::-1]
    assert [list(b) for b in batches_of(first, 0)] != [list(b) for b in batches_of(first, 1)]
    assert [list(b) for b in batches_of(first, 0)] != [list(b) for b in batches_of(BatchSampler(sizes, 8, seed=2), 0)]


def test_batches_hold_examples_of_similar_size():
    sizes = np.random.default_rng(0).integers(12, 800, 2000)
    batches = batches_of(BatchSampler(sizes, 16, seed=0), 0)
    padding = 1 - sizes.sum() / sum(len(b) * sizes[b].max() for b in batches)
    assert padding < 0.08  # in any order about half would be padding
    assert len(batches) == 2000 // 16


@pytest.mark.parametrize("limit", [None, 900])
def test_balanced_draws_follow_the_weights_and_the_limit_and_are_the_same_each_time(limit):
    rng = np.random.default_rng(0)
    sizes, weights = rng.integers(12, 800, 333), rng.choice([0.0, 1.0, 9.0], 333)
    sampler = BatchSampler(sizes, 16, seed=3, max_size_per_batch=limit, weights=weights)
    batches = [batch for epoch in range(200) for batch in batches_of(sampler, epoch)]
    assert all(len(batch) <= 16 and (limit is None or sizes[batch].sum() <= limit) for batch in batches)
    times = np.bincount(np.concatenate(batches), minlength=333) / 200  # in an epoch, which has about 333 draws
    expected = 333 * weights / weights.sum()
    assert times.sum() == pytest.approx(333, rel=0.02) and (times[weights == 0] == 0).all()
    # each of 200 epochs rounds up or down, twice: by more than 0.2 in the mean about one example in a million
    assert np.abs(times - expected).max() < 0.2 and np.abs(times - expected).mean() < 0.05
    again = BatchSampler(sizes, 16, seed=3, max_size_per_batch=limit, weights=weights)
    numbers = [700, 3, 41]
    assert [list(again.indices(n)) for n in numbers] == [list(sampler.indices(n)) for n in reversed(numbers)][::-1]


def test_batches_that_are_drawn_hold_examples_of_similar_size():
    rng = np.random.default_rng(0)
    sizes, weights = rng.integers(12, 800, 2000), rng.uniform(0.1, 2.0, 2000)
    batches = batches_of(BatchSampler(sizes, 16, seed=0, weights=weights), 0)
    padding = 1 - sum(sizes[b].sum() for b in batches) / sum(len(b) * sizes[b].max() for b in batches)
    assert padding < 0.08 and all(len(batch) == 16 for batch in batches)


def test_equal_weights_draw_about_as_often_as_none():
    """Within a bucket every example comes once before any comes twice."""
    sampler = BatchSampler(np.ones(100), 10, seed=0, weights=np.ones(100))
    for epoch in range(3):
        assert sorted(np.concatenate(batches_of(sampler, epoch))) == list(range(100))


def test_a_balanced_run_under_a_limit_goes_on_bit_for_bit(tmp_path):
    def trainer(folder):
        weights = np.random.default_rng(0).uniform(size=21)
        return toy_trainer(folder, dropout=0.3, max_faces_per_batch=9, weights=weights)

    whole, first = trainer(tmp_path / "a"), trainer(tmp_path / "b")
    whole()
    first._begin()
    for _ in range(7):
        first.train_step(StopSignals())
    first.save()
    second = trainer(tmp_path / "b")
    assert second.resume() and second.step == 7
    second()
    assert equal_weights(weights_of(second.model), weights_of(whole.model))


def test_a_data_set_smaller_than_a_batch_is_refused_with_both_numbers(tmp_path):
    with pytest.raises(DataError, match="has 21 examples, fewer than the 64 of one batch"):
        toy_trainer(tmp_path, batch_size=64)


@pytest.mark.parametrize(
    ("sizes", "options", "message"),
    [
        ([], {}, "the data set is empty"),
        ([5, 900], {"max_size_per_batch": 800}, "example 1 has size 900, more than the 800"),
        ([5, 5], {"weights": [0.0, 0.0]}, "sampling weights must be 2 numbers"),
        ([5, 5], {"weights": [1.0]}, "sampling weights must be 2 numbers"),
        ([5, 5], {"weights": [1.0, -1.0]}, "none negative"),
    ],
)
def test_data_that_cannot_be_sampled_is_explained(sizes, options, message):
    with pytest.raises(DataError, match=message):
        BatchSampler(sizes, 2, seed=0, **options)


def test_processes_share_a_batch_without_overlap():
    shares = [share_of_process(range(7), process, 3) for process in range(3)]
    assert sorted(np.concatenate(shares)) == list(range(7)) and [len(share) for share in shares] == [3, 2, 2]


# meshes


def test_any_form_of_mesh_data_is_understood(tiny_meshes):
    mesh = tiny_meshes[0]
    padded = np.concatenate((mesh.faces, [[-1, -1, -1]]))
    forms = [
        mesh,
        MeshExample(mesh),
        (torch.tensor(mesh.vertices), torch.tensor(padded), "a text"),
        {"faces": padded, "vertices": mesh.vertices, "texts": "a text"},
    ]
    for form in forms:
        assert np.array_equal(as_example(form, 0).mesh.faces, mesh.faces)
    swapped = as_example((mesh.faces, mesh.vertices), 0, ("faces", "vertices"))
    assert np.array_equal(swapped.mesh.faces, mesh.faces)
    assert as_example(forms[2], 0).text == as_example(forms[3], 0).text == "a text"


@pytest.mark.parametrize("item", ["text", {"vertices": 1}, 7])
def test_items_that_are_no_mesh_are_named_by_number(item):
    with pytest.raises(DataError, match="item 3 is a .*; expected a Mesh"):
        as_example(item, 3)


def test_faces_that_are_neither_whole_nor_padding_are_refused_and_other_things_are_no_text():
    vertices, edges = torch.eye(3), torch.zeros(4, 2)
    assert as_example((vertices, torch.tensor([[0, 1, 2], [-1, -1, -1]]), edges), 0).text is None
    with pytest.raises(DataError, match="item 5: face 1"):
        as_example((vertices, torch.tensor([[0, 1, 2], [0, 1, -1]])), 5)


def test_a_data_set_must_have_a_length():
    with pytest.raises(DataError, match="needs a length and numbered items, which generator lacks"):
        Examples(x for x in range(3))


def test_a_plain_data_set_is_measured_by_reading_it(tiny_meshes, tiny_dataset):
    plain = [(mesh.vertices, mesh.faces) for mesh in tiny_meshes]
    examples = MeshExamples(plain)
    assert examples.sizes.tolist() == MeshExamples(tiny_dataset).sizes.tolist()
    moved = [(vertices + (i == 3), faces) for i, (vertices, faces) in enumerate(plain)]
    assert examples.fingerprint == MeshExamples(list(plain)).fingerprint != MeshExamples(moved).fingerprint
    assert examples.name(4) == "mesh 4" and "'" in MeshExamples(tiny_dataset).name(4)


def test_augmentation_depends_on_seed_epoch_and_index_alone(tiny_meshes):
    def stretch(mesh, rng):
        return type(mesh)(mesh.vertices * rng.uniform(0.5, 1.0, 3), mesh.faces)

    examples = MeshExamples(tiny_meshes, MeshView(128, 3, stretch), seed=4)
    once, again, later = examples.get(5, 2), examples.get(5, 2), examples.get(5, 3)
    assert np.array_equal(once.mesh.vertices, again.mesh.vertices)
    assert once.mesh.vertices.shape != later.mesh.vertices.shape or (once.mesh.vertices != later.mesh.vertices).any()


def test_triangles_become_quads_with_a_missing_corner_where_the_model_has_quads(tiny_meshes):
    mesh = MeshExamples(tiny_meshes[:1], MeshView(128, 4)).get(0, 0).mesh
    assert mesh.corners == 4 and (mesh.faces[:, 3] == -1).all()


# the log


def test_a_missing_tracker_names_the_extra_to_install():
    with pytest.raises(MissingExtraError, match=r"tracking with wandb.*pip install 'meshgpt\[wandb\]'"):
        require_trackers(["wandb"])


def test_trackers_receive_the_figures(tmp_path, monkeypatch):
    from accelerate.tracking import GeneralTracker

    class Tracker(GeneralTracker):
        name, requires_logging_directory, main_process_only = "mine", False, True

        def __init__(self):
            super().__init__()
            self.seen = []

        @property
        def tracker(self):
            return self.seen

        def store_init_configuration(self, values):
            self.seen.append(values)

        def log(self, values, step=None, **_):
            self.seen.append((step, values))

    tracker = Tracker()
    monkeypatch.setattr(processes_module, "require_trackers", lambda names: None)
    trainer = toy_trainer(tmp_path, trackers=("tensorboard",), accelerator_kwargs={"log_with": [tracker]})
    trainer()
    assert tracker.seen[0]["batch_size"] == 4
    assert tracker.seen[1][0] == 10 and "loss" in tracker.seen[1][1]


def test_every_figure_is_in_the_log_with_epoch_rate_and_time(tmp_path, capsys):
    trainer = toy_trainer(tmp_path, log_every=4, progress=True)
    figures = trainer()
    lines = read_metrics(tmp_path)
    assert [line["step"] for line in lines] == [4, 8, 10]
    assert {"loss", "largest", "learning_rate", "grad_norm", "epoch", "seconds_per_step"} <= set(lines[0])
    assert lines[-1]["epoch"] == pytest.approx(10 / 6) and figures["loss"] == lines[-1]["loss"]
    assert "left" in capsys.readouterr().out


def test_a_log_that_cannot_be_written_stops_no_training(tmp_path):
    (tmp_path / "run" / "metrics.jsonl").mkdir(parents=True)
    trainer = toy_trainer(tmp_path / "run", num_train_steps=2)
    with pytest.warns(UserWarning, match=r"cannot write .*metrics\.jsonl: Is a directory; the run goes on"):
        trainer()
    assert trainer.checkpoints.steps() == [2]


def test_on_a_terminal_there_is_a_bar(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    log = RunLog(tmp_path, 3)
    log.begin(0)
    log.advance()
    log.say("a line")
    assert log.bar is not None and log.bar.n == 1
    log.end()


def test_the_log_is_json_lines(tmp_path):
    toy_trainer(tmp_path, num_train_steps=2)()
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        assert json.loads(line)["step"] == 2


# processes


def test_fewer_processes_than_asked_for_are_warned_of(tmp_path):
    with pytest.warns(UserWarning, match="3 processes were asked for, but there are 1; start them with: torchrun"):
        toy_trainer(tmp_path, expected_processes=3)
    warn_of_missing_processes(2, expected=2)


def test_what_the_launcher_was_asked_for_is_read_from_its_command_line(tmp_path):
    read = processes_module._asked_of_launcher
    line = tmp_path / "cmdline"
    line.write_bytes(b"python\0/bin/accelerate\0launch\0--cpu\0--num_processes\x002\0train.py\0")
    assert read(line) == 2
    line.write_bytes(b"accelerate\0launch\0--num_processes=4\0train.py\0")
    assert read(line) == 4
    line.write_bytes(b"bash\0-c\0--num_processes\x004\0")
    assert read(line) is None
    assert read(tmp_path / "none") is None


def test_any_data_set_and_objective_will_do(tmp_path):
    """A list of tensors, without sizes or names."""
    data = [torch.randn(2, 3) for _ in range(8)]
    trainer = Trainer(
        Toy(), data, ToyObjective(), num_train_steps=2, batch_size=4, progress=False, checkpoint_folder=str(tmp_path)
    )
    assert trainer()["loss"] > 0
