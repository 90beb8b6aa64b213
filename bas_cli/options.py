"""The options that every command shares, and what they mean for the configuration."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bas_cli import photographs
from stages.core.errors import StageError

if TYPE_CHECKING:
    from stages.actions.run import Run

RUNS = Path("runs")
LAST = RUNS / ".last"

Dataset = Annotated[
    str | None,
    typer.Argument(
        help="Shipped (demo, voc, voc_coco_init, coco, voc_small, voc_small_ablation), a YAML file or a folder of photographs; "
        "left out: the run's own.",
        show_default=False,
    ),
]
RunDir = Annotated[
    Path | None,
    typer.Option(
        "--run", help="Run folder (default runs/<dataset>; later commands: $BAS_RUN, else the last run).", show_default=False
    ),
]
Data = Annotated[Path | None, typer.Option("--data", help="Folder of the photographs.", show_default=False)]
Labels = Annotated[
    Path | None,
    typer.Option(
        "--labels",
        help="File of image-level labels: of a folder CSV, TSV, JSON, JSON lines, Label Studio's JSON or CVAT's XML; of a devkit "
        "or COCO cls_labels.npy or lines `id class class …`.",
        show_default=False,
    ),
]
Set = Annotated[list[str] | None, typer.Option("--set", help="section.key=value, as often as needed.", show_default=False)]
Device = Annotated[str | None, typer.Option("--device", help="auto, cpu or cuda.", show_default=False)]
Precision = Annotated[str | None, typer.Option("--precision", help="auto, 32-true, bf16-mixed or 16-mixed.", show_default=False)]
Weights = Annotated[
    str | None,
    typer.Option(
        "--weights",
        help="Initial weights of the trunk: a file, imagenet, coco or none; for all stages of the call with the same trunk.",
        show_default=False,
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Run again what is fresh.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would run, in how many minutes, and stop; nothing is written.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="No progress.")]


@dataclass
class Request:
    """What a command line asks of a run."""

    dataset: str | None = None
    run: Path | None = None
    data: Path | None = None
    labels: Path | None = None
    assignments: list[str] = field(default_factory=list)
    device: str | None = None
    precision: str | None = None
    weights: str | None = None

    def overrides(self) -> dict[str, dict[str, Any]]:
        """The values that options set, by section."""
        data = {"root": _absolute(self.data), "labels": _absolute(self.labels)}
        runtime = {"device": self.device, "precision": self.precision}
        chosen = {"data": data, "runtime": runtime}
        return {name: {k: v for k, v in values.items() if v is not None} for name, values in chosen.items()}


@dataclass(frozen=True)
class Manner:
    """How stages are run and shown."""

    force: bool
    dry_run: bool
    as_json: bool
    quiet: bool


def _asked(
    dataset: Dataset = None,
    run: RunDir = None,
    data: Data = None,
    labels: Labels = None,
    assignments: Set = None,
    device: Device = None,
    precision: Precision = None,
    weights: Weights = None,
    force: Force = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> tuple[Request, Manner]:
    """The options that every command about stages has, in one place."""
    request = Request(dataset, run, data, labels, assignments or [], device, precision, weights)
    return request, Manner(force, dry_run, as_json, quiet)


def shared(command: Callable[..., None]) -> Callable[..., None]:
    """COMMAND(request, manner, **own) as typer takes it: with its own options and those of `_asked`."""
    common = inspect.signature(_asked, eval_str=True).parameters
    mine = list(inspect.signature(command, eval_str=True).parameters.values())[2:]

    @functools.wraps(command)
    def call(**values: Any) -> None:
        command(*_asked(**{name: values.pop(name) for name in common}), **values)

    together = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in (*mine, *common.values())]
    call.__signature__ = inspect.Signature(together)  # type: ignore[attr-defined]
    call.__annotations__ = {one.name: one.annotation for one in together}
    return call


def open_run(request: Request, names: Sequence[str] = (), look: bool = False) -> Run:
    """The run that a command line means, with its configuration resolved. LOOK: nothing is to be written. Raises StageError."""
    from stages.actions import configure
    from stages.actions.run import Run

    folder = run_folder(request)
    request = photographs.configured(request, folder, look)
    name = request.dataset or str(folder / "config.yaml")
    if request.dataset is None and not (folder / "config.yaml").exists():
        why = "it holds no config.yaml" if folder.is_dir() else "no such folder"
        raise StageError(f"No run in {folder}", why, "Name a run's folder with --run DIR, or start one with `bas run demo`")
    former = configure.saved(folder) if request.dataset is not None else {}
    overrides = request.overrides()
    sections = configure.resolve(name, request.assignments, overrides, former)
    if request.weights is not None:
        overrides |= weights_for(sections, request.weights, configure.plan(sections, names))
        sections = configure.resolve(name, request.assignments, overrides, former)
    return Run(folder, sections, look)


def settings_alone(request: Request) -> Run:
    """No run in particular: the defaults with what a command line sets. Raises StageError."""
    from stages.actions import configure
    from stages.actions.run import Run

    return Run(Path(), configure.settle({}, request.assignments, request.overrides()))


def _absolute(path: Path | None) -> str | None:
    return None if path is None else str(path.expanduser().absolute())


def weights_for(values: Mapping[str, Any], weights: str, names: Sequence[str]) -> dict[str, dict[str, str]]:
    """WEIGHTS for the stages NAMES: the first that has a trunk, and those with the same trunk that start from published weights.

    A stage that is configured to start from the seed network's trunk keeps to it, unless it is the first itself.
    """
    source = weights if weights in ("imagenet", "coco", "none", "seed") else str(_absolute(Path(weights)))
    trained = [name for name in names if hasattr(values[name], "weights")]
    if not trained:
        raise StageError(f"--weights {weights} has no use here", "none of these stages starts from weights", "Leave it out")
    first = values[trained[0]]
    alike = [name for name in trained if values[name].backbone == first.backbone and values[name].weights != "seed"]
    return {name: {"weights": source} for name in dict.fromkeys([trained[0], *alike])}


def run_folder(request: Request) -> Path:
    """The run folder that is meant. Raises StageError when none is named and none was used before."""
    if request.run is not None:
        return request.run
    if request.dataset is not None:
        of_folder = photographs.is_folder(request.dataset)
        return RUNS / (photographs.folder_name(request.dataset) if of_folder else Path(request.dataset).stem)
    if os.environ.get("BAS_RUN"):
        return Path(os.environ["BAS_RUN"])
    try:
        return Path(LAST.read_text().strip())
    except OSError:
        raise StageError(
            "No run is named", "neither --run nor $BAS_RUN nor an earlier run here", "Start one with `bas run demo`"
        ) from None


def remember(folder: Path) -> None:
    """Note FOLDER as the last run used."""
    LAST.parent.mkdir(exist_ok=True)
    text = str(folder.absolute())
    if not LAST.exists() or LAST.read_text() != text:
        LAST.write_text(text)
