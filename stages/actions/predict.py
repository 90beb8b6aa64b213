"""Prediction on photographs of any kind, in three lines:

from stages.actions.predict import Predictor
network = Predictor("runs/demo")
labels = network("photograph.jpg").labels
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages import segment_predict
from stages.core import exhaustion
from stages.core.config import validate
from stages.core.errors import StageError
from stages.core.files import sha256
from stages.core.manifest import read_manifest
from stages.core.runtime import Config as RuntimeConfig
from stages.core.runtime import Runtime

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from stages.data.images import Array
    from stages.nets.mmseg.network import Segmentor
    from stages.nets.mmseg.portable import Look

CHECKPOINT = "network.pth"  # in the folder of the stage that trained it
RULED_OUT = -1e9  # logit of a class that is known to be absent: its probability is 0, and finite values can be interpolated


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
        from stages.formulas.segmentation import probabilities_at

        if self._refined is not None:
            return self._refined
        return probabilities_at(self._logits.cpu(), self.labels.shape).numpy()

    def found(self) -> dict[str, float]:
        """Share of the photograph that each class found covers, background left out."""
        import numpy as np

        counts = np.bincount(self.labels.ravel(), minlength=len(self.classes))
        return {self.classes[index]: float(counts[index] / counts.sum()) for index in range(1, len(counts)) if counts[index]}


class Predictor:
    """A trained segmentation network: of a run's folder, a checkpoint of `bas segment train` or an ONNX file of `bas export`.

    An ONNX file sees photographs at scale 1 and not mirrored. CONFIG: scales, mirror images, squares of large images, the
    CRF's kernels and which of a run's networks, as in its `segment_predict`.
    CRF: refine by a dense CRF. Raises StageError where there is no network.
    """

    def __init__(
        self,
        source: Path | str,
        config: segment_predict.Config | None = None,
        runtime: Runtime | None = None,
        crf: bool = False,
    ) -> None:
        self.config = config or validate(segment_predict.Config, {}, "segment_predict")
        self.checkpoint = _checkpoint(Path(source).expanduser(), self.config.trained_by)
        if self._is_exported:
            self.config = replace(self.config, scales=(1.0,), flip=False)
        self.runtime = runtime or Runtime(validate(RuntimeConfig, {}, "runtime"))
        self.crf = crf

    @cached_property
    def net(self) -> Segmentor:
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
        from stages.nets.mmseg import network

        return self._exported[1] if self._is_exported else network.classes(self.net)

    def _look(self, pixels: Array) -> Tensor:
        """The logits (C,h,w) of a photograph, on the network's grid or its own."""
        from stages.formulas import tiles
        from stages.nets.mmseg import inference, portable

        config = self.config
        if not self._is_exported:
            with self.runtime.fabric.autocast():
                return inference.tiled_logits(self.net, pixels, config.scales, config.flip, config.tile)
        look, (height, width) = self._exported[0], pixels.shape[:2]
        side = config.tile or max(height, width)
        return tiles.merged(height, width, side, 1, lambda rows, columns: portable.logits(look, pixels[rows, columns]))

    def __call__(self, image: Path | str | Array, present: Collection[str] | None = None) -> Prediction:
        """Predict one photograph: a file, or (H,W,3) uint8 RGB. PRESENT: its image-level labels, where they are known.

        Raises StageError on an unreadable file, on a label that is no class of the network and where memory runs out.
        """
        from stages.data.images import read_image

        pixels = read_image(Path(image)) if isinstance(image, (str, Path)) else image
        with exhaustion.told("Prediction", segment_predict.MEMORY):
            return self._predict(pixels, present)

    def _predict(self, pixels: Array, present: Collection[str] | None) -> Prediction:
        """The same of pixels alone."""
        import torch

        from stages.core.finite import require_numbers
        from stages.formulas import crf
        from stages.formulas.segmentation import labels_at, probabilities_at

        logits = require_numbers(self._look(pixels))
        if present is not None:
            absent = torch.tensor(self._absent(present), dtype=torch.long, device=logits.device)
            logits = logits.index_fill(0, absent, RULED_OUT)
        if not self.crf:
            return Prediction(labels_at(logits, pixels.shape[:2]).cpu().numpy(), self.classes, logits)
        unary = probabilities_at(logits.cpu(), pixels.shape[:2]).numpy()
        kernels = crf.Kernels.of(self.config, self.config.crf_iterations)
        refined = crf.refine_probabilities(pixels, unary, kernels, self.config.crf_least)
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


def _checkpoint(source: Path, trained_by: str) -> Path:
    """The file of the network, of a run's folder that of the stage TRAINED_BY.

    Raises StageError where there is none, and on exports that are programs rather than data.
    """
    if source.is_file() and source.suffix in (".onnx", ".pth"):
        return source
    if not source.is_dir():
        why = "it is a program, which is not run from a file" if source.is_file() else "no such file"
        raise StageError(
            f"Cannot use network {source}", why, "Give a run's folder, its network.pth, or an .onnx file of `bas export`"
        )
    if read_manifest(source / trained_by) is None:
        command = trained_by.removeprefix("segment_")
        raise StageError(
            f"No segmentation network in {source}", f"{trained_by} has not finished there", f"Run `bas segment {command}` first"
        )
    return source / trained_by / CHECKPOINT
