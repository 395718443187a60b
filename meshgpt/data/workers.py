"""Work that others' files can slow down or bring down: each piece in another process, with a time limit.

A process that takes too long is killed, one that dies is replaced; either costs its own piece of work and no other.
"""

import multiprocessing
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from typing import Any

from meshgpt.errors import DataError

READY = "ready"


@dataclass(frozen=True)
class Failure:
    """What came of a piece of work that has no result. kind: 'timeout' or 'crash'."""

    kind: str
    message: str


@dataclass
class _Worker:
    process: Any
    connection: Connection
    item: Any = None
    started: float | None = None  # None while it is not working
    ready: bool = False


def run_in_processes(
    function: Callable[[Any], Any], items: Sequence[Any], workers: int, seconds: float
) -> Iterator[tuple[Any, Any]]:
    """Pairs (item, function(item)) in the order in which they finish; a `Failure` for one that died or took too long.

    function: importable by name, as for any other process. seconds: allowed for each item. Raises `DataError` if a
    process cannot start. Closing the iterator ends the processes.
    """
    context = _context()
    pending, pool = deque(items), [_start(context, function) for _ in range(min(workers, len(items)))]
    try:
        while pending or any(worker.started is not None for worker in pool):
            for worker in pool:
                if worker.ready and worker.started is None and pending:
                    _hand_over(worker, pending)
            for worker in _answering(pool, seconds):
                outcome = _answer(worker, seconds)
                if outcome is not None:
                    yield worker.item, outcome
                if isinstance(outcome, Failure):
                    _end(worker)
                    pool[pool.index(worker)] = _start(context, function)
    finally:
        for worker in pool:
            _end(worker)


def _hand_over(worker: _Worker, pending: deque) -> None:
    worker.item, worker.started = pending.popleft(), time.monotonic()
    try:
        worker.connection.send(worker.item)
    except OSError:
        pass  # it died while idle: reading its answer will tell


def _answering(pool: list[_Worker], seconds: float) -> list[_Worker]:
    """The workers that have something to say, and those that have taken too long to say it."""
    waiting = [worker for worker in pool if worker.started is not None or not worker.ready]
    speaking = wait([worker.connection for worker in waiting], timeout=min(seconds / 4, 0.5))
    late = time.monotonic() - seconds
    return [w for w in waiting if w.connection in speaking or (w.started is not None and w.started < late)]


def _answer(worker: _Worker, seconds: float) -> Any:
    """The result of the worker's item or a `Failure`; None when it only says that it is ready."""
    if not worker.connection.poll():
        return Failure("timeout", f"took more than {seconds:g} seconds")
    try:
        answer = worker.connection.recv()
    except (EOFError, OSError):
        worker.process.join(5)
        if not worker.ready:
            advice = "scripts need `if __name__ == '__main__':` around what they do; workers=0 needs no other process"
            raise DataError(f"a worker process ended before it began ({worker.process.exitcode}): {advice}") from None
        return Failure("crash", f"brought its reader down (exit code {worker.process.exitcode})")
    if not worker.ready:
        worker.ready = True
        return None
    worker.started = None
    return answer


def _start(context: BaseContext, function: Callable[[Any], Any]) -> _Worker:
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, function), daemon=True)  # type: ignore[attr-defined]
    process.start()
    theirs.close()
    return _Worker(process, ours)


def _end(worker: _Worker) -> None:
    worker.process.kill()
    worker.process.join()
    worker.connection.close()


def _serve(connection: Connection, function: Callable[[Any], Any]) -> None:
    """The life of a worker: until its other end is gone. Ctrl-C is for the parent to answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection.send(READY)
    while True:
        try:
            connection.send(function(connection.recv()))
        except (EOFError, OSError):
            return


def _context() -> BaseContext:
    """A server that has the package loaded and forks workers in milliseconds, where there is one."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["meshgpt.data.build"])
    return context
