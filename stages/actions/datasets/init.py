"""`bas data init`: look at a folder of labelled photographs, split it, and write the configuration that fits it.

Nothing is decoded and nothing is written into the photographs' folder: lists and configuration lie where the caller says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import configs
from stages import PIPELINE
from stages.actions.datasets import photographs_config as settings
from stages.core.errors import StageError
from stages.core.files import write_text
from stages.data import clean
from stages.data.clean import Sifted, costs, sift, sift_files
from stages.data.readers import Place, Reader, Unknown, coco, open_reader, table, tables
from stages.data.readers import folder as folders
from stages.data.readers.listed import Listed, Row
from stages.data.readers.voc import Devkit
from stages.data.splits import stratified

LOOKED_AT = 64  # images whose size is taken for all
LISTS = ("train", "val", "test")


@dataclass(frozen=True)
class Wish:
    """What is asked for: the photographs, the configuration's file, the lists' folder and how the configuration names it."""

    root: Path
    config: Path
    lists: Path
    named: str
    labels: Path | None = None
    share: float = 0.2
    seed: int = 0
    force: bool = False  # write over lists that are there and say something else


def initialise(wish: Wish) -> dict[str, Any]:
    """Write lists and configuration, and return what was found, where they are, and what a run would take.

    Raises StageError where the folder is of no known layout, or holds too little to learn from, and where lists would be lost.
    """
    layout, place = recognise(wish.root, wish.labels)
    reader = open_reader(layout, place)
    data: dict[str, Any] = {"reader": layout, "root": str(place.root)}
    if place.labels is not None:
        data["labels"] = str(place.labels)
    own = own_lists(reader)
    sifted = _sifted(reader, list(own.values()) if own is not None else _names(reader))
    rows = _rows(reader, sifted)
    if own is not None:
        lists = {name: len(sifted[name].ids) for name in dict.fromkeys(own.values())}
        facts: dict[str, Any] = {"split": "the data's own lists", "lists": lists}
        data |= own
    else:
        facts = _split(rows, reader, wish) | _strange(place)
        data |= {"lists": wish.named, "classes": list(reader.classes)} if isinstance(reader, Listed) else {"lists": wish.named}
        data |= {"train": "train", "score": "score" if "score" in facts["lists"] else "train"}
        data |= {"val": "val" if "val" in facts["lists"] else "test"}
    facts = _counted(rows, reader) | facts | {"left_out": {str(path): count for path, count in costs(sifted.values()).items()}}
    data |= {"negatives": "keep"} if facts["negatives"] else {}
    found = {"layout": layout, "root": str(place.root), "config": str(wish.config), **facts}
    found |= _sizes([f"{place.root}/{row.file}" for row in rows.values()])
    return found | {"estimate": _write(wish, data, found)}


def recognise(root: Path, labels: Path | None = None) -> tuple[str, Place]:
    """The layout of the folder ROOT: the devkit's, a file of labels (LABELS, or one in it), or a sub-folder a class.

    Raises StageError that says what was looked for.
    """
    if any((root / inner / "JPEGImages").is_dir() for inner in ("", "VOC2012", "VOCdevkit/VOC2012")):
        return "voc", Place(root, labels)
    if labels is not None:
        return "table", Place(root, labels)
    if coco.documents(root):
        return "coco", Place(root)
    fault: StageError | None = None
    try:
        file = table.find(root)
        if file is not None and table.look_up(root, file).rows:
            return "table", Place(root, file)
    except tables.Foreign as error:  # of broken labels the folders' names do not take the place
        fault = error
    if len({name for _, name, folder in folders.class_folders(root) if folders.images_in(root, folder)}) > 1:
        return "folder", Place(root)
    if fault is not None:
        raise fault
    raise Unknown(
        f"Cannot tell what {root} holds" if root.is_dir() else f"No folder {root}",
        "neither two sub-folders with images, nor a CSV, JSON or JSON-lines file of labels, nor JPEGImages",
        "Put the images of each class into a folder of its own, or give a file of labels with --labels",
    )


def own_lists(reader: Reader) -> dict[str, str] | None:
    """The lists that the data has itself, by their use: a devkit's, or COCO's where there are two documents."""
    if isinstance(reader, Devkit):
        return {"train": "train_aug" if reader.has_list("train_aug") else "train", "score": "train", "val": "val"}
    names = _names(reader)
    train, val = (next((name for name in names if part in name), None) for part in ("train", "val"))
    return {"train": train, "score": train, "val": val} if train and val else None


def _names(reader: Reader) -> list[str]:
    """The lists of COCO's documents; none of a person's own photographs."""
    return sorted(coco.documents(reader.root)) if isinstance(reader, coco.Coco) else []


def _sifted(reader: Reader, names: Sequence[str]) -> dict[str, Sifted]:
    """The ids of the lists NAMES, or of a person's own photographs, without what clean lists leave out."""
    if isinstance(reader, Listed):
        return {"": sift_files(reader, "", tuple(reader.rows))}
    return {name: sift(reader, name, reader.ids(name)) for name in dict.fromkeys(names)}


