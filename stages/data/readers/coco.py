"""COCO's layout: photographs in one folder a split, and a document of instances for each.

    annotations/instances_<list>.json  a list's photographs, categories and outlines; or <list>/_annotations.coco.json
    <list>/ or images/<list>/          its photographs; or all together in JPEGImages/, images/ or beside the document
    masks/<list>/<id>.png              true masks that were drawn already; others are drawn when they are asked for

Documents are found by their names alone; those of captions, keypoints and the like are passed over.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

from stages.core.errors import StageError
from stages.core.files import write_atomic
from stages.data import coco
from stages.data.coco import Document, Index, Outlines
from stages.data.labels import Labels, read_labels
from stages.data.readers import Place, all_there

NAMED = "instances_"  # before the list's name in a document's
ROBOFLOW = "_annotations.coco.json"
OTHERS = ("captions_", "person_keypoints_", "image_info_", "panoptic_", "stuff_")  # COCO's documents of other things
FOLDERS = ("{list}", "images/{list}", "JPEGImages", "images", "data", "{beside}", ".")
MASKS = "masks"
SOME = 20  # photographs of which one is looked for to tell their folder: a few may be absent


def open_at(place: Place) -> Coco:
    """COCO at a place, or in the folder `coco` within it. Raises StageError when there is no document of instances."""
    for root in (place.root, place.root / "coco"):
        if documents(root):
            return Coco(root, place.labels, place.scratch)
    why = "no such folder" if not place.root.is_dir() else "neither it nor its folder annotations holds instances_*.json"
    raise StageError(f"Cannot use data {place.root}", why, "Give the folder that holds annotations/ with --data DIR")


def documents(root: Path) -> dict[str, Path]:
    """The documents of instances below ROOT, by the names of their lists; by their files' names alone."""
    found = [*root.glob("annotations/*.json"), *root.glob(f"*/{ROBOFLOW}"), *root.glob("*.json")]
    return {_list_of(path): path for path in sorted(found, reverse=True) if _may_be(path.name)}


def _may_be(name: str) -> bool:
    return not name.startswith(OTHERS) and not name.endswith(coco.INDEX) and (name.startswith(NAMED) or "coco" in name)


def _list_of(path: Path) -> str:
    return path.parent.name if path.name == ROBOFLOW else path.stem.removeprefix(NAMED)


