"""Formats of photographs by the endings of names. What a file is, its content says; an ending only says what to look at."""

from __future__ import annotations

from collections.abc import Mapping

MEND = "Replace the file or take it off the list; `bas data check --fix` writes lists without such files"
SUFFIXES: Mapping[str, str] = {  # in either case → Pillow's name of the format
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), "JPEG"),
    ".png": "PNG",
    ".webp": "WEBP",
    ".bmp": "BMP",
    ".gif": "GIF",
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    **dict.fromkeys((".ppm", ".pgm", ".pbm", ".pnm"), "PPM"),
}
UNSUPPORTED = frozenset(  # images that cannot be read: named where they lie among those that can
    {".avif", ".heic", ".heif", ".jp2", ".j2k", ".jxl", ".svg", ".eps", ".psd", ".tga", ".ico", ".exr", ".hdr"}
    | {".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".dcm", ".pdf"}
)


def ending(file: str) -> str:
    """The ending of a file's name in lower case, with its dot: a fifth of the time of a Path, for thousands of files."""
    return f".{file.rpartition('.')[2].lower()}"
