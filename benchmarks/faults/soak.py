"""`python -m benchmarks.faults.soak`: kill real calls of `bas run` at any moment until one finishes, and compare.

Where `benchmarks.faults` strikes at chosen points in copies of one process, this starts the command as a user does, with its
worker processes, and ends it by a clock: by SIGKILL or SIGTERM to it alone, or by the terminal's SIGINT to all of them.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.faults.scene import RECIPE
from benchmarks.faults.strikes import INTERRUPTED, KILLED
from stages import PIPELINE
from stages.core import manifest as manifests
from stages.core.config import merge
from stages.core.files import write_json

SCENES: dict[str, Any] = {
    "data": {"reader": "demo", "generate": {"train": 24, "val": 6, "size": 64, "seed": 0}},
    "runtime": {"workers": 2},
}
ENDS = {signal.SIGKILL: KILLED, signal.SIGTERM: INTERRUPTED, signal.SIGINT: INTERRUPTED}  # and the exit code after each
STARTING = "between"  # stages: before the first one, too
GRACE = 60.0  # seconds in which a struck call, and what it leaves, has to be gone


class Soak:
    """A run that nothing disturbs, and others that are killed; counts where."""

    def __init__(self, home: Path, seed: int) -> None:
        self._home, self._random = home, random.Random(seed)
        self.killed: Counter[tuple[signal.Signals, str]] = Counter()
        write_json(home / "small.yaml", merge(RECIPE, SCENES))
        began = time.monotonic()
        self._expect(self._start("whole").wait() == 0, "an undisturbed call fails", "whole")
        self.seconds = time.monotonic() - began
        self._whole = _digests(home / "whole")

    def round(self, name: str) -> None:
        """Kill calls on the run NAME until one finishes. Raises AssertionError where one ends otherwise than it should."""
        while True:
            process = self._start(name)
            try:
                code = process.wait(self._random.uniform(0, self.seconds / 2))
            except subprocess.TimeoutExpired:
                self._kill(process, name)
                continue
            self._expect(code == 0, f"a call that nothing stopped ended with {code}", name)
            self._expect(_digests(self._home / name) == self._whole, "outputs differ from those of the undisturbed run", name)
            return

    def _start(self, name: str) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-c", "from bas_cli.app import main; main()", "run", str(self._home / "small.yaml"), "-q"]
        with (self._home / f"{name}.txt").open("wb") as told:
            return subprocess.Popen([*words, "--run", str(self._home / name)], stdout=told, stderr=told, start_new_session=True)

    def _kill(self, process: subprocess.Popen[bytes], name: str) -> None:
        number = self._random.choice(list(ENDS))
        stage = self._at_work(self._home / name)
        (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
        code = process.wait(GRACE)
        self._expect(code in (ENDS[number], -number, 0), f"after {number.name} it ended with {code}", name)
        left = _left(process.pid)
        self._expect(not left, f"after {number.name} in {stage} ({code}) processes are left, {left}", name)
        self.killed[number, stage] += 1

    def _at_work(self, run: Path) -> str:
        """The stage that is begun and not finished, or STARTING: a call imports, or looks at what is there."""
        begun = [stage for stage in PIPELINE if (run / stage / manifests.STARTED).exists()]
        return begun[-1] if begun and not (run / begun[-1] / manifests.MANIFEST).exists() else STARTING

    def _expect(self, holds: bool, words: str, name: str) -> None:
        if not holds:
            raise AssertionError(f"{words}: {(self._home / f'{name}.txt').read_text()[-400:]}")


def _digests(run: Path) -> dict[str, Any]:
    found = {stage: manifests.read_manifest(run / stage) or {} for stage in PIPELINE}
    return {stage: (one.get("digest"), one.get("metrics")) for stage, one in found.items()}


def _left(session: int) -> list[str]:
    """The processes of SESSION that are left after GRACE, or earlier where there are none."""
    until = time.monotonic() + GRACE
    while found := [entry for entry in Path("/proc").iterdir() if entry.name.isdigit() and _session(entry) == session]:
        if time.monotonic() > until:
            return [(entry / "cmdline").read_text().replace("\0", " ")[-200:] for entry in found]
        time.sleep(0.05)
    return []


def _session(process: Path) -> int | None:
    """The session of a PROCESS that still runs; None where it does not."""
    try:
        state, _, _, session = (process / "stat").read_text().rpartition(")")[-1].split()[:4]
    except OSError:
        return None
    return None if state == "Z" else int(session)


def table(killed: Mapping[tuple[signal.Signals, str], int]) -> Iterator[str]:
    """A line of Markdown a signal: how many calls it ended in each stage."""
    stages = [stage for stage in (*PIPELINE, STARTING) if any(place == stage for _, place in killed)]
    yield f"| signal | {' | '.join(stages)} | together |"
    yield f"|---|{'---|' * (len(stages) + 1)}"
    for number in ENDS:
        counts = [killed.get((number, stage), 0) for stage in stages]
        yield f"| {number.name} | {' | '.join(map(str, counts))} | {sum(counts)} |"


def main(words: list[str]) -> None:
    """Kill as WORDS ask for; the table goes to stdout."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults.soak")
    parser.add_argument("--rounds", type=int, default=5, help="runs that are killed until they finish")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and signals")
    asked = parser.parse_args(words)
    with TemporaryDirectory() as name:
        soak = Soak(Path(name), asked.seed)
        print(f"undisturbed: {soak.seconds:.0f} s", file=sys.stderr)
        for number in range(asked.rounds):
            soak.round(f"round{number}")
            print(f"round {number}: {soak.killed.total()} calls killed, outputs the same", file=sys.stderr)
        print("\n".join(table(soak.killed)))


if __name__ == "__main__":
    main(sys.argv[1:])
