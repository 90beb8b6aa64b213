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
from stages.actions import photographs_config as settings
from stages.core.errors import StageError
from stages.core.files import write_text
from stages.data.readers import Place, open_reader, table
from stages.data.readers import folder as folders
from stages.data.readers.listed import Listed
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


def initialise(wish: Wish) -> dict[str, Any]:
    """Write lists and configuration, and return what was found, where they are, and what a run would take.

    Raises StageError where the folder is of no known layout, or holds too little to learn from.
    """
    layout, place = recognise(wish.root, wish.labels)
    reader = open_reader(layout, place)
    data: dict[str, Any] = {"reader": layout, "root": str(place.root)}
    if place.labels is not None:
        data["labels"] = str(place.labels)
    if isinstance(reader, Listed):
        facts = _split(reader, wish) | _strange(reader, place)
        data |= {"lists": wish.named, "classes": list(reader.classes), "train": "train"}
        data |= {"score": "score" if "score" in facts["lists"] else "train", "val": "val" if "val" in facts["lists"] else "test"}
        data |= {"negatives": "keep"} if facts["negatives"] else {}
        files = [f"{place.root}/{row.file}" for row in reader.rows.values()]
    else:
        facts, named, files = _of_lists(reader)
        data |= named
    found = {"layout": layout, "root": str(place.root), "config": str(wish.config), **facts, **_sizes(files)}
    return found | {"estimate": _write(wish, data, found)}


def recognise(root: Path, labels: Path | None = None) -> tuple[str, Place]:
    """The layout of the folder ROOT: the devkit's, a file of labels (LABELS, or one in it), or a sub-folder a class.

    Raises StageError that says what was looked for.
    """
    if any((root / inner / "JPEGImages").is_dir() for inner in ("", "VOC2012", "VOCdevkit/VOC2012")):
        return "voc", Place(root, labels)
    if labels is not None:
        return "table", Place(root, labels)
    fault: StageError | None = None
    try:
        file = table.find(root)
        if file is not None and table.look_up(root, file).rows:
            return "table", Place(root, file)
    except StageError as error:
        fault = error
    if len({name for _, name, folder in folders.class_folders(root) if folders.images_in(root, folder)}) > 1:
        return "folder", Place(root)
    if fault is not None:
        raise fault
    raise StageError(
        f"Cannot tell what {root} holds" if root.is_dir() else f"No folder {root}",
        "neither two sub-folders with images, nor a CSV, JSON or JSON-lines file of labels, nor JPEGImages",
        "Put the images of each class into a folder of its own, or give a file of labels with --labels",
    )


def _split(reader: Listed, wish: Wish) -> dict[str, Any]:
    """Write the lists of a person's own photographs: as the data has them, else stratified. Returns what they hold."""
    labels = {i: row.classes for i, row in reader.rows.items() if row.classes is not None}
    masked = {i for i in labels if reader.mask(i) is not None}
    given = {name: [i for i in labels if reader.rows[i].split == name] for name in LISTS}
    lists = {name: ids for name, ids in given.items() if ids}
    if not given["train"] or len(lists) < 2:
        free = given["train"] or [i for i in labels if not reader.rows[i].split]
        lists |= dict(zip(("train", "val"), _drawn(free, labels, masked, wish), strict=True))
    else:
        lists["train"] += [i for i in labels if not reader.rows[i].split]
    score = [i for i in lists["train"] if i in masked and labels[i]]
    if 0 < len(score) < sum(bool(labels[i]) for i in lists["train"]):
        lists["score"] = score  # true masks of some: these are scored
    _require(lists, labels, reader)
    for name, ids in lists.items():
        write_text(wish.lists / f"{name}.txt", "".join(f"{i}\n" for i in sorted(ids)))
    return {
        "images": len(reader.rows),
        "classes": _counts(labels.values(), reader.classes),
        "several": sum(len(names) > 1 for names in labels.values()),
        "negatives": sum(not names for names in labels.values()),
        "unlabelled": len(reader.rows) - len(labels),
        "masks": len(masked),
        "split": "as the data has it" if len([ids for ids in given.values() if ids]) > 1 else "stratified by label set",
        "lists": {name: len(ids) for name, ids in lists.items()},
    }


def _drawn(free: Sequence[str], labels: Mapping[str, Any], masked: set[str], wish: Wish) -> tuple[list[str], list[str]]:
    """Ids to train on and to hold out; where some images have true masks, those are held out, and at most half of them."""
    scored = [i for i in free if i in masked]
    drawn, share = (scored, min(wish.share * len(free) / len(scored), 0.5)) if 0 < len(scored) < len(free) else (free, wish.share)
    _, held = stratified({i: labels[i] for i in drawn}, share, wish.seed)
    return sorted(set(free) - set(held)), held


