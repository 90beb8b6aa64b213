"""Commands that pack predictions for an evaluation server: `bas submit voc`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from bas_cli import console, options, progress
from bas_cli.options import Request

Images = Annotated[str, typer.Option("--split", help="The list whose predictions are packed.")]
Out = Annotated[
    Path | None,
    typer.Option("--out", help="The archive (default: RUN/comp6_test_cls.tar.gz).", show_default=False),
]
Plain = Annotated[bool, typer.Option("--plain", help="The network's own predictions, not those after the CRF.")]
Check = Annotated[Path | None, typer.Option("--check", help="Only look this archive over.", show_default=False)]


def voc(
    run: options.RunDir = None,
    split: Images = "test",
    out: Out = None,
    plain: Plain = False,
    check: Check = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Pack predictions for the evaluation server of Pascal VOC 2012 (comp6), and look the archive over.

    Every image of the list has one index PNG of its own size with ids from 0 to 20; the same predictions give the same bytes.
    Predict the list first: `bas segment predict --split test`.
    """
    from stages.actions import submit

    chosen = options.open_run(Request(run=run))
    show = progress.reporter(quiet)
    if check is not None:
        done = submit.check_archive(chosen, split, check, show)
    else:
        target = out or chosen.folder / "comp6_test_cls.tar.gz"
        done = submit.voc(chosen, split, "plain" if plain else "crf", target, show)
    _tell(done, as_json, quiet)


def _tell(done: dict[str, Any], as_json: bool, quiet: bool) -> None:
    if as_json:
        console.document(done)
    elif not quiet:
        kind = {"crf": ", after the CRF", "plain": ", without CRF"}.get(done.get("kind", ""), "")
        console.note(
            f"{done['file']}: {done['images']} predictions{kind}, {done['bytes'] / 1e6:.1f} MB, as the server wants them"
        )
