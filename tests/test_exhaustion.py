"""Memory that runs out: one line with the setting to change, exit code 2, nothing finished lost."""

from __future__ import annotations

import errno
import io
import multiprocessing
import os
import re
import signal
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Command, settings
from torch.utils.data import DataLoader

from stages import EXTRAS, PIPELINE
from stages.actions import configure
from stages.core import exhaustion, reading
from stages.core.errors import StageError

ABSURD = 10**8  # pixels a side: more bytes than an address has bits for


def raised(act) -> Exception:
    with pytest.raises(Exception) as caught:
        act()
    return caught.value


def test_real_faults_are_known_by_what_they_say() -> None:
    full = raised(lambda: torch.empty(1 << 52))  # 18,014 TB of floats
    assert type(full) is RuntimeError and exhaustion.why(full) == "this machine has no 18,014,398.5 GB left"
    assert exhaustion.why(raised(lambda: np.empty((ABSURD, ABSURD), np.uint8))) == "this machine has no 8.88 PiB left"
    assert exhaustion.why(MemoryError()) == "this machine has no memory left"
    assert exhaustion.why(OSError(errno.ENOMEM, "Cannot allocate memory")) == "this machine has no memory left"
    gpu = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 10.75 GiB")
    assert exhaustion.why(gpu) == "the GPU has no 2.50 GiB left"
    assert exhaustion.why(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`")) is not None


def test_a_killed_worker_counts_and_other_faults_do_not() -> None:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        broken = raised(lambda: pool.submit(signal.raise_signal, signal.SIGKILL).result())
    assert exhaustion.why(broken) == "a worker process was killed, as the system does when memory is short"
    for other in (RuntimeError("shapes differ"), ValueError("out of memory"), OSError(errno.ENOSPC, "No space left on device")):
        assert exhaustion.why(other) is None
        with pytest.raises(type(other)), exhaustion.told("a stage", "Do nothing"):
            raise other


def test_a_cut_or_flipped_file_of_the_old_format_is_told_in_one_line(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(3)}, tmp_path / "whole.pth", _use_new_zipfile_serialization=False)
    whole = (tmp_path / "whole.pth").read_bytes()
    told = 0
    for content in (*(whole[:end] for end in range(len(whole))), *(_flipped(whole, place) for place in range(len(whole)))):
        try:
            with reading.told("Cannot read it", "Give another"):
                torch.load(io.BytesIO(content), weights_only=True)
        except StageError as error:
            assert str(error).startswith("Cannot read it") and "\n" not in str(error)
            told += 1
    assert told >= len(whole)  # a flipped byte of a number or a name goes unnoticed


def _flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :]


def test_a_loader_that_dies_while_a_file_is_read_is_not_taken_for_a_fault_of_the_file() -> None:
    """torch tells of the death wherever the process is, at the latest where it waits for the loader: here in a reader's place."""
    loader = iter(DataLoader([0] * 8, num_workers=1))
    dead = "is killed by signal|exited unexpectedly"
    with pytest.raises(RuntimeError, match=dead) as caught, reading.told("Cannot read it", "Give another"):
        os.kill(loader._workers[0].pid, signal.SIGKILL)
        list(loader)
    assert exhaustion.why(caught.value) == "a worker process was killed, as the system does when memory is short"
    with (
        pytest.raises(StageError, match=r"^Cannot read it: another kind\. Give another$"),
        reading.told("Cannot read it", "Give another"),
    ):
        raise ValueError("another kind\nsecond line")


def test_every_stage_names_settings_that_exist() -> None:
    """Words of its MEMORY such as `segment_train.batch` are settings of the configuration."""
    sections = configure.settle({})
    for name in (*PIPELINE, *EXTRAS):
        words = configure.stage_module(name).MEMORY.replace(",", "").replace("=", " ").replace(":", "").split()
        named = [word.split(".") for word in words if "." in word]
        assert named, name
        for section, setting in named:
            assert setting in sections[section].plain(), (section, setting)


def test_a_stage_that_runs_out_of_memory_says_what_to_set(bas: Command, config: Path, tmp_path: Path) -> None:
    """Padding an image to a crop of 10^8 pixels is a real fault, in the place where crops are made."""
    changes = ("cam_train.backbone=tiny", "cam_train.weights=none", f"cam_train.crop={ABSURD}")
    line = bas("seed", "cam", str(config), *settings(*changes)).error
    assert re.fullmatch(r"cam_train ran out of memory: this machine has no [\d.,]+ \w+ left\. Lower .*cam_train\.crop", line)
    assert (tmp_path / "runs/tiny/cam_train/started.json").exists()


def test_a_lack_of_memory_names_the_stage_of_a_training() -> None:
    from stages.nets.mmseg.data import Crops

    crops, image = Crops(ABSURD, (1.0,)), np.zeros((8, 8, 3), np.uint8)
    todo = configure.stage_module("segment_train").MEMORY
    with (
        pytest.raises(StageError, match=r"out of memory.*Raise segment_train\.accumulate"),
        exhaustion.told("segment_train", todo),
    ):
        crops(image, image[..., 0], torch.Generator())
