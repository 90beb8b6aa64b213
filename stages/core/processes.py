"""Per-image work in worker processes, for libraries that hold the interpreter's lock; results do not depend on their number."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import connection
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from stages.core.errors import StageError
from stages.core.sharding import pending

if TYPE_CHECKING:
    from stages.core.stage import Context

T = TypeVar("T")
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
    fabric = ctx.runtime.fabric
    todo = pending(items, target)[fabric.global_rank :: fabric.world_size]
    workers = min(ctx.runtime.workers, len(todo))
    if workers > 1:
        largest = WORKER + max(size(item) for item in todo)
        workers = min(ctx.runtime.workers_of(largest), len(todo))
        ctx.log.info("%s: %d processes of up to %d MB", label, workers, largest >> 20)
    with ctx.track(label, len(items), len(items) - len(todo)) as meter:
        for _ in in_pool(todo, work, workers, preload) if workers > 1 else map(work, todo):
            meter.advance()
    fabric.barrier()


def in_pool(items: Iterable[T], work: Callable[[T], object], workers: int, preload: Sequence[str]) -> Iterator[None]:
    """Yield once for each finished item, whatever their order. The first failure ends the rest."""
    with ProcessPoolExecutor(workers, _method(preload), _start_worker) as pool:
        try:
            waiting: set[Future[tuple[str, str, str] | None]] = set()
            for item in items:
                waiting.add(pool.submit(_attempt, work, item))
                if len(waiting) >= QUEUED * workers:
                    done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    yield from map(_check, done)
            yield from map(_check, wait(waiting).done)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _method(preload: Sequence[str]) -> BaseContext:
    """Never a plain fork: threads of torch or CUDA in this process would not survive it."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    method = multiprocessing.get_context("forkserver")
    method.set_forkserver_preload(["__main__", *preload])
    return method


def _start_worker() -> None:
    """One thread of arithmetic a worker, interrupts left to the parent, and no worker that outlives a killed parent."""
    import torch

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)


def _attempt(work: Callable[[T], object], item: T) -> tuple[str, str, str] | None:
    """An error for the user comes back as its three parts; other faults are raised where they are waited for."""
    try:
        work(item)
    except StageError as error:
        return error.what, error.why, error.todo
    return None


def _check(future: Future[tuple[str, str, str] | None]) -> None:
    failure = future.result()
    if failure is not None:
        raise StageError(*failure)
