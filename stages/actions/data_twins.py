"""Images that are there twice: the same bytes, or pictures that look alike; across splits these are leaks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from stages.actions.findings import Case
from stages.data.census import Census, Entry
from stages.data.inspection import Facts
from stages.formulas.perceptual import near_pairs

# Of 128 bits. New compression or size changed 6 at most, contrast 8, brightness 14; crops of 2 % 9 in the median, 16 at most.
NEAR = 14
ALIKE = 0.92  # correlation of the small grey pictures of a near pair; the highest of two different photographs was .89
AT_ONCE = 100_000  # pairs whose pictures are compared together


def cases(census: Census, facts: Mapping[str, Facts]) -> Iterator[tuple[str, Case]]:
    """Conflicts, leaks and doubles."""
    same = _same_bytes(census.entries, facts)
    for group in same:
        yield _of_same(group)
    first_of = [group[0] for group in same]
    doubled = {entry.file for group in same for entry in group}
    single = [entry for entry in census.entries if entry.file not in doubled]
    yield from map(_of_near, _near(_visible([*single, *first_of], facts), facts))


def _same_bytes(entries: Sequence[Entry], facts: Mapping[str, Facts]) -> list[list[Entry]]:
    groups: dict[bytes, list[Entry]] = {}
    for entry in entries:
        if facts[entry.file].bytes:
            groups.setdefault(facts[entry.file].digest, []).append(entry)
    return [group for group in groups.values() if len(group) > 1]


def _of_same(group: Sequence[Entry]) -> tuple[str, Case]:
    case = Case(tuple(entry.file for entry in group))
    if _leaks(group):
        return "same bytes in two splits", case
    labels = {entry.labels for entry in group if entry.labels}
    return ("same bytes, other labels" if len(labels) > 1 else "same bytes twice"), case


def _leaks(group: Sequence[Entry]) -> bool:
    """Whether one is trained on and another one is what the final numbers are of."""
    return any(entry.trained for entry in group) and any("val" in entry.roles for entry in group)


def _visible(entries: Sequence[Entry], facts: Mapping[str, Facts]) -> list[Entry]:
    """Those that show something: pictures of one colour are all alike."""
    return [entry for entry in entries if facts[entry.file].code and "one colour" not in facts[entry.file].traits]


def _near(entries: Sequence[Entry], facts: Mapping[str, Facts]) -> list[list[Entry]]:
    """Groups of entries that look alike, each to another one of its group."""
    if not entries:
        return []
    codes = np.stack([np.frombuffer(facts[entry.file].code, np.uint8) for entry in entries])
    thumbs = np.stack([np.frombuffer(facts[entry.file].thumb, np.uint8) for entry in entries])
    distinct, places = np.unique(codes, axis=0, return_inverse=True)
    order = np.argsort(places.reshape(-1), kind="stable")
    begin = np.searchsorted(places.reshape(-1)[order], np.arange(len(distinct)))
    equal = np.stack([order[begin[places.reshape(-1)]], np.arange(len(entries))], 1)  # each with the first of its code
    pairs = np.concatenate([equal[equal[:, 0] != equal[:, 1]], order[begin][near_pairs(distinct, NEAR)].reshape(-1, 2)])
    return [[entries[i] for i in group] for group in _joined(_alike(pairs, thumbs), len(entries))]


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
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    links = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    _, names = connected_components(links, directed=False)
    groups: dict[int, list[int]] = {}
    for index in np.unique(pairs):
        groups.setdefault(int(names[index]), []).append(int(index))
    return list(groups.values())


def _of_near(group: Sequence[Entry]) -> tuple[str, Case]:
    kind = "near-duplicate in two splits" if _leaks(group) else "near-duplicates"
    return kind, Case(tuple(entry.file for entry in group))
