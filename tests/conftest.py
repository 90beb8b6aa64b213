"""Shared by all tests: a small generated dataset in the devkit's layout, and the command as a person calls it."""

from __future__ import annotations

import io
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bas_cli import app
from stages.actions.configure import SegmentConfig
from stages.core.config import merge, parse_assignment
from stages.core.runtime import Config as RuntimeConfig
from stages.core.runtime import Runtime
from stages.core.stage import Context
from stages.data import dataset as datasets
from stages.data import demo, seedfile, sources
from stages.data.images import read_mask
from stages.nets import backbones
from stages.nets import bas as networks

torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start

CODE = "import sys; from bas_cli.app import main; sys.argv[0] = 'bas'; main()"
TINY = (
    *("seed_train.backbone=tiny", "seed_train.weights=none", "seed_train.resize=64", "seed_train.crop=48"),
    *("seed_train.batch=4", "seed_train.epochs=2", "seed_infer.scales=[1.0,0.5]", "seed_infer.thresholds=4"),
    *("runtime.workers=0", "runtime.device=cpu", "runtime.precision=32-true", "data.train=train", "data.score=train"),
)


@dataclass(frozen=True)
class Finished:
    """What a call of the command left."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The document on stdout."""
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The one line of a fault that the user can mend: exit code 2, nothing on stdout, no traceback."""
        assert self.code == 2, (self.code, self.err)
        assert "Traceback" not in self.err and not self.out
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1 and self.err.endswith(lines[0] + "\n"), self.err
        return lines[0].removeprefix("error: ")


Command = Callable[..., Finished]


def settings(*assignments: str) -> list[str]:
    """`--set` options for a network and a run that take a second, with ASSIGNMENTS after them."""
    return [word for assignment in (*TINY, *assignments) for word in ("--set", assignment)]


def start(
    folder: Path, *words: str, code: str = CODE, start_new_session: bool = False, **variables: str
) -> subprocess.Popen[str]:
    """Start `bas WORDS` in FOLDER as a process of its own; CODE may change something before it calls the command."""
    hidden = ("BAS_RUN", "COLUMNS", "FORCE_COLOR")
    env = {key: value for key, value in os.environ.items() if key not in hidden} | {"OMP_NUM_THREADS": "1"} | variables
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", code, *words]
    streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": pipe, "stderr": pipe, "text": True}
    return subprocess.Popen(command, cwd=folder, env=env, start_new_session=start_new_session, **streams)


def call(folder: Path, *words: str, **variables: str) -> Finished:
    """`bas WORDS` in FOLDER and in this process: importing torch takes longer than all that a test does."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(folder)
        patch.delenv("BAS_RUN", raising=False)
        for name, value in variables.items():
            patch.setenv(name, value)
        patch.setattr(sys, "argv", ["bas", *words])
        patch.setattr(signal, "signal", lambda *_: None)  # pytest keeps its own
        patch.setattr(app, "leave", sys.exit)  # this process goes on
        with pytest.raises(SystemExit) as leaving:
            app.main()
    return Finished(int(leaving.value.code or 0), out.getvalue(), err.getvalue())


def wait_for(child: int, path: Path, text: bool = False) -> None:
    """Wait until a forked process has written PATH (TEXT: something into it); fails when it ends before."""
    deadline = time.monotonic() + 200
    while not path.exists() or (text and not path.stat().st_size):
        assert os.waitpid(child, os.WNOHANG) == (0, 0) and time.monotonic() < deadline
        time.sleep(0.002)


class Counter:
    """A progress display that counts, and stops the work after a number of advances, as Ctrl-C would."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.advances, self._stop_after = 0, stop_after

    @contextmanager
    def track(self, label: str, total: int, done: int = 0) -> Iterator[Counter]:
        yield self

    def advance(self, steps: int = 1, **values: float) -> None:
        self.advances += 1
        if self.advances == self._stop_after:
            raise KeyboardInterrupt


def stage_context(folder: Path, stage: str, shared: dict[str, Any], val: int, reporter: Any = None, workers: int = 0) -> Context:
    """What a stage may use, on six generated images to train on and VAL others, on a CPU."""
    root = demo.generate(folder / "data", 6, val)
    data = datasets.open_dataset(datasets.Config(reader="voc", root=str(root), train="train"), folder)
    runtime = Runtime(RuntimeConfig(device="cpu", precision="32-true", workers=workers))
    shared = {"segment": SegmentConfig(), **shared}
    return Context(folder, stage, data, shared, runtime, reporter or Counter(), logging.getLogger("test"))


def random_seed_network(folder: Path) -> None:
    """A seed network with random weights, as the stage that trains one would leave it in the run FOLDER."""
    torch.manual_seed(0)
    trunk = backbones.build("tiny")
    (folder / "seed_train").mkdir()
    networks.save(networks.assemble(trunk, 5), trunk, folder / "seed_train" / "network.safetensors")


def blurred_seeds(ctx: Context) -> None:
    """Seeds of every training image: its true mask, blurred and shrunken, as both of the seed network's maps."""
    for sample in ctx.dataset.split("train"):
        mask = torch.from_numpy(read_mask(ctx.dataset.mask(sample)))
        planes = torch.stack([(mask == index + 1).float() for index in sample.labels])
        blurred = (torch.nn.functional.avg_pool2d(planes, 8) ** 2).half().numpy()
        seed = seedfile.Seed(np.array(sample.labels), (80, 80), {"bas": [blurred], "cam": [blurred]})
        seedfile.write(sources.seed_path(ctx.input("seed_infer"), sample.id), seed)


@pytest.fixture
def bas(tmp_path: Path) -> Command:
    """Call the command in the test's own folder, in this process."""
    return partial(call, tmp_path)


@pytest.fixture
def process(tmp_path: Path) -> Command:
    """Call the command in the test's own folder as a process of its own."""

    def run(*words: str, code: str = CODE, **variables: str) -> Finished:
        child = start(tmp_path, *words, code=code, **variables)
        out, err = child.communicate(timeout=300)
        return Finished(child.returncode, out, err)

    return run


@pytest.fixture(scope="session")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight images to train on and two to evaluate, 64 pixels square, in the devkit's layout; not to be changed."""
    return demo.generate(tmp_path_factory.mktemp("devkit"), train=8, val=2, size=64)


@pytest.fixture
def devkit(generated: Path, tmp_path: Path) -> Path:
    """A copy of the generated dataset that the test may change."""
    return Path(shutil.copytree(generated, tmp_path / "data"))


@pytest.fixture
def config(tmp_path: Path, generated: Path) -> Path:
    """A configuration of the tiny settings on the generated dataset."""
    values: dict[str, Any] = {"data": {"root": str(generated)}}
    for assignment in TINY:
        (section, key), value = parse_assignment(assignment)
        values = merge(values, {section: {key: value}})
    path = tmp_path / "tiny.yaml"
    path.write_text(json.dumps(values))
    return path
