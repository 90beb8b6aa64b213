"""The contract of a stage: what makes a result stale, what is kept, and in which order things are written."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from stages.core import clock, freshness, sharding, stage
from stages.core.config import Field, Section
from stages.core.errors import StageError
from stages.core.files import HashCache, digest, read_json, write_atomic, write_json
from stages.core.manifest import MANIFEST
from stages.core.runtime import PACKAGES, Runtime
from stages.core.runtime import Config as RuntimeConfig


class Silent:
    """A progress display that shows nothing."""

    @contextmanager
    def track(self, label: str, total: int, done: int = 0) -> Iterator[Silent]:
        yield self

    def advance(self, steps: int = 1, **values: float) -> None:
        pass


@dataclass
class Letters:
    """A dataset of small files."""

    folder: Path

    def files(self) -> list[Path]:
        return sorted(self.folder.glob("*.txt"))

    def digest(self, split: str, hashes: HashCache) -> str:
        return digest([[path.name, hashes.of(path)] for path in self.files()])


class Capitals(Section):
    """Settings of the stage under test."""

    repeat: int = Field(1, description="How often.")
    weights: str = Field("none", description="A file whose content counts.")


class Case:
    """A stage that writes each letter in capitals, its dataset, and where it runs."""

    def __init__(self, folder: Path) -> None:
        self.run_dir, self.data, self.hashes = folder / "run", Letters(folder / "letters"), HashCache(folder / "hashes.json")
        self.data.folder.mkdir()
        for letter in "abc":
            (self.data.folder / f"{letter}.txt").write_text(letter)
        self.config, self.stop_at, self.worked = Capitals(), None, []
        self.runtime = RuntimeConfig(device="cpu", precision="32-true")
        self.module: Any = ModuleType("stages.capitals")
        self.module.NEEDS, self.module.SHARED, self.module.READS = (), (), ("train",)
        self.module.run = self._run

    @property
    def out(self) -> Path:
        return self.run_dir / "capitals"

    @property
    def wanted(self) -> dict[str, Any]:
        sections = {"capitals": self.config, "runtime": self.runtime}
        return freshness.fingerprint(self.module, sections, self.data, self.run_dir, self.hashes, self.module.READS)

    @property
    def state(self) -> tuple[str, str]:
        found = freshness.state(self.out, self.wanted)
        return found.state, found.why

    def execute(self, force: bool = False) -> dict[str, Any]:
        self.worked = []
        return stage.execute(self.module, self.config, self._context(), self.wanted, force)

    def _context(self) -> stage.Context:
        runtime = Runtime(self.runtime)
        return stage.Context(self.run_dir, "capitals", self.data, {}, runtime, Silent(), logging.getLogger("test"))

    def _run(self, config: Capitals, ctx: stage.Context) -> stage.Outputs:
        def work(path: Path) -> None:
            if path.name == self.stop_at:
                raise KeyboardInterrupt
            text = path.read_text().upper() * config.repeat
            write_atomic(ctx.out / path.name, lambda temporary: temporary.write_text(text))
            self.worked.append(path.name)

        files = self.data.files()
        sharding.each(files, lambda path: ctx.out / path.name, work, "letters", ctx)
        assert not (ctx.out / MANIFEST).exists()
        return stage.Outputs([Path(path.name) for path in files], {"count": 3.0}, {"table": {"a": 1.0}}, {"note": "x"})


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def test_another_seed_makes_a_result_stale_and_another_device_does_not(case: Case):
    case.execute()
    case.runtime = RuntimeConfig(device="auto", precision="bf16-mixed", workers=3)
    assert case.state[0] == "done"
    case.runtime = RuntimeConfig(seed=1)
    assert case.state == ("stale", "runtime.seed: 0 → 1")


def test_a_finished_stage_is_done_and_says_what_it_made(case: Case):
    assert case.state == ("missing", "not run yet")
    manifest = case.execute()
    assert case.state == ("done", "")
    assert manifest == read_json(case.out / "manifest.json")
    assert manifest["outputs"] == {"count": 3, "files": {"a.txt": 1, "b.txt": 1, "c.txt": 1}}
    assert manifest["metrics"] == {"count": 3.0} and manifest["classes"] == {"table": {"a": 1.0}}
    assert manifest["seed"] == 0 and manifest["device"] == "cpu" and set(PACKAGES) < set(manifest["versions"])
    assert manifest["seconds"] >= 0 and manifest["peak_memory_mb"] > 0


def test_a_changed_setting_is_named(case: Case):
    case.execute()
    case.config = Capitals(repeat=2)
    assert case.state == ("stale", "capitals.repeat: 1 → 2")
    case.execute()
    assert (case.out / "a.txt").read_text() == "AA" and case.worked == ["a.txt", "b.txt", "c.txt"]


def test_a_changed_image_is_named(case: Case):
    case.execute()
    (case.data.folder / "b.txt").write_text("d")
    assert case.state == ("stale", "the images or labels of split 'train' changed")


def test_a_touched_image_changes_nothing(case: Case):
    case.execute()
    (case.data.folder / "b.txt").touch()
    assert case.state == ("done", "")


def test_weights_count_by_content(case: Case, tmp_path: Path):
    first, second = tmp_path / "w1", tmp_path / "w2"
    first.write_bytes(b"1")
    second.write_bytes(b"1")
    case.config = Capitals(weights=str(first))
    case.execute()
    case.config = Capitals(weights=str(second))
    assert case.state == ("done", "")
    second.write_bytes(b"2")
    assert case.state == ("stale", "the initial weights changed")
    second.unlink()
    with pytest.raises(StageError, match=r"Cannot read weights .*w2: no such file"):
        case.execute()


def test_several_changes_are_counted(case: Case):
    case.execute()
    case.config = Capitals(repeat=2, weights="imagenet")
    assert case.state == ("stale", "capitals.repeat: 1 → 2 (and 1 more)")


def test_a_lost_output_is_named_and_made_again_alone(case: Case):
    before = case.execute()["digest"]
    (case.out / "b.txt").unlink()
    assert case.state == ("stale", "output b.txt is missing or changed")
    assert case.execute()["digest"] == before and case.worked == ["b.txt"]
    (case.out / "c.txt").write_text("longer")
    assert case.state == ("stale", "output c.txt is missing or changed")
    assert case.execute()["digest"] == before and case.worked == ["c.txt"]


def test_an_interrupted_stage_goes_on_at_the_first_missing_output(case: Case):
    case.stop_at = "b.txt"
    with pytest.raises(KeyboardInterrupt):
        case.execute()
    assert case.state == ("partial", "interrupted; run again to go on")
    assert not (case.out / "manifest.json").exists()
    (case.out / ".b.99.tmp.txt").write_text("half")  # what a kill in the midst of a write leaves
    case.stop_at = None
    case.execute()
    assert case.worked == ["b.txt", "c.txt"]
    assert sorted(path.name for path in case.out.iterdir()) == [
        "a.txt",
        "b.txt",
        "c.txt",
        "calls.json",
        "digests.json",
        "manifest.json",
        "started.json",
    ]


def test_partial_outputs_of_other_settings_are_not_continued(case: Case):
    case.stop_at = "b.txt"
    with pytest.raises(KeyboardInterrupt):
        case.execute()
    case.config, case.stop_at = Capitals(repeat=3), None
    assert case.state == ("stale", "interrupted, and since then: capitals.repeat: 1 → 3")
    case.execute()
    assert case.worked == ["a.txt", "b.txt", "c.txt"] and (case.out / "a.txt").read_text() == "AAA"


def test_force_makes_everything_again(case: Case):
    first = case.execute()
    assert case.execute(force=True)["digest"] == first["digest"]
    assert case.worked == ["a.txt", "b.txt", "c.txt"]


def test_a_damaged_manifest_is_no_manifest(case: Case):
    case.execute()
    (case.out / "manifest.json").write_text('{"stage": "capi')
    assert case.state == ("partial", "interrupted; run again to go on")


def test_a_stage_without_its_input_says_what_to_run(case: Case):
    case.module.NEEDS = ("letters",)
    with pytest.raises(StageError, match=r"Cannot run capitals: its input letters is not there .*--until letters"):
        case.execute()
    assert not case.out.exists()


def test_another_input_is_named(case: Case):
    case.module.NEEDS = ("letters",)
    write_json(case.run_dir / "letters/manifest.json", {"digest": "1"})
    case.execute()
    write_json(case.run_dir / "letters/manifest.json", {"digest": "2"})
    assert case.state == ("stale", "letters was run again or is missing")


# --- files ---


def test_a_file_is_whole_or_absent(tmp_path: Path):
    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError("no space")

    target = tmp_path / "new" / "value.json"
    with pytest.raises(OSError, match="no space"):
        write_atomic(target, fail)
    assert list(target.parent.iterdir()) == []
    write_json(target, {"ä": [1, 2]})
    assert read_json(target) == {"ä": [1, 2]} and read_json(tmp_path / "absent") is None
    with pytest.raises(ValueError, match="JSON"):
        write_json(target, {"x": float("nan")})
    assert read_json(target) == {"ä": [1, 2]}


def test_files_are_hashed_once(tmp_path: Path):
    file = tmp_path / "a"
    file.write_bytes(b"abc")
    cache = HashCache(tmp_path / "hashes.json")
    value = cache.of(file)
    assert value == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    cache.save()
    stored = json.loads((tmp_path / "hashes.json").read_text())
    stored[str(file)][2] = "remembered"
    (tmp_path / "hashes.json").write_text(json.dumps(stored))
    again = HashCache(tmp_path / "hashes.json")
    assert again.of(file) == "remembered"
    file.write_bytes(b"abcd")
    assert again.of(file) != "remembered"


def test_a_cache_that_cannot_be_kept_is_no_fault(tmp_path: Path):
    (tmp_path / "file").write_text("")
    cache = HashCache(tmp_path / "file" / "hashes.json")  # its folder is a file
    assert len(cache.of(tmp_path / "file")) == 64
    cache.save()
    assert (tmp_path / "file").read_text() == ""


def test_faults_survive_the_way_between_processes():
    import pickle

    fault = pickle.loads(pickle.dumps(StageError("a", "b", "c")))
    assert isinstance(fault, StageError) and str(fault) == "a: b. c" and fault.todo == "c"


def test_the_contract_needs_no_torch():
    import subprocess

    code = "import sys, stages.core.stage, stages.actions.run; print('torch' in sys.modules, 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False False\n"


def test_the_seconds_of_all_calls(tmp_path: Path):
    """A call of 10 s that ended, one that was killed 20 s after its start, and a third of no time."""
    now = time.time()
    clock.start(tmp_path)
    (tmp_path / clock.FILE).write_text(json.dumps({"seconds": 0.0, "calls": 1, "since": now - 100}))
    assert clock.stop(tmp_path) == {"seconds": pytest.approx(100, abs=2), "calls": 1}
    (tmp_path / clock.FILE).write_text(json.dumps({"seconds": 10.0, "calls": 2, "since": now - 50}))
    (tmp_path / "output").write_text("made before the kill")
    for path in tmp_path.iterdir():
        os.utime(path, (now - 30, now - 30))
    clock.start(tmp_path)
    assert clock.stop(tmp_path) == {"seconds": pytest.approx(30, abs=2), "calls": 3}


def test_the_time_between_a_kill_and_the_next_call_does_not_count(case: Case):
    """Killed 10 s after its start, with a half written file in a folder of its own; called again after 90 s."""
    case.stop_at, now = "b.txt", time.time()
    with pytest.raises(KeyboardInterrupt):
        case.execute()
    (case.out / "parts").mkdir()
    (case.out / "parts" / ".b.99.tmp.txt").write_text("half")
    (case.out / clock.FILE).write_text(json.dumps({"seconds": 0.0, "calls": 1, "since": now - 100}))
    for path in case.out.rglob("*"):
        os.utime(path, (now - 90, now - 90))
    case.stop_at = None
    assert case.execute()["seconds"] == pytest.approx(10, abs=3)
