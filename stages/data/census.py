"""A dataset as it lies on disk, faults and all: every image file with the lists that name it, its labels and its mask.

A dataset that is opened to train on refuses the first fault; here none stops the counting.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from stages.core.errors import StageError
from stages.data import clean
from stages.data.coco import Outlines
from stages.data.formats import SUFFIXES, UNSUPPORTED, ending
from stages.data.labels import Labels
from stages.data.readers import Reader
from stages.data.readers.coco import Coco, documents
from stages.data.readers.listed import Listed, unreadable
from stages.data.readers.lists import Relisted

NOT_PHOTOGRAPHS = frozenset({"SegmentationClass", "SegmentationClassAug", "SegmentationObject", "masks"})  # folders of masks
T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """One image file; `roles` are those of train, score and val whose list names it.

    Labels are None where nobody said any, and empty where somebody said that there are none.
    """

    id: str
    file: str
    roles: frozenset[str] = frozenset()
    labels: tuple[int, ...] | None = None
    mask: str | None = None
    copies: tuple[str, ...] = ()  # further files of the same bytes and name, in the folders of other classes
    outlines: Outlines | None = None  # where no mask is drawn of them yet

    @property
    def trained(self) -> bool:
        """Whether it is trained on."""
        return bool(self.roles & {"train", "score"})


@dataclass(frozen=True)
class Census:
    """All entries below ROOT; LISTS: the name of the list of each role, in which some ids may be ABSENT: role → ids."""

    root: Path
    home: Path | None  # the folder of the lists; None where there are none yet
    classes: tuple[str, ...]
    lists: Mapping[str, str]
    entries: tuple[Entry, ...]
    negatives: bool = False  # whether images without any class are trained on as background
    absent: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unfound: tuple[str, ...] = ()  # what a file of labels names that is not there
    unsupported: tuple[str, ...] = ()
    trouble: tuple[str, ...] = ()  # what keeps lists or labels from being read
    left_out: Mapping[Path, int] = field(default_factory=dict)  # images that each clean list costs

    def of(self, *roles: str) -> list[Entry]:
        """The entries that a list of ROLES names."""
        return [entry for entry in self.entries if entry.roles & set(roles)]

    def unlabelled(self, entry: Entry) -> bool:
        """Whether an image of the training list is left out for want of a label."""
        return "train" in entry.roles and not entry.labels and not (self.negatives and entry.labels == ())


def take(reader: Reader, lists: Mapping[str, str], negatives: bool = False, anew: bool = False) -> Census:
    """The census of a dataset whose LISTS (role → name) are there; without any, photographs that nobody has split yet.

    Clean lists are followed, unless they are to be made ANEW.
    """
    trouble: list[str] = []
    place = clean.home(reader) if lists else None
    lists, given = (lists, _listed(reader, lists, trouble)) if lists else _told(reader, trouble)
    ids, left_out = _sifted(reader, lists, given, place, anew)
    entries, absent = _entries(reader, lists, ids, trouble)
    known = {os.path.realpath(file) for entry in entries for file in (entry.file, *entry.copies)}
    others, unsupported = _others(reader.root, known)
    unfound = tuple(dict.fromkeys(reader.absent)) if isinstance(reader, Listed) else ()
    classes = _attempt(lambda: reader.classes, (), trouble)
    told = (absent, unfound, unsupported, tuple(dict.fromkeys(trouble)), left_out)
    return Census(reader.root, place, classes, lists, (*entries, *others), negatives, *told)


def _entries(
    reader: Reader, lists: Mapping[str, str], ids: Mapping[str, tuple[str, ...]], trouble: list[str]
) -> tuple[list[Entry], dict[str, tuple[str, ...]]]:
    """An entry for each of IDS, by role, that has a file; and those that have none."""
    every = tuple(dict.fromkeys(i for found in ids.values() for i in found))
    found = reader.find(every, next(iter(lists.values()), ""))
    files = {i: file for i, file in zip(every, found, strict=True) if file is not None}
    labels = _labels(reader, tuple(files), trouble)
    members = {role: set(found) for role, found in ids.items()}
    roles = {i: frozenset(role for role, found in members.items() if i in found) for i in files}
    masks = {i: _text(reader.mask(i)) for i in files}
    shapes = _outlines(reader, [i for i, mask in masks.items() if mask is None], trouble)
    rows = reader.rows if isinstance(reader, Listed) else {}
    copies = {i: tuple(f"{reader.root}{os.sep}{copy}" for copy in row.copies) for i, row in rows.items() if row.copies}
    entries = [Entry(i, file, roles[i], labels.get(i), masks[i], copies.get(i, ()), shapes.get(i)) for i, file in files.items()]
    return entries, {role: missing for role, found in ids.items() if (missing := tuple(i for i in found if i not in files))}


def _sifted(
    reader: Reader, lists: Mapping[str, str], given: Mapping[str, tuple[str, ...]], place: Path | None, anew: bool
) -> tuple[Mapping[str, tuple[str, ...]], dict[Path, int]]:
    """The ids GIVEN by role without what clean lists leave out, and how many each does, unless they are to be made ANEW."""
    if anew:
        return given, {}
    sift = clean.sift_files if place is None else clean.sift
    sifted = {role: sift(reader, lists[role], ids) for role, ids in given.items()}
    return {role: one.ids for role, one in sifted.items()}, clean.costs(sifted.values())


def _told(reader: Reader, trouble: list[str]) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    """Lists as folders, a file or documents tell them, and their ids: what is of no split is trained on, a test is a val."""
    ids: dict[str, list[str]] = {}
    if isinstance(reader, Listed):
        for i, row in reader.rows.items():
            ids.setdefault("val" if row.split in ("val", "test") else "train", []).append(i)
    elif isinstance(reader, Coco):
        names = sorted(documents(reader.root))
        ids["train"] = [i for name in names for i in _attempt(lambda name=name: reader.ids(name), (), trouble)]
    return {role: role for role in ids}, {role: tuple(found) for role, found in ids.items()}


def _outlines(reader: Reader, ids: Sequence[str], trouble: list[str]) -> dict[str, Outlines]:
    """What COCO's documents outline in the photographs IDS."""
    inner = reader.inner if isinstance(reader, Relisted) else reader
    if not isinstance(inner, Coco):
        return {}
    none: dict[str, Outlines] = {}
    return _attempt(lambda: {i: found for i in ids if (found := inner.shapes(i)) is not None}, none, trouble)


