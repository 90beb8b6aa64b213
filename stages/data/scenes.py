"""The demo's pictures: animals whose class shows in the face and hardly in the coat, drawn with numpy alone.

The scene is made for the case that BAS exists for. A face tells its class at a glance, but some animals look away. A
coat is patched: most patches have one of its class's two colours, each of which another class wears too, so a patch
decides nothing and the whole coat does. Boulders wear patches of every colour and belong to no class, so fur alone is
no object. Coats are warm and backgrounds cool: edges are plain to a CRF while the class behind them is not.

In herds most animals of a scene are of one class and may overlap, so that a mask of their class is not yet one of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]  # of floats, single or double
Ids = NDArray[np.uint8]

# One colour a class: a class's coat is mostly its own colour and the next class's.
_COATS = np.array([(196, 178, 168), (206, 168, 92), (196, 104, 58), (112, 80, 66), (158, 96, 120)], np.float32)
_GROUNDS = np.array([(70, 122, 62), (58, 116, 128), (92, 112, 152), (44, 88, 66), (132, 172, 186)], np.float32)
_OWN = 0.82  # share of a coat's patches in its class's two colours; the other three share the rest
_PATCH = 10.0  # side of a patch of coat, in pixels of an 80-pixel image
_AWAY = 0.18  # share of the animals that look away
_SHORT, _LONG = 32, 56  # lengths of animals, in pixels of an 80-pixel image
_CLEAR, _CROWDED = 0.56, 0.36  # distance of two figures that is kept, in the sum of their lengths: apart, in herds
_ALIKE = 0.8  # share of a herd that is of its first animal's class


@dataclass(frozen=True)
class Animal:
    """One figure of a scene: `kind` is its class id, 0 for a boulder. Lengths and places in pixels, angle in radians."""

    kind: int
    x: float
    y: float
    length: float
    height: float
    angle: float
    facing: int


def scene(size: int, seed: int, index: int, herds: bool = False) -> tuple[Ids, Ids, Ids]:
    """Image (size,size,3), class ids (size,size) and instance numbers (size,size) of picture `index`."""
    rng = np.random.default_rng((seed, index))
    figures = _place(rng, size, herds)
    image = _ground(rng, size)
    classes, instances = np.zeros((2, size, size), np.uint8)
    for figure in figures:
        image, shape = _draw(rng, image, figure)
        classes[shape] = figure.kind
        instances[shape] = instances.max() + 1 if figure.kind else 0
    grain = rng.normal(0, 5, image.shape)
    return np.clip(image + grain, 0, 255).astype(np.uint8), classes, instances


def _place(rng: np.random.Generator, size: int, herds: bool) -> list[Animal]:
    """One to three animals and one or two boulders that keep clear of each other, herds less so."""
    unit = size / 80
    animals = int(rng.choice([1, 2, 3], p=[0.4, 0.4, 0.2]))
    kinds = [int(k) for k in rng.choice(np.arange(1, len(_COATS) + 1), animals, replace=False)]
    if herds:
        kinds[1:] = [kinds[0] if rng.random() < _ALIKE else kind for kind in kinds[1:]]
    kinds += [0] * int(rng.integers(1, 3))
    figures: list[Animal] = []
    for kind in kinds:
        for attempt in range(60):
            length = rng.uniform(_SHORT, _LONG) * unit * 0.985**attempt * (0.7 if kind == 0 else 1)
            x, y = rng.uniform(0.42 * length, size - 0.42 * length, 2).tolist()
            height, angle = length * rng.uniform(0.42, 0.6), rng.uniform(-0.5, 0.5)
            figure = Animal(kind, x, y, length, height, angle, facing=int(rng.choice([-1, 1])))
            if all(_apart(figure, other, _CROWDED if herds else _CLEAR) for other in figures):
                figures.append(figure)
                break
    return figures


def _apart(a: Animal, b: Animal, share: float) -> bool:
    """Whether two figures keep a distance: their centres are further apart than SHARE of both lengths."""
    return np.hypot(a.x - b.x, 1.25 * (a.y - b.y)) > share * (a.length + b.length)


def _ground(rng: np.random.Generator, size: int) -> Array:
    """A cool, textured background (size,size,3): two hues in broad swathes, and blades or ripples over them."""
    first, second = _GROUNDS[rng.choice(len(_GROUNDS), 2, replace=False)]
    swathe = _smooth(rng, size, 4)[..., None]
    image = first * swathe + (0.6 * first + 0.4 * second) * (1 - swathe)
    rows, columns = np.mgrid[:size, :size] * (80 / size)
    angle, wave = rng.uniform(0, np.pi), rng.uniform(0.6, 1.4)
    ripple = np.sin(wave * (np.cos(angle) * columns + np.sin(angle) * rows) + 5 * _smooth(rng, size, 7))
    blades = rng.normal(0, 1, (size, size))
    return (image + 9 * ripple[..., None] + 7 * blades[..., None]).astype(np.float32)


def _smooth(rng: np.random.Generator, size: int, cells: int) -> Array:
    """Soft noise in 0..1 (size,size): `cells` random knots a side, joined by cosine ramps."""
    knots = rng.random((cells + 1, cells + 1))
    place = np.linspace(0, cells - 1e-6, size)
    low = place.astype(int)
    ramp = (1 - np.cos(np.pi * (place - low))) / 2
    rows = knots[low] * (1 - ramp)[:, None] + knots[low + 1] * ramp[:, None]
    return (rows[:, low] * (1 - ramp) + rows[:, low + 1] * ramp).astype(np.float32)


def _draw(rng: np.random.Generator, image: Array, figure: Animal) -> tuple[Array, NDArray[np.bool_]]:
    """Paint a figure over the image; return the new image and the figure's visible pixels (size,size)."""
    along, up = _axes(image.shape[0], figure)
    coat = _coat(rng, image.shape[0], figure)
    if figure.kind == 0:
        distance = _boulder(rng, along, up)
        image = _blend(image, coat, distance, figure.length)
        return image, distance < 0
    body = _body(rng, along, up, figure.height / figure.length)
    image = _blend(image, coat, body, figure.length)
    s, t = along - 0.36, up - 0.22
    radius = 0.17
    head = np.hypot(s, t) - radius
    ears = np.minimum(np.hypot(s - 0.11, t - 0.15), np.hypot(s + 0.11, t - 0.15)) - 0.055
    head = np.minimum(head, ears)
    away = rng.random() < _AWAY
    image = _blend(image, coat * 0.85 if away else _face(figure.kind, s / radius, t / radius), head, figure.length)
    return image, np.minimum(body, head) < 0


