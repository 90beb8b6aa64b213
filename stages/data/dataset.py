"""A dataset as the stages see it: splits of samples with image-level labels, and masks for evaluation alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from stages.core.config import Field, Section, validate
from stages.core.errors import StageError
from stages.core.files import HashCache, digest
from stages.data import formats
from stages.data.clean import Sifted, costs, sift
from stages.data.labels import Labels
from stages.data.readers import Place, Reader, open_reader

TRUE_MASKS = "true_masks"  # folder of a run: what a reader draws for evaluation
LABELLED = ("train", "score")  # splits whose images need image-level labels
ROLES = (*LABELLED, "val")  # of lists, as the configuration names them
NEGATIVES = "negatives"  # the split of images without any class


class Generated(Section):
    """What the generated dataset holds."""

    train: int = Field(1000, description="Images to train on.", ge=1)
    val: int = Field(200, description="Images for the final numbers.", ge=1)
    size: int = Field(80, description="Side of the square images, in pixels.", ge=32)
    seed: int = Field(0, description="Seed of the images.", ge=0)
    herds: bool = Field(False, description="Several animals of a class in a scene, which may overlap: to try instance masks on.")


class Config(Section):
    """Where the photographs lie and which lists are which."""

    reader: Literal["voc", "coco", "demo", "folder", "table"] = Field(
        "voc",
        description="voc (devkit layout), coco (COCO's documents of instances), demo (generated), "
        "folder (one sub-folder a class) or table (a file of labels).",
    )
    root: str | None = Field(None, description="The dataset's folder; --data sets it.")
    labels: str | None = Field(None, description="A file of image-level labels; --labels sets it.")
    train: str = Field("train_aug", description="List of images to train on; seeds and masks are made for all of them.")
    score: str = Field("train", description="List, part of train, whose masks score the seeds and pseudo masks.")
    val: str = Field("val", description="List for the final numbers; nothing is chosen on it.")
    lists: str | None = Field(
        None, description="folder, table: where the lists lie, from the run's folder if it is no full path; empty: in root."
    )
    classes: tuple[str, ...] | None = Field(
        None, description="folder, table: the classes in the order of their ids; empty: all that are found, sorted."
    )
    negatives: Literal["leave out", "keep"] = Field(
        "leave out",
        description="Images to train on without any class: left out, or kept as pure background for the segmentation network.",
    )
    require_labels: bool = Field(False, description="Make an image without a label an error instead of leaving it out.")
    generate: Generated | None = Field(None, description="demo: counts, size and seed of the generated images.")

    @property
    def recipe(self) -> Generated | None:
        """What is generated; None where photographs are read."""
        return (self.generate or validate(Generated, {}, "data.generate")) if self.reader == "demo" else None


@dataclass(frozen=True)
class Sample:
    """One image: its id, the path of its file, and present classes (0-based)."""

    id: str
    file: str  # text: to know that thousands of images are as they were, none needs a Path
    labels: tuple[int, ...]

    @property
    def image(self) -> Path:
        """Its file."""
        return Path(self.file)


@dataclass(frozen=True)
class Dataset:
    """Images by split. `train` leaves unlabelled images out; `val` needs no labels."""

    config: Config
    reader: Reader

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names without background, in the order of their ids."""
        return self.reader.classes

    @cached_property
    def _splits(self) -> dict[str, tuple[Sample, ...]]:
        return {}

    @cached_property
    def _sifted(self) -> dict[str, Sifted]:
        return {}

    def _sift(self, name: str) -> Sifted:
        if name not in self._sifted:
            self._sifted[name] = sift(self.reader, name, self.reader.ids(name))
        return self._sifted[name]

    def _ids(self, name: str) -> tuple[str, ...]:
        """Ids of the list NAME, without what a clean list leaves out."""
        return self._sift(name).require(name)

    @property
    def left_out(self) -> dict[Path, int]:
        """How many images of the lists to train on and for the final numbers each clean list leaves out."""
        return costs(self._sift(name) for name in (self.config.train, self.config.val) if self.reader.has_list(name))

    @cached_property
    def _labels(self) -> tuple[Labels, str]:
        return self.reader.labels(self._ids(self.config.train))

    @property
    def label_source(self) -> str:
        """Where the image-level labels come from."""
        return self._labels[1]

    def split(self, role: str) -> tuple[Sample, ...]:
        """Samples of "train", "score" or "val", or of any list of the dataset's by its own name: that needs no labels.

        "negatives" are those of the training list that are kept as pure background. Raises StageError on absent files and
        when no image of train or score has a label.
        """
        if role not in self._splits:
            self._splits[role] = self._read(role)
        return self._splits[role]

    def _read(self, role: str) -> tuple[Sample, ...]:
        if role == NEGATIVES:
            return tuple(Sample(i, file, ()) for i, file in zip(self._negatives, self._files_of(self._negatives), strict=True))
        name = getattr(self.config, role) if role in ROLES else role
        ids = self._ids(name)
        files = self.reader.files(ids, name)
        labels = self._labels[0] if role in LABELLED else {}
        samples = tuple(Sample(i, file, labels.get(i, ())) for i, file in zip(ids, files, strict=True))
        if role not in LABELLED:
            return samples
        self._guard(role, name, ids)
        return self._labelled(samples, name)

    @cached_property
    def _negatives(self) -> tuple[str, ...]:
        """Ids of the training list of which the labels say that no class is there, where these are kept."""
        if self.config.negatives == "leave out":
            return ()
        return tuple(i for i in self._ids(self.config.train) if self._labels[0].get(i) == ())

    def _files_of(self, ids: tuple[str, ...]) -> list[str]:
        return self.reader.files(ids, self.config.train) if ids else []

    def _guard(self, role: str, name: str, ids: tuple[str, ...]) -> None:
        """Refuse to train on images of the final numbers, and to score images that no seeds are made for."""
        if role == "train" and self.reader.has_list(self.config.val):
            leaked = sorted(set(ids) & set(self._ids(self.config.val)))
            if leaked:
                raise StageError(
                    f"List '{name}' holds images of '{self.config.val}'",
                    f"{len(leaked)} images would be trained on and evaluated, first '{leaked[0]}'",
                    "Take them off one of the lists, or set data.train or data.val",
                )
        if role == "score":
            strays = sorted(set(ids) - set(self._ids(self.config.train)))
            if strays:
                raise StageError(
                    f"List '{name}' is not part of '{self.config.train}'",
                    f"{len(strays)} of its images get no seeds, first '{strays[0]}'",
                    "Set data.score to a part of data.train",
                )

    def _labelled(self, samples: tuple[Sample, ...], name: str) -> tuple[Sample, ...]:
        kept = set(self._negatives)
        samples = tuple(sample for sample in samples if sample.id not in kept)
        labelled = tuple(sample for sample in samples if sample.labels)
        if not labelled or (self.config.require_labels and len(labelled) < len(samples)):
            missing = next((s.id for s in samples if not s.labels), "all of them pure background")
            raise StageError(
                f"{'No' if not labelled else 'Not every'} image of list '{name}' has a label",
                f"{len(samples) - len(labelled)} of {len(samples)} have none in {self.label_source}, first '{missing}'",
                "Add labels, or give a file with --labels",
            )
        return labelled

    @cached_property
    def unlabelled(self) -> tuple[str, ...]:
        """Ids of the training list without a label: left out, counted, warned of."""
        labels = self._labels[0]
        kept = set(self._negatives)
        return tuple(i for i in self._ids(self.config.train) if not labels.get(i) and i not in kept)

    def mask(self, sample: Sample) -> Path | None:
        """The true mask of a sample if there is one: for evaluation alone."""
        return self.reader.mask(sample.id)

    def digest(self, role: str, hashes: HashCache) -> str | None:
        """Content digest of a split: ids, image bytes, labels, class names; None of negatives where there are none."""
        if role == NEGATIVES and not self._negatives:
            return None
        rows = [[s.id, _hash(s, hashes), list(s.labels)] for s in self.split(role)]
        return digest({"classes": list(self.classes), "rows": rows})


