"""What one image file is: read and decoded once; and what its mask holds."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from stages.core.errors import StageError
from stages.data import images
from stages.data.formats import SUFFIXES, ending
from stages.formulas.perceptual import SIDE

LARGEST = 1 << 30  # bytes of a file
THUMB = 2 * SIDE  # side of the small picture that is looked at
LOOK = 2 * THUMB  # a JPEG is decoded in the least size that is larger
COLOURLESS = 2  # largest difference of the channels of a grey picture, which a JPEG stores as colour
JPEG = ("JPEG", "MPO")


@dataclass(frozen=True)
class Facts:
    """One image; `fault` says why it cannot be read, and then nothing else is known of it but how many bytes it has."""

    file: str
    fault: str = ""
    bytes: int = 0
    format: str = ""
    size: tuple[int, int] = (0, 0)  # height, width, upright
    traits: frozenset[str] = frozenset()  # of TRAITS
    thumb: bytes = b""  # grey, THUMB x THUMB


TRAITS = ("greyscale", "one colour", "CMYK", "16 bits", "transparent", "several pictures", "turned", "wrong suffix")


@dataclass(frozen=True)
class MaskFacts:
    """A mask: pixels by id, or why it cannot be read."""

    fault: str = ""
    size: tuple[int, int] = (0, 0)
    pixels: dict[int, int] = field(default_factory=dict)


def inspect_all(pairs: Sequence[tuple[str, str | None]]) -> list[tuple[Facts, MaskFacts | None]]:
    """Facts of images, and of their masks where there are some."""
    return [(inspect(file), None if mask is None else inspect_mask(mask)) for file, mask in pairs]


def inspect(file: str) -> Facts:
    """Read and decode FILE once."""
    try:
        status = os.stat(file)
        if not stat.S_ISREG(status.st_mode):
            return Facts(file, "no regular file")  # a pipe or device may never end
        if not 0 < status.st_size <= LARGEST:
            return Facts(file, "more than a gigabyte" if status.st_size else "empty", status.st_size)
        with open(file, "rb") as stream:
            return _read(file, stream, status.st_size)
    except OSError as error:
        return Facts(file, error.strerror or "unreadable")


def _read(file: str, stream: IO[bytes], count: int) -> Facts:
    """Facts of an open file of COUNT bytes."""
    try:
        with images.opened(stream) as image:
            return _decoded(file, image, count)
    except images.DAMAGE as error:
        return Facts(file, images.reason(error), count)


def _decoded(file: str, image: Image.Image, count: int) -> Facts:
    """Facts of an opened image. Raises what damage raises."""
    size, traits = images.upright_size(image), _of_header(file, image)
    image.draft(None, (LOOK, LOOK))  # fewer frequencies of a JPEG; all of its bytes are read still
    small = images.upright(image).resize((THUMB, THUMB), Image.Resampling.BOX)
    thumb = small.convert("L").tobytes()
    if _colourless(small):
        traits.add("greyscale")
    if thumb == thumb[:1] * len(thumb):
        traits.add("one colour")
    return Facts(file, "", count, image.format or "", size, frozenset(traits), thumb)


def _colourless(small: Image.Image) -> bool:
    """Whether the three channels of an RGB picture are as good as one."""
    extrema: Any = small.getextrema()  # (lowest, highest) of each channel
    low, high = zip(*extrema, strict=True)
    if max(low) - min(low) > COLOURLESS or max(high) - min(high) > COLOURLESS:
        return False  # nearly every picture in colour, at a tenth of the cost
    red, green, blue = np.moveaxis(np.asarray(small, np.int16), -1, 0)
    return max(np.abs(red - green).max(), np.abs(green - blue).max()) <= COLOURLESS


def _of_header(file: str, image: Image.Image) -> set[str]:
    """The traits that need no pixel."""
    suffix = SUFFIXES.get(ending(file))
    raw = str(getattr(image, "tile", ""))  # how Pillow will decode it: "RGB;16B" of a PNG of 16 bits
    named = suffix is None or suffix == ("JPEG" if image.format in JPEG else image.format)
    found = {
        "CMYK": image.mode == "CMYK",
        "16 bits": image.mode.startswith("I") or (";16" in raw and "BGR" not in raw),
        "transparent": image.has_transparency_data,
        "several pictures": image.format not in JPEG and getattr(image, "is_animated", False),
        "turned": images.orientation(image) in images.UPRIGHT,
        "wrong suffix": not named,
    }
    return {trait for trait, there in found.items() if there}


def inspect_mask(file: str) -> MaskFacts:
    """Decode a mask once."""
    try:
        ids = images.read_mask(Path(file))
    except StageError as error:
        return MaskFacts(error.why)
    counts = np.bincount(ids.ravel(), minlength=256)
    height, width = ids.shape
    return MaskFacts("", (height, width), {int(i): int(counts[i]) for i in np.flatnonzero(counts)})