def _rows(reader: Reader, sifted: Mapping[str, Sifted]) -> Mapping[str, Row]:
    """A row for each image of the lists that were SIFTED."""
    rows: dict[str, Row] = {}
    for name, ids in ((name, one.require(name or "of all")) for name, one in sifted.items()):
        if isinstance(reader, Listed):
            return {i: reader.rows[i] for i in ids}
        labels, _ = reader.labels(ids)
        for image_id, file in zip(ids, reader.files(ids, name), strict=True):
            classes = tuple(reader.classes[label] for label in labels.get(image_id, ())) or None
            rows[image_id] = Row(Path(file).relative_to(reader.root).as_posix(), classes)
    return rows


def _masked(rows: Mapping[str, Row], reader: Reader) -> set[str]:
    """Images with a true mask; COCO's are drawn when they are asked for, so that all have one."""
    return set(rows) if isinstance(reader, coco.Coco) else {image_id for image_id in rows if reader.mask(image_id) is not None}


def _counted(rows: Mapping[str, Row], reader: Reader) -> dict[str, Any]:
    """What the images are labelled with."""
    labels = [row.classes for row in rows.values() if row.classes is not None]
    counted = Counter(name for names in labels for name in names)
    empty = reader.empty if isinstance(reader, coco.Coco) else 0
    return {
        "images": len(rows) + empty,
        "classes": {name: counted[name] for name in reader.classes},
        "several": sum(len(names) > 1 for names in labels),
        "negatives": sum(not names for names in labels),
        "unlabelled": len(rows) - len(labels) + empty,
        "masks": len(_masked(rows, reader)),
    }


def _split(rows: Mapping[str, Row], reader: Reader, wish: Wish) -> dict[str, Any]:
    """Write lists of the images that somebody labelled: as the data has them, else stratified. Returns how, and how many."""
    labels = {i: row.classes for i, row in rows.items() if row.classes is not None}
    masked = _masked(rows, reader) & set(labels)
    given = {name: [i for i in labels if rows[i].split == name] for name in LISTS}
    lists = {name: ids for name, ids in given.items() if ids}
    free = [i for i in labels if not rows[i].split]
    whole = len(lists) > 1 and "train" in lists
    if whole:
        lists["train"] += free
    else:
        lists |= dict(zip(("train", "val"), _drawn(given["train"] + free, labels, masked, wish), strict=True))
    score = [i for i in lists["train"] if i in masked and labels[i]]
    if 0 < len(score) < sum(bool(labels[i]) for i in lists["train"]):
        lists["score"] = score  # true masks of some: these are scored
    _require(lists, labels, reader)
    _write_lists(lists, wish)
    how = "as the data has it" if whole else "stratified by label set"
    return {"split": how, "lists": {name: len(ids) for name, ids in lists.items()}}


