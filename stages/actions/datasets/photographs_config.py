"""The settings that fit a folder of photographs, and the YAML that says them: by number, size and machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

Chosen = dict[str, dict[str, tuple[Any, str]]]  # section → setting → its value, and why

SMALL, LARGE = 512, 800  # pixels of the longer side at which networks see a photograph, without a GPU and with one


@dataclass(frozen=True)
class Photographs:
    """How many there are to train on, their typical longer side in pixels, and whether a GPU will see them."""

    train: int
    side: int
    gpu: bool


def choose(data: Photographs) -> tuple[str, Chosen]:
    """The shipped configuration to start from, and what is set otherwise."""
    chosen = _on_gpu(data) if data.gpu else _on_cpu(data)
    factor = min(1.0, (LARGE if data.gpu else SMALL) / max(data.side, 1))
    if factor < 1:
        for section, setting, values in _scaled(data.gpu):
            shrunk = [round(value * factor, 3) for value in values] if isinstance(values, tuple) else round(values * factor, 3)
            why = f"as seen when the longer side ({data.side} pixels) is {round(data.side * factor)}"
            chosen.setdefault(section, {})[setting] = (shrunk, why)
    return ("voc" if data.gpu else "voc_small"), chosen


def _on_cpu(data: Photographs) -> Chosen:
    """MobileNetV2 and the crops of `voc_small`: 24 epochs of its thousand photographs are 1,536 steps, which is the most here."""
    seed_batch, batch = _batch(data.train, 16), _batch(data.train, 8)
    return {
        "seed_train": {
            "backbone": ("mobilenet_v2", "learns in minutes on two cores"),
            "resize": (256, "photographs are warped to this side"),
            "crop": (224, "and squares of this one cut from them"),
            "batch": (seed_batch, ""),
            "epochs": _epochs(data.train, seed_batch, 24, (240, 1536)),
            "alpha": (0.5, "keeps every class's map in a short training, where .2 may lose one"),
        },
        "irn_train": {"crop": (320, ""), "batch": (batch, ""), "epochs": _epochs(data.train, batch, 3, (120, 400))},
        "segment_train": {
            "backbone": ("mobilenet_v2", ""),
            "crop": (241, ""),
            "batch": (batch, ""),
            "steps": (min(max(data.train, 300), 1000), ""),
        },
    }


def _on_gpu(data: Photographs) -> Chosen:
    """The paper's networks and crops; steps as for VOC's 10,582 photographs at most."""
    seed_batch, irn_batch, batch = _batch(data.train, 16), _batch(data.train, 32), _batch(data.train, 10)
    return {
        "seed_train": {
            "backbone": ("resnet50", "the paper's"),
            "resize": (512, "photographs are warped to this side"),
            "crop": (448, "and squares of this one cut from them"),
            "batch": (seed_batch, ""),
            "epochs": _epochs(data.train, seed_batch, 10, (600, 6610)),
        },
        "irn_train": {"batch": (irn_batch, ""), "epochs": _epochs(data.train, irn_batch, 3, (120, 990))},
        "segment_train": {
            "backbone": ("resnet101", "the paper's"),
            "crop": (321, ""),
            "batch": (batch, ""),
            "steps": (min(max(20 * data.train // batch, 3000), 30_000), ""),
        },
    }


def _batch(images: int, most: int) -> int:
    """At most a quarter of the images, so that a pass has four steps."""
    return max(min(most, images // 4), 2)


def _epochs(images: int, batch: int, published: int, bounds: tuple[int, int]) -> tuple[int, str]:
    """Passes that make as many steps as PUBLISHED passes do, within BOUNDS."""
    each = max(images // batch, 1)
    epochs = ceil(min(max(published * each, bounds[0]), bounds[1]) / each)
    return epochs, f"{epochs * each} steps"


def _scaled(gpu: bool) -> list[tuple[str, str, tuple[float, ...] | float]]:
    """The settings that count in sizes of the photograph, as they are for VOC's of 500 pixels and ours of 384."""
    common: list[tuple[str, str, tuple[float, ...] | float]] = [
        ("irn_train", "scales", (0.5, 1.5)),
        ("segment_train", "crop_scales", (0.5, 0.75, 1.0, 1.25, 1.5)),
        ("segment_predict", "scales", (1.0, 0.5, 0.75)),
    ]
    if gpu:
        return [("seed_infer", "scales", (1.0, 0.5, 1.5, 2.0)), *common]
    judged = [("seed_infer", "judge_scale", 0.5), ("mask_choice", "judge_scale", 0.5)]
    return [("seed_infer", "scales", (0.5, 0.75, 1.0)), *judged, *common]


def plain(base: Mapping[str, Any], chosen: Chosen) -> dict[str, Any]:
    """What CHOSEN changes of BASE, as a configuration's plain values."""
    from stages.core.config import merge

    return merge(dict(base), {section: {name: value for name, (value, _) in rows.items()} for section, rows in chosen.items()})


def text(head: list[str], base: str, data: Mapping[str, Any], chosen: Chosen) -> str:
    """The configuration as YAML, with HEAD as its comment and the reasons beside the settings."""
    lines = [
        *(f"# {' '.join(line.split())}" for line in head),
        f"base: {base}  # what is not set here is as there",
        "eval: {subset: null}",
        "data:",
    ]
    lines += [f"  {name}: {_yaml(value)}" for name, value in data.items()]
    for section, rows in chosen.items():
        lines.append(f"{section}:")
        lines += [f"  {name}: {_yaml(value)}{f'  # {why}' if why else ''}" for name, (value, why) in rows.items()]
    return "\n".join(lines) + "\n"


def _yaml(value: Any) -> str:
    import yaml

    written = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000)
    return written.removesuffix("...\n").strip()