def _require(lists: Mapping[str, Sequence[str]], labels: Mapping[str, Any], reader: Listed) -> None:
    """Raise StageError where there is too little to learn from: BAS tells a class from others, and from what is around it."""
    present = Counter(name for i in lists["train"] for name in labels[i])
    lacking = [name for name in reader.classes if not present[name]]
    if len(reader.classes) < 2:
        why = f"{reader.root} has {' and '.join(reader.classes) or 'none'}"
        raise StageError("One class alone cannot be learnt", why, "Add images of something else, as a class of its own")
    if lacking or not lists.get("val", lists.get("test")):
        why = f"no image to train on is of '{lacking[0]}'" if lacking else "no image is left to test on"
        raise StageError(f"Too few images in {reader.root}", why, "Add images, or change --val-share")


def _counts(labels: Any, classes: Sequence[str]) -> dict[str, int]:
    counted = Counter(name for names in labels for name in names)
    return {name: counted[name] for name in classes}


def _strange(reader: Listed, place: Place) -> dict[str, Any]:
    """What a file of labels names that is not there, and images that it does not name."""
    if place.labels is None:
        return {}
    found = table.look_up(place.root, place.labels)
    return {"absent": list(found.absent), "unnamed": list(found.unnamed), "repeated": found.repeated}


def _of_lists(reader: Any) -> tuple[dict[str, Any], dict[str, str], list[str]]:
    """Counts of a devkit, the lists that its configuration names, and the files to look at."""
    assert isinstance(reader, Devkit)
    names = {"train": "train_aug" if reader.has_list("train_aug") else "train", "score": "train", "val": "val"}
    ids = {name: reader.ids(name) for name in dict.fromkeys(names.values())}
    train = ids[names["train"]]
    labels, source = reader.labels(train)
    present = {i: [reader.classes[k] for k in labels.get(i, ())] for i in train}
    facts = {
        "images": len(set().union(*ids.values())),
        "classes": _counts(present.values(), reader.classes),
        "several": sum(len(found) > 1 for found in present.values()),
        "negatives": 0,
        "unlabelled": sum(not found for found in present.values()),
        "masks": sum(reader.mask(i) is not None for i in set().union(*ids.values())),
        "split": f"the data's own lists, labels from {source}",
        "lists": {name: len(found) for name, found in ids.items()},
    }
    return facts, names, reader.files(train, names["train"])


def _sizes(files: Sequence[str]) -> dict[str, Any]:
    """Longer sides in pixels, typical and largest, of some of the images; what cannot be read is left to `bas data check`."""
    from stages.data.images import size

    sides = []
    for file in files[:: max(len(files) // LOOKED_AT, 1)][:LOOKED_AT]:
        try:
            sides.append(max(size(Path(file))))
        except StageError:
            continue
    if not sides:
        raise StageError(f"Cannot read the images, first {files[0]}", "none that was tried", "Look with `bas data check`")
    return {"side": round(median(sides)), "largest": max(sides)}


def _write(wish: Wish, data: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, float]:
    """Choose the settings, write the configuration, and return what a run would take."""
    from stages.actions import configure, estimate
    from stages.actions.run import Run
    from stages.core.config import merge
    from stages.core.limits import cores
    from stages.core.runtime import Config, Runtime

    gpu = Runtime(Config()).expects_gpu
    base, chosen = settings.choose(settings.Photographs(found["lists"][data["train"]], found["side"], gpu))
    values = merge(settings.plain(configs.load(base), chosen), {"data": dict(data), "eval": {"subset": None}})
    run = Run(wish.config.parent, configure.settle(values))
    taken = estimate.rounded(estimate.total(estimate.plan(run, list(PIPELINE), True)))
    where = "with a GPU (estimated, never measured)" if gpu else f"on {cores()} cores without a GPU"
    head = [
        f"{found['images']} photographs of {len(found['classes'])} classes in {data['root']}, as `bas data init` found them.",
        f"Expected {where}: {taken['minutes']:.0f} minutes, {taken['memory_mb'] / 1000:.1f} GB of memory, "
        f"{taken['disk_mb'] / 1000:.1f} GB of disk, to a factor of two or three.",
    ]
    write_text(wish.config, settings.text(head, base, data, chosen))
    return taken
