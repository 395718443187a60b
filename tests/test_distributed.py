"""Two processes on CPUs train as one with twice the batch; what stops one stops both."""

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
TASKS = ("train", "autoencoder", "not_finite", "full_disk", "signalled")


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def start(folder, batch_size, tasks, rank=None, port=0):
    """One process; with `rank`, the one of that number of two, as torchrun would start it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1", "TYPECHECK": "False"}
    if rank is not None:
        environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, "-W", "ignore", str(SCRIPT), str(folder), str(batch_size), ",".join(tasks)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of the same work done by two processes and, where it can be, by one with twice the batch."""
    folder, port = tmp_path_factory.mktemp("runs"), free_port()
    two = [start(folder / "two", 2, TASKS, rank, port) for rank in range(2)]
    one = start(folder / "one", 4, TASKS[:2])
    try:
        for process in (*two, one):
            output, _ = process.communicate(timeout=240)
            assert process.returncode == 0, output[-3000:]
    finally:
        for process in (*two, one):
            process.kill()
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


@pytest.mark.slow
@pytest.mark.parametrize("task", ["train", "autoencoder"])
def test_two_processes_log_the_losses_and_gradients_of_one_with_twice_the_batch(runs, task):
    """The entropy of the tokenizer's codes is among them: that of the whole batch, not of a process's share."""
    lines = [read_metrics(runs / name / task) for name in ("one", "two")]
    assert len(lines[0]) == len(lines[1]) > 2
    of_a_share = {"seconds_per_step", "code_perplexity", "largest", "val_largest"}
    for first, second in zip(*lines, strict=True):
        for name in set(first) - of_a_share:
            assert second[name] == pytest.approx(first[name], rel=2e-4, abs=1e-6), (first["step"], name)
    assert task == "train" or lines[0][0]["entropy_loss"] != 0


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
