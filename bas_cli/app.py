"""The command tree. Each command asks a plain function below for values and shows them."""

from __future__ import annotations

import errno
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from bas_cli import console, options
from bas_cli.options import Request
from stages import PIPELINE, __version__
from stages.core.errors import StageError

if TYPE_CHECKING:
    from stages.actions.run import Run

HELP = """Background activation suppression: from image-level labels to a segmentation network.

Start with `bas run demo`, then `bas run voc_small --data DIR`."""
MARKUP = "rich" if sys.stdout.isatty() else None  # plain help, without importing rich, where there is no terminal
UsageError: type[Exception] = typer.BadParameter.__bases__[0]  # typer exports only this child of it
app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=MARKUP, pretty_exceptions_enable=False, help=HELP)
seed = typer.Typer(no_args_is_help=True, help="The BAS seed network and its localization maps.")
refine = typer.Typer(no_args_is_help=True, help="From seeds to pseudo masks with IRN.")
segment = typer.Typer(no_args_is_help=True, help="The segmentation network.")
app.add_typer(seed, name="seed")
app.add_typer(refine, name="refine")
app.add_typer(segment, name="segment")


def open_run(request: Request, names: Sequence[str] = ()) -> Run:
    """The run that a command line means, with its configuration resolved. Raises StageError."""
    from stages.actions import run as runs

    folder = options.run_folder(request)
    name = request.dataset or str(folder / "config.yaml")
    if request.dataset is None and not (folder / "config.yaml").exists():
        raise StageError(f"No run in {folder}", "it holds no config.yaml", "Name a dataset, for example `bas run demo`")
    former = runs.former_data(folder) if request.dataset is not None else {}
    overrides: dict[str, dict[str, Any]] = {
        "data": {**former, **request.overrides()["data"]},
        "runtime": request.overrides()["runtime"],
    }
    sections = runs.resolve(name, request.assignments, overrides)
    if request.weights is not None:
        overrides |= options.weights_for(sections, request.weights, names)
        sections = runs.resolve(name, request.assignments, overrides)
    return runs.Run(folder, sections)


def perform(request: Request, names: list[str], force: bool, dry_run: bool, as_json: bool, quiet: bool) -> None:
    """Run stages in order and show what was done."""
    run = open_run(request, names)
    run.reporter = console.reporter(quiet)
    run.check(names)
    if dry_run:
        _show_status(run, names, as_json)
        return
    run.folder.mkdir(parents=True, exist_ok=True)
    options.remember(run.folder)
    if not quiet:
        console.note(f"run folder {run.folder}")
    run.on_warning = console.warn
    for report, ran in run.execute(names, run.reporter, force):
        if not quiet:
            took = f"done in {report.seconds:.1f} s" if ran and report.seconds is not None else "fresh, kept"
            console.note(f"{report.name:<16} {took}   {console.headline(report.metrics)}")
    if as_json:
        _show_status(run, list(PIPELINE), as_json)


def _show_status(run: Run, names: list[str], as_json: bool) -> None:
    rows = [report.row() for report in run.reports() if report.name in names]
    if as_json:
        console.document({"run": str(run.folder), "stages": rows})
    else:
        console.status_table(rows)


def _request(
    dataset: str | None,
    run: Path | None,
    data: Path | None,
    labels: Path | None,
    assignments: list[str] | None,
    device: str | None,
    precision: str | None,
    weights: str | None,
) -> Request:
    return Request(dataset, run, data, labels, assignments or [], device, precision, weights)


