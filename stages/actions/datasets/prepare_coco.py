"""COCO 2014 in its own layout, with a true mask for every photograph that shows an object.

    train2014/, val2014/               photographs, as in COCO's own archives
    annotations/instances_<list>.json  its documents, each with an index beside it, which is read at once
    masks/<list>/<id>.png              drawn from the outlines

Which classes are present, and what lies over what in a mask, is told in `stages.data.coco`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from stages.actions.datasets.preparation import Preparation, counted, drawn, summary
from stages.core.errors import StageError
from stages.core.files import write_atomic
from stages.data import coco
from stages.data.archives import Published, require_space, unpack
from stages.data.images import write_mask
from stages.data.readers.coco import MASKS, NAMED, Coco

HOST = "http://images.cocodataset.org"  # its certificate is another's: what comes from there is checked by md5
ANNOTATIONS = Published(
    "annotations_trainval2014.zip",
    f"{HOST}/annotations/annotations_trainval2014.zip",
    "0a379cfc70b0e71301e0f377548639bd",
    252_872_794,
)
PHOTOGRAPHS = {
    "train2014": Published("train2014.zip", f"{HOST}/zips/train2014.zip", "0da8c0bd3d6becc4dcb32757491aca88", 13_510_573_713),
    "val2014": Published("val2014.zip", f"{HOST}/zips/val2014.zip", "a3d79f5ed8d289b7a7554ce06a5782b3", 6_645_013_297),
}
OFFICIAL = {"train2014": 82081, "val2014": 40137}  # with an object
MASK = 8 << 10  # bytes that a drawn mask takes on disk, about
INFLATED = 4  # times its archive that a document takes
Job = tuple[str, tuple[int, int], list[coco.Shape], Path]


def prepare(
    prepared: Preparation, annotations: Published = ANNOTATIONS, photographs: Mapping[str, Published] = PHOTOGRAPHS
) -> dict[str, Any]:
    """Make what is not there yet; a second call finds all of it and does nothing. Returns a summary in plain values.

    Raises StageError on absent or damaged archives, on those that are not the published ones, and on a full disk.
    """
    _require_room(prepared, annotations, photographs)
    documents = {name: prepared.root / "annotations" / f"{NAMED}{name}.json" for name in photographs}
    if not all(path.is_file() for path in documents.values()):
        wanted = {f"annotations/{path.name}" for path in documents.values()}
        _unpack(prepared, annotations, lambda name: name if str(name) in wanted else None)
    indexes = {name: _index(prepared, path) for name, path in documents.items()}
    for name, index in indexes.items():
        _photographs(prepared, name, photographs[name], index)
        _draw_all(prepared, name, documents[name], index)
    lists = counted({name: index.ids for name, index in indexes.items()}, OFFICIAL)
    left = {name: index.empty for name, index in indexes.items()}
    classes = max(len(index.classes) for index in indexes.values())
    labels = " and ".join(path.name for path in documents.values())
    return summary(prepared, "coco", prepared.root, lists, labels=labels, classes=classes, without_object=left)


def _require_room(prepared: Preparation, annotations: Published, photographs: Mapping[str, Published]) -> None:
    """Raise StageError before anything is fetched where the disk cannot take it; photographs unpack to what their archive
    takes. What lies on disk is measured when it is unpacked."""
    needed = 0
    if prepared.download and not (prepared.root / "annotations").is_dir():
        needed += prepared.to_fetch(annotations) + INFLATED * annotations.size
    for name, archive in photographs.items():
        there = any((prepared.root / folder / name).is_dir() for folder in (".", "images"))
        if prepared.download and not there and prepared.to_fetch(archive):
            needed += prepared.to_fetch(archive) + archive.size
        needed += 0 if (prepared.root / MASKS / name).is_dir() else OFFICIAL[name] * MASK
    require_space(prepared.root, needed)


def _unpack(prepared: Preparation, archive: Published, place: Callable[[PurePosixPath], PurePosixPath | None]) -> None:
    path = prepared.archive(archive)
    for folder in ("annotations", *PHOTOGRAPHS):
        prepared.begin(prepared.root / folder)
    written = unpack(path, prepared.root, place, prepared.reporter)
    prepared.did.append(f"unpacked {written} files of {archive.file}")


def _index(prepared: Preparation, path: Path) -> coco.Index:
    """The index that is kept beside a document; made where there is none."""
    kept = coco.kept_index(path)
    if kept is not None:
        return kept
    with prepared.reporter.track(f"reading {path.name}", 1) as meter:
        index = coco.Document(path).index()
        coco.keep_index(path, index)
        meter.advance()
    prepared.did.append(f"indexed {path.name}")
    return index


def _photographs(prepared: Preparation, name: str, archive: Published, index: coco.Index) -> None:
    """Unpack the photographs of the list NAME, unless all are there."""
    reader = Coco(prepared.root)
    try:
        reader.files(index.ids, name)
    except StageError:
        _unpack(prepared, archive, lambda file: file if file.parts[0] == name and file.suffix == ".jpg" else None)
        reader.files(index.ids, name)


def _draw_all(prepared: Preparation, name: str, path: Path, index: coco.Index) -> None:
    """Draw the masks of the list NAME that are not there."""
    folder = prepared.root / MASKS / name
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    todo = [image_id for image_id in index.ids if f"{image_id}.png" not in there]
    if not todo:
        return
    prepared.begin(folder)
    with prepared.reporter.track(f"drawing masks of {name}", len(index.ids), len(index.ids) - len(todo)) as meter:
        for _ in drawn(_jobs(coco.Document(path), todo, folder), _draw, len(todo), "stages.data.detections"):
            meter.advance()
    prepared.did.append(f"drew {len(todo)} masks of {name}")


def _jobs(document: coco.Document, ids: Sequence[str], folder: Path) -> Iterator[Job]:
    for image_id in ids:
        yield image_id, *document.shapes(image_id), folder / f"{image_id}.png"


def _draw(job: Job) -> None:
    image_id, size, shapes, target = job
    mask = coco.render(image_id, size, shapes)
    write_atomic(target, lambda temporary: write_mask(temporary, mask))
