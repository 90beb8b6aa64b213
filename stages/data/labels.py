"""Image-level labels: the devkit's XML objects, IRN's `cls_labels.npy`, or a text list; nothing in a file is executed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stages.core.errors import StageError

Labels = dict[str, tuple[int, ...]]  # image id → 0-based class ids


def read_labels(root: Path, explicit: Path | None, ids: Sequence[str], classes: Sequence[str]) -> tuple[Labels, str]:
    """Labels of IDS and the name of their source: a given file, else XML annotations, else image_labels.txt.

    Raises StageError on a missing source, an unknown class or a damaged file.
    """
    if explicit is not None:
        reader = _from_npy if explicit.suffix == ".npy" else _from_text
        return reader(explicit, classes), explicit.name
    if (root / "Annotations").is_dir():
        return {i: _from_xml(root / "Annotations" / f"{i}.xml", classes) for i in ids}, "Annotations (XML objects)"
    if (root / "image_labels.txt").is_file():
        return _from_text(root / "image_labels.txt", classes), "image_labels.txt"
    raise StageError(
        f"No image-level labels in {root}",
        "neither Annotations/*.xml nor image_labels.txt is there",
        "Give a file with --labels (cls_labels.npy, or text lines `id class class …`)",
    )


def _from_text(path: Path, classes: Sequence[str]) -> Labels:
    rows = read_lines(path)
    return {name: tuple(sorted({_class_id(word, classes, path) for word in words})) for name, words in rows.items()}


def read_lines(path: Path) -> dict[str, list[str]]:
    """Lines `id class class …` as they are written. Raises StageError on a file that is no text."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise StageError(f"Cannot read labels {path}", str(error), "Give an existing text file to --labels") from error
    rows = (line.split() for line in lines if line.strip())
    return {row[0]: row[1:] for row in rows}


def _class_id(name: str, classes: Sequence[str], path: Path) -> int:
    if name in classes:
        return classes.index(name)
    if name.isdecimal() and int(name) < len(classes):
        return int(name)
    raise StageError(
        f"Unknown class '{name}' in {path}", f"not one of the {len(classes)} classes", f"Known: {', '.join(classes[:20])}"
    )


def _from_xml(path: Path, classes: Sequence[str]) -> tuple[int, ...]:
    from stages.data import markup

    if not path.exists():
        return ()  # an image without a label
    try:
        names = {element.findtext("name", "") for element in markup.read(path).iter("object")}
    except (OSError, ValueError) as error:
        raise StageError(f"Cannot read annotation {path}", str(error), "Restore the file or give --labels") from error
    return tuple(sorted(_class_id(name, classes, path) for name in names))


def _from_npy(path: Path, classes: Sequence[str]) -> Labels:
    """IRN's dictionary: integer id without its underscore → one float a class."""
    from stages.data.pickled import load_npy

    table = load_npy(path)
    if not isinstance(table, dict):
        raise StageError(f"Cannot read labels {path}", "not a dictionary of labels", "Give IRN's cls_labels.npy")
    return {_id_of(key): _present(row, len(classes), path) for key, row in table.items()}


def _present(row: Any, classes: int, path: Path) -> tuple[int, ...]:
    import numpy as np

    values = np.asarray(row)
    if values.shape != (classes,) or values.dtype.kind not in "biuf":
        raise StageError(
            f"Cannot use labels {path}", f"a row is not {classes} numbers, one a class", "Give the dataset's own file of labels"
        )
    return tuple(np.flatnonzero(values > 0).tolist())


def _id_of(key: Any) -> str:
    """2007000032 → "2007_000032"; other names stay as they are."""
    text = str(key)
    return f"{text[:4]}_{text[4:]}" if text.isdigit() and len(text) == 10 else text
