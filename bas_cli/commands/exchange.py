"""Commands that take seeds from other tools and give them to these: `bas seed import` and `bas seed export`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from bas_cli import console, options, progress
from bas_cli.options import Request

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The folder of the files.", show_default=False)]
Name = Annotated[str, typer.Option("--name", help="What seed_infer.sources will call these maps.", show_default=False)]
Stride = Annotated[
    int, typer.Option("--stride", metavar="N", min=1, help="Pixels a value; 1 keeps maps of full size as they are.")
]
AllowMissing = Annotated[bool, typer.Option("--allow-missing", help="Take missing images and classes as maps of zero.")]
Source = Annotated[
    str | None, typer.Option("--source", help="Maps and sums as in seed_infer.sources (default refine.seed).", show_default=False)
]
Again = Annotated[bool, typer.Option("--force", help="Import again what is fresh.")]
Over = Annotated[bool, typer.Option("--force", help="Write over files that are there.")]


def take(
    folder: Folder,
    name: Name,
    dataset: options.Dataset = None,
    run: options.RunDir = None,
    data: options.Data = None,
    labels: options.Labels = None,
    stride: Stride = 4,
    allow_missing: AllowMissing = False,
    force: Again = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Maps of another method (IRN's .npy, .npz, a PNG per class) become a source of seeds."""
    from stages import seed_import
    from stages.actions.import_seeds import import_seeds

    chosen = options.open_run(Request(dataset, run, data, labels))
    chosen.on_warning, chosen.reporter = console.warn, progress.reporter(quiet)
    config = seed_import.Config(folder=str(folder.expanduser().absolute()), stride=stride, allow_missing=allow_missing)
    done = import_seeds(chosen, name, config, chosen.reporter, force)
    options.remember(chosen.folder)
    if as_json:
        console.document(done)
    elif not quiet:
        console.note(f"imports/{name}: {_taken(done)}")
        console.note(f'name it as a source, for example --set "seed_infer.sources=[bas,{name},bas+{name}]"')


def _taken(done: Mapping[str, Any]) -> str:
    what = f"{done['maps']} maps of {done['images']} images"
    if not done["imported"]:
        return f"{what} are there already and the same, kept"
    return f"{what} imported" + (f" ({done['why']})" if done["why"] else "")


def give(
    folder: Folder,
    source: Source = None,
    run: options.RunDir = None,
    force: Over = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Seeds as IRN's .npy dictionaries (keys, cam, high_res), one an image."""
    from stages.actions.export_seeds import export_seeds

    chosen = options.open_run(Request(run=run))
    chosen.on_warning = console.warn
    done = export_seeds(chosen, folder, source or chosen.refined, progress.reporter(quiet), force)
    if as_json:
        console.document(done)
    elif not quiet:
        console.note(f"{done['maps']} maps of {done['images']} images written to {folder}, source {done['source']}")
