"""Every odd image comes as RGB of 8 bits, upright, in every stage; damaged ones are an error and never another picture."""

from __future__ import annotations

import io
import shutil
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Command, settings
from PIL import Image

from stages.core.errors import StageError
from stages.data import images

# blocks of one colour, which a JPEG keeps; no two sides or corners alike, so that every turn shows
BLOCKS = np.random.default_rng(3).integers(0, 256, (3, 5, 3), dtype=np.uint8)
PICTURE = np.kron(BLOCKS, np.ones((16, 16, 1), np.uint8))
GREY = np.asarray(Image.fromarray(PICTURE).convert("L"))
BACK = {6: 8, 8: 6}  # what undoes a turn, where that is not the turn itself


def stored(turn: int) -> tuple[Image.Image, Image.Exif]:
    """The picture as a camera held at TURN stores it, and the tag that tells."""
    image = Image.fromarray(PICTURE).transpose(images.UPRIGHT[BACK.get(turn, turn)])
    exif = image.getexif()
    exif[images.ORIENTATION] = turn
    return image, exif


def png(rows: np.ndarray, colour: int) -> bytes:
    """A PNG of 16 bits a channel, which Pillow does not write in colour."""
    height, width = rows.shape[:2]
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in rows)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def see_through() -> tuple[Image.Image, np.ndarray]:
    """The picture with its right part half and its lower part wholly transparent, and how that looks on white."""
    alpha = np.full(PICTURE.shape[:2], 255, np.uint8)
    alpha[:, 40:], alpha[32:] = 128, 0
    share = alpha[..., None] / 255
    return Image.fromarray(np.dstack([PICTURE, alpha])), np.round(PICTURE * share + 255 * (1 - share)).astype(np.uint8)


def turned(suffix: str, turn: int, **options: Any) -> Callable[[Path], tuple[Path, np.ndarray]]:
    def write(folder: Path) -> tuple[Path, np.ndarray]:
        image, exif = stored(turn)
        image.save(folder / f"a{suffix}", exif=exif, **options)
        return folder / f"a{suffix}", PICTURE

    return write


def saved(suffix: str, image: Callable[[], Image.Image], expected: np.ndarray, **options: Any) -> Callable[[Path], Any]:
    def write(folder: Path) -> tuple[Path, np.ndarray]:
        image().save(folder / f"a{suffix}", **options)
        return folder / f"a{suffix}", expected

    return write


def plain(mode: str = "RGB") -> Callable[[], Image.Image]:
    return lambda: Image.fromarray(PICTURE).convert(mode)


def several() -> dict[str, Any]:
    return {"save_all": True, "append_images": [Image.new("RGB", (80, 48), "red")]}


def raw(suffix: str, content: Callable[[], bytes], expected: np.ndarray) -> Callable[[Path], tuple[Path, np.ndarray]]:
    def write(folder: Path) -> tuple[Path, np.ndarray]:
        (folder / f"a{suffix}").write_bytes(content())
        return folder / f"a{suffix}", expected

    return write


def linked(folder: Path) -> tuple[Path, np.ndarray]:
    (folder / "elsewhere").mkdir()
    plain()().save(folder / "elsewhere/original.png")
    (folder / "a.png").symlink_to(Path("elsewhere/original.png"))
    return folder / "a.png", PICTURE


def keyed() -> Image.Image:
    """A picture of a palette, of which the colour of the lowest stripe is transparent."""
    ids = np.repeat(np.arange(3, dtype=np.uint8), 16)[:, None].repeat(80, 1)
    image = Image.fromarray(ids)
    image.putpalette([200, 10, 20, 30, 180, 40, 50, 60, 170])
    return image


