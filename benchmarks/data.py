"""`bas data check` against a pool of processes that only decodes the same files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from benchmarks import measure
from benchmarks.measure import Measured
from stages.actions import check_data
from stages.core import processes
from stages.core.limits import cores
from stages.data import census
from stages.data.images import opened, read_image, upright
from stages.data.inspection import LOOK

FILES, DISTINCT = 10_000, 200
SIZE = (250, 333)
REPEATS = 3


class Silent:
    """No progress."""

    def track(self, label: str, total: int, done: int = 0) -> Silent:
        """Itself."""
        return self

    def advance(self, steps: int = 1, **values: float) -> None:
        """Nothing."""

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, *fault: object) -> None:
        pass


def make(folder: Path, files: int, distinct: int) -> None:
    """Write DISTINCT small JPEGs of soft noise, under FILES names."""
    random = np.random.default_rng(0)
    for picture in range(distinct):
        coarse = Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        fine = random.integers(-20, 20, (*SIZE, 3))
        soft = np.asarray(coarse.resize((SIZE[1], SIZE[0]), Image.Resampling.BICUBIC)) + fine
        first = folder / f"{picture:05}.jpg"
        Image.fromarray(np.clip(soft, 0, 255).astype(np.uint8)).save(first, quality=85)
        for number in range(picture + distinct, files, distinct):
            (folder / f"{number:05}.jpg").hardlink_to(first)


def _decode(files: list[str]) -> int:
    return sum(read_image(Path(file)).shape[0] for file in files)


def _decode_small(files: list[str]) -> int:
    """As the check decodes: no more of a JPEG's frequencies than are looked at."""
    count = 0
    for file in files:
        with opened(Path(file)) as image:
            image.draft(None, (LOOK, LOOK))
            count += upright(image).height > 0
    return count


def check() -> Measured:
    """10,000 small photographs on all cores: decoded alone, and decoded, hashed and searched for doubles."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        make(folder, FILES, DISTINCT)
        files = sorted(map(str, folder.iterdir()))
        chunks = [files[start : start + check_data.CHUNK] for start in range(0, FILES, check_data.CHUNK)]

        def pooled(work: Callable[[list[str]], int]) -> int:
            return sum(processes.in_pool(chunks, work, cores(), ["stages.data.images"]))

        def decode() -> int:
            return pooled(_decode)

        def product() -> check_data.Report:
            return check_data.check(census.of_folder(folder), Silent())

        report = product()
        measure.require_equal(decode() == FILES * SIZE[0], "not every file was decoded")
        measure.require_equal(report.sound and len(report.facts) == FILES, "not every file was looked at")
        groups = [finding for finding in report.findings if finding.kind == "same bytes twice"]
        measure.require_equal(len(groups[0].cases) == DISTINCT, "not every double was found")
        pair = measure.in_turns(decode, product, REPEATS)
        small = measure.in_turns(lambda: pooled(_decode_small), product, 1).ratio
    extra = {"files_a_second": FILES / pair.seconds, "ratio_to_decoding_small": small}
    return pair.against(0.9, {"files": FILES, "image": SIZE, "processes": cores()}, **extra)
