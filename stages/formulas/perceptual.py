"""Pictures that look alike have codes that differ in few bits: difference hashes, and a search that is not quadratic."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIDE = 9  # of the grey picture that a code is made of
BITS = 2 * (SIDE - 1) ** 2
_ONES = np.array([bin(byte).count("1") for byte in range(256)], np.uint8)

Codes = NDArray[np.uint8]  # (N, BITS / 8)
Pairs = NDArray[np.int64]  # (P, 2), the lower row first


def difference_code(grey: NDArray[Any]) -> Codes:
    """The code (BITS / 8,) of a picture (SIDE,SIDE): where it becomes brighter to the right, and where downwards.

    The difference hash of N. Krawetz (2013) in both directions. It stays when brightness, contrast or size change.
    """
    right, down = grey[:-1, 1:] > grey[:-1, :-1], grey[1:, :-1] > grey[:-1, :-1]
    return np.packbits(np.concatenate([right.ravel(), down.ravel()]))


def near_pairs(codes: Codes, most: int) -> Pairs:
    """All pairs of rows whose codes differ in at most MOST bits, each once, in order.

    Of MOST + 1 parts of two such codes one is equal (the pigeonhole principle), so only rows that share a part are compared.
    """
    parts = np.array_split(np.unpackbits(codes, axis=1), most + 1, axis=1)
    found = [pair for part in parts for pair in _close(codes, _keys(part), most)]
    pairs = np.concatenate([np.zeros((0, 2), np.int64), *found])
    return np.unique(pairs, axis=0)


def _keys(bits: NDArray[np.uint8]) -> NDArray[np.int64]:
    """One number for each distinct row (N, bits)."""
    return np.unique(np.packbits(bits, axis=1), axis=0, return_inverse=True)[1].reshape(-1)


def _close(codes: Codes, keys: NDArray[np.int64], most: int) -> Iterator[Pairs]:
    """Pairs of rows of one key whose codes differ in at most MOST bits: with the next of the key, with the one after it, …"""
    order = np.argsort(keys, kind="stable")
    keys, places = keys[order], np.arange(len(keys))
    step = 1
    while places.size:
        places = places[places + step < len(keys)]
        places = places[keys[places] == keys[places + step]]
        pairs = np.stack([order[places], order[places + step]], 1)
        yield pairs[_ONES[codes[pairs[:, 0]] ^ codes[pairs[:, 1]]].sum(1, dtype=np.int64) <= most]
        step += 1