def _hash(sample: Sample, hashes: HashCache) -> str:
    try:
        return hashes.of(sample.file)
    except OSError as error:
        raise StageError(f"Cannot read image {sample.file}", error.strerror or "unreadable", formats.MEND) from error


def generated_root(run_dir: Path) -> Path:
    """Where the demo of a run is generated."""
    return run_dir / "data"


def require_generated(config: Config, run_dir: Path) -> None:
    """Raise StageError where images would have to be generated before the dataset can be opened."""
    wanted = config.recipe
    if wanted is None:
        return
    from stages.data import demo

    if not demo.is_there(generated_root(run_dir), **wanted.plain()):
        raise StageError("The images have to be generated", "those of these settings are not there", "`bas run` generates them")


def open_dataset(config: Config, run_dir: Path, watch: Callable[[Sequence[str]], Iterable[str]] = iter) -> Dataset:
    """Open the configured dataset; the demo is generated into the run's folder first, seen by WATCH. Raises StageError."""
    wanted = config.recipe
    if wanted is not None:
        from stages.data import demo

        root = demo.generate(generated_root(run_dir), **wanted.plain(), watch=watch)
        return Dataset(config, open_reader(demo.LAYOUT, Place(root)))
    return Dataset(config, open_reader(config.reader, place(config, run_dir)))


def place(config: Config, run_dir: Path) -> Place:
    """Where photographs lie that are not generated. Raises StageError where no folder is given."""
    if config.root is None:
        raise StageError("No data folder given", "this dataset does not come with the tool", "Say where it lies with --data DIR")
    labels = Path(config.labels) if config.labels else None
    lists = run_dir / config.lists if config.lists else None
    return Place(Path(config.root), labels, run_dir / TRUE_MASKS, config.classes, lists)
