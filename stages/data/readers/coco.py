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
from pathlib import Path

from stages.core.errors import StageError
from stages.core.files import write_atomic
from stages.data import coco
from stages.data.coco import Document, Index
from stages.data.labels import Labels, read_labels
from stages.data.readers import Place

NAMED = "instances_"  # before the list's name in a document's
ROBOFLOW = "_annotations.coco.json"
OTHERS = ("captions_", "person_keypoints_", "image_info_", "panoptic_", "stuff_")  # COCO's documents of other things
FOLDERS = ("{list}", "images/{list}", "JPEGImages", "images", "data", "{beside}", ".")
MASKS = "masks"


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

    def has_list(self, name: str) -> bool:
        """Whether the list NAME is there."""
        return name in self._documents

    def ids(self, name: str) -> tuple[str, ...]:
        """Ids of the photographs of the list NAME that show an object."""
        found = self.index(name).ids
        if not found:
            raise StageError(f"The image list '{name}' is empty", f"{self._documents[name]} has no annotation", "Annotate some")
        return found

    def files(self, ids: Sequence[str], listed_in: str) -> list[str]:
        """The path of each id's photograph. Raises StageError that names the first absent one and counts the rest."""
        names = [self._name(image_id, listed_in) for image_id in ids]
        folder = self._folder(names[0], listed_in)
        present = set(_below(folder, names))
        absent = [name for name in names if name not in present]
        if absent:
            raise StageError(
                f"List '{listed_in}' names absent images",
                f"{len(absent)} of {len(ids)} are not in {folder}, first '{absent[0]}'",
                "Add the files or correct the document",
            )
        return [f"{folder}{os.sep}{name}" for name in names]

    def _name(self, image_id: str, listed_in: str) -> str:
        try:
            return str(coco.inner(self.index(listed_in).files[image_id]))
        except ValueError as error:
            raise StageError(f"Refused {self._documents[listed_in]}", str(error), "Correct the document") from error

    def _folder(self, name: str, listed_in: str) -> Path:
        """The folder of a list's photographs: the first usual one that holds NAME."""
        beside = self._documents[listed_in].parent.relative_to(self.root)
        places = [self.root / folder.format(list=listed_in, beside=beside) for folder in FOLDERS]
        return next((place for place in places if (place / name).is_file()), places[0])

    def labels(self, ids: Sequence[str]) -> tuple[Labels, str]:
        """Classes of IDS by the annotations, and their source, with the number of photographs that are in no list."""
        if self.chosen is not None:
            return read_labels(self.root, self.chosen, ids, self.classes)
        wanted = set(ids)
        used = [name for name in sorted(self._documents) if not wanted.isdisjoint(self.index(name).files)]
        labels = {i: found for name in used for i, found in self.index(name).labels.items() if i in wanted}
        empty = sum(self.index(name).empty for name in used)
        left = f" ({empty} images without object left out)" if empty else ""
        return labels, ", ".join(self._documents[name].name for name in used) + left

    def mask(self, image_id: str) -> Path | None:
        """The true mask of a photograph: the one that was drawn, or drawn now where there is a place for it."""
        name = next((name for name in sorted(self._documents) if image_id in self.index(name).files), None)
        if name is None:
            return None
        places = [place / name / f"{image_id}.png" for place in (self.root / MASKS, self.scratch) if place is not None]
        drawn = next((path for path in places if os.access(path, os.R_OK)), None)
        return drawn if drawn or self.scratch is None else self._draw(image_id, name, places[-1])

    def _draw(self, image_id: str, name: str, target: Path) -> Path | None:
        """Draw the mask of a photograph; None where it has boxes alone."""
        from stages.data.images import write_mask

        if name not in self._whole:
            self._whole[name] = Document(self._documents[name])
        document = self._whole[name]
        if not document.outlined(image_id):
            return None
        mask = coco.render(image_id, *document.shapes(image_id))
        write_atomic(target, lambda temporary: write_mask(temporary, mask))
        return target

    def objects(self, image_id: str) -> Path | None:
        """None: instances are in the documents."""
        return None

    def instances(self) -> Path | None:
        """The document of all true instances, where there is one alone."""
        return next(iter(self._documents.values())) if len(self._documents) == 1 else None


def _below(folder: Path, names: Sequence[str]) -> Iterator[str]:
    """Files below FOLDER in those of its folders that NAMES are in, as NAMES have them."""
    for inner in {name.rpartition("/")[0] for name in names}:
        place = folder / inner
        if place.is_dir():
            with os.scandir(place) as entries:
                yield from (f"{inner}/{entry.name}" if inner else entry.name for entry in entries)
