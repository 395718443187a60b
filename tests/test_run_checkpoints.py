"""Checkpoints of a run: whole whenever the process dies, checked when they are read, the last few kept."""

import builtins
import json
import os
import shutil
import signal
import warnings

import pytest
import torch

import meshgpt.training.checkpoints as checkpoints
from meshgpt.errors import CheckpointError
from meshgpt.training.checkpoints import RunCheckpoints, RunState, pack_optimizer, read_checkpoint, unpack_optimizer
from meshgpt.training.log import RunLog
from tests.training_toys import Toy, equal_weights, toy_trainer, weights_of


def state(step):
    return RunState(step, {"note": step}, {"model": {"w": torch.full((64,), float(step))}, "optimizer": {}})


def test_a_state_comes_back_equal(tmp_path):
    values = {"a": [1, 2.5, None], "b": {"c": "d"}}
    tensors = {"model": {"x": torch.randn(2, 3), "half": torch.randn(2).bfloat16(), "n": torch.tensor(3)}}
    checkpoints.write_checkpoint(tmp_path / "here", RunState(7, values, tensors))
    again = read_checkpoint(tmp_path / "here")
    assert again.step == 7 and again.values == values and equal_weights(again.tensors["model"], tensors["model"])


def test_the_newest_few_are_kept(tmp_path):
    run = RunCheckpoints(tmp_path, keep=2)
    for step in (5, 10, 15, 20):
        run.save(state(step))
    assert run.steps() == [15, 20]
    assert run.load_newest().step == 20


def test_an_empty_folder_has_no_checkpoint(tmp_path):
    assert RunCheckpoints(tmp_path / "none").load_newest() is None
    assert RunCheckpoints(tmp_path / "none").steps() == []


@pytest.mark.parametrize("file", ["model.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["cut", "flip", "remove"])
def test_a_damaged_newest_checkpoint_is_passed_over_with_a_warning(tmp_path, file, damage):
    run = RunCheckpoints(tmp_path)
    run.save(state(1))
    path = run.save(state(2)) / file
    good = path.read_bytes()
    if damage == "remove":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(good[:-9])
    else:
        path.write_bytes(good[:-9] + bytes([good[-9] ^ 4]) + good[-8:])
    with pytest.warns(UserWarning, match=r"step-00000002 is damaged.*going back to step 1"):
        assert run.load_newest().step == 1


def test_when_all_are_damaged_it_is_an_error_and_not_a_fresh_start(tmp_path):
    run = RunCheckpoints(tmp_path)
    (run.save(state(1)) / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="no checkpoint in .* is whole"):
        run.load_newest()


def test_a_manifest_that_lists_nothing_is_damage(tmp_path):
    path = RunCheckpoints(tmp_path).save(state(1))
    (path / "manifest.json").write_text('{"sha256": {}}')
    with pytest.raises(CheckpointError, match=r"does not list state\.json"):
        read_checkpoint(path)


def test_a_checkpoint_that_is_not_there_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"there is no checkpoint .*nowhere"):
        read_checkpoint(tmp_path / "nowhere")


def test_a_full_disk_is_a_clear_error_and_older_checkpoints_stay(tmp_path, monkeypatch):
    run = RunCheckpoints(tmp_path, keep=1)
    run.save(state(1))

    def full(path, tensors):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "write_tensors", full)
    with pytest.raises(CheckpointError, match=r"cannot write .*step-00000002: No space left on device.*untouched"):
        run.save(state(2))
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    assert run.load_newest().step == 1


def kill_at(nth, before):
    """Makes the process kill itself before, or after, its nth call that changes the file system."""
    left = [nth]

    def wrapped(original):
        def call(*args, **keywords):
            left[0] -= 1
            if left[0] < 0 and before:
                os.kill(os.getpid(), signal.SIGKILL)
            result = original(*args, **keywords)
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call

    for name in ("fsync", "rename", "replace", "mkdir", "unlink", "rmdir"):
        setattr(os, name, wrapped(getattr(os, name)))
    builtins.open = wrapped(builtins.open)


def in_child(action):
    """Runs `action` in a forked process; gives the signal that killed it, or 0."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking is what this test is about
        child = os.fork()
    if child == 0:
        code = 1
        try:
            action()
            code = 0
        finally:
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


@pytest.fixture
def without_syncs(monkeypatch):
    """Syncing matters when the machine dies, not when the process does, and costs most of the time."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.mark.slow
