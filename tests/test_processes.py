"""Work handed to processes: how much of it waits, whatever is quicker."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from stages.core import processes


def mark(folder: Path, item: int) -> None:
    """Leave a file for ITEM."""
    (folder / str(item)).touch()


@pytest.mark.parametrize("turns", [False, True])
def test_no_more_waits_than_is_queued(tmp_path: Path, turns: bool) -> None:
    """The source counts, whenever it is asked for an item, those that it gave and nobody has worked on yet."""
    waiting: list[int] = []

    def source() -> Iterator[int]:
        for item in range(4 * processes.QUEUED):
            waiting.append(item - len(list(tmp_path.iterdir())))
            yield item

    done = list(processes.in_pool(source(), partial(mark, tmp_path), 1, [], turns))
    assert len(done) == len(list(tmp_path.iterdir())) == 4 * processes.QUEUED
    assert max(waiting) < processes.QUEUED
    if turns:  # a round begins when nothing waits
        assert [waiting[start] for start in range(0, len(waiting), processes.QUEUED)] == [0] * 4
