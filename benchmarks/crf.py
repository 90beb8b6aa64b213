"""Dense CRFs: one lattice for the two label maps of an image, and images in several processes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from benchmarks import measure
from benchmarks.measure import Measured
from benchmarks.small_run import IMAGE, picture
from stages.core import processes
from stages.core.errors import StageError
from stages.core.limits import cores
from stages.formulas import crf

SIZE, LABELS = IMAGE, 3
JOBS_A_WORKER = 6
WORKER_GB = 0.6
PRELOAD = ["stages.data.seedfile", "stages.data.images", "stages.formulas.crf"]  # as irn_labels has them

Labels = NDArray[np.uint8]


def label_pair(seed: int = 0) -> list[Labels]:
    """Confident foreground and possible foreground (375,500): two classes in nested boxes."""
    maps = []
    for margin in (0, 30):
        labels = np.zeros(SIZE, np.uint8)
        labels[60 - margin : 200 + margin, 80 - margin : 220 + margin] = 1
        labels[180 - margin : 330 + margin, 300 - margin : 440 + margin] = 2
        maps.append(np.roll(labels, seed, axis=1))
    return maps


def _require_library() -> None:
    try:
        crf.refine_labels(picture()[:8, :8], [label_pair()[0][:8, :8]], LABELS)
    except StageError as error:
        raise measure.Skipped(error.why) from error


def pair() -> Measured:
    """The two label maps of one image of 375 x 500 with two classes, ten iterations each."""
    _require_library()
    image, maps = picture(), label_pair()

    def apart() -> list[NDArray[np.float32]]:
        return [crf.refine_labels(image, [labels], LABELS)[0] for labels in maps]

    def together() -> list[NDArray[np.float32]]:
        return crf.refine_labels(image, maps, LABELS)

    equal = all(np.array_equal(a, b) for a, b in zip(apart(), together(), strict=True))
    measure.require_equal(equal, "posteriors differ")
    return measure.in_turns(apart, together).against(1.2, {"image": SIZE, "labels": LABELS})


@dataclass(frozen=True)
class Job:
    """One image's pair of CRFs in a worker, which leaves its peak memory behind."""

    folder: Path

    def __call__(self, seed: int) -> None:
        """Work on image SEED and write its labels, the process's peak memory in MB and the moment."""
        posteriors = crf.refine_labels(picture(seed), label_pair(seed), LABELS)
        labels = crf.combine(posteriors[0].argmax(0), posteriors[1].argmax(0), [0, 1])
        np.savez(self.folder / f"{seed}.npz", labels=labels, peak=measure.peak_memory_mb(), ended=time.monotonic())


def several_processes() -> Measured:
    """As many processes as cores, from the moment that all of them have begun, against one after another."""
    _require_library()
    workers = cores()
    if workers < 2:
        raise measure.Skipped("one core")
    with TemporaryDirectory() as folder:
        apart, together = Path(folder) / "apart", Path(folder) / "together"
        for path in (apart, together):
            path.mkdir()
        turns = [(_serial(Job(apart)), _parallel(Job(together), workers)) for _ in range(measure.REPEATS)]
        peak = max(float(np.load(path)["peak"]) for path in together.iterdir()) / 1024
        _require_same_labels(apart, together)
    pairs = measure.Pair(*(tuple(measure.Turn(seconds, seconds) for seconds in side) for side in zip(*turns, strict=True)))
    sizes = {"image": SIZE, "labels": LABELS, "processes": workers}
    met = pairs.ratio >= 0.9 * workers and peak <= WORKER_GB
    extra = {"gb_a_worker": peak, "wanted_ratio": 0.9 * workers}
    return Measured(pairs.ratio, met, pairs.seconds, "s an image", pairs.reference_seconds, sizes, extra)


def _require_same_labels(apart: Path, together: Path) -> None:
    for path in apart.iterdir():
        same = np.array_equal(np.load(path)["labels"], np.load(together / path.name)["labels"])
        measure.require_equal(same, f"labels of {path.name}")


def _serial(job: Job) -> float:
    """Seconds an image, one after another."""
    began = time.perf_counter()
    for seed in range(2):
        job(seed)
    return (time.perf_counter() - began) / 2


def _parallel(job: Job, workers: int) -> float:
    """Seconds an image in a pool, counted from the end of each worker's first image to that of the last image."""
    count = JOBS_A_WORKER * workers
    for _ in processes.in_pool(range(count), job, workers, PRELOAD):
        pass
    ends = sorted(float(np.load(path)["ended"]) for path in job.folder.iterdir())
    return (ends[-1] - ends[workers - 1]) / (count - workers)
