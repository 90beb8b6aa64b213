"""Prediction on photographs of any kind, in three lines:

from stages.actions.predict import Predictor
network = Predictor("runs/demo")
labels = network("photograph.jpg").labels
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages import segment_predict
from stages.actions.photographs import Photograph
from stages.core import interrupt
from stages.core import stage as contract
from stages.core.config import validate
from stages.core.errors import StageError
from stages.core.files import digest, read_json, sha256, write_atomic, write_json, write_text
from stages.core.runtime import Config as RuntimeConfig
from stages.core.runtime import Runtime

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from stages.data.images import Array
    from stages.nets.mmseg.portable import Look
    from stages.nets.mmseg.segmentor import MultiScaleEncoderDecoder

CHECKPOINT = Path("segment_train/network.pth")  # in a run's folder
RECORD = "predict.json"  # in the folder of predictions: what they were made with
COCO = "coco.json"  # likewise: all masks in one document
RULED_OUT = -1e9  # logit of a class that is known to be absent: its probability is 0, and finite values can be interpolated
MASKS, OVERLAYS, PROBABILITIES = "", "overlays", "probabilities"  # sub-folders


@dataclass(frozen=True)
class Prediction:
    """Of one photograph: the class id of every pixel, 0 = background (H,W), and the probabilities that decided it."""

    labels: Array
    classes: tuple[str, ...]
    _logits: Tensor = field(repr=False)
    _refined: np.ndarray | None = field(default=None, repr=False)

    @cached_property
    def probabilities(self) -> np.ndarray:
        """Of every class and pixel (C,H,W): after the dense CRF where there was one."""
        from stages.formulas.segmentation import resize_logits

        if self._refined is not None:
            return self._refined
        return resize_logits(self._logits[None].cpu(), self.labels.shape)[0].softmax(0).numpy()

    def found(self) -> dict[str, float]:
        """Share of the photograph that each class found covers, background left out."""
        import numpy as np

        counts = np.bincount(self.labels.ravel(), minlength=len(self.classes))
        return {self.classes[index]: float(counts[index] / counts.sum()) for index in range(1, len(counts)) if counts[index]}


class Predictor:
    """A trained segmentation network: of a run's folder, a checkpoint of `bas segment train` or an ONNX file of `bas export`.

    An ONNX file sees photographs at scale 1 and not mirrored. CONFIG: scales, mirror images, squares of large images and the
    CRF's kernels, as in a run's `segment_predict`.
    CRF: refine by a dense CRF. Raises StageError where there is no network.
    """

    def __init__(
        self,
        source: Path | str,
        config: segment_predict.Config | None = None,
        runtime: Runtime | None = None,
        crf: bool = False,
    ) -> None:
        self.checkpoint = _checkpoint(Path(source).expanduser())
        self.config = config or validate(segment_predict.Config, {}, "segment_predict")
        self.runtime = runtime or Runtime(validate(RuntimeConfig, {}, "runtime"))
        self.crf = crf

    @cached_property
    def net(self) -> MultiScaleEncoderDecoder:
        """The network on its device."""
        from stages.nets.mmseg import network

        return network.load(self.checkpoint, self.runtime.fabric.device)

    @cached_property
    def _exported(self) -> tuple[Look, tuple[str, ...]]:
        """The function and the classes in an ONNX file."""
        from stages.nets.mmseg import portable

        return portable.read(self.checkpoint)

    @property
    def _is_exported(self) -> bool:
        return self.checkpoint.suffix == ".onnx"

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, background first; a mask's ids are their places."""
        return self._exported[1] if self._is_exported else self.net.classes

    def _look(self, pixels: Array) -> Tensor:
        """The logits (C,h,w) of a photograph, on the network's grid or its own."""
        from stages.formulas import tiles
        from stages.nets.mmseg import network, portable

        config = self.config
        if not self._is_exported:
            with self.runtime.fabric.autocast():
                return network.tiled_logits(self.net, pixels, config.scales, config.flip, config.tile)
        look, (height, width) = self._exported[0], pixels.shape[:2]
        side = config.tile or max(height, width)
        return tiles.merged(height, width, side, 1, lambda rows, columns: portable.logits(look, pixels[rows, columns]))

    def __call__(self, image: Path | str | Array, present: Collection[str] | None = None) -> Prediction:
        """Predict one photograph: a file, or (H,W,3) uint8 RGB. PRESENT: its image-level labels, where they are known.

        Raises StageError on an unreadable file and on a label that is no class of the network.
        """
        import torch

        from stages.data.images import read_image
        from stages.formulas import crf
        from stages.formulas.segmentation import labels_at, resize_logits

        pixels = read_image(Path(image)) if isinstance(image, (str, Path)) else image
        logits = self._look(pixels)
        if present is not None:
            absent = torch.tensor(self._absent(present), dtype=torch.long, device=logits.device)
            logits = logits.index_fill(0, absent, RULED_OUT)
        if not self.crf:
            return Prediction(labels_at(logits, pixels.shape[:2]).cpu().numpy(), self.classes, logits)
        unary = resize_logits(logits[None].cpu(), pixels.shape[:2])[0].softmax(0).numpy()
        refined = crf.refine_probabilities(pixels, unary, crf.Kernels.of(self.config, self.config.crf_iterations))
        return Prediction(refined.argmax(0).astype("uint8"), self.classes, logits, refined)

    def _absent(self, present: Collection[str]) -> list[int]:
        """The ids of the classes that are not PRESENT; background always is."""
        strange = next((name for name in present if name not in self.classes), None)
        if strange is not None:
            raise StageError(
                f"Unknown class '{strange}'", "the network does not know it", f"Known: {', '.join(self.classes[1:])}"
            )
        return [index for index, name in enumerate(self.classes) if index and name not in present]

    def facts(self) -> dict[str, Any]:
        """What decides its predictions, for a record beside them."""
        return {"network": sha256(self.checkpoint), "settings": {**self.config.plain(), "crf": self.crf}}


def _checkpoint(source: Path) -> Path:
    """The file of the network. Raises StageError where there is none, and on exports that are programs rather than data."""
    if source.is_file() and source.suffix in (".onnx", ".pth"):
        return source
    if not source.is_dir():
        why = "it is a program, which is not run from a file" if source.is_file() else "no such file"
        raise StageError(
            f"Cannot use network {source}", why, "Give a run's folder, its network.pth, or an .onnx file of `bas export`"
        )
    if contract.read_manifest(source / CHECKPOINT.parent) is None:
        raise StageError(
            f"No segmentation network in {source}", "segment_train has not finished there", "Run `bas segment train` first"
        )
    return source / CHECKPOINT


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
    facts = {**predictor.facts(), "labels": labels}
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
