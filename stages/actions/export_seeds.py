"""Seeds of a run for other tools: one IRN dictionary an image, which IRN's own code and `bas seed import` read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.actions.run import Run
from stages.core import stage as contract
from stages.core.errors import StageError
from stages.core.manifest import read_manifest
from stages.data import sources

if TYPE_CHECKING:
    from stages.data.dataset import Sample

STAGE = "seed_infer"


def export_seeds(run: Run, folder: Path, source: str, reporter: contract.Reporter, force: bool) -> dict[str, Any]:
    """Write `FOLDER/<id>.npy` of every training image: SOURCE's normalised maps at stride 4 and full size.

    Returns what was written, in plain values. Raises StageError where the run has no seeds or not of SOURCE, and, without
    FORCE, where a file is there already.
    """
    samples = run.dataset.split("train")
    _require_seeds(run)
    there = [sample.id for sample in samples if _target(folder, sample).exists()]
    if there and not force:
        raise StageError(
            f"{folder} holds such files already",
            f"{len(there)} of {len(samples)}, first '{there[0]}.npy'",
            "Choose an empty folder, or write over them with --force",
        )
    maps = 0
    with reporter.track("exporting", len(samples)) as meter:
        for sample in samples:
            maps += _export(run, sample, source, folder)
            meter.advance()
    return {"run": str(run.folder), "source": source, "folder": str(folder), "images": len(samples), "maps": maps}


def _require_seeds(run: Run) -> None:
    """Raise StageError where the run's seeds are not complete; warn where they are stale."""
    if read_manifest(run.folder / STAGE) is None:
        raise StageError(f"No seeds in {run.folder}", f"{STAGE} is not complete", "Run `bas seed infer` first")
    report = next(row for row in run.reports() if row.name == STAGE)
    if report.state != "done":
        run.on_warning(f"the seeds are stale: {report.why}")


def _export(run: Run, sample: Sample, source: str, folder: Path) -> int:
    """Write one image's maps; returns how many."""
    from stages.data import mapfiles, seedfile

    seed = seedfile.read(sources.seed_path(run.folder / STAGE, sample.id))
    full, strided = seedfile.full_maps(seed, source), seedfile.strided_maps(seed, source)
    mapfiles.write(_target(folder, sample), seed.classes, strided, full.numpy())
    return len(full)


def _target(folder: Path, sample: Sample) -> Path:
    return folder / f"{sample.id}.npy"
