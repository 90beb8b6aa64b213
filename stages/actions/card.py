"""A model card beside each segmentation network of a run: what it learnt from and began with, its scores, how to repeat it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages import __version__
from stages.actions.evaluate import TAUGHT, is_taught
from stages.core import inputs, networks
from stages.core.files import write_text
from stages.core.manifest import read_manifest

if TYPE_CHECKING:
    from stages.actions.run import Run

NAME = "MODEL_CARD.md"
STAGES, TESTED = ("segment_train", "segment_retrain"), "segment_predict"
KEPT = {"masks": "refined by IRN", "seeds": "as they are", "better": "refined by IRN where that looks better"}  # by refine.keep


def write(run: Run) -> list[Path]:
    """Write the card of each of RUN's networks, where it is not the same already; returns the paths of those written."""
    written = []
    for stage in STAGES:
        manifest, path = read_manifest(run.folder / stage), run.folder / stage / NAME
        text = "" if manifest is None else "\n".join(_lines(run, manifest)) + "\n"
        if text and not (path.exists() and path.read_text(encoding="utf-8") == text):
            write_text(path, text)
            written.append(path)
    run.hashes.save()
    return written


def _lines(run: Run, manifest: Mapping[str, Any]) -> Iterator[str]:
    """The card, section by section."""
    settings, checkpoint = manifest["fingerprint"]["config"], run.folder / manifest["stage"] / "network.pth"
    name = networks.title(settings.get("segment", {}).get("network", networks.OURS), settings[STAGES[0]]["backbone"])
    yield f"# {name}, {len(run.dataset.classes)} classes and background"
    yield from ("", f"`{checkpoint.name}`, sha256 `{run.hashes.of(checkpoint)}`, made by bas {__version__}.", "")
    yield f"Classes, background being 0: {', '.join(run.dataset.classes)}."
    yield from ("", "## Data and supervision", *_supervision(run, manifest))
    yield from ("", "## Initial weights", *_weights(run))
    yield from ("", "## Scores", *_scores(run, manifest))
    yield from ("", "## To repeat it", *_commands(run, manifest))


def _supervision(run: Run, manifest: Mapping[str, Any]) -> Iterator[str]:
    notes, content = manifest["notes"], manifest["fingerprint"]["data"]["train"]
    yield f"- {notes['images']} training images of list `{run.dataset.config.train}`, content digest `{content}`"
    if "masks" in notes:
        yield f"- learnt from {notes['masks']}"
    if notes["supervision"] == "full":
        yield "- supervision: true masks, an upper bound"
        return
    labels = _notes(run, "seed_train").get("labels", "an unknown source")
    choice = read_manifest(run.folder / "mask_choice") or {"fingerprint": {"config": {}}, "notes": {}}
    refine = choice["fingerprint"]["config"].get("refine", {})
    how = f": seeds of source `{refine['seed']}`, {KEPT[refine['keep']]}" if refine else ""
    yield f"- supervision: image-level labels from {labels}; masks made from them{how}"
    if choice["notes"].get("corrected"):
        yield f"- and {choice['notes']['corrected']} masks corrected by hand"
    if is_taught(notes):
        yield f"- and {TAUGHT}"


def _weights(run: Run) -> Iterator[str]:
    """Where every trained stage began, with the content of files."""
    for name in ("seed_train", "irn_train", STAGES[0]):
        manifest = read_manifest(run.folder / name)
        if manifest is not None:
            notes, content = manifest["notes"], manifest["fingerprint"].get("weights", "none")
            digest = "" if content in inputs.WEIGHTS else f", sha256 `{content}`"
            yield f"- {name}: {notes.get('loaded', notes['weights']).removeprefix('weights ')}{digest}"


def _scores(run: Run, trained: Mapping[str, Any]) -> Iterator[str]:
    """The metrics of the test of this very network, with its settings; a line that says so where it was not tested."""
    manifest = read_manifest(run.folder / TESTED)
    if manifest is None or not _tests(manifest["fingerprint"], trained) or not manifest["metrics"]:
        yield "Not scored: `bas segment predict` on a list with true masks does it."
        return
    notes = manifest["notes"]
    view = f"scales {', '.join(f'{scale:g}' for scale in notes['scales'])}, {'mirrored too' if notes['flip'] else 'not mirrored'}"
    yield f"{notes['images']} images of list `{run.dataset.config.val}`, {view}; in percent."
    yield from ("", "| key | value |", "|---|---|")
    yield from (f"| {key} | {value:.2f} |" for key, value in manifest["metrics"].items())


def _tests(fingerprint: Mapping[str, Any], trained: Mapping[str, Any]) -> bool:
    """Whether a test with this FINGERPRINT was of the network that the manifest TRAINED tells of."""
    stage = fingerprint["config"][TESTED].get("trained_by", STAGES[0])
    return stage == trained["stage"] and fingerprint["inputs"].get(stage) == trained["digest"]


def _commands(run: Run, manifest: Mapping[str, Any]) -> Iterator[str]:
    versions = ", ".join(f"{name} {version}" for name, version in manifest["versions"].items() if version != "absent")
    yield from ("```", f"bas run {run.folder / 'config.yaml'} --run NEW")
    if manifest["stage"] == STAGES[1]:
        yield "bas segment retrain --run NEW"
    yield "```"
    yield f"seed {manifest['seed']}, {manifest['device']}, {manifest['precision']}; {versions}"


def _notes(run: Run, stage: str) -> Mapping[str, Any]:
    return (read_manifest(run.folder / stage) or {}).get("notes", {})
