"""Which examples are trained on when: a pure function of the seed and the number of the batch, with nothing to save."""

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import no_type_check

import numpy as np

from meshgpt.errors import DataError

BATCHES_PER_BUCKET = 8  # fewer would leave little to shuffle among examples of one size
MISJUDGED = 0.1  # by how much at most sizes are taken for larger when a bucket is cut: more mixes more and pads more


class BatchSampler:
    """Batches of examples of similar size, in an order that depends on (seed, epoch) alone.

    sizes: (n,) faces or codes of each example. Sorted by size they are cut into buckets; each epoch sorts those by
    sizes that it misjudges at random, cuts them into batches of like size, so that little is padded, and shuffles the
    batches. All epochs have equally many batches, and each example is in exactly one batch of every epoch. With
    `max_size_per_batch` a batch has as many examples as that allows, `batch_size` at most.

    weights (n,) replace that by about n draws an epoch, in which examples occur in proportion to their weights: those
    of weight 0 never, others perhaps many times, even in one batch.

    Raises `DataError` for fewer examples than a batch takes, for an example larger than `max_size_per_batch`, and for
    weights that are none.
    """

    @no_type_check
    def __init__(self, sizes, batch_size: int, seed: int, max_size_per_batch: int | None = None, weights=None):
        self.sizes, self.seed = np.asarray(sizes, dtype=np.int64), seed
        self.batch_size, self.max_size = batch_size, max_size_per_batch
        self.weights = None if weights is None else _checked_weights(np.asarray(weights, dtype=float), len(self.sizes))
        self._check()
        order = np.argsort(self.sizes, kind="stable")
        order = order if self.weights is None else order[self.weights[order] > 0]
        self.buckets = _buckets(order, self.sizes, batch_size, max_size_per_batch)
        if self.weights is not None:  # no batch takes more of a bucket than an epoch does, or it would repeat itself
            self.buckets = [(members, min(count, math.ceil(self._draws(members)))) for members, count in self.buckets]
        self._expected = np.array([self._draws(members) / count for members, count in self.buckets])
        whole = self._expected if self.weights is not None else np.ceil(self._expected)
        self.batches_per_epoch = round(whole.sum()) or 1

    def _draws(self, members: np.ndarray) -> float:
        """How many examples of a bucket an epoch has, in the mean."""
        return len(members) if self.weights is None else len(self.sizes) * float(self.weights[members].sum())

    def _check(self) -> None:
        if len(self.sizes) == 0:
            raise DataError("the data set is empty: there is nothing to train on")
        if self.max_size is None and len(self.sizes) < self.batch_size:
            what = f"the data set has {len(self.sizes)} examples, fewer than the {self.batch_size} of one batch"
            raise DataError(f"{what} (over all processes): lower batch_size, or add data")
        if self.max_size is not None and self.sizes.max() > self.max_size:
            largest = int(self.sizes.argmax())
            what = f"example {largest} has size {self.sizes[largest]}, more than the {self.max_size} of one batch"
            raise DataError(f"{what}: raise max_faces_per_batch, or leave large meshes out")

    def place(self, batch: int) -> tuple[int, int]:
        """(epoch, place within it) of batch number `batch`, counted from 0 over the whole training."""
        return divmod(batch, self.batches_per_epoch)

    def indices(self, batch: int) -> np.ndarray:
        """The examples of batch number `batch`, smaller ones and larger ones mixed."""
        epoch, place = self.place(batch)
        return self._epoch(epoch)[place]

    @lru_cache(maxsize=2)  # noqa: B019  one sampler lives as long as its training
    def _epoch(self, epoch: int) -> list[np.ndarray]:
        rng = np.random.default_rng((self.seed, epoch))
        batches: list[np.ndarray] = []
        for members, count in self.buckets if self.weights is None else self._drawn(rng):
            shuffled = self._by_size(rng.permutation(members), rng)
            batches += [shuffled[start : start + count] for start in range(0, len(shuffled), count)]
        return [batches[i] for i in rng.permutation(len(batches))]

    def _by_size(self, members: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """In the order of sizes, each misjudged, so that other examples meet in each epoch."""
        return members[np.argsort(self.sizes[members] * rng.uniform(1, 1 + MISJUDGED, len(members)), kind="stable")]

    def _drawn(self, rng: np.random.Generator) -> Iterator[tuple[np.ndarray, int]]:
        """What is drawn of each bucket: whole batches, their number by the weight of the bucket."""
        assert self.weights is not None
        chosen = _systematic(self._expected, self.batches_per_epoch, rng)
        batches_of = np.bincount(chosen, minlength=len(self.buckets)).tolist()
        for (members, count), batches in zip(self.buckets, batches_of, strict=True):
            mixed = rng.permutation(members)  # neighbours in a systematic draw exclude each other
            yield mixed[_systematic(self.weights[mixed], batches * count, rng)], count


def _systematic(weights: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` indices in proportion to their weights, each as often as it should be, rounded up or down at random."""
    marks = (np.arange(count) + rng.random()) / max(count, 1) * weights.sum()
    return np.minimum(np.searchsorted(np.cumsum(weights), marks, side="right"), len(weights) - 1)


@no_type_check
def _checked_weights(weights, count: int) -> np.ndarray:
    if weights.shape != (count,) or not np.isfinite(weights).all() or weights.min() < 0 or weights.sum() <= 0:
        raise DataError(f"sampling weights must be {count} numbers, none negative and not all 0; got {weights.shape}")
    return weights / weights.sum()


def _buckets(
    order: np.ndarray, sizes: np.ndarray, batch_size: int, max_size: int | None
) -> list[tuple[np.ndarray, int]]:
    """(members, examples per batch) of each bucket; `order` is that of ascending size.

    Of a fixed batch size, a bucket holds whole batches, but for the last one. Under a limit on the size of a batch, a
    bucket holds sizes within a third of each other, so that its largest wastes little of the limit.
    """
    buckets, start = [], 0
    while start < len(order):
        end, count = min(start + batch_size * BATCHES_PER_BUCKET, len(order)), batch_size
        if max_size is not None:
            smallest = max(int(sizes[order[start]]), 1)
            end = int(np.searchsorted(sizes[order], smallest * 4 // 3 + 8, side="right"))
            count = min(batch_size, max(max_size // max(int(sizes[order[end - 1]]), 1), 1))
        elif len(order) - end < batch_size * BATCHES_PER_BUCKET // 2:
            end = len(order)
        buckets.append((order[start:end], count))
        start = end
    return buckets


def share_of_process(indices: Sequence[int] | np.ndarray, process: int, processes: int) -> np.ndarray:
    """What one of several processes takes of a batch: every `processes`-th example. May be empty."""
    return np.asarray(indices)[process::processes]
