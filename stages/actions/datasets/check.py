"""`bas data check`: every image and mask of a dataset decoded once, and what would make training fail or mislead it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from stages.actions.datasets import outlines, twins
from stages.actions.datasets.findings import Case, Finding, found
from stages.core import interrupt, processes
from stages.core.limits import cores
from stages.core.stage import Reporter
from stages.data.census import Census, Entry
from stages.data.images import VOID
from stages.data.inspection import TRAITS, Facts, MaskFacts, inspect_all

CHUNK = 32  # files that a worker takes at once
FEW_FILES = 64  # that one process has looked at before others have started
TINY, HUGE = 32, 25_000_000  # pixels of the shorter side, of the whole
FEW = 10  # images of a class
INSEPARABLE = 0.95  # share of a class's images in which another one is
PRELOAD = ["stages.data.inspection"]


@dataclass(frozen=True)
class Report:
    """What came of a check."""

    census: Census
    facts: Mapping[str, Facts]  # by file
    masks: Mapping[str, MaskFacts]  # by the image's file
    findings: tuple[Finding, ...]

    @property
    def sound(self) -> bool:
        """Whether training would neither fail nor be misled."""
        return all(finding.severity != "error" for finding in self.findings)

    @cached_property
    def counts(self) -> dict[str, dict[str, int]]:
        """Images by class and role."""
        return {role: _class_counts(self.census, self.census.of(role)) for role in self.census.lists}

    @cached_property
    def together(self) -> list[list[int]]:
        """(C,C): training images that carry both classes; on the diagonal those that carry the one."""
        return _together(self.census)

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        splits = {role: {"list": name, "images": len(self.census.of(role))} for role, name in self.census.lists.items()}
        return {
            "root": str(self.census.root),
            "images": len(self.census.entries),
            "left out": {str(path): count for path, count in self.census.left_out.items()},
            "splits": splits,
            "classes": {"names": list(self.census.classes), "images": self.counts, "together": self.together},
            "masks": mask_summary(self.masks.values(), self.census.classes),
            "sound": self.sound,
            "findings": [finding.plain() for finding in self.findings],
        }


def check(census: Census, reporter: Reporter) -> Report:
    """Decode every image and mask of a census once, in as many processes as cores, and gather what is wrong or odd."""
    facts, masks = _look(census, reporter)
    used = frozenset(entry.file for entry in census.entries if entry.roles) if census.lists else None
    cases = [
        *_of_lists(census),
        *(pair for entry in census.entries for pair in _of_image(facts[entry.file])),
        *twins.cases(census, facts),
        *(pair for entry in census.entries if entry.file in masks for pair in _of_mask(census, entry, facts, masks[entry.file])),
        *outlines.cases(census, facts, reporter),
        *_of_classes(census),
    ]
    return Report(census, facts, masks, tuple(found(cases, used)))


def _look(census: Census, reporter: Reporter) -> tuple[dict[str, Facts], dict[str, MaskFacts]]:
    """Facts of images and masks by the image's file."""
    pairs = sorted({(entry.file, entry.mask) for entry in census.entries}, key=lambda pair: pair[0])
    chunks = [pairs[start : start + CHUNK] for start in range(0, len(pairs), CHUNK)]
    workers = 1 if len(pairs) <= FEW_FILES else min(cores(), len(chunks))
    facts: dict[str, Facts] = {}
    masks: dict[str, MaskFacts] = {}
    with reporter.track("images", len(pairs)) as meter:
        for looked in processes.in_pool(chunks, inspect_all, workers, PRELOAD) if workers > 1 else map(inspect_all, chunks):
            interrupt.check()
            facts |= {one.file: one for one, _ in looked}
            masks |= {one.file: mask for one, mask in looked if mask is not None}
            meter.advance(len(looked))
    return facts, masks


