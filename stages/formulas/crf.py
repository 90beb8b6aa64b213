"""Dense conditional random fields (Krähenbühl and Koltun, NIPS 2011). The only importer of pydensecrf.

Shapes: L labels with background as label 0, H W the image. Images are RGB uint8 (H,W,3); the colour filter is
not symmetric in its channels, so a BGR image gives slightly other results. The library holds the
interpreter's lock: threads gain nothing, processes do.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.core.errors import StageError
from stages.formulas import VOID


@dataclass(frozen=True)
class Kernels:
    """Widths (pixels, grey levels) and weights of the two pairwise terms, and the number of mean-field iterations."""

    smooth_width: float
    smooth_weight: float
    colour_width: float
    colour_range: float
    colour_weight: float
    iterations: int = 10

    @classmethod
    def of(cls, settings: Any, iterations: int) -> Kernels:
        """Those that SETTINGS, a section of the configuration, holds under the same names."""
        names = [item.name for item in fields(cls) if item.name != "iterations"]
        return cls(**{name: getattr(settings, name) for name in names}, iterations=iterations)


SEED_KERNELS = Kernels(3, 3, 50, 5, 10)  # IRN's for hard labels of seeds
NETWORK_KERNELS = Kernels(1, 3, 67, 3, 4)  # DeepLab's for a network's probabilities
SEED_CERTAINTY = 0.7  # probability that a hard label is right
PROBABILITY_FLOOR = 1e-5
LATTICE_BYTES, LABEL_BYTES = 500, 85  # a pixel of noise: 707 were measured with 3 labels, 2,231 with 21


def refine_labels(
    image: NDArray[np.uint8],
    label_maps: Sequence[NDArray[np.integer[Any]]],
    n_labels: int,
    kernels: Kernels = SEED_KERNELS,
    certainty: float = SEED_CERTAINTY,
) -> list[NDArray[np.float32]]:
    """Posteriors (L,H,W), one for each hard label map (H,W) of 0..L-1 over the same image.

    The maps share one lattice, whose construction is a good part of the work; results are those of separate
    runs to the bit. Raises StageError when pydensecrf is not installed.
    """
    unaries = [
        _library("utils").unary_from_labels(np.ascontiguousarray(labels), n_labels, certainty, zero_unsure=False)
        for labels in label_maps
    ]
    return _infer(image, unaries, kernels)


def refine_probabilities(
    image: NDArray[np.uint8], probabilities: NDArray[np.float32], kernels: Kernels = NETWORK_KERNELS, least: float = 0.0
) -> NDArray[np.float32]:
    """Posterior (L,H,W) from a network's probabilities (L,H,W).

    The work grows with the labels. One that is less likely than LEAST at every pixel stays out of the field, with posterior
    0: below exp(-weights of both kernels) / L, 4e-5 for 21 labels, no message of its neighbours could make it win.
    Raises StageError when pydensecrf is not installed.
    """
    highest = probabilities.max((1, 2))
    kept = np.flatnonzero(highest >= min(least, highest.max()))
    energy = -np.log(np.clip(probabilities[kept], PROBABILITY_FLOOR, 1)).reshape(len(kept), -1)
    posterior = np.zeros_like(probabilities)
    posterior[kept] = _infer(image, [energy], kernels)[0]
    return posterior


def refine_masks(
    image: NDArray[np.uint8],
    masks: Sequence[NDArray[np.uint8]],
    classes: Sequence[int],
    kernels: Kernels = SEED_KERNELS,
    certainty: float = SEED_CERTAINTY,
) -> list[NDArray[np.uint8]]:
    """Masks (H,W) of background 0 and class ids + 1, each after a dense CRF that takes it for right with CERTAINTY.

    CLASSES: the 0-based ids that the masks may hold. The masks share one lattice. Raises StageError when pydensecrf is not
    installed.
    """
    ids = np.array([0, *(index + 1 for index in classes)], dtype=np.uint8)
    places = np.zeros(256, dtype=np.int64)
    places[ids] = np.arange(len(ids))
    posteriors = refine_labels(image, [places[mask] for mask in masks], len(ids), kernels, certainty)
    return [ids[posterior.argmax(0)] for posterior in posteriors]


def combine(
    fg: NDArray[np.integer[Any]],
    bg: NDArray[np.integer[Any]],
    classes: Sequence[int] | NDArray[np.integer[Any]],
) -> NDArray[np.uint8]:
    """Affinity label (H,W) from two refined maps of labels 0..L-1 (IRN, CVPR 2019, section 4.2).

    A pixel takes its class (id + 1) where the map of confident foreground FG holds one, 0 where the map of
    confident background BG is background too, and 255 (void) where the two disagree. CLASSES: 0-based ids of
    labels 1..L-1.
    """
    ids = np.concatenate([[0], np.asarray(classes, dtype=np.int64) + 1]).astype(np.uint8)
    return np.where(fg > 0, ids[fg], np.where(bg == 0, 0, VOID)).astype(np.uint8)


def memory(pixels: int, labels: int) -> int:
    """Bytes that the CRF of an image takes at most: the colour lattice of an image of noise, and the planes of its labels."""
    return pixels * (LATTICE_BYTES + LABEL_BYTES * labels)


def _infer(image: NDArray[np.uint8], unaries: Sequence[NDArray[Any]], kernels: Kernels) -> list[NDArray[np.float32]]:
    height, width = image.shape[:2]
    n_labels = unaries[0].shape[0]
    field = _library("densecrf").DenseCRF2D(width, height, n_labels)
    posteriors = []
    for index, unary in enumerate(unaries):
        field.setUnaryEnergy(np.ascontiguousarray(unary, dtype=np.float32))
        if index == 0:
            field.addPairwiseGaussian(sxy=kernels.smooth_width, compat=kernels.smooth_weight)
            field.addPairwiseBilateral(
                sxy=kernels.colour_width,
                srgb=kernels.colour_range,
                rgbim=np.ascontiguousarray(image),
                compat=kernels.colour_weight,
            )
        posteriors.append(np.array(field.inference(kernels.iterations), np.float32).reshape(n_labels, height, width))
    return posteriors


def _library(part: str) -> Any:
    """A module of pydensecrf, imported when a CRF is asked for: it is compiled, and a machine may lack it."""
    try:
        return importlib.import_module(f"pydensecrf.{part}")
    except ImportError as error:
        raise StageError("Dense CRF is not available", str(error), "Install it with `pip install pydensecrf2`") from error