KEYED = np.array([(200, 10, 20), (30, 180, 40), (255, 255, 255)], np.uint8).repeat(16, 0)[:, None].repeat(80, 1)
DEEP = (GREY.astype(np.uint16) << 8) | 77  # a clipping decoder makes this white
DEEP_COLOUR = (PICTURE.astype(np.uint16) << 8) | 77
ALIKE = {"quality": 95, "subsampling": 0}
MATRIX: dict[str, Callable[[Path], tuple[Path, np.ndarray]]] = {
    **{f"jpeg turned {turn}": turned(".jpg", turn, **ALIKE) for turn in images.UPRIGHT},
    **{f"{suffix[1:]} turned {turn}": turned(suffix, turn) for turn in (3, 6) for suffix in (".png", ".tif")},
    "tiff of lzw turned 8": turned(".tiff", 8, compression="tiff_lzw"),
    "webp turned 5": turned(".webp", 5, lossless=True),
    "capitals": saved(".JPG", plain(), PICTURE, **ALIKE),
    "wrong name": raw(".jpg", lambda: encoded("PNG"), PICTURE),
    "link": linked,
    "cmyk jpeg (Adobe's, inverted)": saved(".jpg", plain("CMYK"), PICTURE, **ALIKE),
    "cmyk tiff": saved(".tif", plain("CMYK"), PICTURE),
    "grey jpeg": saved(".jpg", plain("L"), np.dstack([GREY] * 3), quality=95),
    "one bit": saved(".png", lambda: Image.fromarray(GREY > 99), np.dstack([np.where(GREY > 99, 255, 0)] * 3)),
    "palette": saved(".png", lambda: keyed(), np.where(KEYED == 255, np.array([50, 60, 170]), KEYED)),
    "palette, a colour transparent": saved(".png", lambda: keyed(), KEYED, transparency=2),
    "palette, shades of transparency": saved(".png", lambda: keyed(), KEYED, transparency=bytes((255, 255, 0))),
    "alpha": saved(".png", lambda: see_through()[0], see_through()[1]),
    "alpha, turned": saved(".tif", lambda: see_through()[0], see_through()[1]),
    "grey with alpha": saved(".png", lambda: Image.fromarray(np.dstack([GREY, GREY * 0])), np.full_like(PICTURE, 255)),
    "grey of 16 bits": saved(".png", lambda: Image.fromarray(DEEP), np.dstack([GREY] * 3)),
    "grey tiff of 16 bits": saved(".tif", lambda: Image.fromarray(DEEP), np.dstack([GREY] * 3)),
    "grey pgm of 16 bits": raw(".pgm", lambda: b"P5 80 48 65535\n" + DEEP.astype(">u2").tobytes(), np.dstack([GREY] * 3)),
    "colour of 16 bits": raw(".png", lambda: png(DEEP_COLOUR, 2), PICTURE),
    "animated gif": saved(".gif", plain(), PICTURE, **several()),
    "animated webp": saved(".webp", plain(), PICTURE, lossless=True, **several()),
    "animated png": saved(".png", plain(), PICTURE, **several()),
    "tiff of two pages": saved(".tif", plain(), PICTURE, **several()),
    "jpeg with a second picture": raw(".jpg", lambda: encoded("MPO", quality=95, subsampling=0, **several()), PICTURE),
    "bmp": saved(".bmp", plain(), PICTURE),
    "ppm": saved(".ppm", plain(), PICTURE),
}


