"""What `bas predict` writes for files and folders: masks, and beside them overlays, probabilities and COCO's document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stages.actions.datasets.photographs import Photograph
from stages.actions.predict import Predictor
from stages.core import interrupt
from stages.core import stage as contract
from stages.core.errors import StageError
from stages.core.files import digest, read_json, write_atomic, write_json, write_text

RECORD = "predict.json"  # in the folder of predictions: what they were made with, and the names of the ids
COCO = "coco.json"  # likewise: all masks in one document
MASKS, OVERLAYS, PROBABILITIES = "", "overlays", "probabilities"  # sub-folders


@dataclass(frozen=True)
class Wanted:
    """Where predictions go, and what is written beside the masks; LABELS: class names by a photograph's name, if known."""

    out: Path
    overlays: bool = False
    probabilities: bool = False
    labels: Mapping[str, Sequence[str]] | None = None

    def files(self, photograph: Photograph) -> dict[str, Path]:
        """The files of one photograph; the mask, which comes last, shows that all are there."""
        named = {}
        if self.overlays:
            named[OVERLAYS] = photograph.output(self.out / OVERLAYS, ".jpg")
        if self.probabilities:
            named[PROBABILITIES] = photograph.output(self.out / PROBABILITIES, ".npz")
        return named | {MASKS: photograph.output(self.out, ".png")}


@dataclass
class Summary:
    """What came of a call: how many were written now, how many were there and fresh, and what could not be predicted."""

    written: int = 0
    kept: int = 0
    bad: dict[str, str] = field(default_factory=dict)


def predict(
    predictor: Predictor, photographs: Sequence[Photograph], wanted: Wanted, reporter: contract.Reporter, force: bool = False
) -> Summary:
    """Write index PNGs of PHOTOGRAPHS, and beside them what else is WANTED; goes on after a bad file.

    A call that was interrupted goes on with the same network and settings; other ones write over what is there. Raises
    StageError where the network cannot be read or a label is no class of it.
    """
    _check_labels(predictor.classes, wanted)
    fresh = _resumes(predictor, wanted) and not force
    summary = Summary()
    with reporter.track("predicting", len(photographs)) as meter:
        for photograph in photographs:
            interrupt.check()
            if fresh and _is_fresh(photograph, wanted):
                summary.kept += 1
            else:
                _attempt(predictor, photograph, wanted, summary)
            meter.advance()
    return summary


def _check_labels(classes: Sequence[str], wanted: Wanted) -> None:
    """Raise StageError where a label is unknown: none of the photographs would be predicted as it was meant."""
    for name, labels in (wanted.labels or {}).items():
        strange = next((label for label in labels if label not in classes), None)
        if strange is not None:
            raise StageError(
                f"Unknown class '{strange}' of '{name}'", "the network does not know it", f"Known: {', '.join(classes[1:])}"
            )


def _resumes(predictor: Predictor, wanted: Wanted) -> bool:
    """Whether the folder was written with this network and these settings; from now on its record says so."""
    labels = None if wanted.labels is None else digest({name: list(found) for name, found in wanted.labels.items()})
    facts = {**predictor.facts(), "classes": list(predictor.classes), "labels": labels}
    same = read_json(wanted.out / RECORD) == facts
    if not same:
        write_json(wanted.out / RECORD, facts)
    return same


def _is_fresh(photograph: Photograph, wanted: Wanted) -> bool:
    """Whether all its files are there and younger than the photograph."""
    try:
        born = photograph.path.stat().st_mtime_ns
        return all(path.stat().st_mtime_ns >= born for path in wanted.files(photograph).values())
    except OSError:
        return False


def _attempt(predictor: Predictor, photograph: Photograph, wanted: Wanted, summary: Summary) -> None:
    try:
        _write(predictor, photograph, wanted)
        summary.written += 1
    except StageError as fault:
        summary.bad[str(photograph.path)] = f"{fault.what}: {fault.why}"


def _write(predictor: Predictor, photograph: Photograph, wanted: Wanted) -> None:
    """Predict one photograph and write its files, the mask last."""
    import numpy as np

    from stages.data.images import overlay, read_image, write_image, write_mask

    image = read_image(photograph.path)
    prediction = predictor(image, _present(photograph, wanted))
    files = wanted.files(photograph)
    if OVERLAYS in files:
        picture = overlay(image, prediction.labels)
        write_atomic(files[OVERLAYS], lambda temporary: write_image(temporary, picture))
    if PROBABILITIES in files:
        arrays: dict[str, Any] = {
            "probabilities": prediction.probabilities.astype(np.float16),
            "classes": np.array(prediction.classes),
        }
        write_atomic(files[PROBABILITIES], lambda temporary: np.savez_compressed(temporary, **arrays))
    write_atomic(files[MASKS], lambda temporary: write_mask(temporary, prediction.labels))


def write_coco(photographs: Sequence[Photograph], classes: Sequence[str], out: Path, reporter: contract.Reporter) -> Path:
    """Write the masks of OUT as one COCO document: of each photograph one run-length coded annotation a class found."""
    import json

    from stages.data import detections

    records = []
    with reporter.track("writing coco.json", len(photographs)) as meter:
        for photograph in photographs:
            mask = photograph.output(out, ".png")
            records += [_record(photograph, mask)] if mask.exists() else []
            meter.advance()
    document = detections.document(records, classes[1:])
    write_text(out / COCO, json.dumps(document, ensure_ascii=False) + "\n")
    return out / COCO


def _record(photograph: Photograph, mask: Path) -> dict[str, Any]:
    """What COCO's document says of one photograph; background has no annotation."""
    import numpy as np

    from stages.data import detections
    from stages.data.images import read_mask

    labels = read_mask(mask)
    found = [detections.annotation(labels == index, int(index)) for index in np.unique(labels) if index]
    name = photograph.name.with_name(photograph.path.name).as_posix()
    return {"file_name": name, "width": labels.shape[1], "height": labels.shape[0], "annotations": found}


def _present(photograph: Photograph, wanted: Wanted) -> Sequence[str] | None:
    """Its image-level labels; raises StageError where labels are given and it has none."""
    if wanted.labels is None:
        return None
    name = photograph.name.as_posix()
    if name not in wanted.labels:
        raise StageError(f"No label for '{name}'", "the file of labels does not name it", "Add a line for it")
    return wanted.labels[name]
