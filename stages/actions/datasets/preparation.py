"""What preparing any public dataset is made of: its archives found, fetched and checked, masks drawn by all cores, a summary."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeVar

from stages.core import interrupt
from stages.core.errors import StageError
from stages.core.files import own, sweep
from stages.core.limits import cores
from stages.core.processes import in_pool
from stages.core.stage import Reporter
from stages.data.archives import Published, verify
from stages.data.downloads import PART, fetch

T = TypeVar("T")
LOCK = ".preparing"  # held by the process at work in the root
WORTH = 64  # masks that make a process worth its start


@dataclass
class Preparation:
    """Where a dataset is prepared, from what, and what has been done so far, in words."""

    root: Path
    archives: Path
    download: bool
    unchecked: bool
    reporter: Reporter
    did: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    hold: IO[str] | None = None

    @property
    def places(self) -> tuple[Path, ...]:
        """Where archives and their unpacked folders are looked for."""
        return tuple(dict.fromkeys((self.archives, self.root)))

    def begin(self, folder: Path) -> None:
        """Keep other processes out of the root before FOLDER is written into, and clear it of what a killed one left half done.

        Raises StageError where another process is at work there.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        try:
            self.hold = self.hold or own(self.root / LOCK)
        except BlockingIOError as fault:
            raise StageError(f"Cannot prepare {self.root}", str(fault.strerror), "Wait for it to end") from fault
        sweep(folder)

    def end(self) -> None:
        """Let other processes in."""
        if self.hold is not None:
            (self.root / LOCK).unlink(missing_ok=True)
            self.hold.close()
            self.hold = None

    def on_disk(self, published: Published) -> Path | None:
        """Where the archive lies; None where it is not on disk."""
        return next((path for place in self.places if (path := place / published.file).is_file()), None)

    def to_fetch(self, published: Published) -> int:
        """Bytes that a download of the archive would still bring."""
        if self.on_disk(published):
            return 0
        part = self.root / (published.file + PART)
        return published.size - (part.stat().st_size if part.is_file() else 0)

    def archive(self, published: Published) -> Path:
        """The archive, checked: from the disk, or fetched where that was asked for. Raises StageError."""
        path = self.on_disk(published)
        if path is None and self.download and published.url:
            self.begin(self.root / published.file)
            self.did.append(f"fetched {published.file}")
            return fetch(published, self.root, self.reporter)
        if path is None:
            where = " or ".join(map(str, self.places))
            fetching = ", or add --download" if published.url else ""
            todo = f"Put it there, or name its folder with --archives DIR{fetching}"
            raise StageError(f"No {published.file} in {where}", "it is needed and not unpacked there either", todo)
        if not self.unchecked:
            verify(path, published, self.reporter)
        return path


def drawn(jobs: Iterable[T], draw: Callable[[T], object], expected: int, module: str) -> Iterator[None]:
    """DRAW every job, in as many processes as there are cores where about EXPECTED are worth it; yields once for each."""
    workers = min(cores(), expected // WORTH)
    for _ in in_pool(jobs, draw, workers, (module,)) if workers > 1 else map(draw, jobs):
        interrupt.check()
        yield None


def counted(lists: Mapping[str, Sequence[str]], official: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """Images of each list, beside those of the official one."""
    return {name: {"images": len(ids), "official": official[name]} for name, ids in lists.items()}


def summary(prepared: Preparation, dataset: str, root: Path, lists: dict[str, dict[str, int]], **more: Any) -> dict[str, Any]:
    """The end: what was done, in plain values; lists of another length than the official ones are among its warnings."""
    warnings = [
        f"list '{name}' has {count['images']} images, the official one {count['official']}"
        for name, count in lists.items()
        if count["images"] != count["official"]
    ]
    prepared.end()
    told = {"did": prepared.did, "warnings": [*warnings, *prepared.notes]}
    return {"dataset": dataset, "root": str(root), "lists": lists, **more, **told}
