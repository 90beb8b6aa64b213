"""The dataset that a word means: a folder in a layout that is known, a folder of images, or a configuration."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from stages.actions import configure
from stages.actions.datasets.init import own_lists, recognise
from stages.core.errors import StageError
from stages.data import census, dataset
from stages.data.census import Census
from stages.data.readers import Reader, Unknown, open_reader
from stages.data.readers.voc import Devkit

LISTS = {"train": ("train_aug", "train"), "score": ("train",), "val": ("val",)}  # of a devkit, the first that is there


def open_census(word: str, data: Path | None, labels: Path | None, anew: bool = False) -> Census:
    """The census of the dataset that WORD names; DATA and LABELS go before what a configuration says.

    Clean lists are followed, unless they are to be made ANEW. Raises StageError.
    """
    folder = Path(word).expanduser()
    if not folder.is_dir():
        return _configured(word, data, labels, anew)
    try:
        layout, place = recognise(folder, labels)
    except Unknown:
        return census.of_folder(folder)
    except StageError as error:
        if labels is not None:
            raise
        return replace(census.of_folder(folder), trouble=(str(error),))
    reader = open_reader(layout, place)
    return census.take(reader, _lists(reader), negatives=True, anew=anew)


def _lists(reader: Reader) -> dict[str, str]:
    """The lists that a dataset has itself, by their roles: of a devkit those that are there."""
    if not isinstance(reader, Devkit):
        return own_lists(reader) or {}
    there = {role: next((name for name in names if reader.has_list(name)), None) for role, names in LISTS.items()}
    return {role: name for role, name in there.items() if name is not None}


def _configured(word: str, data: Path | None, labels: Path | None, anew: bool) -> Census:
    """The dataset of a configuration. Raises StageError where it is generated or its folder is not there."""
    named = {"root": data, "labels": labels}
    overrides = {"data": {key: str(path.expanduser().absolute()) for key, path in named.items() if path is not None}}
    config = configure.resolve(word, [], overrides)["data"]
    assert isinstance(config, dataset.Config)
    if config.recipe is not None:
        raise StageError(f"Nothing to check in {word}", "its images are generated", "Name a dataset of photographs")
    place = dataset.place(config, Path(word).parent)  # where lists that `bas data init` wrote may lie
    reader = open_reader(config.reader, replace(place, scratch=None))  # whoever looks does not draw masks
    return census.take(reader, {role: getattr(config, role) for role in LISTS}, config.negatives == "keep", anew)
