"""VOC 2012 and SBD as one folder in the devkit's layout, with the lists that the field trains and tests on.

    VOCdevkit/VOC2012/JPEGImages, Annotations, SegmentationClass, …   as in VOC's own archive
    VOCdevkit/VOC2012/SegmentationClassAug/<id>.png                   SBD's masks, and VOC's own where it has one
    VOCdevkit/VOC2012/ImageSets/Segmentation/train_aug.txt            written last

train_aug is what SBD's lists and VOC's training list name, without VOC's validation images: 10,582. VOC's own masks win: they
have a void border, SBD's have none.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from stages.actions.datasets.preparation import Preparation, counted, drawn, summary
from stages.core.errors import StageError
from stages.core.files import link, write_atomic, write_text
from stages.data import sbd
from stages.data.archives import Published, Readable, follow, require_space, unpack
from stages.data.labels import Labels, read_labels
from stages.data.readers.voc import CLASSES, Devkit

TRAINVAL = Published(
    "VOCtrainval_11-May-2012.tar",
    "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
    "6cd6e144f989b92b3379bac3b3de84fd",
    1_999_639_040,
)
TEST = Published("VOC2012test.tar", None, None, 0)  # behind a login; only predictions for the server want it
OFFICIAL = {"train": 1464, "train_aug": 10582, "val": 1449, "test": 1456}
DEVKIT = Path("VOCdevkit/VOC2012")
CONTENT = ("JPEGImages", "SegmentationClass", "SegmentationObject", "ImageSets", "Annotations")
TRAINED = ("train", "val")  # lists of VOC's own
LISTS = Path("ImageSets/Segmentation")
OWN, AUG = "SegmentationClass", "SegmentationClassAug"
MASK = 8 << 10  # bytes that a drawn mask takes on disk, about
LABELS = "cls_labels.npy"


def prepare(prepared: Preparation, trainval: Published = TRAINVAL, boundaries: Published = sbd.ARCHIVE) -> dict[str, Any]:
    """Make what is not there yet; a second call finds all of it and does nothing. Returns a summary in plain values.

    Raises StageError on absent or damaged archives, on those that are not the published ones, and on a full disk.
    """
    devkit = Devkit(_find(prepared.root))
    unpacked = _whole(devkit, trainval, TRAINED)
    _require_room(prepared, devkit, [] if unpacked else [trainval], boundaries)
    if not unpacked:
        _unpack(prepared, trainval, devkit.root)
    train, val = map(devkit.ids, TRAINED)
    if not _augmented(devkit, (*train, *val)):
        _augment(prepared, devkit.root, train, val, boundaries)
    if prepared.on_disk(TEST) and not _whole(devkit, TEST, ("test",)):
        _unpack(prepared, TEST, devkit.root)
    lists = {name: devkit.ids(name) for name in OFFICIAL if devkit.has_list(name)}
    for name, ids in lists.items():
        devkit.files(ids, name)
    labels, source = _labels(prepared, devkit.root, lists["train_aug"])
    unlabelled = sum(not labels.get(i) for i in lists["train_aug"])
    return summary(prepared, "voc", devkit.root, counted(lists, OFFICIAL), labels=source, unlabelled=unlabelled)


def _find(root: Path) -> Path:
    """The devkit in ROOT, or where it is going to be."""
    places = (root, root / "VOC2012", root / DEVKIT)
    return next((place for place in places if (place / "JPEGImages").is_dir()), root / DEVKIT)


def _unfinished(devkit: Path, archive: Published) -> Path:
    """There while the archive is only partly unpacked."""
    return devkit / f".{archive.file}.unpacking"


def _whole(devkit: Devkit, archive: Published, lists: Sequence[str]) -> bool:
    """Whether the devkit has the LISTS that the archive brings, and not as the beginning of an unpacking."""
    return all(map(devkit.has_list, lists)) and not _unfinished(devkit.root, archive).exists()


def _require_room(prepared: Preparation, devkit: Devkit, wanted: Sequence[Published], boundaries: Published) -> None:
    """Raise StageError before anything is fetched where the disk cannot take it; archives hold photographs, of which
    unpacking makes nothing larger. What lies on disk is measured when it is unpacked."""
    fetched = [one for one in wanted if prepared.to_fetch(one)] if prepared.download else []
    needed = sum(prepared.to_fetch(one) + one.size for one in fetched)
    if not devkit.has_list("train_aug"):
        needed += OFFICIAL["train_aug"] * MASK
        needed += prepared.to_fetch(boundaries) if prepared.download and _boundaries(prepared) is None else 0
    require_space(prepared.root, needed)


def _unpack(prepared: Preparation, archive: Published, devkit: Path) -> None:
    """Unpack what the archive holds of a devkit into DEVKIT."""
    path = prepared.archive(archive)

    def place(name: PurePosixPath) -> PurePosixPath | None:
        parts = name.parts[name.parts.index("VOC2012") + 1 :] if "VOC2012" in name.parts else ()
        return PurePosixPath(*parts) if parts and parts[0] in CONTENT else None

    mark = _unfinished(devkit, archive)
    prepared.begin(devkit)
    write_text(mark, "")
    written = unpack(path, devkit, place, prepared.reporter)
    mark.unlink()
    prepared.did.append(f"unpacked {written} files of {archive.file}")


def _augmented(devkit: Devkit, own: Collection[str]) -> bool:
    """Whether train_aug is there, with a mask for each of its images."""
    return devkit.has_list("train_aug") and set(devkit.ids("train_aug")) <= _masks(devkit.root / AUG).union(own)


def _masks(folder: Path) -> set[str]:
    """Ids of the masks in a folder."""
    if not folder.is_dir():
        return set()
    with os.scandir(folder) as entries:
        return {entry.name[:-4] for entry in entries if entry.name.endswith(".png")}


def _boundaries(prepared: Preparation) -> Path | None:
    """SBD's unpacked folder, if there is one."""
    return next((found for place in prepared.places if (found := sbd.unpacked(place))), None)


