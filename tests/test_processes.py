"""Work handed to processes: how much of it waits, whatever is quicker."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path

import pytest

from stages.core import processes


@pytest.mark.parametrize("turns", [False, True])
def test_no_more_waits_than_is_queued(tmp_path: Path, turns: bool) -> None:
    """The source counts, whenever it is asked for a file to make, those that it gave and nobody has made yet."""
    waiting: list[int] = []

    def source() -> Iterator[Path]:
        for item in range(4 * processes.QUEUED):
            waiting.append(item - len(list(tmp_path.iterdir())))
            yield tmp_path / str(item)

    done = list(processes.in_pool(source(), Path.touch, 1, [], turns))
    assert len(done) == len(list(tmp_path.iterdir())) == 4 * processes.QUEUED
    assert max(waiting) < processes.QUEUED
    if turns:  # a round begins when nothing waits
        assert [waiting[start] for start in range(0, len(waiting), processes.QUEUED)] == [0] * 4


def fight(folder: Path) -> None:
    """Of two workers the one with the higher number kills the other, which waits for work by then and holds the queue's lock."""
    (folder / str(os.getpid())).touch()
    while len(numbers := sorted(int(path.name) for path in folder.iterdir())) < 2:
        time.sleep(0.05)
    if os.getpid() == numbers[1]:
        time.sleep(0.5)
        os.kill(numbers[0], signal.SIGKILL)


def test_a_worker_that_is_killed_while_it_waits_leaves_nobody_waiting(tmp_path: Path) -> None:
    began = time.monotonic()
    with suppress(BrokenProcessPool):  # where the winner's own result comes first, all is done
        list(processes.in_pool([tmp_path, tmp_path], fight, 2, []))
    assert time.monotonic() - began < 60
    for path in tmp_path.iterdir():
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.name), 0)


def make(path: Path) -> None:
    time.sleep(0.3)
    path.touch()


def test_what_waits_is_not_begun_after_an_interrupt(tmp_path: Path) -> None:
    made = processes.in_pool((tmp_path / str(item) for item in range(20)), make, 1, [])
    next(made)
    with pytest.raises(KeyboardInterrupt):
        made.throw(KeyboardInterrupt)
    assert 1 <= len(list(tmp_path.iterdir())) <= 2  # the first, and the one at hand; two more lay in the worker's queue
