"""Corrected masks from editors into a run: the stage `mask_choice` takes them in place of its own."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stages import masks_import
from stages.actions.configure import CHOICE
from stages.actions.run import Run
from stages.core import freshness, inputs
from stages.core import stage as contract
from stages.core.config import validate
from stages.core.errors import StageError
from stages.core.files import digest
from stages.core.manifest import MANIFEST, read_manifest
from stages.data import sources


def import_masks(
    run: Run, name: str | None, config: masks_import.Config, reporter: contract.Reporter, force: bool
) -> dict[str, Any]:
    """Take the corrected masks of CONFIG's folder as NAME (by default the folder's), unless the same are there, and let the
    run's configuration name them. Returns what was done, in plain values.

    Raises StageError on a bad name, on what are no masks of the run's training images, and, without FORCE, where images
    that NAME holds would be lost.
    """
    from stages.data import editors

    source = Path(config.folder)
    name = _name(name, source)
    log = run.begin()
    files = editors.find(source)
    ctx = run.context(f"{inputs.CORRECTIONS}/{name}", reporter, log)
    _restore(ctx.out)
    wanted = _fingerprint(run, config, files)
    before = freshness.state(ctx.out, wanted)
    anew = force or before.state != "done"
    if anew:
        _replace(config, ctx, wanted, force)
    _use(run, name)
    manifest = read_manifest(ctx.out) or {}
    done = {"name": name, "imported": anew, "why": before.why if before.state != "missing" else "", "digest": manifest["digest"]}
    return {"run": str(run.folder), **done, **manifest["notes"]}


def _use(run: Run, name: str) -> None:
    """Let the corrections NAME go before all others from now on, and keep that in the run's configuration."""
    section = run.sections[CHOICE]
    values = section.plain()
    names = [*(other for other in values["corrected"] if other != name), name]
    run.sections[CHOICE] = validate(type(section), values | {"corrected": names}, CHOICE)
    run.save_config()


def _aside(folder: Path) -> Path:
    """Where a former import waits until the new one is whole: a person's work is never lost to a fault or a kill."""
    return folder.with_name(f".{folder.name}.former")


def _restore(folder: Path) -> None:
    """Put the former import back where the new one did not become whole."""
    aside = _aside(folder)
    if read_manifest(folder) is None and aside.exists():
        shutil.rmtree(folder, ignore_errors=True)
        aside.rename(folder)
    shutil.rmtree(aside, ignore_errors=True)


def _replace(config: masks_import.Config, ctx: contract.Context, wanted: dict[str, Any], force: bool) -> None:
    """Import in place of what was imported under that name. Raises StageError, and leaves all as it was, on any fault."""
    former = read_manifest(ctx.out)
    if former is not None:
        ctx.out.rename(_aside(ctx.out))
    try:
        made = contract.execute(masks_import, config, ctx, wanted, force)
        lost = [name for name in (former or made)["outputs"]["files"] if name not in made["outputs"]["files"]]
        if lost and not force:
            raise StageError(
                f"Corrections '{ctx.out.name}' are there already, and {config.folder} lacks some of them",
                f"{len(lost)} images would be lost, first '{Path(lost[0]).stem}'",
                "Choose another --name: corrections of several names add up. Or drop them with --force",
            )
    except BaseException:
        (ctx.out / MANIFEST).unlink(missing_ok=True)
        _restore(ctx.out)
        raise
    shutil.rmtree(_aside(ctx.out), ignore_errors=True)


def _name(name: str | None, source: Path) -> str:
    """The name of an import: as given, or made of its folder's. Raises StageError."""
    made = name if name is not None else re.sub(r"[^a-z0-9_-]+", "-", source.stem, flags=re.IGNORECASE).strip("-")
    if sources.NAME.fullmatch(made) is None:
        why = "a name is a letter, then letters, digits, - and _"
        raise StageError(f"Corrections cannot be called '{made}'", why, "Choose another with --name")
    return made


def _fingerprint(run: Run, config: masks_import.Config, files: Sequence[Path]) -> dict[str, Any]:
    """Everything that decides an import: settings, images and labels, content of the files and not where they lie.

    What was given out since the import is left out: a correction stays one when it is given out again.
    """
    root = Path(config.folder)
    content = {path.relative_to(root).as_posix() if path != root else "": run.hashes.of(path) for path in files}
    data = {"train": run.dataset.digest("train", run.hashes)}
    run.hashes.save()
    settings = {"masks_import": config.plain(frozenset({"folder"}))}
    return {"stage": "masks_import", "config": settings, "inputs": {}, "data": data, "files": digest(content)}
