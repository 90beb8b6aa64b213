"""Files of image-level labels: CSV, JSON, JSON lines, Label Studio's JSON and CVAT's XML, as entries `image, classes, split`.

Nothing that a file names is opened here, and nothing in it is executed.
"""

from __future__ import annotations

import csv
import io
import json
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.parsers import expat

from stages.core.errors import StageError
from stages.data import formats

IMAGE = ("image", "file", "filename", "file_name", "filepath", "path", "image_path", "img", "image_id", "id", "name")
LABELS = ("labels", "label", "classes", "class", "tags", "tag", "categories", "category")
SPLIT = ("split", "subset", "set", "partition")
PICTURE = re.compile(f"({'|'.join(map(re.escape, formats.SUFFIXES))})$", re.IGNORECASE)
SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".xml")
LARGEST = 1 << 28  # bytes of a file


class Foreign(StageError):
    """No file that is plainly one of labels: sound, but of other things, or one of several."""


class _Other(ValueError):
    """What a file of other things is refused for."""


@dataclass(frozen=True)
class Entry:
    """What a file says of one image: its name as it is written, class names (None: nothing was said), split."""

    image: str
    classes: tuple[str, ...] | None
    split: str = ""


def read(path: Path) -> list[Entry]:
    """The entries of a file, as they come. Raises StageError that names the file."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("no regular file")  # a pipe or a device may never end
        if status.st_size > LARGEST:
            raise ValueError("more than 256 MB")
        text = path.read_text(encoding="utf-8-sig")
        found = list(_READ.get(path.suffix.lower(), _csv)(text))
    except (OSError, ValueError, RecursionError, csv.Error, expat.ExpatError) as error:
        why = "tables within tables without end" if isinstance(error, RecursionError) else str(error)[:160]
        kind = Foreign if isinstance(error, _Other) else StageError
        raise kind(f"Cannot read labels {path}", why, "Give CSV, JSON or JSON lines with an image and its labels") from error
    if not found:
        raise StageError(f"No image in {path}", "nothing in it names an image", "Write a line or an object for each image")
    return found


def _csv(text: str) -> Iterator[Entry]:
    """Rows under a header that names the columns of image and labels, or a column of 0 and 1 a class; without, `image,label…`."""
    first = text.partition("\n")[0]
    mark = max(",;\t", key=first.count)
    rows = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(text), delimiter=mark)]
    rows = [row for row in rows if any(row)]
    if rows and not any(PICTURE.search(cell) for cell in rows[0][:1]):
        yield from _under_header(rows[0], rows[1:])
        return
    for row in rows:
        yield Entry(row[0], tuple(name for cell in row[1:] for name in _names(cell)))


def _under_header(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[Entry]:
    image, split = _column(header, IMAGE), _column(header, SPLIT)
    if image is None:
        raise _Other(f"no column names the image: {', '.join(header[:8])}; call it 'image'")
    named = _column(header, LABELS)
    flags = [at for at in range(len(header)) if at not in (image, split)] if named is None else []
    wrong = next((row[at] for row in rows for at in flags if at < len(row) and row[at] not in ("0", "1", "", "0.0", "1.0")), None)
    if wrong is not None or (named is None and not flags):
        raise ValueError(f"no column is called 'labels', and '{wrong}' is not 0 or 1" if wrong else "no column of labels")
    for number, row in enumerate(rows, start=2):
        if len(row) <= image or not row[image]:
            raise ValueError(f"row {number} names no image")
        cells = [*row, *[""] * (len(header) - len(row))]
        classes = _names(cells[named]) if named is not None else tuple(header[at] for at in flags if cells[at] in ("1", "1.0"))
        yield Entry(row[image], classes, "" if split is None else cells[split])


def _column(header: Sequence[str], names: Sequence[str]) -> int | None:
    lower = [title.lower().replace(" ", "_") for title in header]
    return next((lower.index(name) for name in names if name in lower), None)


def _names(cell: str) -> tuple[str, ...]:
    """Class names in a cell, between ; | or commas: a name may hold spaces."""
    return tuple(dict.fromkeys(name for part in re.split(r"[;|,]", cell) if (name := part.strip())))


def _json(text: str) -> Iterator[Entry]:
    """A list of objects, a table of labels by image, or one of these two under a key of its own."""
    value = json.loads(text)
    if isinstance(value, Mapping) and "images" in value and isinstance(value["images"], list):
        if "annotations" in value:
            raise ValueError("a COCO document, which has a reader of its own")
        value = value["images"]
    if isinstance(value, Mapping):
        yield from (Entry(str(name), _classes(labels)) for name, labels in value.items())
    elif isinstance(value, list):
        yield from map(_object, value)
    else:
        raise _Other("neither a list of objects nor a table of labels by image")


def _json_lines(text: str) -> Iterator[Entry]:
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            try:
                yield _object(json.loads(line))
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from error


def _object(value: Any) -> Entry:
    if not isinstance(value, Mapping):
        raise ValueError(f"not an object: {str(value)[:60]}")
    if isinstance(value.get("data"), Mapping):
        return _task(value)
    table = {str(key).lower(): item for key, item in value.items()}
    image = next((table[name] for name in IMAGE if table.get(name)), None)
    if not isinstance(image, (str, int)):
        raise ValueError(f"no image is named in {str(value)[:60]}")
    labels = next((table[name] for name in LABELS if name in table), None)
    return Entry(str(image), _classes(labels), str(next((table[name] for name in SPLIT if table.get(name)), "")))


def _classes(value: Any) -> tuple[str, ...] | None:
    """None for null; the names in a text, in a list, or in a table the names of what is true."""
    if value is None:
        return None
    if isinstance(value, Mapping):
        value = [name for name, present in value.items() if present]
    names = _names(value) if isinstance(value, str) else value
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, (str, int)) for name in names):
        raise ValueError(f"labels that are no names: {str(value)[:60]}")
    return tuple(dict.fromkeys(word for name in names if (word := str(name).strip())))


def _task(task: Mapping[str, Any]) -> Entry:
    """A task of Label Studio: its first text that names a picture, and the choices of its annotations that were not cancelled."""
    images = [text for text in task["data"].values() if isinstance(text, str) and PICTURE.search(text)]
    if not images:
        raise ValueError(f"task {task.get('id')} names no image")
    given = [one for one in _listed(task, "annotations") if isinstance(one, Mapping) and not one.get("was_cancelled")]
    results = [result for one in given for result in _listed(one, "result") if isinstance(result, Mapping)]
    values = [result["value"] for result in results if isinstance(result.get("value"), Mapping)]
    choices = [name for value in values for key in ("choices", "labels") for name in _listed(value, key)]
    return Entry(images[0], _classes(choices) if given else None)


def _listed(table: Mapping[str, Any], key: str) -> list[Any]:
    """The list under KEY, empty where there is none. Raises ValueError on anything else."""
    found = table.get(key) or []
    if not isinstance(found, list):
        raise ValueError(f"'{key}' is no list: {str(found)[:60]}")
    return found


def _cvat(text: str) -> Iterator[Entry]:
    """CVAT's "for images" XML: the tags of each image. A document type is refused, so no entity is ever expanded."""
    found: list[Entry] = []
    names: list[str] = []

    def begin(element: str, attributes: Mapping[str, str]) -> None:
        if element == "image":
            names[:] = []
            found.append(Entry(attributes.get("name", ""), (), attributes.get("subset", "")))
        elif element == "tag" and found:
            names.append(attributes.get("label", ""))
            found[-1] = Entry(found[-1].image, tuple(dict.fromkeys(names)), found[-1].split)

    def refuse(*_: Any) -> None:
        raise ValueError("it has a document type, which no export has")

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.StartDoctypeDeclHandler = begin, refuse
    parser.Parse(text, True)
    yield from found


_READ = {".json": _json, ".jsonl": _json_lines, ".ndjson": _json_lines, ".xml": _cvat}
