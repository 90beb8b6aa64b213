"""Numbers of a run: from the manifests, or computed again from the outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stages import PIPELINE
from stages.actions.run import Run
from stages.core import stage as contract
from stages.core.errors import StageError
from stages.core.files import read_json
from stages.core.manifest import read_manifest

TAUGHT = "the masks, not known here, that taught the head which the segmentation network began with"


@dataclass
class Collected:
    """Metrics by stage, and IoU tables by key and class, in percent."""

    metrics: dict[str, Mapping[str, float]] = field(default_factory=dict)
    classes: dict[str, Mapping[str, float]] = field(default_factory=dict)


def collect(run: Run, recompute: bool, reporter: contract.Reporter) -> Collected:
    """The numbers of every finished stage; RECOMPUTE scores the outputs again and leaves the manifests alone."""
    found = Collected()
    for name in run.stages():
        manifest = read_manifest(run.folder / name)
        if manifest is None:
            continue
        metrics, classes = manifest["metrics"], manifest["classes"]
        if recompute:
            again = run.score(name, reporter)
            metrics, classes = (again.metrics, again.classes) if again is not None else (metrics, classes)
        found.metrics[name] = metrics
        found.classes |= classes
    return found


def outdated(run: Run) -> list[str]:
    """The stages whose manifests hold scores of another eval.subset than the run is configured with."""
    now = run.sections["eval"].plain()
    return [name for name in run.stages() if _of_another_subset(read_manifest(run.folder / name) or {}, now)]


def _of_another_subset(manifest: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether a manifest's scores are of another subset; one that does not say so is asked for the means that it holds."""
    means = {key.rpartition("/")[2] for key in manifest.get("metrics", {})}
    if "mIoU" not in means:
        return False
    return manifest["eval"] != now if "eval" in manifest else not means.issuperset(now["subset"] or {})


def supervision(run: Run) -> dict[str, str]:
    """What the run's masks and network were made of beyond image-level labels, as `supervision` in words; else nothing."""
    trained, chosen = ((read_manifest(run.folder / name) or {}).get("notes", {}) for name in ("segment_train", "mask_choice"))
    if trained.get("supervision") == "full":
        return {"supervision": "true masks"}
    more = [f"{chosen['corrected']} of {chosen['images']} pseudo masks corrected by hand"] if chosen.get("corrected") else []
    more += [TAUGHT] if is_taught(trained) else []
    return {"supervision": " and ".join(["image-level labels", *more])} if more else {}


def is_taught(notes: Mapping[str, Any]) -> bool:
    """Whether a training with these NOTES began with layers that masks had taught, whoever's they were."""
    return bool(notes.get("initial", {}).get("taught"))


def confusions(run: Run) -> dict[str, dict[str, Any]]:
    """The confusion matrices of every list that the network has predicted and that was scored (`stages.data.confusions`).

    Raises StageError where there is none.
    """
    from stages.data.confusions import FILE

    found = {name: read_json(run.folder / name / FILE) for name in run.stages()}
    found = {name: detail for name, detail in found.items() if detail is not None}
    if not found:
        raise StageError(
            f"No confusion matrix in {run.folder}",
            "no predictions of images with true masks were scored there",
            "Run `bas segment predict`, or score predictions again with `bas eval --recompute`",
        )
    return found


def details(run: Run) -> dict[str, dict[str, Any]]:
    """What scoring kept of every finished stage beside its means (`stages.data.scoring.MapScores.detail`), by stage.

    Raises StageError when there is nothing.
    """
    from stages.data.scoring import DETAILS

    finished = [name for name in PIPELINE if read_manifest(run.folder / name) is not None]
    found = {name: read_json(run.folder / name / DETAILS) for name in finished}
    found = {name: detail for name, detail in found.items() if detail is not None}
    if not found:
        raise StageError(
            f"No scores of seeds or masks in {run.folder}",
            f"none of its {len(finished)} finished stages has a {DETAILS}",
            "Run `bas seed infer` on images with true masks, or score a finished run again with `bas eval --recompute`",
        )
    return found
