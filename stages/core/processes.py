"""Per-image work in worker processes, for libraries that hold the interpreter's lock; results do not depend on their number."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import closing
from itertools import islice
from multiprocessing import connection
from multiprocessing.context import BaseContext
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from stages.core import interrupt
from stages.core.errors import StageError
from stages.core.sharding import pending

if TYPE_CHECKING:
    from stages.core.stage import Context

T = TypeVar("T")
R = TypeVar("R")
QUEUED = 4  # tasks handed out ahead, a worker
WORKER = 100 << 20  # bytes of a worker before it works; Python, torch and what is preloaded are shared by all (300 MB once)


def each(
    items: Sequence[T],
    target: Callable[[T], Path],
    work: Callable[[T], object],
    label: str,
    ctx: Context,
    preload: Sequence[str],
    size: Callable[[T], int],
) -> None:
    """Do WORK, a picklable callable, on every item of this process's share whose output is missing, with progress.

    PRELOAD: modules that workers share from the start instead of importing them one by one. SIZE: bytes of memory that
    WORK takes for an item; where the largest does not fit once a core, there are fewer workers.
    """
    stream(items, target, _itself, work, label, ctx, preload, size)


def _itself(item: T) -> T:
    return item


def stream(
    items: Sequence[T],
    target: Callable[[T], Path],
    first: Callable[[T], R],
    work: Callable[[R], object],
    label: str,
    ctx: Context,
    preload: Sequence[str],
    size: Callable[[T], int],
) -> None:
    """As `each`, but WORK is done on what FIRST made of an item, here and in order; no more than QUEUED a worker wait for it.

    On a GPU both go on side by side. On a CPU they take turns, as many items at a time: side by side, the threads of
    arithmetic here and the workers would fight for the same cores.
    """
    fabric = ctx.runtime.fabric
    todo = pending(items, target)[fabric.global_rank :: fabric.world_size]
    workers = min(ctx.runtime.workers, len(todo))
    if workers > 1:
        largest = WORKER + max(size(item) for item in todo)
        workers = min(ctx.runtime.workers_of(largest), len(todo))
        ctx.log.info("%s: %d processes of up to %d MB", label, workers, largest >> 20)
    turns = first is not _itself and ctx.runtime.device.type == "cpu"
    with ctx.track(label, len(items), len(items) - len(todo)) as meter:
        both = _finished(lambda item: work(first(item)), todo)
        with closing(in_pool(_finished(first, todo), work, workers, preload, turns) if workers > 1 else both) as done:
            for _ in done:
                meter.advance()
    fabric.barrier()


def _finished(function: Callable[[T], R], items: Iterable[T]) -> Generator[R]:
    """FUNCTION of each of ITEMS; an interrupt waits for the end of the one at hand."""
    for item in items:
        interrupt.check()
        with interrupt.finishing():
            made = function(item)
        yield made


def in_pool(
    items: Iterable[T], work: Callable[[T], R], workers: int, preload: Sequence[str], turns: bool = False
) -> Generator[R]:
    """Yield what WORK returns for each item, as they are finished, whatever their order. The first failure ends the rest: what
    is at hand is finished, what workers have been given ahead is not begun.

    ITEMS are asked for only when fewer than QUEUED a worker wait; with TURNS, only when none is left, and then as many.
    """
    source, ahead = iter(items), QUEUED * workers
    method = _method(preload)
    enough = method.Event()
    pool = ProcessPoolExecutor(workers, method, _start_worker, (enough,))
    try:
        waiting: set[Future[R | _Failure]] = set()
        while batch := list(islice(source, ahead if turns else 1)):
            waiting |= {pool.submit(_attempt, work, item) for item in batch}
            if len(waiting) >= ahead:
                done, waiting = wait(waiting, return_when=ALL_COMPLETED if turns else FIRST_COMPLETED)
                yield from map(_result, done)
        yield from map(_result, wait(waiting).done)
    finally:
        enough.set()
        _end(pool)


def _end(pool: ProcessPoolExecutor) -> None:
    """Stop POOL and wait for its workers: one that is still starting would not find what it is given.

    They are asked to end until they have: one that was killed may have held the lock of the queue that the others wait for.
    """
    manager: Any = pool._executor_manager_thread
    workers = list((pool._processes or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    while manager is not None and manager.is_alive():
        manager.join(0.1)
        for worker in workers if manager.is_alive() else ():
            worker.terminate()


def _method(preload: Sequence[str]) -> BaseContext:
    """Never a plain fork: threads of torch or CUDA in this process would not survive it."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    method = multiprocessing.get_context("forkserver")
    method.set_forkserver_preload(["__main__", *preload])
    return method


class _Worker:
    """What a worker knows: whether its parent wants no more, and whether an item is at hand."""

    enough: Event | None = None
    busy = False


def _leave_if_idle(number: int, frame: Any) -> None:
    if not _Worker.busy:
        os._exit(1)


def _start_worker(enough: Event) -> None:
    """One thread of arithmetic a worker, no interrupt while an item is at hand, and no worker that outlives a killed parent."""
    _Worker.enough = enough
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave_if_idle)
    os.environ["OMP_NUM_THREADS"] = "1"  # for torch, should the work import it: not all work does
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)


class _Failure(NamedTuple):
    """The parts of an error for the user, which comes back as a value; other faults are raised where they are waited for."""

    what: str
    why: str
    todo: str


def _attempt(work: Callable[[T], R], item: T) -> R | _Failure:
    if _Worker.enough is not None and _Worker.enough.is_set():
        return _Failure("Not begun", "what came before it failed or was interrupted", "Run the same command again to go on")
    _Worker.busy = True
    try:
        return work(item)
    except StageError as error:
        return _Failure(error.what, error.why, error.todo)
    finally:
        _Worker.busy = False


def _result(future: Future[R | _Failure]) -> R:
    found = future.result()
    if isinstance(found, _Failure):
        raise StageError(*found)
    return found
