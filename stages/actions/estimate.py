"""What a run would take before it is run: minutes, memory and disk. Nothing is decoded, torch is not imported.

A stage that ran before in this run is scaled from what it took then; else the cost model speaks (`costs.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from stages.actions import check as checks
from stages.actions.configure import plan as ordered
from stages.actions.configure import stage_module
from stages.actions.costs import MODELS, Cost, Facts, machine
from stages.actions.run import Run
from stages.actions.states import Report
from stages.core import config as configuration
from stages.core import lists
from stages.core.errors import StageError
from stages.core.limits import cores
from stages.core.manifest import read_manifest

MODEL, BEFORE = "cost model", "its last run"
LOOKED_AT = 16  # images whose size is taken for all
PRESENT = 2.0  # classes in an image of the demo


@dataclass(frozen=True)
class Planned:
    """A stage, what it would take, and how that is known; a fresh one takes nothing, one that no model knows has no cost."""

    report: Report
    cost: Cost | None
    source: str | None

    @property
    def due(self) -> bool:
        """Whether it would be run."""
        return self.cost != Cost()

    def row(self) -> dict[str, Any]:
        """As plain values."""
        return {**self.report.row(), "estimate": None if self.cost is None else {**rounded(self.cost), "from": self.source}}


def rounded(cost: Cost) -> dict[str, float]:
    """COST in minutes and whole megabytes."""
    return {"minutes": round(cost.seconds / 60, 1), "memory_mb": round(cost.memory), "disk_mb": round(cost.disk)}


def total(stages: Sequence[Planned]) -> Cost:
    """Time and disk together, and the memory of the stage that needs most."""
    costs = [one.cost for one in stages if one.cost is not None]
    memory = max((cost.memory for cost in costs), default=0.0)
    return Cost(sum(cost.seconds for cost in costs), memory, sum(cost.disk for cost in costs))


def plan(run: Run, names: Sequence[str], force: bool, data: Facts | None = None) -> list[Planned]:
    """What the stages NAMES would take now, on the run's own data if no DATA is given.

    Raises StageError where the data cannot be used.
    """
    data = data or facts(run)
    known = {report.name: report for report in run.reports()}
    reports = [known[name] if name in known else run.report(name) for name in ordered(run.sections, names)]
    fresh = [report.state == "done" and not checks.anew(report.name, names, force) for report in reports]
    return [Planned(r, Cost(), None) if kept else _planned(run, r, data) for r, kept in zip(reports, fresh, strict=True)]


def _planned(run: Run, report: Report, data: Facts) -> Planned:
    stage, asked = lists.stage_of(report.name), lists.list_of(report.name)
    model = MODELS.get(stage)
    if model is None:
        return Planned(report, None, None)
    if asked is not None:  # in place of the list that it reads else
        data = replace(data, images={**data.images, stage_module(stage).READS[0]: _count(run, asked)})
    gpu = run.runtime.expects_gpu
    here = machine(gpu, run.runtime.config.threads or cores(), run.runtime.workers)
    cost = model(run.sections, data, here)
    manifest = read_manifest(run.folder / report.name)
    former = None if manifest is None else _former(run, report.name, manifest, data)
    if manifest is None or former is None or (manifest["device"] == "cuda") != gpu:
        return Planned(report, cost, MODEL)
    then = model(*former, here)
    seconds, memory = manifest["seconds"] * cost.seconds / then.seconds, manifest["peak_memory_mb"] * cost.memory / then.memory
    return Planned(report, Cost(seconds, memory, cost.disk), BEFORE)


def _former(run: Run, name: str, manifest: Mapping[str, Any], data: Facts) -> tuple[dict[str, Any], Facts] | None:
    """Settings and counts that MANIFEST tells of; None where they are not of a kind that is known today."""
    images, stage, own = manifest["notes"].get("images"), stage_module(name), lists.stage_of(name)
    try:
        section = configuration.validate(stage.Config, manifest["fingerprint"]["config"][own], own)
    except StageError:
        return None
    return {**run.sections, own: section}, replace(data, images={**data.images, stage.READS[0]: images}) if images else data


def _count(run: Run, name: str) -> int:
    """How many images the list NAME has; of a demo as many as it would be generated with."""
    made = run.recipe
    return len(run.dataset.split(name)) if made is None else made.plain()[name]


def facts(run: Run) -> Facts:
    """Counts and sizes of the run's data; of the demo those that it would be generated with."""
    made = run.recipe
    if made is not None:
        from stages.data.demo import CLASSES

        images = {"train": made.train, "score": made.train, "val": made.val}
        return Facts(images, made.size**2, PRESENT, len(CLASSES) - 1)
    from stages.data.images import sizes_of_some

    samples = run.dataset.split("train")
    sizes = [height * width for height, width in sizes_of_some([sample.file for sample in samples], LOOKED_AT)]
    present = sum(len(sample.labels) for sample in samples) / len(samples)
    images = {role: len(run.dataset.split(role)) for role in ("train", "score", "val")}
    return Facts(images, sum(sizes) / len(sizes), present, len(run.dataset.classes))
