"""Splits of labelled images: every set of labels is shared out alike, and the seed alone decides who goes where."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Mapping
from math import floor


def stratified(labels: Mapping[str, Collection[Hashable]], share: float, seed: int) -> tuple[list[str], list[str]]:
    """Ids to train on and to hold out, both sorted, of LABELS by id.

    round(SHARE * images) are held out: of each label set its own share, rounded down or up, where that leaves every label
    an image to train on. The order of LABELS does not matter.
    """
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for image_id in sorted(labels):
        groups[tuple(sorted(map(str, labels[image_id])))].append(image_id)
    draw = random.Random(seed)
    for group in groups.values():
        draw.shuffle(group)
    exact = {key: share * len(group) for key, group in groups.items()}
    counts = {key: floor(value) for key, value in exact.items()}
    left = Counter(label for key, group in groups.items() for label in key for _ in group[counts[key] :])
    missing = floor(share * len(labels) + 0.5) - sum(counts.values())
    for key in sorted(groups, key=lambda key: (counts[key] - exact[key], key)):
        if missing > 0 and exact[key] > counts[key] and all(left[label] > 1 for label in key):
            counts[key] += 1
            missing -= 1
            left.subtract(key)
    held = {image_id for key, group in groups.items() for image_id in group[: counts[key]]}
    return sorted(set(labels) - held), sorted(held)
