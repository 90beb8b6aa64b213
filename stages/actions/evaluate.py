"""Numbers of a run: from the manifests, or computed again from the outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from stages import PIPELINE
from stages.actions.run import Run, plan
from stages.core import stage as contract


@dataclass
class Collected:
    """Metrics by stage, and IoU tables by key and class, in percent."""

    metrics: dict[str, Mapping[str, float]] = field(default_factory=dict)
    classes: dict[str, Mapping[str, float]] = field(default_factory=dict)


def collect(run: Run, recompute: bool, reporter: contract.Reporter) -> Collected:
    """The numbers of every finished stage; RECOMPUTE scores the outputs again and leaves the manifests alone."""
    found = Collected()
    for name in plan(run.sections, list(PIPELINE)):
        manifest = contract.read_manifest(run.folder / name)
        if manifest is None:
            continue
        metrics, classes = manifest["metrics"], manifest["classes"]
        if recompute:
            again = run.score(name, reporter)
            metrics, classes = (again.metrics, again.classes) if again is not None else (metrics, classes)
        found.metrics[name] = metrics
        found.classes |= classes
    return found
