"""Batches put together in the training process or, ahead of time, in workers; the order does not depend on which."""

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from meshgpt.training.examples import Examples
from meshgpt.training.objective import Objective
from meshgpt.training.sampler import BatchSampler, share_of_process


@dataclass(frozen=True)
class LoadedBatch:
    """One process's share of a batch. `weight` is 0 where the share was empty and something stands in for it."""

    batch: Any
    weight: float
    indices: np.ndarray


class BatchLoader(Dataset):
    """`loader[n]` is this process's share of batch number n of the training, n counting on over the epochs."""

    def __init__(
        self,
        examples: Examples,
        objective: Objective,
        sampler: BatchSampler,
        process: int = 0,
        processes: int = 1,
        augmented: bool = True,
    ):
        self.examples, self.objective, self.sampler = examples, objective, sampler
        self.process, self.processes, self.augmented = process, processes, augmented

    def __getitem__(self, number: int) -> LoadedBatch:
        epoch, _ = self.sampler.place(number)
        whole = self.sampler.indices(number)
        share = share_of_process(whole, self.process, self.processes)
        if not len(share):  # a last, small batch; this process must still take part in the sums over processes
            return LoadedBatch(self.objective.stand_in(self.examples.get(int(whole[0]), epoch)), 0.0, share)
        batch = self.objective.collate([self.examples.get(int(index), epoch) for index in share])
        return LoadedBatch(batch, self.objective.weight(batch), share)

    def from_number(self, first: int, end: int, num_workers: int = 0) -> Iterator[LoadedBatch]:
        """Batches `first` .. `end` - 1, assembled ahead by `num_workers` processes."""
        if num_workers == 0:
            return (self[number] for number in range(first, end))
        # a generator of its own: the loader draws a seed, which must not come from the training's stream
        options = {"generator": torch.Generator(), "worker_init_fn": _leave_signals_to_the_trainer}
        return iter(DataLoader(self, batch_size=None, sampler=range(first, end), num_workers=num_workers, **options))


def _leave_signals_to_the_trainer(worker: int) -> None:
    """Ctrl-C reaches all processes of a terminal: workers must live until the trainer has ended its step and saved."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
