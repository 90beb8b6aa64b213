"""The tree of commands, and the entry of the `bas` script."""

from __future__ import annotations

import atexit
import contextlib
import io
import os
import signal
import sys
import threading
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

Start with `bas run demo`, then `bas run voc_small --data DIR`."""
MARKUP = "rich" if sys.stdout.isatty() else None  # plain help, without importing rich, where there is no terminal
app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=MARKUP, pretty_exceptions_enable=False, help=HELP)
seed = typer.Typer(no_args_is_help=True, help="The BAS seed network and its localization maps.")
refine = typer.Typer(no_args_is_help=True, help="From seeds to pseudo masks with IRN.")
segment = typer.Typer(no_args_is_help=True, help="The segmentation network.")
corrected = typer.Typer(no_args_is_help=True, help="Pseudo masks to an editor and back, corrected by hand.")
kept = typer.Typer(no_args_is_help=True, help="What a run keeps on disk.")
datasets = typer.Typer(no_args_is_help=True, help="Datasets themselves.")
server = typer.Typer(no_args_is_help=True, help="Predictions as evaluation servers take them.")
looks = typer.Typer(no_args_is_help=True, help="What a finished run tells beyond its scores.")

app.command("run", help=pipeline.RUN)(pipeline.run)
app.command("status")(results.status)
app.command("eval")(results.evaluate)
app.command("predict")(prediction.predict)
app.command("export")(prediction.export)
app.command("ablate", help=ablation.HELP)(ablation.ablate)
app.add_typer(seed, name="seed")
seed.command("train")(pipeline.of_stages("seed_train"))
seed.command("cam")(pipeline.of_stages("cam_train"))
seed.command("infer")(pipeline.of_stages("seed_infer"))
seed.command("import")(exchange.take)
seed.command("export")(exchange.give)
app.add_typer(refine, name="refine")
refine.command("irn")(pipeline.of_stages("irn_labels", "irn_train", "irn_masks"))
refine.command("choose")(pipeline.of_stages("mask_choice"))
refine.command("instances")(pipeline.of_stages("irn_instances"))
app.add_typer(corrected, name="masks")
corrected.command("export")(masks.give)
corrected.command("import")(masks.take)
app.add_typer(datasets, name="data")
datasets.command("init")(data.init)
datasets.command("prepare")(data.prepare)
datasets.command("check")(data_check.check)
app.add_typer(segment, name="segment")
segment.command("train")(pipeline.of_stages("segment_train"))
segment.command("retrain")(pipeline.of_stages("self_masks", "segment_retrain"))
segment.command("predict")(pipeline.predict)
app.add_typer(kept, name="cache")
kept.command("list")(cache.listing)
kept.command("verify")(cache.verify)
kept.command("gc")(cache.collect)
app.add_typer(server, name="submit")
server.command("voc")(submission.voc)
app.add_typer(looks, name="analyse")
looks.command("size")(analyse.size)
looks.command("activation")(analyse.activation)


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
