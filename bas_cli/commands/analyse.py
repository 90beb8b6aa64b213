"""Commands that look into a finished run: `bas analyse size` and `bas analyse activation`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from bas_cli import console, options, progress
from bas_cli.options import Request

if TYPE_CHECKING:
    from rich.table import Table

Kind = Annotated[
    Literal["oracle", "fixed", "image-specific"],
    typer.Option("--threshold", metavar="KIND", help="oracle, fixed or image-specific: what labels are cut with."),
]
Images = Annotated[
    int, typer.Option("--images", metavar="N", min=1, help="Images to look at, evenly spread over the scored list.")
]
SHOWN = 5  # every fifth area has a row


def size(run: options.RunDir = None, kind: Kind = "oracle", as_json: options.Json = False) -> None:
    """IoU against object size, for every source of a run.

    As the paper's Fig. 21; the plot and its numbers go to the run's folder analysis/.
    """
    from stages.actions import analyse

    chosen = options.open_run(Request(run=run))
    found = analyse.size(chosen, kind)
    if as_json:
        console.document(found)
        return
    console.show(_size_tables(found))
    console.note(f"plot and numbers in {analyse.folder(chosen)}/size.png and size.json")


def activation(
    run: options.RunDir = None,
    images: Images = 200,
    device: options.Device = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Activation and cross-entropy against mask area.

    True masks are eroded and dilated and put on the features (section 3.5, Fig. 1 and 6). The paper's own network had
    learnt to classify alone: train one with --set seed_train.lam=0 --set seed_train.alpha=0 --set seed_train.beta=0.
    """
    from stages.actions import analyse

    chosen = options.open_run(Request(run=run, device=device))
    chosen.reporter, chosen.on_warning = progress.reporter(quiet), console.warn
    found = analyse.activation(chosen, images, chosen.reporter)
    if as_json:
        console.document(found)
        return
    console.show(_activation_tables(found))
    if not quiet:
        console.note(f"plot and numbers in {analyse.folder(chosen)}/activation.png and activation.json")


def _size_tables(found: Mapping[str, Any]) -> Iterator[Table]:
    sources = found["sources"]
    table = console.table(f"mean IoU of objects by size, {found['threshold']} thresholds (percent)", "size", "objects", *sources)
    for rows in zip(*sources.values(), strict=True):
        first = rows[0]
        table.add_row(f"{first['from']:g}-{first['to']:g}", str(first["objects"]), *(console.cell(row["IoU"]) for row in rows))
    yield table


def _activation_tables(found: Mapping[str, Any]) -> Iterator[Table]:
    skipped = ", ".join(f"{count} {why}" for why, count in found["skipped"].items())
    title = f"median (quartiles) of {found['objects']} objects (left out: {skipped})\nactivations over S, cross-entropy in nats"
    table = console.table(title, "area", "objects", "activation", "cross-entropy", "background")
    curves = list(found["curves"].values())
    for index in range(0, len(found["ratios"]), SHOWN):
        cells = (_quartiles(curve, index) for curve in curves)
        table.add_row(f"{found['ratios'][index]:.1f}", str(curves[0]["objects"][index]), *cells)
    table.add_row("90 % at", "", *(f"{value:.2f}" for value in found["settles_at"].values()))
    yield table


def _quartiles(curve: Mapping[str, Any], index: int) -> str:
    median, low, high = (curve[name][index] for name in ("median", "q1", "q3"))
    return "–" if median is None else f"{median:.2f} ({low:.2f}-{high:.2f})"