def _of_lists(census: Census) -> Iterator[tuple[str, Case]]:
    for words in census.trouble:
        yield "unreadable list or labels", Case((), words)
    lists: dict[str, list[str]] = {}  # by id: a file that two lists name is absent once
    for role, ids in census.absent.items():
        for i in ids:
            lists.setdefault(i, []).append(census.lists[role])
    for i, names in lists.items():
        yield "absent image", Case((), f"{i} in {' and '.join(dict.fromkeys(names))}")
    yield from (("label without image", Case((), name)) for name in census.unfound)
    for entry in census.entries:
        if "val" in entry.roles and entry.trained:
            yield "same id in two splits", Case((entry.file,))
        if census.unlabelled(entry) and not census.trouble:
            yield "no label", Case((entry.file,))
        if census.lists and not entry.roles:
            yield "in no list", Case((entry.file,))
    yield from (("unsupported format", Case((file,))) for file in census.unsupported)


def _of_image(one: Facts) -> Iterator[tuple[str, Case]]:
    if one.fault:
        yield ("empty file" if one.fault == "empty" else "broken image"), Case((one.file,), one.fault)
        return
    height, width = one.size
    if min(one.size) < TINY:
        yield "tiny", Case((one.file,), f"{width} x {height}")
    if height * width > HUGE:
        yield "huge", Case((one.file,), f"{width} x {height}")
    for trait in TRAITS:
        if trait in one.traits:
            yield trait, Case((one.file,), one.format if trait == "wrong suffix" else "")


def _of_mask(census: Census, entry: Entry, facts: Mapping[str, Facts], mask: MaskFacts) -> Iterator[tuple[str, Case]]:
    one, known = facts[entry.file], range(1, len(census.classes) + 1)
    if mask.fault:
        yield "broken mask", Case((entry.file, entry.mask or ""), mask.fault)
        return
    if not one.fault and mask.size != one.size:
        words = f"mask {mask.size[1]} x {mask.size[0]}, image {one.size[1]} x {one.size[0]}"
        yield "mask of another size", Case((entry.file, entry.mask or ""), words)
    shown = set(mask.pixels) - {0, VOID}
    unknown = sorted(shown - set(known))
    if unknown:
        yield "mask with unknown ids", Case((entry.file, entry.mask or ""), ", ".join(map(str, unknown)))
    if entry.labels:
        said = {index + 1 for index in entry.labels}
        names = {index: census.classes[index - 1] for index in known}
        more, fewer = sorted(shown & set(known) - said), sorted(said - shown)
        if more:
            yield "mask shows more than the labels", Case((entry.file,), ", ".join(names[i] for i in more))
        if fewer:
            yield "labels say more than the mask", Case((entry.file,), ", ".join(names[i] for i in fewer))


def _of_classes(census: Census) -> Iterator[tuple[str, Case]]:
    counts, together = _class_counts(census, census.of("train")), _together(census)
    if not any(counts.values()):
        return
    for index, (name, count) in enumerate(counts.items()):
        if 0 < count < FEW:
            yield "few images of a class", Case((), f"{name}: {count}")
        for other, both in enumerate(together[index]):
            if count >= FEW and other != index and both >= INSEPARABLE * count:
                yield "never without another class", Case((), f"{name} with {census.classes[other]}: {both} of {count}")


def _class_counts(census: Census, entries: Sequence[Entry]) -> dict[str, int]:
    counts = Counter(index for entry in entries for index in entry.labels or ())
    return {name: counts[index] for index, name in enumerate(census.classes)}


def _together(census: Census) -> list[list[int]]:
    table = [[0] * len(census.classes) for _ in census.classes]
    for entry in census.of("train"):
        for first in entry.labels or ():
            for second in entry.labels or ():
                table[first][second] += 1
    return table


def mask_summary(masks: Iterable[MaskFacts], classes: Sequence[str]) -> dict[str, Any]:
    """How many masks there are, and the share of pixels of each id that occurs, by name."""
    good = [mask for mask in masks if not mask.fault]
    pixels: Counter[int] = Counter()
    for mask in good:
        pixels.update(mask.pixels)
    names = {0: "background", VOID: "void", **dict(enumerate(classes, 1))}
    total = max(pixels.total(), 1)
    shares = {names.get(index, f"id {index}"): round(count / total, 6) for index, count in sorted(pixels.items())}
    return {"count": len(good), "share of pixels": shares}