def _axes(size: int, figure: Animal) -> tuple[Array, Array]:
    """Coordinates (size,size) along and above a figure, in its lengths: the head is at along > 0, up > 0."""
    rows, columns = np.mgrid[:size, :size].astype(np.float32)
    dx, dy = (columns - figure.x) * figure.facing, rows - figure.y
    cos, sin = np.cos(figure.angle), np.sin(figure.angle)
    return (dx * cos + dy * sin) / figure.length, (dx * sin - dy * cos) / figure.length


def _body(rng: np.random.Generator, along: Array, up: Array, ratio: float) -> Array:
    """Signed distance (lengths) to trunk, legs and tail."""
    trunk = (np.hypot(along + 0.06, (up - 0.02) / ratio * 0.8) - 0.38) * ratio
    parts = [trunk]
    for foot in (-0.36, -0.22, 0.1, 0.24):
        parts.append(_segment(along, up, (foot * 0.9, -0.1), (foot + rng.uniform(-0.08, 0.08), -0.42), 0.055))
    parts.append(_segment(along, up, (-0.38, 0.06), (-0.54, rng.uniform(-0.1, 0.3)), 0.04))
    return np.minimum.reduce(parts)


def _segment(x: Array, y: Array, start: Sequence[float], end: Sequence[float], radius: float) -> Array:
    """Signed distance to a rounded stroke from `start` to `end`."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    t = np.clip(((x - start[0]) * dx + (y - start[1]) * dy) / (dx * dx + dy * dy), 0, 1)
    return np.hypot(x - start[0] - t * dx, y - start[1] - t * dy) - radius


def _boulder(rng: np.random.Generator, along: Array, up: Array) -> Array:
    """Signed distance (lengths) to a lump of three overlapping discs."""
    discs = [np.hypot(along - rng.uniform(-0.2, 0.2), up - rng.uniform(-0.12, 0.12)) - rng.uniform(0.2, 0.3) for _ in range(3)]
    return np.minimum.reduce(discs)


def _coat(rng: np.random.Generator, size: int, figure: Animal) -> Array:
    """Patched fur (size,size,3): cells in the colours of all classes, most often the own class's (none for boulders)."""
    step = _PATCH * size / 80
    count = max(4, int((1.3 * figure.length / step) ** 2))
    reach = 0.65 * figure.length
    spots = (np.array([figure.x, figure.y]) + rng.uniform(-reach, reach, (count, 2))).astype(np.float32)
    share = np.full(len(_COATS), 1 / len(_COATS))
    if figure.kind:
        share[:] = (1 - _OWN) / (len(_COATS) - 2)
        share[[figure.kind - 1, figure.kind % len(_COATS)]] = _OWN / 2
    colours = _COATS[rng.choice(len(_COATS), count, p=share)]
    pixels = np.indices((size, size), np.float32)[::-1].reshape(2, -1)
    nearest = ((spots**2).sum(1)[:, None] - 2 * spots @ pixels).argmin(0)
    coat = colours[nearest].reshape(size, size, 3)
    hair = rng.normal(0, 12, (size, size, 1))
    return (coat * rng.uniform(0.9, 1.1) + hair).astype(np.float32)


def _face(kind: int, x: Array, y: Array) -> Array:
    """The face of a class (size,size,3) in head radii around its centre: the one place that tells the class at once."""
    black, white = np.array((24, 22, 26), np.float32), np.array((244, 242, 236), np.float32)
    radius = np.hypot(x, y)
    eyes = np.hypot(np.abs(x) - 0.42, y - 0.2) < 0.3
    base, ink, marks = (
        (white, black, np.sin(7.5 * x) > 0.1),
        (np.array((240, 196, 40), np.float32), black, np.sin(7 * x) * np.sin(7 * y) > 0.3),
        (np.array((232, 92, 20), np.float32), white, y < -0.15),
        (white, black, eyes | (radius > 1.05)),
        (np.array((40, 90, 230), np.float32), np.array((226, 30, 40), np.float32), np.abs(x) < 0.3),
    )[kind - 1]
    return np.where(marks[..., None], ink, base)


def _blend(image: Array, paint: Array, distance: Array, length: float) -> Array:
    """Paint where `distance` (lengths) is negative, with an edge one pixel soft."""
    cover = np.clip(0.5 - distance * length, 0, 1)[..., None]
    return image * (1 - cover) + paint * cover
