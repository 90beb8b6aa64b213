"""The tree of commands, and the entry of the `bas` script."""

from __future__ import annotations

import atexit
import contextlib
import inspect
import io
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

import typer

from bas_cli import faults
from bas_cli.commands import (
    ablation,
    analyse,
    cache,
    data,
    data_check,
    exchange,
    masks,
    pipeline,
    prediction,
    results,
    submission,
)
from stages import __version__
from stages.core import interrupt

HELP = """Background activation suppression: from image-level labels to a segmentation network.

Start with `bas run demo`, then `bas run DIR` on a folder of photographs of your own."""
MARKUP = "rich" if sys.stdout.isatty() else None  # plain help, without importing rich, where there is no terminal
app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=MARKUP, pretty_exceptions_enable=False, help=HELP)


def _put(name: str, command: Callable[..., None], group: typer.Typer = app, words: str | None = None) -> None:
    """Hang COMMAND into GROUP; the lines of each paragraph of its help flow together, for a terminal of any width."""
    paragraphs = inspect.cleandoc(words or command.__doc__ or "").split("\n\n")
    group.command(name, help="\n\n".join(" ".join(one.split()) for one in paragraphs))(command)


def _group(name: str, words: str) -> typer.Typer:
    """A group of commands in the tree."""
    made = typer.Typer(no_args_is_help=True, help=words)
    app.add_typer(made, name=name)
    return made


_put("run", pipeline.run, words=pipeline.RUN)
_put("status", results.status)
_put("eval", results.evaluate)
_put("predict", prediction.predict)
_put("export", prediction.export)
_put("ablate", ablation.ablate, words=ablation.HELP)
datasets = _group("data", "Datasets: prepare a public one, describe your own, check any.")
_put("init", data.init, datasets)
_put("prepare", data.prepare, datasets)
_put("check", data_check.check, datasets)
seed = _group("seed", "The BAS seed network and its localization maps.")
_put("train", pipeline.of_stages("seed_train"), seed)
_put("cam", pipeline.of_stages("cam_train"), seed)
_put("infer", pipeline.of_stages("seed_infer"), seed)
_put("import", exchange.take, seed)
_put("export", exchange.give, seed)
refine = _group("refine", "From seeds to pseudo masks with IRN.")
_put("irn", pipeline.of_stages("irn_labels", "irn_train", "irn_masks"), refine)
_put("choose", pipeline.of_stages("mask_choice"), refine)
_put("instances", pipeline.of_stages("irn_instances"), refine)
corrected = _group("masks", "Pseudo masks to an editor and back, corrected by hand.")
_put("export", masks.give, corrected)
_put("import", masks.take, corrected)
segment = _group("segment", "The segmentation network: train it, test it.")
_put("train", pipeline.of_stages("segment_train"), segment)
_put("retrain", pipeline.of_stages("self_masks", "segment_retrain"), segment)
_put("predict", pipeline.predict, segment)
looks = _group("analyse", "What a finished run tells beyond its scores.")
_put("size", analyse.size, looks)
_put("activation", analyse.activation, looks)
server = _group("submit", "Predictions as evaluation servers take them.")
_put("voc", submission.voc, server)
kept = _group("cache", "What a run keeps on disk: list it, verify it, clear it of leftovers.")
_put("list", cache.listing, kept)
_put("verify", cache.verify, kept)
_put("gc", cache.collect, kept)


@app.callback(invoke_without_command=True)
def _version(version: bool = typer.Option(False, "--version", help="Print the version and stop.")) -> None:
    if version:
        sys.stdout.write(__version__ + "\n")
        raise typer.Exit


def main() -> None:
    """The `bas` script: every fault becomes one line and an exit code (0 done, 1 ours, 2 yours to mend, 130 interrupted)."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt.handle)
    sys.unraisablehook = interrupt.unraisable
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr does: a file's name may be no text
    leave(faults.guarded(app))


def leave(code: int) -> NoReturn:
    """End this process with CODE.

    To take torch and its like down piece by piece costs more than a second of computing, and much more time on a busy
    machine; so the system is left to do that, once all that others registered for the end is done.
    """
    others = [one for one in threading.enumerate() if one is not threading.main_thread() and not one.daemon]
    if "torch" in sys.modules and not others:
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    sys.exit(code)
