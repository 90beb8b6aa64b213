"""The contract of a stage: check inputs → fresh? return → run → write the manifest last.

A stage module has NEEDS (earlier stages), SHARED (sections, or settings of them as `refine.seed`, that it reads beside
its own), READS (splits of the dataset), MEMORY (if it trains or infers: the settings to change where memory runs out),
`Config` and `run(config, ctx) -> Outputs`. Here is the rest, the same for all. A present manifest means a complete
stage; freshness is by content: configuration, input manifests, images and labels, initial weights.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

from stages.core import clock, exhaustion, lists, networks
from stages.core.config import Section
from stages.core.errors import StageError
from stages.core.files import TEMPORARY, HashCache, read_json, write_json
from stages.core.log import ALOUD
from stages.core.manifest import DIGESTS, MANIFEST, STARTED, begun_with, lost, read_manifest, write
from stages.core.runtime import Runtime

if TYPE_CHECKING:
    import logging

IMPORTS = "imports"  # folder of the maps that came from elsewhere, one a name
CORRECTIONS = "corrections"  # folder of the masks that were corrected by hand, likewise
BROUGHT = {IMPORTS: "seed import", CORRECTIONS: "masks import"}  # folders of what comes from outside, and what brings it
NOT_CONTENT = frozenset({"weights"})  # settings that name a file: its content counts, not its path
NETWORK = "segment.network"  # where it is a config's path, its content counts too
WEIGHTS = ("none", "imagenet", "coco", "seed")  # initial weights that are no file


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


@dataclass(frozen=True)
class State:
    """done, stale, partial or missing, and why."""

    state: str
    why: str


NOT_RUN = State("missing", "not run yet")


def fingerprint(
    stage: ModuleType, sections: Mapping[str, Section], dataset: Any, run_dir: Path, hashes: HashCache, reads: Iterable[str]
) -> dict[str, Any]:
    """Everything that decides a stage's result: settings, seed, inputs' digests, images and labels it READS, initial weights."""
    name = stage.__name__.rsplit(".", 1)[-1]
    config = _settings(sections, (name, *stage.SHARED))
    inputs = {need: (read_manifest(run_dir / need) or {}).get("digest") for need in needs(stage, sections[name])}
    digests = {split: dataset.digest(split, hashes) for split in reads}
    data = {split: value for split, value in digests.items() if value is not None}
    require_weights(sections[name])
    weights = getattr(sections[name], "weights", None)
    named: dict[str, Any] = {"weights": _weights_digest(weights, hashes)} if weights is not None else {}
    own = [
        file for setting in stage.SHARED if setting == NETWORK for file in networks.files(vars(sections["segment"])["network"])
    ]
    named |= {"network": [hashes.of(file) for file in own]} if own else {}
    seed = {"runtime": {"seed": sections["runtime"].plain()["seed"]}}
    return {"stage": name, "config": config | seed, "inputs": inputs, "data": data, **named}


def _settings(sections: Mapping[str, Section], names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Plain values by section of what NAMES name: whole sections, or single settings as `refine.seed`."""
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        section, _, setting = name.partition(".")
        values = sections[section].deciding(NOT_CONTENT)
        chosen = {key: value for key, value in values.items() if key == setting or not setting}
        found |= {section: {**found.get(section, {}), **chosen}} if chosen else {}
    return found


def needs(stage: ModuleType, section: Section) -> tuple[str, ...]:
    """The stages and imports that a stage reads: its NEEDS, and what its `more_needs(config)` names."""
    more = getattr(stage, "more_needs", None)
    return (*stage.NEEDS, *(more(section) if more is not None else ()))


def require_weights(section: Section) -> None:
    """Raise StageError when SECTION names a file of weights that is not there."""
    weights = getattr(section, "weights", None)
    if weights not in (None, *WEIGHTS) and not Path(weights).is_file():
        raise StageError(f"Cannot read weights {weights}", "no such file", "Check the path given to --weights")


def _weights_digest(weights: str, hashes: HashCache) -> str:
    return weights if weights in WEIGHTS else hashes.of(Path(weights))


def state(folder: Path, wanted: Mapping[str, Any]) -> State:
    """Compare a stage's folder with the fingerprint that its result should have."""
    manifest = read_manifest(folder)
    if manifest is None:
        started = read_json(folder / STARTED)
        if started is None:
            return NOT_RUN
        changed = differences(started, wanted)
        return (
            State("stale", f"interrupted, and since then: {changed[0]}")
            if changed
            else State("partial", "interrupted; run again to go on")
        )
    changed = differences(manifest["fingerprint"], wanted)
    if changed:
        return State("stale", changed[0] + (f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""))
    gone = next(lost(folder, manifest), None)
    return State("stale", f"output {gone} is missing or changed") if gone else State("done", "")


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """What changed between two fingerprints, field by field, in words."""
    tables = [value for value in (old, new) if isinstance(value, Mapping)]
    if len(tables) == 2 or (tables and None in (old, new)):  # a table that came later is not there before
        before, now = old or {}, new or {}
        keys = dict.fromkeys([*before, *now])
        return [line for key in keys for line in differences(before.get(key), now.get(key), f"{where}.{key}".lstrip("."))]
    if old == new:
        return []
    if where.startswith("inputs."):
        name = where.removeprefix("inputs.")
        return [f"{name} was {'imported' if brought(name) else 'run'} again or is missing"]
    if where == "files":
        return ["the files that were imported changed"]
    if where.startswith("data."):
        return [f"the images or labels of split '{where.split('.')[1]}' changed"]
    if where in ("weights", "network"):
        return [f"the {'initial weights' if where == 'weights' else 'config of the network'} changed"]
    before, now = ("the default" if value is None else value for value in (old, new))
    return [f"{where.removeprefix('config.')}: {before} → {now}"]


def brought(name: str) -> str | None:
    """What brings NAME, an import, from outside, as words of the command; None for a stage of this run."""
    command = BROUGHT.get(name.partition("/")[0])
    return command and f"{command} DIR --name {Path(name).name}"


def require_inputs(stage: ModuleType, section: Section, run_dir: Path, coming: Collection[str] = ()) -> None:
    """Raise StageError when an earlier stage or an import that this one reads is neither complete nor COMING before it."""
    for need in needs(stage, section):
        if need not in coming and read_manifest(run_dir / need) is None:
            raise StageError(
                f"Cannot run {stage.__name__.rsplit('.', 1)[-1]}",
                f"its input {need} is not there in {run_dir}",
                f"Run `bas {brought(need) or f'run DATASET --until {need}'}` first",
            )


def execute(stage: ModuleType, config: Section, ctx: Context, wanted: dict[str, Any], force: bool) -> dict[str, Any]:
    """Run a stage that is not fresh, in its own folder, and write its manifest last. Returns the manifest.

    Partial outputs of the same fingerprint are kept and continued; those of another are removed first.
    """
    require_inputs(stage, config, ctx.run_dir)
    current = state(ctx.out, wanted)
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


def _beginning(before: State, force: bool) -> str:
    """How a stage begins, in words."""
    if before.state == "missing":
        return "starts"
    if force:
        return "starts anew, as asked"
    return "starts again after an interruption" if before.state == "partial" else f"starts again: {before.why}"


def _clear(folder: Path, wanted: Mapping[str, Any], force: bool) -> None:
    """Remove what the stage cannot go on from: everything of another fingerprint, else what is damaged or half written."""
    manifest, begun = read_manifest(folder), begun_with(folder)
    if force or not begun or differences(begun, wanted):
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
