"""Layouts of datasets, one a file: each answers the same few questions, and nothing else of the tool knows of folders and lists.

The layout X is the module `stages.data.readers.X` with `open_at(place) -> Reader`, imported when a dataset of it is opened.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from stages.core.errors import StageError
from stages.data.labels import Labels


class Unknown(StageError):
    """A folder of no known layout, in which nothing is broken."""


@dataclass(frozen=True)
class Place:
    """Where a dataset lies, as the configuration has it."""

    root: Path
    labels: Path | None = None  # a file of image-level labels that goes before the layout's own
    scratch: Path | None = None  # where a layout may write what it makes of its files, true masks for one
    classes: tuple[str, ...] | None = None  # those that are meant, in the order of their ids, where the layout leaves a choice
    own_lists: Path | None = None  # the folder of the lists, where they do not lie in the data

    @property
    def lists(self) -> Path:
        """The folder of the lists."""
        return self.own_lists or self.root


class Reader(Protocol):
    """What a layout answers. An image's id names its outputs; files are text, not Paths, as there are thousands.

    Freshness asks nothing more: the dataset hashes ids, labels, class names and the bytes of `files`.
    """

    @property
    def root(self) -> Path:
        """The folder of the photographs."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names without background, in the order of their ids."""
        ...

    def has_list(self, name: str) -> bool:
        """Whether the list NAME is there."""
        ...

    def ids(self, name: str) -> tuple[str, ...]:
        """Image ids of the list NAME, each once. Raises StageError that names the lists that are there."""
        ...

    def find(self, ids: Sequence[str], listed_in: str) -> list[str | None]:
        """The image file of each of IDS, None where it is absent."""
        ...

    def files(self, ids: Sequence[str], listed_in: str) -> list[str]:
        """The image file of each of IDS. Raises StageError that names the first absent one and counts the rest."""
        ...

    def labels(self, ids: Sequence[str]) -> tuple[Labels, str]:
        """0-based class ids of IDS, and their source in words; an image that is not among them, or has none, is unlabelled.

        Raises StageError on a missing source, an unknown class or a damaged file.
        """
        ...

    def mask(self, image_id: str) -> Path | None:
        """The readable true mask of an image, an index PNG, or None; asked for by evaluation alone."""
        ...

    def objects(self, image_id: str) -> Path | None:
        """The readable mask of an image's true instances, numbered from 1, or None; asked for by evaluation alone."""
        ...

    def instances(self) -> Path | None:
        """A COCO document of the true instances of all images, which goes before `objects`, or None."""
        ...


def all_there(found: Sequence[str | None], ids: Sequence[str], listed_in: str, where: Path, todo: str) -> list[str]:
    """The files that were FOUND of the IDS of a list. Raises StageError that names the first absent in WHERE, and counts them."""
    files = [file for file in found if file is not None]
    if len(files) < len(ids):
        count = f"{len(ids) - len(files)} of {len(ids)} are not in {where}, first '{ids[found.index(None)]}'"
        raise StageError(f"List '{listed_in}' names absent images", count, todo)
    return files


def open_reader(layout: str, place: Place) -> Reader:
    """The reader of LAYOUT at PLACE. Raises StageError where the folder is not of that layout."""
    reader: Reader = importlib.import_module(f"stages.data.readers.{layout}").open_at(place)
    if place.own_lists is None:
        return reader
    from stages.data.readers.lists import Lists, Relisted

    return reader if isinstance(reader, Lists) else Relisted(place.own_lists, reader)
