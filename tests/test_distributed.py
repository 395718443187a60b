"""Two processes on CPUs train as one with twice the batch; what stops one stops both."""

import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from meshgpt.training.checkpoints import RunCheckpoints
from meshgpt.training.log import read_metrics

SCRIPT = Path(__file__).with_name("distributed_run.py")
BOTH = ("train", "balanced", "autoencoder")  # what one process does as well
TASKS = (*BOTH, "vanishing", "vector_codes", "not_finite", "full_disk", "signalled")


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def start(folder, batch_size, tasks, rank=None, world_size=2, port=0):
    """One process; with `rank`, the one of that number of `world_size`, as torchrun would start it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1", "TYPECHECK": "False"}
    if rank is not None:
        sizes = dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(world_size))
        environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank), **sizes}
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, "-W", "ignore", str(SCRIPT), str(folder), str(batch_size), ",".join(tasks)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(processes):
    try:
        for process in processes:
            output, _ = process.communicate(timeout=400)
            assert process.returncode == 0, output[-3000:]
    finally:
        for process in processes:
            process.kill()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of the same work done by two processes and, where it can be, by one with twice the batch."""
    folder, port = tmp_path_factory.mktemp("runs"), free_port()
    two = [start(folder / "two", 2, TASKS, rank, port=port) for rank in range(2)]
    finish([*two, start(folder / "one", 4, BOTH)])
    return folder


def newest(runs, name, task):
    return RunCheckpoints(runs / name / task / "checkpoints").load_newest()


@pytest.mark.slow
def test_two_processes_end_with_the_weights_of_one_with_twice_the_batch(runs):
    """Though the batches hold different numbers of rows, and the last one has nothing for the second process."""
    one, two = newest(runs, "one", "train"), newest(runs, "two", "train")
    for group in ("model", "ema"):
        for name, tensor in one.tensors[group].items():
            torch.testing.assert_close(two.tensors[group][name], tensor, atol=2e-5, rtol=1e-4, msg=name)


def check_equal_logs(one, other):
    of_a_share = {"seconds_per_step", "code_perplexity", "largest", "val_largest", "padding", "val_padding"}
    lines = [read_metrics(folder) for folder in (one, other)]
    assert len(lines[0]) == len(lines[1]) > 2
    for first, second in zip(*lines, strict=True):
        for name in set(first) - of_a_share:
            assert second[name] == pytest.approx(first[name], rel=2e-4, abs=1e-6), (first["step"], name)


@pytest.mark.slow
@pytest.mark.parametrize("task", BOTH)
def test_two_processes_log_the_losses_and_gradients_of_one_with_twice_the_batch(runs, task):
    """The entropy of the tokenizer's codes is among them: that of the whole batch, not of a process's share."""
    check_equal_logs(runs / "one" / task, runs / "two" / task)
    assert task != "autoencoder" or read_metrics(runs / "one" / task)[0]["entropy_loss"] != 0


@pytest.mark.slow
def test_a_process_that_has_nothing_of_a_small_batch_adds_nothing_to_the_entropy_of_all(tmp_path):
    port = free_port()
    three = [start(tmp_path / "three", 2, ["stand_in"], rank, 3, port) for rank in range(3)]
    finish([*three, start(tmp_path / "one", 6, ["stand_in"])])
    check_equal_logs(tmp_path / "one" / "stand_in", tmp_path / "three" / "stand_in")


@pytest.mark.slow
@pytest.mark.parametrize(("task", "steps"), [("vanishing", 2), ("vector_codes", 4)])
def test_a_process_without_a_face_to_learn_from_keeps_nobody_waiting(runs, task, steps):
    lines = read_metrics(runs / "two" / task)
    assert [line["step"] for line in lines] == list(range(1, steps + 1))
    assert all(math.isfinite(value) for line in lines for value in line.values())


@pytest.mark.slow
def test_a_loss_that_is_not_finite_on_one_process_stops_both_and_names_the_meshes_of_that_one(runs):
    folder = runs / "two" / "not_finite"
    errors = [(folder / f"error-{rank}.txt").read_text() for rank in range(2)]
    assert errors[0] == errors[1] and "step 3: the loss is nan" in errors[0]
    assert (
        errors[0].count("example ") == 0 or errors[0].count("example ") <= 2
    )  # its share of four, not the whole batch
    assert RunCheckpoints(folder / "checkpoints").steps() == [3]


@pytest.mark.slow
def test_a_save_that_fails_on_the_main_process_fails_on_both_and_hangs_on_none(runs):
    errors = [(runs / "two" / "full_disk" / f"error-{rank}.txt").read_text() for rank in range(2)]
    assert errors[0].startswith("CheckpointError: cannot write")
    assert errors[1].startswith("TrainingError: the main process failed: cannot write")


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both_after_the_same_step_and_saves(runs):
    folder = runs / "two" / "signalled"
    stopped = {(folder / f"stopped-{rank}.txt").read_text() for rank in range(2)}
    assert stopped == {"4"} and RunCheckpoints(folder / "checkpoints").steps() == [4]
