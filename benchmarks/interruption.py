"""What an interruption costs: a stage is killed half way and run again, beside one that nothing stopped.

Scores and pictures are made once a call, whatever was there before: on 160 pictures of 80 pixels they took a third of the
seeds' time. The sizes here give a stage of half a minute, of which they are less, as in a run on photographs.
"""

from __future__ import annotations

import os
import signal
import statistics
import time
import traceback
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.measure import REPEATS, Measured, Turn, require_equal
from benchmarks.small_run import Silent
from stages.actions import configure
from stages.actions.run import Run
from stages.core import curves, training
from stages.core.manifest import read_manifest
from stages.data import demo

IMAGES, SIDE, EPOCHS, BATCH = 120, 192, 16, 8
STEPS = EPOCHS * IMAGES // BATCH
SETTINGS = (
    *("seed_train.backbone=tiny", "seed_train.weights=none", f"seed_train.resize={SIDE}", f"seed_train.crop={SIDE - 16}"),
    *(f"seed_train.batch={BATCH}", f"seed_train.epochs={EPOCHS}", "seed_train.warmup_epochs=2", "seed_infer.search=train"),
    *("data.reader=voc", "data.train=train", "runtime.workers=0", "runtime.threads=1", "runtime.device=cpu"),
)
SAVE_SECONDS = 0.5  # of a training of half a minute; a real one of half an hour and more keeps its state every 30
LATER = (  # what stages import while they run: a call's start, which a stage of an hour does not notice, is not counted
    *("matplotlib.figure", "matplotlib.backends.backend_agg", "torch.utils.tensorboard", "lightning_fabric", "yaml"),
    *("stages.nets.pretrained", "stages.nets.localize", "stages.nets.judge", "stages.data.scoring", "stages.data.sheets"),
)
LEAST = 0.55


def resume() -> Measured:
    """seed_train (half of the steps) and seed_infer (half of the images) of a small run; the worse of the two counts."""
    shares: dict[str, list[float]] = {"seed_train": [], "seed_infer": []}
    own: dict[str, list[float]] = {stage: [] for stage in shares}
    whole: list[float] = []
    for module in LATER:
        import_module(module)
    with TemporaryDirectory() as name:
        data = demo.generate(Path(name) / "data", train=IMAGES, val=2, size=SIDE)
        for turn in range(REPEATS):
            unbroken, broken = Path(name) / f"unbroken{turn}", Path(name) / f"broken{turn}"
            for stage, share in shares.items():
                full = _seconds(_start(unbroken, data, stage))
                _kill_half_way(_start(broken, data, stage), broken / stage)
                rest = _seconds(_start(broken, data, stage))
                whole.append(full.wall)
                share.append(rest.wall / full.wall)
                own[stage].append(rest.own / full.own)
                require_equal(_digest(unbroken / stage) == _digest(broken / stage), f"outputs of {stage} differ")
    medians = {stage: statistics.median(share) for stage, share in shares.items()}
    worst = max(medians.values())
    extra = medians | {f"{stage}_cpu_ratio": statistics.median(found) for stage, found in own.items()}
    sizes = {"images": IMAGES, "side": SIDE, "steps": STEPS, "trunk": "tiny"}
    return Measured(worst, worst <= LEAST, worst, "of the full time", statistics.median(whole), sizes, extra)


def _start(folder: Path, data: Path, stage: str) -> int:
    """Begin the stage STAGE on DATA in a copy of this process, which has imported everything; returns its id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        training.SAVE_SECONDS = SAVE_SECONDS
        run = Run(folder, configure.resolve("demo", SETTINGS, {"data": {"root": str(data)}}))
        for _ in run.execute([stage], Silent()):
            code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _seconds(child: int) -> Turn:
    """Wait for a child and return the seconds that it took, on the wall from now on and of its own. Raises RuntimeError."""
    began = time.perf_counter()
    _, state, used = os.wait4(child, 0)
    if os.waitstatus_to_exitcode(state):
        raise RuntimeError("a stage of the interrupted run failed")
    return Turn(time.perf_counter() - began, used.ru_utime + used.ru_stime)


def _kill_half_way(child: int, stage: Path) -> None:
    while not _half_done(stage):
        time.sleep(0.005)
        if os.waitpid(child, os.WNOHANG) != (0, 0):
            raise RuntimeError("a stage ended before it was half done")
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def _half_done(stage: Path) -> bool:
    """Whether half of the steps are in the training curves, or half of the seeds are there."""
    rows = curves.read(stage)
    return bool(rows and rows[-1]["step"] >= STEPS / 2) or len(list(stage.glob("seeds/[!.]*.npz"))) >= IMAGES / 2


def _digest(stage: Path) -> str:
    return (read_manifest(stage) or {})["digest"]