def test_whenever_a_save_is_killed_a_whole_checkpoint_is_found(tmp_path, without_syncs):
    """Every call that changes the file system, before and after it, while step 3 is saved over steps 1, 2 and 3."""
    killed = 0
    run = RunCheckpoints(tmp_path / "before", keep=2)
    for step in (1, 2, 3):
        run.save(state(step))
    for before in (True, False):
        for nth in range(1000):
            run = RunCheckpoints(shutil.copytree(tmp_path / "before", tmp_path / f"{before}{nth}"), keep=2)

            def save_and_die(run=run, nth=nth, before=before):
                kill_at(nth, before)
                run.save(state(3))
                run.save(state(4))

            if not in_child(save_and_die):
                break
            killed += 1
            run.tidy()
            found = run.load_newest()
            assert found.step in (3, 4) and found.values["note"] == found.step
            assert torch.equal(found.tensors["model"]["w"], torch.full((64,), float(found.step)))
            run.save(state(5))
            assert run.load_newest().step == 5 and len(run.steps()) == 2
            assert not list(run.folder.glob(".*"))
    assert killed > 40


@pytest.mark.slow
def test_a_run_that_is_killed_anywhere_ends_with_the_same_weights(tmp_path, without_syncs):
    """Training with saves and a model export, killed at one file operation after another, then resumed to the end."""
    settings = {"dropout": 0.2, "num_train_steps": 4, "checkpoint_every": 2, "log_every": 2}
    whole = toy_trainer(tmp_path / "whole", **settings)
    whole()
    expected, average = weights_of(whole.model), weights_of(whole.ema_model)
    for nth in range(3, 1000, 13):
        folder = tmp_path / f"{nth}"

        def train_and_die(nth=nth, folder=folder):
            trainer = toy_trainer(folder, **settings)
            kill_at(nth, nth % 2 == 0)
            trainer()

        if not in_child(train_and_die):
            break
        trainer = toy_trainer(folder, **settings)
        trainer.resume()
        trainer()
        assert equal_weights(weights_of(trainer.model), expected)
        assert equal_weights(weights_of(Toy.from_pretrained(folder)), average)
    assert nth > 30


@pytest.mark.parametrize("make", [torch.optim.AdamW, torch.optim.Adam, torch.optim.RMSprop, torch.optim.SGD])
def test_any_optimizer_goes_on_as_if_it_had_never_stopped(make):
    def steps(model, optimizer, count):
        for i in range(count):
            torch.manual_seed(i)
            model(torch.randn(4, 3)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()

    first = Toy()
    optimizer = make(first.parameters(), lr=1e-2)
    steps(first, optimizer, 3)
    tensors, values = pack_optimizer(optimizer)
    second = Toy()
    second.load_state_dict(first.state_dict())
    again = make(second.parameters(), lr=5.0)
    unpack_optimizer(again, {name: tensor.clone() for name, tensor in tensors.items()}, json.loads(json.dumps(values)))
    steps(first, optimizer, 3)
    steps(second, again, 3)
    assert equal_weights(weights_of(first), weights_of(second))


def test_an_optimizer_of_another_model_is_refused():
    tensors, values = pack_optimizer(torch.optim.Adam(Toy().parameters()))
    with pytest.raises(CheckpointError, match=r"groups of \[4\] parameters, this one \[2\]"):
        unpack_optimizer(torch.optim.Adam(Toy().net.parameters()), tensors, values)


def test_optimizer_state_that_is_no_tensor_or_number_is_refused():
    optimizer = torch.optim.LBFGS(Toy().parameters())
    optimizer.state[optimizer.param_groups[0]["params"][0]]["old"] = [torch.zeros(1)]
    with pytest.raises(CheckpointError, match="optimizer state 'old' is a list"):
        pack_optimizer(optimizer)


def test_a_cut_last_line_of_the_log_does_not_stop_a_resumed_run(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 5, "loss": 1.0}\n{"step": 9, "lo')
    log = RunLog(tmp_path, 10, progress=False)
    log.begin(4)
    log.write(5, {"loss": 3.0})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{"step": 1, "loss": 2.0}, {"step": 5, "loss": 3.0}]
