"""Every decode and every index PNG: images come as RGB, 8 bits, upright; masks as class ids with the VOC palette."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

import imageio.v3 as iio
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from stages.core.errors import StageError

Array = NDArray[np.uint8]
VOID = 255
ORIENTATION, LYING = 0x0112, (5, 6, 7, 8)  # the EXIF tag, and its values by which rows become columns
GREY = ("L", "I;16", "I;16B", "I")  # PIL's names of grey images; "I" of 16 bits before PIL 11
DAMAGE = (OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)  # of decoders


def read_image(path: Path) -> Array:
    """Decode an image as (H,W,3) uint8 RGB, its EXIF orientation applied. Raises StageError that names the file."""
    try:
        image = iio.imread(path, plugin="pillow", index=0, mode="RGB", rotate=True)
    except DAMAGE as error:
        raise _unreadable("image", path, error) from error
    return np.ascontiguousarray(image)


def pixels(path: Path) -> int:
    """Pixels of an image, by its header alone. Raises StageError that names the file."""
    height, width = size(path)
    return height * width


def size(path: Path) -> tuple[int, int]:
    """Height and width of an image as `read_image` gives it, by its header alone. Raises StageError that names the file."""
    try:
        with Image.open(path) as image:
            lies = image.getexif().get(ORIENTATION, 1) in LYING
            return (image.width, image.height) if lies else (image.height, image.width)
    except DAMAGE as error:
        raise _unreadable("image", path, error) from error


def read_grey(path: Path) -> NDArray[np.uint8 | np.uint16 | np.int32]:
    """Read a grey PNG of 8 or 16 bits as (H,W). Raises StageError on colour and index images, which are no maps."""
    try:
        with Image.open(path) as image:
            if image.mode not in GREY:
                raise ValueError(f"mode {image.mode}, not a grey image of 8 or 16 bits")
            return np.asarray(image).copy()
    except DAMAGE as error:
        raise _unreadable("map", path, error) from error


def read_mask(path: Path) -> Array:
    """Read an index or grey PNG as (H,W) uint8 class ids, 255 = void. Raises StageError on colour or damaged masks."""
    try:
        with Image.open(path) as image:
            if image.mode not in ("P", "L", "1"):
                raise ValueError(f"mode {image.mode}, not an index or grey image")
            return np.asarray(image.convert("L") if image.mode == "1" else image, dtype=np.uint8).copy()
    except DAMAGE as error:
        raise _unreadable("mask", path, error) from error


def _unreadable(kind: str, path: Path, error: BaseException) -> StageError:
    reason = "no such file" if isinstance(error, FileNotFoundError) else (str(error).splitlines() or ["damaged"])[0]
    if "can not handle the given uri" in reason or reason.startswith("cannot identify image file"):
        reason = "empty, damaged or no image at all"
    return StageError(f"Cannot read {kind} {path}", reason[:160], "Replace the file or take it off the list")


def resize(image: Array, height: int, width: int) -> Array:
    """Bicubic resize of (H,W,3) uint8, antialiased when shrinking."""
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def write_mask(path: Path, ids: Array) -> None:
    """Write (H,W) class ids as an index PNG with the VOC palette."""
    image = Image.fromarray(ids)
    image.putpalette(palette().ravel().tolist())
    image.save(path, format="PNG", optimize=False, compress_level=4)


def write_image(path: Path, image: Array) -> None:
    """Write (H,W,3) uint8 RGB in the format that PATH's suffix names."""
    Image.fromarray(image).save(path, quality=90)


def write_grey(path: Path, values: Array, notes: Mapping[str, str]) -> None:
    """Write (H,W) values of 8 bits as a grey PNG that carries NOTES, texts by name."""
    info = PngInfo()
    for name, text in notes.items():
        info.add_text(name, text)
    Image.fromarray(values).save(path, format="PNG", pnginfo=info)


def read_note(path: Path, name: str) -> str:
    """The text NAME that `write_grey` put into a PNG. Raises StageError where there is none."""
    try:
        with Image.open(path) as image:
            return str(image.info[name])
    except (*DAMAGE, KeyError) as error:
        raise _unreadable("the notes of", path, error) from error


def palette() -> Array:
    """The 256 colours of the VOC devkit: bit b of the id, three at a time, sets bit 7-b of red, green, blue."""
    ids = np.arange(256)
    colours = np.zeros((256, 3), dtype=np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= (((ids >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    return colours


def overlay(image: Array, ids: Array, opacity: float = 0.55) -> Array:
    """The image with its mask's colours over it; background stays clear, void is white."""
    colours = np.where((ids == VOID)[..., None], 255, palette()[ids]).astype(np.float32)
    mixed = image * (1 - opacity) + colours * opacity
    return np.where((ids > 0)[..., None], mixed, image).astype(np.uint8)
