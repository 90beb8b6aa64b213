"""`bas data check` against a pool of processes that only decodes the same files."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image, ImageChops

from benchmarks import measure
from benchmarks.measure import Measured
from stages.actions.datasets import check as check_data
from stages.core import processes
from stages.core.limits import cores
from stages.data import census
from stages.data.images import opened, read_image, upright
from stages.data.inspection import LOOK

FILES, EVERY = 10_000, 100  # every hundredth is the same as the one before it
SIZE = (375, 500)  # as of VOC's: 57 kB a file, .6 GB together


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


def _draw(files: list[str]) -> int:
    """Write photographs of soft noise, no two alike, under the names FILES, which are numbers."""
    for file in files:
        random = np.random.default_rng(int(Path(file).stem))
        coarse = Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        soft = coarse.resize((SIZE[1], SIZE[0]), Image.Resampling.BICUBIC)
        ImageChops.add(soft, _fine(int(random.integers(16))), 1, -20).save(file, quality=85)
    return len(files)


@cache
def _fine(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 41, (*SIZE, 3), dtype=np.uint8))


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


def _pooled(work: Callable[[list[str]], int], files: list[str]) -> int:
    chunks = [files[start : start + check_data.CHUNK] for start in range(0, len(files), check_data.CHUNK)]
    return sum(processes.in_pool(chunks, work, cores(), ["stages.data.images"]))


def check() -> Measured:
    """10,000 photographs on all cores: decoded alone, as the check does, and decoded and searched for all that it finds."""
    with TemporaryDirectory() as name:
        files = [str(Path(name) / f"{number:05}.jpg") for number in range(FILES)]
        doubles = range(EVERY - 1, FILES, EVERY)
        _pooled(_draw, [file for number, file in enumerate(files) if number not in doubles])
        for number in doubles:
            Path(files[number]).hardlink_to(files[number - 1])

        def product() -> check_data.Report:
            return check_data.check(census.of_folder(Path(name)), Silent())

        report = product()
        measure.require_equal(report.sound and len(report.facts) == FILES, "not every file was looked at")
        groups = [finding for finding in report.findings if finding.kind == "same bytes twice"]
        measure.require_equal(len(groups[0].cases) == len(doubles), "not every double was found")
        measure.require_equal(_pooled(_decode_small, files) == FILES, "not every file was decoded")
        pair = measure.in_turns(lambda: _pooled(_decode_small, files), product, own=measure.own_and_children)
        whole = measure.in_turns(lambda: _pooled(_decode, files), product, 1, own=measure.own_and_children)
    extra = {"files_a_second": FILES / pair.seconds, "ratio_to_all_frequencies": whole.ratio}
    return pair.against(0.9, {"files": FILES, "image": SIZE, "processes": cores()}, **extra)
