"""Pictures that look alike have codes that differ in few bits: difference hashes, and a search that is far from quadratic."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIDE = 9  # of the grey picture that a code is made of
BITS = 2 * (SIDE - 1) ** 2
AT_ONCE = 1 << 18  # pairs that are compared together
_ONES = np.array([bin(number).count("1") for number in range(1 << 16)], np.uint8)

Codes = NDArray[np.uint8]  # (N, BITS / 8)
Pairs = NDArray[np.int64]  # (P, 2), the lower row first


def difference_code(grey: NDArray[Any]) -> Codes:
    """The codes (…, BITS / 8) of pictures (…,SIDE,SIDE): where each becomes brighter to the right, and where downwards.

    The difference hash of N. Krawetz (2013) in both directions. It stays when brightness, contrast or size change.
    """
    right, down = grey[..., :-1, 1:] > grey[..., :-1, :-1], grey[..., 1:, :-1] > grey[..., :-1, :-1]
    bits = np.stack([right, down], axis=-3)
    return np.packbits(bits.reshape(*grey.shape[:-2], BITS), axis=-1)


def near_pairs(codes: Codes, most: int) -> Pairs:
    """All pairs of rows whose codes differ in at most MOST bits, each once, in order.

    Of MOST // 2 + 1 parts of two such codes one differs in one bit at most (the pigeonhole principle), so only rows of
    which a part does are compared. Bits that lie side by side in a picture go together: each part takes its bits far apart.
    """
    bits, count = np.unpackbits(codes, axis=1), max(most // 2 + 1, 2)  # at most 64 bits a part
    found = [pair for part in range(count) for pair in _close(codes, bits[:, part::count], most)]
    return np.unique(np.concatenate([np.zeros((0, 2), np.int64), *found]), axis=0)


def _close(codes: Codes, bits: NDArray[np.uint8], most: int) -> Iterator[Pairs]:
    """Pairs of rows whose BITS (N, at most 64) differ in at most one, and whose codes differ in at most MOST."""
    weights = np.uint64(1) << np.arange(bits.shape[1], dtype=np.uint64)
    keys = bits.astype(np.uint64) @ weights
    order = np.argsort(keys, kind="stable")
    keys, words = keys[order], np.ascontiguousarray(codes[order]).view(np.uint16)
    every, last = np.arange(len(keys)), np.searchsorted(keys, keys, "right")
    yield from _within(every, every + 1, last, order, words, most)
    for weight in weights:
        without = np.flatnonzero(keys & weight == 0)
        partners = keys[without] | weight
        begin = np.minimum(np.searchsorted(keys, partners), len(keys) - 1)
        there = keys[begin] == partners
        yield from _within(without[there], begin[there], last[begin[there]], order, words, most)


def _within(
    rows: NDArray[np.int64],
    begin: NDArray[np.int64],
    end: NDArray[np.int64],
    order: NDArray[np.int64],
    words: NDArray[np.uint16],
    most: int,
) -> Iterator[Pairs]:
    """Pairs of each of ROWS with rows BEGIN to END whose WORDS differ in at most MOST bits; ORDER: their original numbers."""
    until = np.cumsum(end - begin)
    for start in range(0, int(until[-1]) if len(until) else 0, AT_ONCE):
        place = np.arange(start, min(start + AT_ONCE, until[-1]))
        owner = np.searchsorted(until, place, "right")
        first, second = rows[owner], end[owner] - until[owner] + place
        near = _ONES[words[first] ^ words[second]].sum(1, dtype=np.int64) <= most
        yield np.sort(order[np.stack([first[near], second[near]], 1)], axis=1)
