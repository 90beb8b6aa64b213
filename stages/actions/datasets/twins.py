"""Images that are there twice: the same bytes, or pictures that look alike; across splits these are leaks."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stages.actions.datasets.findings import Case
from stages.core.files import sha256
from stages.data.census import Census, Entry
from stages.data.inspection import THUMB, Facts
from stages.formulas.perceptual import SIDE, difference_code, near_pairs

# Of 128 bits. New compression or size changed 6 at most, contrast 8, brightness 14; crops of 2 % 9 in the median, 16 at most.
NEAR = 14
ALIKE = 0.92  # correlation of the small grey pictures of a near pair; the highest of two different photographs was .89
AT_ONCE = 100_000  # pairs whose pictures are compared together


def cases(census: Census, facts: Mapping[str, Facts]) -> Iterator[tuple[str, Case]]:
    """Conflicts, leaks and doubles."""
    for entry in census.entries:
        if entry.copies:
            yield "same file in two classes", Case((entry.file, *entry.copies))
    same = _same_bytes(census.entries, facts)
    for group in same:
        yield _of_same(group)
    first_of = [group[0] for group in same]
    doubled = {entry.file for group in same for entry in group}
    single = [entry for entry in census.entries if entry.file not in doubled]
    yield from map(_of_near, _near(_visible([*single, *first_of], facts), facts))


def _same_bytes(entries: Sequence[Entry], facts: Mapping[str, Facts]) -> list[list[Entry]]:
    """Groups of equal files, hashed only where their number of bytes and their pictures are equal."""

    def seen(entry: Entry) -> Hashable:
        one = facts[entry.file]
        return (one.bytes, one.thumb) if one.bytes else None

    return [group for alike in _grouped(entries, seen) for group in _grouped(alike, _content)]


def _grouped(entries: Sequence[Entry], key: Callable[[Entry], Hashable]) -> list[list[Entry]]:
    """Entries of equal keys, where there are several; those without a key in none."""
    groups: dict[Hashable, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(key(entry), []).append(entry)
    return [group for found, group in groups.items() if found is not None and len(group) > 1]


def _content(entry: Entry) -> str | None:
    """The digest of a file, None where it can no longer be read."""
    try:
        return sha256(Path(entry.file))
    except OSError:
        return None


def _of_same(group: Sequence[Entry]) -> tuple[str, Case]:
    case = Case(tuple(entry.file for entry in group))
    if _leaks(group):
        return "same bytes in two splits", case
    labels = {entry.labels for entry in group if entry.labels is not None}  # that no class is there contradicts any class
    return ("same bytes, other labels" if len(labels) > 1 else "same bytes twice"), case


def _leaks(group: Sequence[Entry]) -> bool:
    """Whether one is trained on and another one is what the final numbers are of."""
    return any(entry.trained for entry in group) and any("val" in entry.roles for entry in group)


def _visible(entries: Sequence[Entry], facts: Mapping[str, Facts]) -> list[Entry]:
    """Those that show something: pictures of one colour are all alike."""
    return [entry for entry in entries if facts[entry.file].thumb and "one colour" not in facts[entry.file].traits]


def _near(entries: Sequence[Entry], facts: Mapping[str, Facts]) -> list[list[Entry]]:
    """Groups of entries that look alike, each to another one of its group."""
    if not entries:
        return []
    thumbs = np.stack([np.frombuffer(facts[entry.file].thumb, np.uint8) for entry in entries])
    distinct, places = np.unique(_codes(thumbs), axis=0, return_inverse=True)
    order = np.argsort(places.reshape(-1), kind="stable")
    begin = np.searchsorted(places.reshape(-1)[order], np.arange(len(distinct)))
    equal = np.stack([order[begin[places.reshape(-1)]], np.arange(len(entries))], 1)  # each with the first of its code
    pairs = np.concatenate([equal[equal[:, 0] != equal[:, 1]], order[begin][near_pairs(distinct, NEAR)].reshape(-1, 2)])
    return [[entries[i] for i in group] for group in _joined(_alike(pairs, thumbs), len(entries))]


def _codes(thumbs: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Difference codes of small pictures (N, THUMB * THUMB), each halved by Pillow's means: of columns, rounded, then of rows."""
    wide = thumbs.reshape(-1, THUMB, SIDE, 2).astype(np.uint16)
    high = ((wide[..., 0] + wide[..., 1] + 1) >> 1).reshape(-1, SIDE, 2, SIDE)
    return difference_code((high[:, :, 0] + high[:, :, 1] + 1) >> 1)


def _alike(pairs: NDArray[np.int64], thumbs: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Those PAIRS whose small pictures are correlated."""
    kept = [part[_correlation(thumbs, part) >= ALIKE] for part in np.array_split(pairs, len(pairs) // AT_ONCE + 1)]
    return np.concatenate(kept)


def _correlation(thumbs: NDArray[np.uint8], pairs: NDArray[np.int64]) -> NDArray[np.float32]:
    first, second = (thumbs[side].astype(np.float32) for side in pairs.T)
    first, second = (one - one.mean(1, keepdims=True) for one in (first, second))
    return (first * second).sum(1) / np.maximum(np.sqrt((first**2).sum(1) * (second**2).sum(1)), 1e-6)


def _joined(pairs: NDArray[np.int64], count: int) -> list[list[int]]:
    """Connected components of more than one of COUNT."""
    names, before = np.arange(count), np.full(count, -1)
    while not np.array_equal(names, before):  # each takes the least name of its neighbours, and that one's own
        before = names.copy()
        np.minimum.at(names, pairs, names[pairs].min(1, keepdims=True))
        names = names[names]
    groups: dict[int, list[int]] = {}
    for index in np.unique(pairs):
        groups.setdefault(int(names[index]), []).append(int(index))
    return list(groups.values())


def _of_near(group: Sequence[Entry]) -> tuple[str, Case]:
    kind = "near-duplicate in two splits" if _leaks(group) else "near-duplicates"
    return kind, Case(tuple(entry.file for entry in group))
