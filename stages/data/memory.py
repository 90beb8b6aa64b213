"""What work on an image takes of memory, from its header alone."""

from __future__ import annotations

from stages.data.dataset import Sample
from stages.data.images import pixels
from stages.formulas import crf


def of_crf(sample: Sample) -> int:
    """Bytes that the dense CRF of the hard labels of an image takes: background and the classes that it carries."""
    return crf.memory(pixels(sample.image), len(sample.labels) + 1)


def of_full_crf(sample: Sample, classes: int) -> int:
    """The same for probabilities of background and all CLASSES."""
    return crf.memory(pixels(sample.image), classes + 1)
