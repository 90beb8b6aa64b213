"""Every decode and every index PNG: images come as RGB, 8 bits, upright; masks as class ids with the VOC palette."""

from __future__ import annotations

import io
import stat
import struct
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import imageio.v3 as iio
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile, PngInfo
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from stages.core.errors import StageError
from stages.data import formats
from stages.formulas import VOID

Array = NDArray[np.uint8]
# All that is decoded (a JPEG may have further pictures behind it). Pillow's other decoders are rare or call programs.
DECODERS = tuple(
    str(decoder.format)
    for decoder in (JpegImageFile, PngImageFile, WebPImageFile, GifImageFile, TiffImageFile, BmpImageFile, PpmImageFile)
)
MOST_PIXELS = 178_956_970  # of an image; more is taken for a bomb, as Pillow does: half a gigabyte of RGB
ORIENTATION, LYING = 0x0112, (5, 6, 7, 8)  # the EXIF tag, and its values by which rows become columns
UPRIGHT = {  # by EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
TIFF_WIDTH, TIFF_HEIGHT = 256, 257  # tags
GREY = ("L", "I;16", "I;16B", "I")  # PIL's names of grey images; "I" of 16 bits before PIL 11
DAMAGE = (  # what decoders raise; those in Python stumble over damaged tags in many ways
    *(OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error, Image.DecompressionBombError),
    *(TypeError, LookupError, ArithmeticError, AttributeError, NotImplementedError, MemoryError),
)


def read_image(path: Path) -> Array:
    """Decode an image as (H,W,3) uint8 RGB, upright. Raises StageError that names the file.

    Of several pictures in a file the first; 16 bits become their upper 8; what is transparent lies on white.
    """
    try:
        with opened(path) as image:
            return np.array(upright(image))
    except DAMAGE as error:
        raise _unreadable("image", path, error) from error


@contextmanager
def opened(source: Path | IO[bytes]) -> Iterator[Image.Image]:
    """An image whose header alone is read so far. Raises what DAMAGE lists, ValueError on more than MOST_PIXELS."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of large images and damaged tags
        if isinstance(source, Path) and not stat.S_ISREG(source.stat().st_mode):
            raise OSError("no regular file")  # a pipe or device may never end
        with Image.open(source, formats=DECODERS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels, more than {MOST_PIXELS}")
            yield image


def upright(image: Image.Image) -> Image.Image:
    """An opened image in RGB, its EXIF orientation applied. Raises what DAMAGE lists."""
    image.load()
    turn = UPRIGHT.get(orientation(image))
    flat = _flat(image)
    return flat if turn is None else flat.transpose(turn)


def orientation(image: Image.Image) -> int:
    """The EXIF orientation that is still to be applied; Pillow turns a TIFF itself while it loads it."""
    found = image.getexif().get(ORIENTATION, 1)
    return found if isinstance(found, int) else 1


def _flat(image: Image.Image) -> Image.Image:
    """In RGB: 16 bits to their upper 8, transparent pixels on white."""
    if image.mode.startswith("I"):
        image = Image.fromarray(_upper_byte(np.asarray(image)))
    elif image.mode == "F":
        raise ValueError("its pixels are fractions, whose range no file states")
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    clear = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear).convert("RGB")


def _upper_byte(values: NDArray[np.uint16 | np.int32]) -> Array:
    """Grey values of 16 bits in 8. Raises ValueError where they have more."""
    if values.dtype.itemsize > 2 and values.size and not 0 <= values.min() <= values.max() < 1 << 16:
        raise ValueError("its pixels have 32 bits, and no file states of which range")
    return (values >> 8).astype(np.uint8)


def pixels(path: Path) -> int:
    """Pixels of an image, by its header alone. Raises StageError that names the file."""
    height, width = size(path)
    return height * width


def size(path: Path) -> tuple[int, int]:
    """Height and width of an image as `read_image` gives it, by its header. Raises StageError that names the file.

    A PNG is decoded where its header has no EXIF data: they may come last.
    """
    try:
        with opened(path) as image:
            return upright_size(image)
    except DAMAGE as error:
        raise _unreadable("image", path, error) from error


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Height and width of an opened image, not loaded yet, once its EXIF orientation is applied."""
    tags = getattr(image, "tag_v2", None)  # of a TIFF, whose size some versions of Pillow turn themselves
    width, height = image.size if tags is None else (tags[TIFF_WIDTH], tags[TIFF_HEIGHT])
    return (width, height) if orientation(image) in LYING else (height, width)


def sizes_of_some(files: Sequence[str], count: int) -> list[tuple[int, int]]:
    """Heights and widths of COUNT of the images, evenly spread; unreadable ones are left to `bas data check`.

    Raises StageError where none of them can be read.
    """
    found = []
    for file in files[:: max(len(files) // count, 1)][:count]:
        with suppress(StageError):
            found.append(size(Path(file)))
    if not found:
        raise StageError(f"Cannot read the images, first {files[0]}", "none that was tried", "Look with `bas data check`")
    return found


def read_grey(path: Path) -> NDArray[np.uint8 | np.uint16 | np.int32]:
    """Read a grey PNG of 8 or 16 bits as (H,W). Raises StageError on colour and index images, which are no maps."""
    try:
        with opened(path) as image:
            if image.mode not in GREY:
                raise ValueError(f"mode {image.mode}, not a grey image of 8 or 16 bits")
            return np.asarray(image).copy()
    except DAMAGE as error:
        raise _unreadable("map", path, error) from error


def read_mask(path: Path) -> Array:
    """Read an index or grey PNG as (H,W) uint8 class ids, 255 = void. Raises StageError on colour or damaged masks."""
    try:
        with opened(path) as image:
            if image.mode not in ("P", "L", "1"):
                raise ValueError(f"mode {image.mode}, not an index or grey image")
            return np.asarray(image.convert("L") if image.mode == "1" else image, dtype=np.uint8).copy()
    except DAMAGE as error:
        raise _unreadable("mask", path, error) from error


def read_index(path: Path, content: bytes) -> tuple[Array, Array | None]:
    """Ids (H,W) in the CONTENT of a PNG that is called PATH, and its palette (N,3), None of a grey one. Raises StageError."""
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            colours = image.getpalette()
            ids = np.asarray(image if image.mode == "P" else image.convert("L"), dtype=np.uint8).copy()
    except DAMAGE as error:
        raise _unreadable("mask", path, error) from error
    return ids, None if colours is None else np.array(colours, dtype=np.uint8).reshape(-1, 3)


def _unreadable(kind: str, path: Path, error: BaseException) -> StageError:
    return StageError(f"Cannot read {kind} {path}", reason(error), formats.MEND)


def reason(error: BaseException) -> str:
    """What damage raised, in words of one line."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    words = (str(error).splitlines() or ["damaged"])[0]
    return "empty, damaged or no image at all" if words.startswith("cannot identify image file") else words[:160]


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
    path.write_bytes(iio.imwrite("<bytes>", image, plugin="pillow", extension=path.suffix, quality=90))


def write_grey(path: Path, values: Array, notes: Mapping[str, str]) -> None:
    """Write (H,W) values of 8 bits as a grey PNG that carries NOTES, texts by name.

    By way of memory: imageio tells of a full disk once more when it lets go of the file.
    """
    info = PngInfo()
    for name, text in notes.items():
        info.add_text(name, text)
    path.write_bytes(iio.imwrite("<bytes>", values, plugin="pillow", extension=".png", pnginfo=info))


def read_note(path: Path, name: str) -> str:
    """The text NAME that `write_grey` put into a PNG. Raises StageError where there is none."""
    try:
        with opened(path) as image:
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
