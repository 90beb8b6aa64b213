"""Contact sheets: rows of small pictures with captions, so that a person sees what a stage made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from stages.core.files import write_atomic
from stages.data.images import Array

TILE = 176  # pixels, the longer side of a picture
CAPTION = 22


def heat(image: Array, scores: NDArray[np.floating]) -> Array:
    """A map in [0,1] over a darkened image: blue is low, yellow high."""
    s = np.clip(scores, 0, 1)[..., None]
    low, middle, high = (np.array(c, dtype=np.float32) for c in ((20, 20, 90), (210, 40, 90), (255, 235, 60)))
    colour = np.where(s < 0.5, low + (middle - low) * 2 * s, middle + (high - middle) * (2 * s - 1))
    return (0.35 * image + 0.65 * colour).astype(np.uint8)


def write_sheet(path: Path, header: Sequence[str], rows: Sequence[Sequence[Array]]) -> None:
    """Write rows of RGB pictures under a header of captions as one PNG."""
    columns = len(header)
    sheet = Image.new("RGB", (columns * (TILE + 6) + 6, len(rows) * (TILE + 6) + CAPTION + 8), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(15)
    for column, text in enumerate(header):
        draw.text((8 + column * (TILE + 6), 3), text, fill="black", font=font)
    for r, row in enumerate(rows):
        for c, picture in enumerate(row):
            sheet.paste(_tile(picture), (6 + c * (TILE + 6), CAPTION + 4 + r * (TILE + 6)))
    write_atomic(path, lambda temporary: sheet.save(temporary))


def _tile(picture: Array) -> Image.Image:
    image = Image.fromarray(picture)
    scale = TILE / max(image.size)
    small = image.resize((max(round(image.width * scale), 1), max(round(image.height * scale), 1)), Image.Resampling.BICUBIC)
    tile = Image.new("RGB", (TILE, TILE), (238, 238, 238))
    tile.paste(small, ((TILE - small.width) // 2, (TILE - small.height) // 2))
    return tile
