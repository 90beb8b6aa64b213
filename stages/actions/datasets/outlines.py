"""Outlines of COCO's documents that could not be drawn as they are meant, found before any true mask is drawn of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from stages.actions.datasets.findings import Case
from stages.core import interrupt, processes
from stages.core.limits import cores
from stages.core.stage import Reporter
from stages.data.census import Census
from stages.data.inspection import Facts
from stages.data.outlines import Outlined, faults_of_all

CHUNK = 256  # photographs that a worker takes at once
PRELOAD = ["stages.data.outlines"]


def cases(census: Census, facts: Mapping[str, Facts], reporter: Reporter) -> Iterator[tuple[str, Case]]:
    """What is wrong with the outlines of the photographs that can be read."""
    readable = [entry for entry in census.entries if entry.outlines is not None and not facts[entry.file].fault]
    found = [Outlined(entry.file, facts[entry.file].size, *entry.outlines) for entry in readable if entry.outlines is not None]
    if not found:
        return
    chunks = [found[start : start + CHUNK] for start in range(0, len(found), CHUNK)]
    workers = min(cores(), len(chunks))
    faults: list[tuple[str, str, str]] = []
    with reporter.track("outlines", len(chunks)) as meter:
        for some in processes.in_pool(chunks, faults_of_all, workers, PRELOAD) if workers > 1 else map(faults_of_all, chunks):
            interrupt.check()
            faults += some
            meter.advance()
    yield from ((kind, Case((file,), words)) for file, kind, words in sorted(faults))
