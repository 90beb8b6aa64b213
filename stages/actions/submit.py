"""Predictions as the evaluation server of Pascal VOC takes them, looked over before and after they are packed.

The layout is that of the devkit of 2012 (section 5.3): `results/VOC2012/Segmentation/comp6_test_cls/<id>.png`, index PNGs in
the palette of the true masks, of every image of the test list. comp6 is the competition with training data beyond VOC's own,
as ImageNet's weights are.
"""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages import segment_predict
from stages.actions.run import Run
from stages.core import lists
from stages.core import stage as contract
from stages.core.errors import StageError
from stages.core.files import write_atomic

if TYPE_CHECKING:
    from stages.data.dataset import Sample

FOLDER = "results/VOC2012/Segmentation/comp6_test_cls"
SUFFIXES = (".tar.gz", ".tgz")
STAGE = "segment_predict"
NAMED = 5  # ids that an error names
LARGEST = 1 << 24  # bytes of a file in an archive that is read
MEND = "Run `bas segment predict --split {} --force`"


def voc(run: Run, images: str, kind: str, target: Path, reporter: contract.Reporter) -> dict[str, Any]:
    """Pack the predictions of the list IMAGES into TARGET and look the archive over. KIND: plain or crf.

    Returns file, images, bytes and kind. Raises StageError, and leaves nothing, where a prediction is missing or not as the
    server wants it.
    """
    if not target.name.endswith(SUFFIXES):
        raise StageError(f"Cannot write {target}", "the server takes packed archives", f"Let its name end in {SUFFIXES[0]}")
    samples = _samples(run, images)
    folder = _predictions(run, images, kind)
    missing = [sample.id for sample in samples if not segment_predict.prediction_path(folder, kind, sample.id).is_file()]
    if missing:
        raise StageError(
            f"Cannot submit list '{images}'", f"{_count(missing, samples)} have no prediction", f"{MEND.format(images)} first"
        )
    content = {s.id: segment_predict.prediction_path(folder, kind, s.id) for s in samples}

    def write(temporary: Path) -> None:
        _pack(temporary, content)
        check(temporary, samples, images, reporter)

    write_atomic(target, write)
    return {"file": str(target), "images": len(samples), "bytes": target.stat().st_size, "kind": kind}


def check_archive(run: Run, images: str, archive: Path, reporter: contract.Reporter) -> dict[str, Any]:
    """Look an ARCHIVE over that was made before, by whomever. Returns file, images and bytes; raises StageError on faults."""
    samples = _samples(run, images)
    check(archive, samples, images, reporter)
    return {"file": str(archive), "images": len(samples), "bytes": archive.stat().st_size}


def _samples(run: Run, images: str) -> tuple[Sample, ...]:
    """The images that the server expects, by id. Raises StageError where the dataset is of other classes than VOC's."""
    from stages.data.readers.voc import CLASSES

    if run.dataset.classes != CLASSES:
        raise StageError(
            "Cannot submit to the server of Pascal VOC",
            f"the dataset has {len(run.dataset.classes)} classes, and not VOC's {len(CLASSES)} in their order",
            "Submit a run on VOC 2012",
        )
    return tuple(sorted(run.dataset.split(images), key=lambda sample: sample.id))


def _predictions(run: Run, images: str, kind: str) -> Path:
    """The folder of the predictions of a list. Raises StageError where they are not those of the network that is there now."""
    name = run.canonical(lists.on(STAGE, images))
    report = run.report(name)
    if report.state != "done":
        raise StageError(
            f"No predictions of list '{images}' to submit",
            f"{name} is {report.state} ({report.why})",
            f"Run `bas segment predict --split {images}` first",
        )
    if kind not in segment_predict.kinds(run.section(name)):
        raise StageError(
            f"No predictions of kind {kind}", f"{STAGE}.crf is off", f"Take --plain, or predict with --set {STAGE}.crf=true"
        )
    return run.folder / name


def _count(ids: Sequence[str], samples: Sequence[Sample]) -> str:
    more = ", …" if len(ids) > NAMED else ""
    return f"{len(ids)} of {len(samples)} images ({', '.join(ids[:NAMED])}{more})"


def _pack(path: Path, content: Mapping[str, Path]) -> None:
    """Write the files of CONTENT, by id, with nothing in the archive that changes from day to day or from user to user."""
    with (
        path.open("wb") as raw,
        gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for image_id, file in content.items():
            data = file.read_bytes()
            entry = tarfile.TarInfo(f"{FOLDER}/{image_id}.png")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def check(path: Path, samples: Sequence[Sample], images: str, reporter: contract.Reporter) -> None:
    """Raise StageError where an archive does not hold exactly one right prediction of each sample. Extracts nothing to disk."""
    wanted = {f"{FOLDER}/{sample.id}.png": sample for sample in samples}
    seen: set[str] = set()
    with reporter.track("looking the archive over", len(samples)) as meter:
        for name, data in _entries(path):
            sample = wanted.get(name)
            if sample is None or name in seen:
                what = f"{name} is there twice" if sample else f"{name} is no prediction of list '{images}'"
                raise StageError(f"Archive {path} is not as the server wants it", what, f"Its files are {FOLDER}/<id>.png")
            _check_one(path, name, data, sample)
            seen.add(name)
            meter.advance()
    missing = [sample.id for name, sample in wanted.items() if name not in seen]
    if missing:
        raise StageError(
            f"Archive {path} is not complete", f"{_count(missing, samples)} are missing", "Pack the predictions of every image"
        )


def _entries(path: Path) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of the files in an archive; folders are passed over. Raises StageError on links and damage."""
    try:
        with tarfile.open(path, "r:gz") as archive:
            for entry in archive:
                if entry.isdir():
                    continue
                file = archive.extractfile(entry) if entry.isreg() and entry.size <= LARGEST else None
                if file is None:
                    raise ValueError(f"{entry.name} is a link or too large")
                yield entry.name, file.read()
    except (OSError, EOFError, ValueError, tarfile.TarError) as error:
        raise StageError(f"Cannot read archive {path}", str(error) or "damaged", "Pack it again with `bas submit voc`") from error


def _check_one(path: Path, name: str, data: bytes, sample: Sample) -> None:
    """Raise StageError where a prediction is no index PNG in VOC's palette, of another size or of ids that VOC has not."""
    from stages.data.images import palette, read_index, size
    from stages.data.readers.voc import CLASSES

    ids, colours = read_index(Path(path, name), data)
    height, width = size(sample.image)
    faults = (
        ("a grey image, not an index PNG in VOC's palette", colours is None or (colours != palette()[: len(colours)]).any()),
        (f"{ids.shape[1]} x {ids.shape[0]} pixels, its image has {width} x {height}", ids.shape != (height, width)),
        (f"ids up to {ids.max()}, where 0 to {len(CLASSES)} are meant and void is not", ids.max() > len(CLASSES)),
    )
    wrong = next((what for what, is_so in faults if is_so), None)
    if wrong is not None:
        raise StageError(f"Cannot submit {sample.id}", f"its prediction has {wrong}", "Predict it again, or mend the file")
