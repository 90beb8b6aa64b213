"""masks_import — masks that a person corrected in an editor → masks to learn from. Not part of the pipeline.

The supervision of what is trained on them is no longer image-level labels alone: later stages state how many images were
corrected. Of an image whose drawing is as it was exported, and of one without any shape, nothing is taken.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from stages.core.config import Field, Section
from stages.core.errors import StageError, raise_first
from stages.core.files import read_json, write_atomic, write_json
from stages.core.stage import Context, Outputs
from stages.data.maskfiles import mask_path

if TYPE_CHECKING:
    from stages.data.dataset import Sample
    from stages.data.drawings import Drawing
    from stages.data.images import Array

NEEDS = ()
SHARED = ()
READS = ("train",)
EXPORTED = "exported.json"  # beside the corrections: digests of the masks that were given out, by image
DEEPEST = 32  # folders of a name that are told apart: a file may hold names of any length
NOT_IN_LIST = "Only images to train on are corrected: take the others out"


class Config(Section):
    """Where the corrected masks lie and which of them are taken."""

    folder: str = Field("", description="The folder, or the one file, of the corrected masks.")
    everything: bool = Field(False, description="Take also masks that are as they were exported: all of them were looked at.")


@dataclass(frozen=True)
class _Import:
    """One import: where it writes, what may be said, what was given out, what was found."""

    config: Config
    out: Path
    samples: Mapping[str, Sample]
    classes: Sequence[str]
    exported: Mapping[str, Sequence[str]]
    taken: dict[str, str] = field(default_factory=dict)  # image → where its mask was read
    noticed: Counter[str] = field(default_factory=Counter)

    def take(self, source: Drawing | Path) -> None:
        """Read, check and write the mask of one image. Raises StageError that names its file."""
        from stages.data import drawings, images

        where, name = (source, str(source)) if isinstance(source, Path) else (source.where, source.name)
        sample = self._sample(name, where)
        size = images.size(sample.image)
        if isinstance(source, Path):
            mask = self._of_png(source, size)
        else:
            mask = drawings.paint(source, size, drawings.labels_of(self.classes))
        if not mask.any() or (mask_digest(mask) in self.exported.get(sample.id, ()) and not self.config.everything):
            self.noticed["unchanged" if mask.any() else "empty"] += 1
            return
        present = {int(label) - 1 for label in set(mask.ravel().tolist()) - {0, images.VOID}}
        self.noticed["beyond_labels"] += bool(present - set(sample.labels))
        self.taken[sample.id] = str(where)
        write_atomic(mask_path(self.out, sample.id), lambda temporary: images.write_mask(temporary, mask))

    def _sample(self, name: str, where: Path) -> Sample:
        """The image that a drawing names, by its id, with or without suffix and folders. Raises StageError."""
        parts = name.replace("\\", "/").rsplit("/", DEEPEST)
        ways = ["/".join(parts[start:]) for start in range(len(parts))]
        found = next((i for way in ways for i in (way, way.rpartition(".")[0]) if i in self.samples), None)
        if found is None:
            why = f"'{parts[-1][:80]}' is none of the {len(self.samples)} images of the training list"
            raise StageError(f"Cannot use {where}", why, NOT_IN_LIST)
        if found in self.taken:
            raise StageError(f"Cannot use {where}", f"image '{found}' is in {self.taken[found]} too", "Take one of them out")
        return self.samples[found]

    def _of_png(self, path: Path, size: tuple[int, int]) -> Array:
        """An index PNG of SIZE with values of this dataset. Raises StageError."""
        from stages.data import images

        fault: str | None = None
        if images.size(path) != size:
            (height, width), (own_height, own_width) = size, images.size(path)
            fault = f"it is {own_width} x {own_height}, the image is {width} x {height} (width x height)"
        else:
            mask = images.read_mask(path)
            strange = [label for label in set(mask.ravel().tolist()) if len(self.classes) < label < images.VOID]
            if not strange:
                return mask
            fault = f"it holds label {strange[0]} in a dataset of {len(self.classes)} classes"
        raise StageError(f"Cannot use mask {path}", fault, f"Write labels 0 to {len(self.classes)}, and {images.VOID} for void")


def run(config: Config, ctx: Context) -> Outputs:
    """Write one mask an image that was corrected; every one is looked at before the first fault is told."""
    from stages.data import editors

    samples = {sample.id: sample for sample in ctx.dataset.split("train")}
    kind, found = editors.read(editors.find(Path(config.folder)))
    taking = _Import(config, ctx.out, samples, ctx.dataset.classes, read_exported(ctx.out.parent))
    faults: list[StageError] = []
    with ctx.track("importing", len(found)) as meter:
        for source in found:
            try:
                taking.take(source)
            except StageError as fault:
                faults.append(fault)
            meter.advance()
    raise_first(faults, len(found))
    if not taking.taken:
        raise StageError(
            f"No corrected mask in {config.folder}",
            f"of {len(found)} images {taking.noticed['unchanged']} are as they were exported and {taking.noticed['empty']} empty",
            "Correct some and save them, or take what was found to be right with --all",
        )
    counts = {key: taking.noticed[key] for key in ("unchanged", "empty", "beyond_labels")}
    notes = {"folder": config.folder, "format": kind, "images": len(taking.taken), "of": len(samples), **counts}
    return Outputs([mask_path(Path(), image_id) for image_id in sorted(taking.taken)], notes=notes)


def mask_digest(mask: Array) -> str:
    """A short content digest of a mask (H,W)."""
    import hashlib

    return hashlib.sha256(f"{mask.shape} ".encode() + mask.tobytes()).hexdigest()[:16]


def read_exported(folder: Path) -> dict[str, list[str]]:
    """Digests of the masks that were given out to be corrected, by image."""
    return read_json(folder / EXPORTED) or {}


def note_exported(folder: Path, digests: Mapping[str, str]) -> None:
    """Add the digests of masks that are given out to those of earlier times."""
    known = read_exported(folder)
    for image_id, digest in digests.items():
        known[image_id] = list(dict.fromkeys([*known.get(image_id, []), digest]))
    write_json(folder / EXPORTED, known)
