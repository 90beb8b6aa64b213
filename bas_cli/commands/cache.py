"""Commands about what a run keeps on disk: `bas cache list`, `verify` and `gc`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from bas_cli import console, options, progress
from bas_cli.options import Request
from stages.core.errors import StageError

if TYPE_CHECKING:
    from stages.actions.cache import Leftover
    from stages.core.manifest import Damage

Drop = Annotated[bool, typer.Option("--drop", help="Remove what is damaged, so that `bas run` makes it again.")]
Cells = Annotated[bool, typer.Option("--cells", help="The trainings of ablations too.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be removed, and stop.")]


def listing(run: options.RunDir = None, as_json: options.Json = False) -> None:
    """Files and bytes of every stage, and what of it is left over."""
    from stages.actions import cache

    opened = options.open_run(Request(run=run))
    rows, found = cache.sizes(opened), cache.leftovers(opened)
    if as_json:
        total = sum(row["bytes"] for row in rows)
        console.document({"run": str(opened.folder), "stages": rows, "bytes": total, "leftovers": [one.row() for one in found]})
        return
    console.size_table(rows)
    for kind, meaning in cache.KINDS.items():
        of_kind = [one for one in found if one.kind == kind]
        if of_kind:
            console.note(f"left over: {_amount(of_kind)} {meaning}. {_gone(kind)}")


def _gone(kind: str) -> str:
    return f"`bas cache gc{' --cells' if kind == 'cells' else ''}` removes them"


def _amount(found: Sequence[Leftover]) -> str:
    return f"{len(found)} ({console.megabytes(sum(one.size for one in found))})"


def verify(run: options.RunDir = None, drop: Drop = False, as_json: options.Json = False, quiet: options.Quiet = False) -> None:
    """Read every output again and compare it with what was written; exit code 2 where one differs."""
    from stages.actions import cache

    opened = options.open_run(Request(run=run))
    damaged = cache.verify(opened, progress.reporter(quiet))
    if drop and damaged:
        cache.drop(opened, damaged)
    if as_json:
        rows = [{"stage": name, "file": one.file, "what": one.what} for name, found in damaged.items() for one in found]
        console.document({"run": str(opened.folder), "damaged": rows, "stages": list(damaged), "dropped": drop and bool(damaged)})
    else:
        console.lines(f"{name}/{one.file or '?'} {one.what}" for name, found in damaged.items() for one in found)
    if damaged:
        raise _fault(damaged, drop)
    if not quiet and not as_json:
        console.note("every output of every finished stage is what was written")


def _fault(damaged: Mapping[str, Sequence[Damage]], dropped: bool) -> StageError:
    """What is damaged, and which stages to run again."""
    count = sum(len(found) for found in damaged.values())
    unnamed = [name for name, found in damaged.items() if any(one.file is None for one in found)]
    if unnamed:
        todo = f"Run them again with `bas run --from {unnamed[0]} --force`"
    elif dropped:
        todo = "They are removed: `bas run` makes them again"
    else:
        todo = "Run them again: `bas cache verify --drop` removes what is damaged, then `bas run` makes it anew"
    return StageError(
        f"{count} outputs are damaged" if count > 1 else "An output is damaged", f"stages {', '.join(damaged)}", todo
    )


def collect(
    run: options.RunDir = None,
    cells: Cells = False,
    dry_run: DryRun = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Remove what is left over; never an output of a finished stage, nor what an interrupted one goes on from."""
    from stages.actions import cache

    opened = options.open_run(Request(run=run))
    found = cache.collect(opened, cells, dry_run)
    size = sum(one.size for one in found)
    if as_json:
        rows = [one.row() for one in found]
        console.document({"run": str(opened.folder), "leftovers": rows, "bytes": size, "removed": not dry_run})
        return
    console.lines(f"{one.path} {console.megabytes(one.size)}" for one in found)
    if not quiet:
        console.note(f"{_amount(found)} {'would go' if dry_run else 'removed'}" if found else "nothing is left over")