def _write_lists(lists: Mapping[str, Sequence[str]], wish: Wish) -> None:
    """Write the lists; a clean list of one that changes was of the former. Raises StageError where one of other ids is there."""
    texts = {wish.lists / f"{name}.txt": "".join(f"{i}\n" for i in sorted(ids)) for name, ids in lists.items()}
    former = [path for path, text in texts.items() if path.exists() and path.read_bytes() != text.encode()]
    if former and not wish.force:
        todo = "Remove it to have it made anew, write elsewhere, or add --force to `bas data init`"
        raise StageError(f"{former[0]} is there already", "it names other images than would be written, perhaps by hand", todo)
    for path in former:
        clean.of_list(path.parent, path.stem).unlink(missing_ok=True)
    for path, text in texts.items():
        write_text(path, text)


def _drawn(free: Sequence[str], labels: Mapping[str, Any], masked: set[str], wish: Wish) -> tuple[list[str], list[str]]:
    """Ids to train on and to hold out; where some images have true masks, those are held out, and at most half of them."""
    scored = [i for i in free if i in masked]
    drawn, share = (scored, min(wish.share * len(free) / len(scored), 0.5)) if 0 < len(scored) < len(free) else (free, wish.share)
    _, held = stratified({i: labels[i] for i in drawn}, share, wish.seed)
    return sorted(set(free) - set(held)), held


def _require(lists: Mapping[str, Sequence[str]], labels: Mapping[str, Any], reader: Reader) -> None:
    """Raise StageError where there is too little to learn from: BAS tells a class from others, and from what is around it."""
    present = Counter(name for i in lists["train"] for name in labels[i])
    lacking = sorted({name for names in labels.values() for name in names} - set(present))
    if len(reader.classes) < 2:
        why = f"{reader.root} has {' and '.join(reader.classes) or 'none'}"
        raise StageError("One class alone cannot be learnt", why, "Add images of something else, as a class of its own")
    if lacking or not lists.get("val", lists.get("test")):
        why = f"no image to train on is of '{lacking[0]}'" if lacking else "no image is left to test on"
        raise StageError(f"Too few images in {reader.root}", why, "Add images, or change --val-share")


def _strange(place: Place) -> dict[str, Any]:
    """What a file of labels names that is not there, and images that it does not name."""
    if place.labels is None:
        return {}
    found = table.look_up(place.root, place.labels)
    return {"absent": list(found.absent), "unnamed": list(found.unnamed), "repeated": found.repeated}


def _sizes(files: Sequence[str]) -> dict[str, Any]:
    """Longer sides in pixels, typical and largest, of some of the images."""
    from stages.data.images import sizes_of_some

    sides = [max(size) for size in sizes_of_some(files, LOOKED_AT)]
    return {"side": round(median(sides)), "largest": max(sides)}


def _write(wish: Wish, data: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, float]:
    """Choose the settings, write the configuration, and return what a run would take."""
    from stages.actions import configure, estimate
    from stages.actions.run import Run
    from stages.core.config import merge, validate
    from stages.core.limits import cores
    from stages.core.runtime import Config, Runtime

    gpu = Runtime(validate(Config, {}, "runtime")).expects_gpu
    base, chosen = settings.choose(settings.Photographs(found["lists"][data["train"]], found["side"], gpu))
    values = merge(settings.plain(configs.load(base), chosen), {"data": dict(data), "eval": {"subset": None}})
    run = Run(wish.config.parent, configure.settle(values))
    taken = estimate.rounded(estimate.total(estimate.plan(run, list(PIPELINE), True)))
    where = "with a GPU (estimated, never measured)" if gpu else f"on {cores()} cores without a GPU"
    head = [
        f"{found['images']} photographs of {len(found['classes'])} classes in {data['root']}, as `bas data init` found them.",
        f"Expected {where}: {taken['minutes']:.0f} minutes, {taken['memory_mb'] / 1000:.1f} GB of memory, "
        f"{taken['disk_mb'] / 1000:.1f} GB of disk, to a factor of two or three.",
        *(f"{count} more are left out, as they are not in {path}." for path, count in found["left_out"].items()),
    ]
    write_text(wish.config, settings.text(head, base, data, chosen))
    return taken
