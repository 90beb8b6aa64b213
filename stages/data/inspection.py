"""What one image file is: read once, hashed and decoded; and what its mask holds."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stages.core.errors import StageError
from stages.data import images
from stages.data.formats import SUFFIXES
from stages.formulas.perceptual import SIDE, difference_code

LARGEST = 1 << 30  # bytes of a file
THUMB = 2 * SIDE  # side of the small picture that is looked at
LOOK = 2 * THUMB  # a JPEG is decoded in the least size that is larger
COLOURLESS = 2  # largest difference of the channels of a grey picture, which a JPEG stores as colour
JPEG = ("JPEG", "MPO")


@dataclass(frozen=True)
class Facts:
    """One image; `fault` says why it cannot be read, and then nothing else is known of it but its bytes."""

    file: str
    fault: str = ""
    bytes: int = 0
    digest: bytes = b""  # of its bytes
    format: str = ""
    size: tuple[int, int] = (0, 0)  # height, width, upright
    traits: frozenset[str] = frozenset()  # of TRAITS
    code: bytes = b""
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
        if Path(file).exists() and not Path(file).is_file():
            return Facts(file, "no regular file")  # a pipe or device may never end
        with open(file, "rb") as stream:
            content = stream.read(LARGEST + 1)
        if not 0 < len(content) <= LARGEST:
            return Facts(file, "empty" if not content else "more than a gigabyte", len(content))
    except OSError as error:
        return Facts(file, error.strerror or "unreadable")
    digest = hashlib.blake2b(content, digest_size=16).digest()  # four times as fast as sha256
    try:
        with images.opened(io.BytesIO(content)) as image:
            return _decoded(file, image, len(content), digest)
    except images.DAMAGE as error:
        return Facts(file, images.reason(error), len(content), digest)


def _decoded(file: str, image: Image.Image, count: int, digest: bytes) -> Facts:
    """Facts of an opened image. Raises what damage raises."""
    size, traits = images.upright_size(image), _of_header(file, image)
    image.draft(None, (LOOK, LOOK))  # fewer frequencies of a JPEG; all of its bytes are read still
    small = images.upright(image).resize((THUMB, THUMB), Image.Resampling.BOX)
    grey = small.convert("L")
    if _colourless(np.asarray(small, np.int16)):
        traits.add("greyscale")
    low, high = grey.getextrema()
    if low == high:
        traits.add("one colour")
    code = difference_code(np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BOX)))
    return Facts(file, "", count, digest, image.format or "", size, frozenset(traits), code.tobytes(), grey.tobytes())


def _colourless(small: NDArray[np.int16]) -> bool:
    """Whether the three channels (h,w,3) are as good as one."""
    red, green, blue = small[..., 0], small[..., 1], small[..., 2]
    return max(np.abs(red - green).max(), np.abs(green - blue).max()) <= COLOURLESS


def _of_header(file: str, image: Image.Image) -> set[str]:
    """The traits that need no pixel."""
    suffix = SUFFIXES.get(Path(file).suffix.lower())
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
