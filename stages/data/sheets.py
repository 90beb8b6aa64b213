"""Contact sheets: rows of small pictures with captions, so that a person sees what a stage made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from stages.core.files import write_atomic
from stages.core.sharding import spread
from stages.data.images import Array, overlay

SHOWN = 10  # images on a sheet
TILE = 176  # pixels, the longer side of a picture
CAPTION = 22
LIGHTLY = 1  # how much of an effort a PNG's compression makes: a third of the default's time, and 11 % more bytes
COLOURS = 20  # of numbered things, before they come again

T = TypeVar("T")


def shown(samples: Sequence[T]) -> Sequence[T]:
    """The images of a list that its sheet shows."""
    return spread(samples, SHOWN)


def heat(image: Array, scores: NDArray[np.floating]) -> Array:
    """A map in [0,1] over a darkened image: blue is low, yellow high."""
    s = np.clip(scores, 0, 1)[..., None]
    low, middle, high = (np.array(c, dtype=np.float32) for c in ((20, 20, 90), (210, 40, 90), (255, 235, 60)))
    colour = np.where(s < 0.5, low + (middle - low) * 2 * s, middle + (high - middle) * (2 * s - 1))
    return (0.35 * image + 0.65 * colour).astype(np.uint8)


def enlarged(grid: NDArray[Any], image: Array) -> NDArray[Any]:
    """A map (h,w) on the stride-4 grid at the size of the image, each value four times beside and below itself."""
    return grid.repeat(4, 0).repeat(4, 1)[: image.shape[0], : image.shape[1]]


def directions(field: NDArray[np.floating], image: Array) -> Array:
    """A displacement field (2,h,w) of an image as colours (H,W,3): hue is the way, brightness the length."""
    y, x = (enlarged(part, image) for part in field)
    length = np.hypot(y, x)[..., None]
    thirds = np.array([0, 2 * np.pi / 3, 4 * np.pi / 3])  # of the circle: red, green, blue
    hue = 0.5 + 0.5 * np.cos(np.arctan2(y, x)[..., None] - thirds)
    return (255 * hue * length / max(float(length.max()), 1e-6)).astype(np.uint8)


def numbered(image: Array, numbers: NDArray[np.integer]) -> Array:
    """The image with a colour for each number above 0 (H,W), however many there are."""
    return overlay(image, np.where(numbers > 0, 1 + (numbers - 1) % COLOURS, 0).astype(np.uint8))


def outlined(image: Array, masks: Sequence[NDArray[np.bool_]]) -> Array:
    """The image with every mask (H,W) in a colour of its own and a white outline."""
    from scipy import ndimage

    numbers = np.zeros(image.shape[:2], np.int32)
    edge = np.zeros(image.shape[:2], bool)
    for number, mask in enumerate(masks, start=1):
        numbers[mask] = number
        inner: Any = ndimage.binary_erosion(mask)
        edge |= mask & ~inner
    return np.where(edge[..., None], np.uint8(255), numbered(image, numbers))


def write_sheet(path: Path, header: Sequence[str], rows: Sequence[Sequence[Array]], names: Sequence[str] = ()) -> None:
    """Write rows of RGB pictures under a header of captions as one PNG; NAMES, one a row, are written into the first pictures."""
    columns = len(header)
    sheet = Image.new("RGB", (columns * (TILE + 6) + 6, len(rows) * (TILE + 6) + CAPTION + 8), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(15)
    for column, text in enumerate(header):
        draw.text((8 + column * (TILE + 6), 3), text, fill="black", font=font)
    for r, row in enumerate(rows):
        for c, picture in enumerate(row):
            sheet.paste(_tile(picture), (6 + c * (TILE + 6), CAPTION + 4 + r * (TILE + 6)))
    for r, name in enumerate(names):
        place = (10, CAPTION + 6 + r * (TILE + 6))
        draw.text(place, name, fill="white", font=font, stroke_width=2, stroke_fill="black")
    write_atomic(path, lambda temporary: sheet.save(temporary, compress_level=LIGHTLY))


def _tile(picture: Array) -> Image.Image:
    image = Image.fromarray(picture)
    scale = TILE / max(image.size)
    small = image.resize((max(round(image.width * scale), 1), max(round(image.height * scale), 1)), Image.Resampling.BICUBIC)
    tile = Image.new("RGB", (TILE, TILE), (238, 238, 238))
    tile.paste(small, ((TILE - small.width) // 2, (TILE - small.height) // 2))
    return tile