@dataclass(frozen=True)
class Coco:
    """The reader of COCO at ROOT; a file of labels that was CHOSEN goes before the documents' own.

    Photographs without an object are in no list, as in the lists that the field trains on; `labels` says how many they are.
    """

    root: Path
    chosen: Path | None = None
    scratch: Path | None = None

    @cached_property
    def _documents(self) -> dict[str, Path]:
        return documents(self.root)

    @cached_property
    def _indexes(self) -> dict[str, Index]:
        return {}

    @cached_property
    def _whole(self) -> dict[str, Document]:
        return {}

    def index(self, name: str) -> Index:
        """Who is where in the list NAME. Raises StageError that names the lists that are there."""
        if name not in self._documents:
            near = difflib.get_close_matches(name, self._documents, n=1, cutoff=0.0)[0]
            known = ", ".join(sorted(self._documents))
            raise StageError(f"No image list '{name}' in {self.root}", f"lists there: {known}", f"Did you mean '{near}'?")
        if name not in self._indexes:
            self._indexes[name] = coco.read_index(self._documents[name])
        return self._indexes[name]

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The categories' names, in the order of their ids; the same in every list. Raises StageError."""
        names = sorted(self._documents)
        first = self.index(names[0]).classes
        for name in names[1:]:
            if self.index(name).classes != first:
                why = f"{self._documents[name].name} has other categories than {self._documents[names[0]].name}"
                raise StageError(f"Cannot use data {self.root}", why, "Take one of them away")
        return first

    @property
    def empty(self) -> int:
        """Photographs of all documents that show no object, and are in no list."""
        return sum(self.index(name).empty for name in self._documents)

    def has_list(self, name: str) -> bool:
        """Whether the list NAME is there."""
        return name in self._documents

    def ids(self, name: str) -> tuple[str, ...]:
        """Ids of the photographs of the list NAME that show an object."""
        found = self.index(name).ids
        if not found:
            raise StageError(f"The image list '{name}' is empty", f"{self._documents[name]} has no annotation", "Annotate some")
        return found

    @cached_property
    def _homes(self) -> dict[str, str]:
        """The list of the document that an image is in, the first where it is in several."""
        return {image_id: name for name in sorted(self._documents, reverse=True) for image_id in self.index(name).files}

    def find(self, ids: Sequence[str], listed_in: str) -> list[str | None]:
        """The path of each id's photograph, or None."""
        homes = [self._home(image_id, listed_in) for image_id in ids]
        folders = {name: self._photographs(name) for name in set(homes) if name is not None}
        return [folders[name].path(i) if name is not None else None for i, name in zip(ids, homes, strict=True)]

    def files(self, ids: Sequence[str], listed_in: str) -> list[str]:
        """The path of each id's photograph. Raises StageError that names the first absent one and counts the rest."""
        found = self.find(ids, listed_in)
        home = self._home(ids[found.index(None)], listed_in) if None in found else None
        where = self._photographs(home).folder if home is not None else self.root
        return all_there(found, ids, listed_in, where, "Add the files or correct the document")

    def _home(self, image_id: str, listed_in: str) -> str | None:
        """The list of the document whose photograph is meant: the one that it is LISTED_IN goes before others."""
        own = listed_in in self._documents and image_id in self.index(listed_in).files
        return listed_in if own else self._homes.get(image_id)

    def _photographs(self, name: str) -> _Photographs:
        return _Photographs(self.root, name, self._documents[name], self.index(name))

    def labels(self, ids: Sequence[str]) -> tuple[Labels, str]:
        """Classes of IDS by the annotations, and their source, with the number of photographs that are in no list."""
        if self.chosen is not None:
            return read_labels(self.root, self.chosen, ids, self.classes)
        homes = {image_id: name for image_id in ids if (name := self._homes.get(image_id))}
        used = sorted(set(homes.values()))
        empty = sum(self.index(name).empty for name in used)
        left = f" ({empty} images without object left out)" if empty else ""
        labels = {image_id: self.index(name).labels[image_id] for image_id, name in homes.items()}
        return labels, ", ".join(self._documents[name].name for name in used) + left

    def mask(self, image_id: str) -> Path | None:
        """The true mask of a photograph: the one that was drawn, or drawn now where there is a place for it."""
        name = self._homes.get(image_id)
        if name is None:
            return None
        places = [place / name / f"{image_id}.png" for place in (self.root / MASKS, self.scratch) if place is not None]
        drawn = next((path for path in places if os.access(path, os.R_OK)), None)
        return drawn if drawn or self.scratch is None else self._draw(image_id, name, places[-1])

    def _draw(self, image_id: str, name: str, target: Path) -> Path | None:
        """Draw the mask of a photograph; None where it has boxes alone."""
        from stages.data.images import write_mask

        document = self._document(name)
        if not document.outlined(image_id):
            return None
        mask = coco.render(image_id, *document.shapes(image_id))
        write_atomic(target, lambda temporary: write_mask(temporary, mask))
        return target

    def shapes(self, image_id: str) -> Outlines | None:
        """Height and width of a photograph by its document, and its shapes; None where it has boxes alone."""
        name = self._homes.get(image_id)
        said, shapes = self._document(name).shapes(image_id) if name is not None else ((0, 0), [])
        return (said, shapes) if any(segmentation for _, segmentation, _ in shapes) else None

    def _document(self, name: str) -> Document:
        if name not in self._whole:
            self._whole[name] = Document(self._documents[name])
        return self._whole[name]

    def objects(self, image_id: str) -> Path | None:
        """None: instances are in the documents."""
        return None

    def instances(self) -> Path | None:
        """The document of all true instances, where there is one alone."""
        return next(iter(self._documents.values())) if len(self._documents) == 1 else None


class _Photographs:
    """The photographs of one document: the first usual folder that holds one of them, and what is in it."""

    def __init__(self, root: Path, name: str, document: Path, index: Index) -> None:
        beside = document.parent.relative_to(root)
        places = [root / folder.format(list=name, beside=beside) for folder in FOLDERS]
        try:
            self._names = {image_id: coco.inner(name) for image_id, name in index.files.items()}
        except ValueError as error:
            raise StageError(f"Refused {document}", str(error), "Correct the document") from error
        some = list(islice(self._names.values(), SOME))
        self.folder = next((place for place in places if any((place / one).is_file() for one in some)), places[0])
        inner = {name.rpartition("/")[0] for name in self._names.values()}
        self._present = {name for folder in inner for name in _listed(self.folder, folder)}

    def path(self, image_id: str) -> str | None:
        """Where a photograph lies, or None."""
        name = self._names[image_id]
        return f"{self.folder}{os.sep}{name}" if name in self._present else None


def _listed(folder: Path, inner: str) -> Iterator[str]:
    """The files of FOLDER/INNER, by their names below FOLDER."""
    place = folder / inner
    if place.is_dir():
        with os.scandir(place) as entries:
            yield from (f"{inner}/{entry.name}" if inner else entry.name for entry in entries)