def encoded(form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image = plain()()
    (image.quantize(64) if form == "GIF" else image).save(buffer, form, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("case", MATRIX)
def test_an_odd_image_comes_as_rgb_upright_with_the_size_that_was_told(tmp_path: Path, case: str) -> None:
    path, expected = MATRIX[case](tmp_path)
    image = images.read_image(path)
    assert image.dtype == np.uint8 and image.flags["C_CONTIGUOUS"] and image.flags["WRITEABLE"]
    assert image.shape == expected.shape and images.size(path) == expected.shape[:2]
    lossy = "jpeg" in case or case == "capitals"
    assert np.abs(image.astype(int) - expected).max() <= (24 if lossy else 1), case


@pytest.mark.parametrize("content", [np.ones((4, 5), np.float32), np.full((4, 5), 1 << 20, np.int32)])
def test_pixels_of_an_unknown_range_are_refused(tmp_path: Path, content: np.ndarray) -> None:
    Image.fromarray(content).save(tmp_path / "a.tif")
    with pytest.raises(StageError, match="no file states"):
        images.read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("suffix", [".eps", ".ico", ".tga"])
def test_formats_beside_the_known_ones_are_not_even_tried(tmp_path: Path, suffix: str) -> None:
    plain()().save(tmp_path / f"a{suffix}")
    (tmp_path / f"a{suffix}").rename(tmp_path / "a.jpg")
    for read in (images.read_image, images.size, images.read_mask):
        with pytest.raises(StageError, match=r"a\.jpg: empty, damaged or no image at all"):
            read(tmp_path / "a.jpg")


# --- stages ---


def as_png(path: Path, **options: Any) -> None:
    Image.fromarray(images.read_image(path)).save(path, "PNG", **options)


def as_turned(path: Path) -> None:
    image = Image.fromarray(images.read_image(path)).transpose(Image.Transpose.ROTATE_90)
    exif = image.getexif()
    exif[images.ORIENTATION] = 6
    image.save(path, "PNG", exif=exif)


def as_opaque(path: Path) -> None:
    Image.fromarray(images.read_image(path)).convert("RGBA").save(path, "PNG")


def as_deep(path: Path) -> None:
    path.write_bytes(png((images.read_image(path).astype(np.uint16) << 8) | 200, 2))


def as_link(path: Path) -> None:
    shutil.move(path, path.parent.parent / path.name)
    path.symlink_to(Path("..") / path.name)


def as_capitals(path: Path) -> None:
    path.rename(path.with_suffix(".PNG"))


def as_animated(path: Path) -> None:
    as_png(path, save_all=True, append_images=[Image.new("RGB", (64, 64), "red")])


def test_a_run_on_odd_files_of_the_same_pixels_gives_the_same_bits(bas: Command, devkit: Path, tmp_path: Path) -> None:
    odd = Path(shutil.copytree(devkit, tmp_path / "odd"))
    every = sorted((odd / "JPEGImages").iterdir())
    ways = [as_turned, as_opaque, as_deep, as_link, as_capitals, as_animated, lambda path: path.rename(path.with_suffix(".jpg"))]
    for path, way in zip(every, ways * 2, strict=False):
        way(path)
    small = ("irn_train.backbone=tiny", "irn_train.weights=seed", "irn_train.crop=48", "irn_train.radius=5", "irn_train.epochs=1")
    brief = (
        "seed_train.epochs=1",
        "irn_labels.iterations=1",
        "irn_train.batch=4",
        "irn_train.centre_images=2",
        "irn_masks.exp_times=2",
    )
    (tmp_path / "own.yaml").write_text("{}")
    for data, run in ((devkit, "plain"), (odd, "odd")):
        for words in (("seed", "train"), ("seed", "infer"), ("refine", "irn")):
            done = bas(*words, "own.yaml", "--data", str(data), "--run", run, "-q", *settings(*small, *brief))
            assert done.code == 0, done.err
    for stage, pattern in (("seed_infer", "**/*.npz"), ("irn_labels", "labels/*.png"), ("irn_masks", "masks/*.png")):
        names = sorted(path.relative_to(tmp_path / "plain") for path in (tmp_path / "plain" / stage).glob(pattern))
        assert len(names) == 8, (stage, names)
        assert all((tmp_path / "plain" / name).read_bytes() == (tmp_path / "odd" / name).read_bytes() for name in names)


# --- damage ---

WHOLE: dict[str, bytes] = {
    "jpeg": encoded("JPEG"),
    "progressive jpeg": encoded("JPEG", progressive=True),
    "png": encoded("PNG"),
    "webp": encoded("WEBP"),
    "lossless webp": encoded("WEBP", lossless=True),
    "gif": encoded("GIF"),
    "tiff": encoded("TIFF"),
    "tiff of lzw": encoded("TIFF", compression="tiff_lzw"),
    "tiff of jpeg": encoded("TIFF", compression="jpeg"),
    "bmp": encoded("BMP"),
    "ppm": encoded("PPM"),
}
SLOW = 5.0  # seconds that nothing may take


def outcome(path: Path) -> np.ndarray | None:
    """The picture, of the size that was told, or None where it is refused; anything else fails the test."""
    began = time.monotonic()
    try:
        told = images.size(path)
    except StageError:
        told = None
    try:
        image = images.read_image(path)
    except StageError:
        image = None
    assert time.monotonic() - began < SLOW
    assert image is None or image.shape == (*(told or ()), 3)
    return image


def cuts(content: bytes) -> list[int]:
    return sorted({*range(0, len(content), max(len(content) // 80, 1)), *range(max(len(content) - 12, 0), len(content))})


@pytest.mark.parametrize("name", WHOLE)
def test_a_file_that_was_cut_is_an_error_or_the_whole_picture(tmp_path: Path, name: str) -> None:
    path, content = tmp_path / "cut", WHOLE[name]
    path.write_bytes(content)
    whole, refused = images.read_image(path), 0
    for length in cuts(content):
        path.write_bytes(content[:length])
        image = outcome(path)
        refused += image is None
        assert image is None or np.array_equal(image, whole), f"{length} of {len(content)} bytes give another picture"
    assert refused > len(cuts(content)) / 2


@pytest.mark.parametrize("name", WHOLE)
def test_flipped_bits_and_noise_behind_a_header_end_quickly_with_a_size_that_holds(tmp_path: Path, name: str) -> None:
    path, content, random = tmp_path / "spoilt", WHOLE[name], np.random.default_rng(len(WHOLE[name]))
    refused = 0
    for trial in range(80):
        spoilt = bytearray(content)
        for _ in range(random.integers(1, 9)):
            spoilt[random.integers(len(spoilt) if trial % 2 else min(len(spoilt), 200))] ^= 1 << random.integers(8)
        path.write_bytes(spoilt)
        outcome(path)
        path.write_bytes(content[: random.integers(4, 64)] + random.bytes(int(random.integers(600))))
        refused += outcome(path) is None
    assert refused >= 40


def bomb_png(side: int) -> bytes:
    """A PNG of SIDE x SIDE white pixels: 240 kB hold half a gigabyte."""
    deflate = zlib.compressobj(9)
    body = b"".join(deflate.compress(b"\0" + b"\xff" * (side // 8)) for _ in range(side)) + deflate.flush()

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def test_bombs_are_refused_by_their_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb_png(16_000))
    assert path.stat().st_size < 100_000
    for limit in (Image.MAX_IMAGE_PIXELS, None):  # ours holds where somebody switched Pillow's off
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        for read in (images.read_image, images.size, images.read_mask, images.read_grey):
            began = time.monotonic()
            with pytest.raises(StageError, match=r"bomb\.png: .*(exceeds limit|more than 178956970)"):
                read(path)
            assert time.monotonic() - began < 1
