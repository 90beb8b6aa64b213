"""Maps from elsewhere into a run: a folder of files becomes a source of seeds that `seed_infer.sources` may name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages import seed_import
from stages.actions.run import Run
from stages.core import freshness, inputs
from stages.core import stage as contract
from stages.core.files import digest
from stages.core.manifest import read_manifest
from stages.data import sources

if TYPE_CHECKING:
    from stages.data.mapfiles import MapFile


def import_seeds(run: Run, name: str, config: seed_import.Config, reporter: contract.Reporter, force: bool) -> dict[str, Any]:
    """Import the maps in CONFIG's folder as NAME, unless the same are there. Returns what was done, in plain values.

    Raises StageError on a bad name, on absent images, and on files that are no maps of the run's training images.
    """
    from stages.data import mapfiles

    sources.require_free(name)
    files = mapfiles.find(Path(config.folder), run.dataset.split("train"), run.dataset.classes)
    seed_import.require_files(files, config)
    log = run.begin()
    ctx = run.context(f"{inputs.IMPORTS}/{name}", reporter, log)
    wanted = _fingerprint(run, config, files, reporter)
    before = freshness.state(ctx.out, wanted)
    anew = force or before.state != "done"
    if anew:
        contract.execute(seed_import, config, ctx, wanted, force)
    manifest = read_manifest(ctx.out) or {}
    done = {"name": name, "imported": anew, "why": before.why if before.state != "missing" else "", "digest": manifest["digest"]}
    return {"run": str(run.folder), **done, **manifest["notes"]}


def _fingerprint(
    run: Run, config: seed_import.Config, files: Mapping[str, Sequence[MapFile]], reporter: contract.Reporter
) -> dict[str, Any]:
    """Everything that decides an import: settings, images and labels, content of the files and not where they lie."""
    content: dict[str, str] = {}
    with reporter.track("looking at files", len(files)) as meter:
        for found in files.values():
            content |= {file.name: run.hashes.of(f"{config.folder}/{file.name}") for file in found}
            meter.advance()
    data = {"train": run.dataset.digest("train", run.hashes)}
    run.hashes.save()
    settings = {"seed_import": config.plain(frozenset({"folder"}))}
    return {"stage": "seed_import", "config": settings, "inputs": {}, "data": data, "files": digest(content)}