def _listed(reader: Reader, lists: Mapping[str, str], trouble: list[str]) -> dict[str, tuple[str, ...]]:
    """Ids by role, empty where a list cannot be read."""
    empty: tuple[str, ...] = ()
    return {role: _attempt(lambda name=name: reader.ids(name), empty, trouble) for role, name in lists.items()}


def of_folder(root: Path) -> Census:
    """The census of a folder that holds images and nothing that says more of them. Raises StageError where it holds none."""
    entries, unsupported = _others(root, set())
    if not entries and not unsupported:
        why = "no such folder" if not root.is_dir() else "it holds no image"
        raise StageError(f"Nothing to check in {root}", why, "Name a folder of images, a dataset's folder or a configuration")
    return Census(root, None, (), {}, entries, unsupported=unsupported)


def _attempt(read: Callable[[], T], otherwise: T, trouble: list[str]) -> T:
    """What READ gives, or OTHERWISE, its error noted."""
    try:
        return read()
    except StageError as error:
        trouble.append(str(error))
        return otherwise


def _labels(reader: Reader, ids: Sequence[str], trouble: list[str]) -> Labels:
    """Labels by id; none where they cannot be read."""
    none: Labels = {}
    return _attempt(lambda: reader.labels(ids)[0], none, trouble)


def _others(root: Path, known: set[str]) -> tuple[tuple[Entry, ...], tuple[str, ...]]:
    """Image files below ROOT that no list names, and those of formats that cannot be read."""
    found = [path for path in _walk(root) if not known or os.path.realpath(path) not in known]
    images = (path for path in found if ending(path) in SUFFIXES)
    unsupported = tuple(path for path in found if ending(path) in UNSUPPORTED)
    return tuple(Entry(path.removeprefix(os.fspath(root)).lstrip(os.sep), path) for path in images), unsupported


def _walk(root: Path) -> Iterable[str]:
    for folder, inner, names in os.walk(root, onerror=unreadable):
        inner[:] = sorted(name for name in inner if name not in NOT_PHOTOGRAPHS and not name.startswith("."))
        yield from (f"{folder}{os.sep}{name}" for name in sorted(names) if not name.startswith("."))


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
