"""Commands that give pseudo masks to editors and take corrected ones back: `bas masks export` and `bas masks import`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from bas_cli import console, options, progress
from bas_cli.options import Request

Target = Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write into.", show_default=False)]
Origin = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the corrected files, or one file.", show_default=False)]
Format = Annotated[
    Literal["coco", "cvat", "labelme", "png"],
    typer.Option(
        "--format",
        metavar="FORMAT",
        help="coco and cvat: one file of all images; labelme: one each; png: index masks.",
        show_default=False,
    ),
]
Shapes = Annotated[
    Literal["polygons", "masks"],
    typer.Option("--shapes", metavar="KIND", help="polygons: corners that can be moved; masks: every pixel."),
]
Tolerance = Annotated[
    float, typer.Option("--tolerance", metavar="PIXELS", min=0, help="Pixels by which polygons may miss outlines; 0: exact.")
]
Only = Annotated[str | None, typer.Option("--only", help="worst:N, the N least confident masks.", show_default=False)]
Name = Annotated[
    str | None, typer.Option("--name", help="What to call these corrections (default the folder's name).", show_default=False)
]
Everything = Annotated[bool, typer.Option("--all", help="Take also masks that are as they were exported.")]
Over = Annotated[bool, typer.Option("--force", help="Write over files that are there.")]
Again = Annotated[bool, typer.Option("--force", help="Import again what is fresh, and in place of more images.")]


def give(
    folder: Target,
    format: Format,
    shapes: Shapes = "polygons",
    tolerance: Tolerance = 1.0,
    only: Only = None,
    run: options.RunDir = None,
    force: Over = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Pseudo masks as files for an editor, to be corrected by hand."""
    from stages.actions.export_masks import Manner, export_masks

    chosen = options.open_run(Request(run=run))
    chosen.on_warning = console.warn
    done = export_masks(chosen, folder, Manner(format, shapes, tolerance, only), progress.reporter(quiet), force)
    if as_json:
        console.document(done)
    elif not quiet:
        loss = f"; the polygons change {done['changed']:.2f} % of the pixels" if done["kind"] == "polygons" else ""
        console.note(f"{done['images']} masks of {done['from']} written to {folder}{loss}")
        console.note(f"correct them, then `bas masks import {folder}`: what is changed will be learnt from")


def take(
    folder: Origin,
    name: Name = None,
    everything: Everything = False,
    run: options.RunDir = None,
    force: Again = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Corrected masks of COCO, CVAT, LabelMe or index PNGs take the place of the run's own."""
    from stages import masks_import
    from stages.actions.import_masks import import_masks

    chosen = options.open_run(Request(run=run))
    chosen.on_warning, chosen.reporter = console.warn, progress.reporter(quiet)
    config = masks_import.Config(folder=str(folder.expanduser().absolute()), everything=everything)
    done = import_masks(chosen, name, config, chosen.reporter, force)
    options.remember(chosen.folder)
    if as_json:
        console.document(done)
    elif not quiet:
        console.note(f"corrections/{done['name']}: {_taken(done)}")
        console.note(f"mask_choice.corrected names it: `bas run --run {chosen.folder}` goes on from these masks")


def _taken(done: Mapping[str, Any]) -> str:
    what = f"{done['images']} corrected masks of {done['of']} images"
    if not done["imported"]:
        return f"{what} are there already and the same, kept"
    others = [f"{done['unchanged']} as they were exported"] if done["unchanged"] else []
    others += [f"{done['empty']} empty"] if done["empty"] else []
    left = f", left out: {' and '.join(others)}" if others else ""
    more = f"; {done['beyond_labels']} show classes that their labels do not name" if done["beyond_labels"] else ""
    why = f" ({done['why']})" if done["why"] else ""
    return f"{what} imported{why}{left}{more}"
