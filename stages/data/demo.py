"""The demo dataset: generated scenes with known masks, in the layout of the VOC devkit so that one reader serves both.

    JPEGImages/*.png  SegmentationClass/*.png  SegmentationObject/*.png  ImageSets/Segmentation/{train,val}.txt
    image_labels.txt (id and class names, a line an image)  classes.txt (a name a line, background first)

What the scenes show, and why, is told in `stages.data.scenes`. Nothing heavy is imported while the dataset is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from stages.core.files import write_atomic, write_text

LAYOUT = "voc"  # the reader of what is generated
CLASSES = ("background", "zebra", "leopard", "fox", "panda", "mandrill")
LISTS = ("train", "val")
DONE, BEGUN = "generated.txt", "generating.txt"  # what a dataset was made of, or is being made of
FOLDERS = ("JPEGImages", "SegmentationClass", "SegmentationObject")


Watch = Callable[[Sequence[str]], Iterable[str]]


def generate(
    root: Path, train: int = 1000, val: int = 300, size: int = 80, seed: int = 0, herds: bool = False, watch: Watch = iter
) -> Path:
    """Write a dataset of TRAIN + VAL square scenes of SIZE pixels under ROOT, with HERDS or without, and return ROOT.

    Every scene depends on SEED and its own number alone. WATCH passes the names on and may show how far it is. Scenes
    that are there already are kept, the marker is written last, and a second call with the same numbers returns at once.
    """
    recipe, done, begun = _recipe(train, val, size, seed, herds), root / DONE, root / BEGUN
    if _says(done, recipe):
        return root
    keep = _says(begun, recipe)  # else whatever lies here is another recipe's
    if not keep:
        done.unlink(missing_ok=True)
        write_text(begun, recipe)
    names = [f"demo_{index:05d}" for index in range(train + val)]
    labels = [_write_scene(root, name, (size, seed, index, herds), keep) for index, name in enumerate(watch(names))]
    lists = root / "ImageSets" / "Segmentation"
    for name, some in zip(LISTS, (names[:train], names[train:]), strict=True):
        write_text(lists / f"{name}.txt", _lines(some))
    write_text(root / "image_labels.txt", _lines([f"{n} {label}" for n, label in zip(names, labels, strict=True)]))
    write_text(root / "classes.txt", _lines(CLASSES))
    write_text(done, recipe)
    return root


def is_there(root: Path, train: int, val: int, size: int, seed: int, herds: bool) -> bool:
    """Whether a dataset of these numbers lies whole under ROOT."""
    return _says(root / DONE, _recipe(train, val, size, seed, herds))


def is_half_made(root: Path) -> bool:
    """Whether a generation under ROOT is under way, or was left so."""
    return (root / BEGUN).is_file() and not (root / DONE).is_file()


def _recipe(train: int, val: int, size: int, seed: int, herds: bool) -> str:
    return f"version 2, train {train}, val {val}, size {size}, seed {seed}{', herds' if herds else ''}\n"


def _says(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text() == text


def _lines(items: Sequence[str]) -> str:
    return "".join(f"{item}\n" for item in items)


def _write_scene(root: Path, name: str, what: tuple[int, int, int, bool], keep: bool) -> str:
    """Write image, class mask and instance mask of the scene WHAT unless KEEP finds them; return its class names."""
    import numpy as np
    from PIL import Image

    from stages.data.images import read_mask, write_mask
    from stages.data.scenes import scene

    image_path, class_path, object_path = (root / folder / f"{name}.png" for folder in FOLDERS)
    if keep and image_path.is_file():
        classes = read_mask(class_path)
    else:
        image, classes, instances = scene(*what)
        write_atomic(class_path, lambda path: write_mask(path, classes))
        write_atomic(object_path, lambda path: write_mask(path, instances))
        write_atomic(image_path, lambda path: Image.fromarray(image).save(path))  # last: its presence means all three
    return " ".join(CLASSES[k] for k in np.unique(classes) if k)