@app.command("run")
def run_command(
    dataset: options.Dataset = None,
    run: options.RunDir = None,
    data: options.Data = None,
    labels: options.Labels = None,
    first: str = typer.Option(next(iter(PIPELINE)), "--from", help="First stage."),
    until: str = typer.Option(list(PIPELINE)[-1], "--until", help="Last stage."),
    assignments: options.Set = None,
    device: options.Device = None,
    precision: options.Precision = None,
    weights: options.Weights = None,
    force: options.Force = False,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Run every stage in order; what is fresh is kept."""
    names = _between(first, until)
    perform(_request(dataset, run, data, labels, assignments, device, precision, weights), names, force, dry_run, as_json, quiet)


def _between(first: str, until: str) -> list[str]:
    names = list(PIPELINE)
    for name in (first, until):
        if name not in PIPELINE:
            raise StageError(f"Unknown stage '{name}'", "no such stage in the pipeline", f"Stages: {', '.join(names)}")
    chosen = names[names.index(first) : names.index(until) + 1]
    if not chosen:
        raise StageError(f"--from {first} lies after --until {until}", "no stage is left to run", "Swap the two")
    return chosen


def _stage_command(group: typer.Typer, name: str, stages: list[str]) -> None:
    """A command that runs STAGES of one run."""

    def command(
        dataset: options.Dataset = None,
        run: options.RunDir = None,
        data: options.Data = None,
        labels: options.Labels = None,
        assignments: options.Set = None,
        device: options.Device = None,
        precision: options.Precision = None,
        weights: options.Weights = None,
        force: options.Force = False,
        dry_run: options.DryRun = False,
        as_json: options.Json = False,
        quiet: options.Quiet = False,
    ) -> None:
        perform(
            _request(dataset, run, data, labels, assignments, device, precision, weights), stages, force, dry_run, as_json, quiet
        )

    group.command(name, help="; ".join(PIPELINE[stage] for stage in stages) + ".")(command)


_stage_command(seed, "train", ["seed_train"])
_stage_command(seed, "infer", ["seed_infer"])
_stage_command(refine, "irn", ["irn_labels", "irn_train", "irn_masks"])
_stage_command(segment, "train", ["segment_train"])
_stage_command(segment, "predict", ["segment_predict"])


@app.command()
def status(run: options.RunDir = None, as_json: options.Json = False) -> None:
    """What is done, stale (and why) or missing."""
    _show_status(open_run(Request(run=run)), list(PIPELINE), as_json)


@app.command("eval")
def evaluate(
    run: options.RunDir = None,
    recompute: bool = typer.Option(False, "--recompute", help="Score the outputs again instead of reading the manifests."),
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """The numbers of every finished stage, in percent."""
    from stages.actions.evaluate import collect

    found = collect(open_run(Request(run=run)), recompute, console.reporter(quiet))
    if as_json:
        console.document({"stages": found.metrics, "classes": found.classes})
        return
    if not found.metrics:
        console.note("no stage of this run has finished yet: `bas status` says how far it is")
    console.show(console.metric_tables(found.metrics, found.classes))


@app.callback(invoke_without_command=True)
def _version(version: bool = typer.Option(False, "--version", help="Print the version and stop.")) -> None:
    if version:
        sys.stdout.write(__version__ + "\n")
        raise typer.Exit


def main() -> None:
    """The `bas` script: every fault becomes one line and an exit code (0 done, 1 ours, 2 yours to mend, 130 interrupted)."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(_guarded())


def _guarded() -> int:
    try:
        code = app(standalone_mode=False, prog_name="bas")
        return _interrupted() if code == 130 else code or 0
    except UsageError as fault:
        return _bad_usage(fault)
    except StageError as fault:
        console.error(str(fault))
        return 2
    except OSError as fault:
        return _disk_fault(fault)
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted()
    except Exception as fault:
        return _our_fault(fault)


def _bad_usage(fault: Any) -> int:
    """One line; but a command group without a command is a question, and its help the answer."""
    if type(fault).__name__ == "NoArgsIsHelpError":
        fault.show()
        return 2
    command = fault.ctx.command_path if fault.ctx is not None else "bas"
    sentences = dict.fromkeys(re.split(r"(?<=[.?]) ", fault.format_message()))  # typer and click may say the same
    console.error(f"{' '.join(sentences)} See `{command} --help`.")
    return 2


def _interrupted() -> int:
    console.error(
        "Interrupted: all finished work is kept, a training up to its last half minute. Run the same command again to go on."
    )
    return 130


def _disk_fault(fault: OSError) -> int:
    """Full and read-only disks are the user's to mend; other system errors are ours."""
    advice = {
        errno.ENOSPC: "Free some space and run the same command again: finished work is kept",
        errno.EDQUOT: "Free some of your quota and run the same command again: finished work is kept",
        errno.EFBIG: "Raise the limit on file sizes (ulimit -f) and run the same command again: finished work is kept",
        errno.EROFS: "Choose a writable folder with --run DIR",
        errno.EEXIST: "Choose a folder, not a file, with --run DIR",
        errno.ENOTDIR: "Choose a folder, not a file, with --run DIR",
        errno.ENAMETOOLONG: "Choose a shorter name",
        errno.EACCES: "Choose a folder that you may use, or correct its permissions",
    }.get(fault.errno or 0)
    if advice is None:
        return _our_fault(fault)
    console.error(f"Cannot use {fault.filename or 'the disk'}: {fault.strerror}. {advice}.")
    return 2


def _our_fault(fault: Exception) -> int:
    import logging

    log = logging.getLogger("bas")
    if log.handlers:
        log.exception("unexpected fault")
    where = "the run's newest file in logs/ has the details" if log.handlers else "it came before any run was opened"
    console.error(f"Unexpected {type(fault).__name__}: {fault}. This is a fault of bas; {where}.")
    return 1
