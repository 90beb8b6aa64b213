"""The contract of a stage: check inputs → fresh? return → run → write the manifest last.

A stage module has NEEDS (earlier stages), SHARED (sections, or settings of them as `refine.seed`, that it reads beside
its own), READS (splits of the dataset), MEMORY (if it trains or infers: the settings to change where memory runs out),
`Config` and `run(config, ctx) -> Outputs`. It may have `more_needs(config)` (stages and imports that its settings call for),
`check(config)` (settings that do not go together are refused before any stage works) and `score(config, ctx)` (its outputs
against true masks, again). Here is the rest, the same for all; what it reads is in `inputs`, whether it is fresh in
`freshness`, and a present manifest means a complete stage.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

from stages.core import clock, exhaustion, freshness, inputs, lists
from stages.core.config import Section
from stages.core.files import TEMPORARY, write_json
from stages.core.log import ALOUD
from stages.core.manifest import DIGESTS, MANIFEST, STARTED, begun_with, lost, read_manifest, write
from stages.core.runtime import Runtime

if TYPE_CHECKING:
    import logging


class Meter(Protocol):
    """A running progress display."""

    def advance(self, steps: int = 1, **values: float) -> None: ...


class Reporter(Protocol):
    """Where a stage shows how far it is; the command draws bars, a notebook may stay silent."""

    def track(self, label: str, total: int, done: int = 0) -> AbstractContextManager[Meter]: ...


@dataclass(frozen=True)
class Outputs:
    """What a stage made: files (relative to its folder), metrics by key, per-class tables, and notes for the reader."""

    files: Iterable[Path]
    metrics: Mapping[str, float] = field(default_factory=dict)
    classes: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Context:
    """What a stage may use: its folder, its inputs' folders, the dataset, shared sections, the runtime, progress, log."""

    run_dir: Path
    name: str
    dataset: Any  # stages.data.dataset.Dataset, a floor above
    shared: Mapping[str, Any]
    runtime: Runtime
    reporter: Reporter
    log: logging.Logger

    @property
    def asked(self) -> str | None:
        """The list of images that the stage is to work on in place of its configuration's, if there is one."""
        return lists.list_of(self.name)

    @property
    def out(self) -> Path:
        """This stage's own folder."""
        return self.run_dir / self.name

    def input(self, stage: str) -> Path:
        """The folder of an earlier stage."""
        return self.run_dir / stage

    def say(self, words: str) -> None:
        """A line for the log and for those who watch."""
        self.log.info("%s: %s", self.name, words, extra=ALOUD)

    def track(self, label: str, total: int, done: int = 0) -> AbstractContextManager[Meter]:
        """Show progress over TOTAL items of which DONE are there already."""
        if 0 < done < total:
            self.say(f"goes on at {done} of {total} ({label})")
        return self.reporter.track(label, total, done)


def execute(stage: ModuleType, config: Section, ctx: Context, wanted: dict[str, Any], force: bool) -> dict[str, Any]:
    """Run a stage that is not fresh, in its own folder, and write its manifest last. Returns the manifest.

    Partial outputs of the same fingerprint are kept and continued; those of another are removed first.
    """
    inputs.require(stage, config, ctx.run_dir)
    current = freshness.state(ctx.out, wanted)
    _clear(ctx.out, wanted, force)
    ctx.say(_beginning(current, force))
    clock.start(ctx.out)  # before anything is written: it looks at the last file of the call before
    write_json(ctx.out / STARTED, wanted)
    ctx.runtime.reset_peak()
    try:
        with exhaustion.told(ctx.name, getattr(stage, "MEMORY", exhaustion.ADVICE)):
            outputs = stage.run(config, ctx)
    finally:
        spent = clock.stop(ctx.out)
    names = [str(file) for file in sorted(Path(file) for file in outputs.files)]
    manifest = write(ctx.out, wanted, names, _facts(ctx, outputs, spent))
    ctx.log.info("%s: done in %.1f s, calls: %d", ctx.name, spent["seconds"], spent["calls"])
    return manifest


def _beginning(before: freshness.State, force: bool) -> str:
    """How a stage begins, in words."""
    if before.state == "missing":
        return "starts"
    if force:
        return "starts anew, as asked"
    return "starts again after an interruption" if before.state == "partial" else f"starts again: {before.why}"


def _clear(folder: Path, wanted: Mapping[str, Any], force: bool) -> None:
    """Remove what the stage cannot go on from: everything of another fingerprint, else what is damaged or half written."""
    manifest, begun = read_manifest(folder), begun_with(folder)
    if force or not begun or freshness.differences(begun, wanted):
        import shutil

        shutil.rmtree(folder, ignore_errors=True)
        return
    gone = [folder / name for name in lost(folder, manifest)] if manifest else []
    for path in [*folder.rglob(f".*{TEMPORARY}*"), *gone, folder / DIGESTS, folder / MANIFEST]:
        path.unlink(missing_ok=True)


def _facts(ctx: Context, outputs: Outputs, spent: Mapping[str, float]) -> dict[str, Any]:
    """What a manifest says beside fingerprint and files: time, machine, numbers."""
    return {
        "stage": ctx.name,
        **spent,  # seconds of all calls, and their number
        **ctx.runtime.facts(),
        "eval": ctx.shared["eval"].plain() if "eval" in ctx.shared else {},  # what scores are of, which no result depends on
        "metrics": dict(outputs.metrics),
        "classes": {key: dict(table) for key, table in outputs.classes.items()},
        "notes": dict(outputs.notes),
    }