def _augment(prepared: Preparation, devkit: Path, train: Sequence[str], val: Sequence[str], boundaries: Published) -> None:
    """Draw SBD's masks where VOC has none, put VOC's own beside them, and write the list train_aug."""
    own, before, listed = {*train, *val}, _masks(devkit / AUG), set[str]()
    source = _boundaries(prepared) or prepared.archive(boundaries)
    prepared.begin(devkit / AUG)
    with sbd.source(source) as files:
        jobs = _jobs(files, devkit / AUG, own | before, listed)
        made = drawn(jobs, sbd.draw, OFFICIAL["train_aug"] if files.blocks > OFFICIAL["test"] else 0, "stages.data.sbd")
        with prepared.reporter.track("drawing SBD's masks", files.blocks) as meter:
            count = sum(1 for _ in follow(made, files, meter))
    ids = sorted((listed | set(train)) - set(val))
    absent = sorted(set(ids) - _masks(devkit / AUG) - own)
    if absent or not listed:
        why = f"{len(absent)} of its images have no mask, first '{absent[0]}'" if absent else "its lists are not there"
        raise StageError("SBD is not complete", why, f"Fetch {boundaries.file} again")
    for image_id in sorted(own - before):
        _share(devkit / OWN / f"{image_id}.png", devkit / AUG / f"{image_id}.png")
    write_text(devkit / LISTS / "train_aug.txt", "".join(f"{image_id}\n" for image_id in ids))
    prepared.did += [f"drew {count} masks of SBD", "wrote train_aug.txt"]


def _jobs(files: Readable, folder: Path, there: Collection[str], listed: set[str]) -> Iterator[tuple[bytes, Path]]:
    """What is to be drawn, while FILES are read once from their beginning to their end; LISTED takes the ids of the lists."""
    for member in files:
        image_id = sbd.mask_id(member)
        if sbd.is_list(member):
            listed.update(member.read().decode("utf-8", "replace").split())
        elif image_id is not None and image_id not in there:
            yield member.read(), folder / f"{image_id}.png"


def _share(source: Path, target: Path) -> None:
    """Give a mask of VOC's a second name, where there is one."""
    if source.is_file() and not target.exists():
        write_atomic(target, lambda temporary: link(source, temporary))


def _labels(prepared: Preparation, devkit: Path, ids: Sequence[str]) -> tuple[Labels, str]:
    """Image-level labels of IDS and their source; IRN's file, where it is all that there is, is kept as text."""
    if (devkit / "Annotations").is_dir() or (devkit / "image_labels.txt").is_file():
        return read_labels(devkit, None, ids, CLASSES)
    given = next((path for place in prepared.places if (path := place / LABELS).is_file()), None)
    if given is None:
        prepared.notes.append(f"no image-level labels: neither Annotations nor {LABELS} is there")
        return {}, "none"
    labels, _ = read_labels(devkit, given, ids, CLASSES)
    rows = (" ".join((image_id, *(CLASSES[k] for k in labels.get(image_id, ())))) for image_id in ids)
    write_text(devkit / "image_labels.txt", "".join(f"{row}\n" for row in rows))
    prepared.did.append("wrote image_labels.txt")
    return labels, LABELS
