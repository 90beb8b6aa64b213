"""timm's networks as trunks: the only place that imports timm, which is an optional dependency.

A network serves when it is a sequence of modules with four or more feature levels, of which the last has stride 16 or 32.
Its levels, as timm's `feature_info` states them, are our stages.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from stages.core import reading
from stages.core.config import TIMM
from stages.core.errors import StageError, first_line
from stages.data.transforms import MEAN, STD
from stages.nets.strides import PROBE

LEVELS = 5  # stages of a trunk: IRN taps each
NO_SEQUENCE = "its features do not come from a plain sequence of modules"
Cuts = tuple[tuple[str, ...], ...]


class Entry(nn.Module):
    """What images pass before a network of timm's: they are filled up to whole steps of STEP pixels, below and to the right.

    Some networks drop what is left of a step, where torchvision's trunks round up. Where the network's weights want other
    colours than ImageNet's, MEAN and STD bring the images to them.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, step: int, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.step, self.renormalise = step, (mean, std) != (MEAN, STD)
        ours, theirs = (torch.tensor(v, dtype=torch.float32).view(-1, 3, 1, 1) for v in ((MEAN, STD), (mean, std)))
        self.register_buffer("scale", ours[1:] / theirs[1:], persistent=False)
        self.register_buffer("shift", (ours[:1] - theirs[:1]) / theirs[1:], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B,3,H,W), normalised by ImageNet's colours → (B,3,H',W') of whole steps, normalised as the network wants it."""
        x = x * self.scale + self.shift if self.renormalise else x
        return nnf.pad(x, (0, -x.shape[3] % self.step, 0, -x.shape[2] % self.step))


@dataclass(frozen=True)
class Found:
    """A network of timm's with random weights, the paths of each stage's modules, where F1 ends, what makes the entry."""

    network: nn.Module
    cuts: Cuts
    split: int
    entry: Callable[[int], nn.Module]


def find(name: str) -> Found:
    """Make the network `timm:NAME` with random weights and cut it.

    Raises StageError when timm is absent, does not know the name (with the nearest), or the network does not fit.
    """
    network = _create(name, pretrained=False).eval()
    levels = getattr(network, "feature_info", None)
    rows = [dict(level) for level in levels] if isinstance(levels, (list, tuple)) else []
    strides = [row["reduction"] for row in rows]
    if len(rows) < 4 or strides[-1] not in (16, 32) or strides != sorted(set(strides)):
        stated = f"at strides {', '.join(map(str, strides))}" if strides else "nowhere"
        raise _unfit(name, f"timm states its features {stated}, not at four or more that rise to 16 or 32")
    cuts = _cuts(name, network, [row["module"] for row in rows])
    _compare(name, network, cuts, [row["num_chs"] for row in rows])
    cuts, strides = _five(name, cuts, strides)
    mean, std = _colours(network)
    split = next(index for index, stride in enumerate(strides, 1) if stride >= 16)
    return Found(network, cuts, min(split, LEVELS - 1), partial(Entry, mean=mean, std=std))


def pretrained(name: str) -> tuple[dict[str, Tensor], Path | None]:
    """The weights that timm fetches for `timm:NAME`, and their file where it came from the hub.

    Raises StageError when there are none or they cannot be fetched.
    """
    todo = "Set weights=none or give a local file with --weights FILE"
    with reading.told(f"Cannot fetch timm's weights of {name}", todo):
        network = _create(name, pretrained=True)
    from huggingface_hub import try_to_load_from_cache

    made: Any = network.pretrained_cfg
    file = try_to_load_from_cache(made["hf_hub_id"], "model.safetensors") if made.get("hf_hub_id") else None
    return network.state_dict(), Path(file) if isinstance(file, str) else None


def _create(name: str, pretrained: bool) -> nn.Module:
    if find_spec("timm") is None:
        raise StageError(f"Cannot use backbone '{name}'", "timm is not installed", "Install it: pip install 'bas-wsss[timm]'")
    import timm

    short = name.removeprefix(TIMM)
    if not timm.is_model(short):
        near = difflib.get_close_matches(short, timm.list_models(), n=1, cutoff=0.0)
        raise StageError(f"Unknown backbone '{name}'", "timm has no such model", f"Did you mean '{TIMM}{near[0]}'?")
    return timm.create_model(short, pretrained=pretrained)


def _unfit(name: str, why: str) -> StageError:
    return StageError(f"Backbone '{name}' does not fit", why, "Set another backbone")


def _colours(network: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of the images that the network's published weights were trained on."""
    made: Any = getattr(network, "pretrained_cfg", None) or {}
    return tuple(made.get("mean") or MEAN), tuple(made.get("std") or STD)


def _cuts(name: str, network: nn.Module, ends: list[str]) -> Cuts:
    """Paths of the modules up to each of ENDS, in the order in which they stand. Raises StageError where there is none."""
    paths = list(_paths(network, "", ends))
    places = [paths.index(end) + 1 for end in ends if end in paths]
    if len(places) < len(ends) or places != sorted(set(places)):
        raise _unfit(name, NO_SEQUENCE)
    return tuple(tuple(paths[start:stop]) for start, stop in pairwise([0, *places]))


def _paths(module: nn.Module, above: str, ends: list[str]) -> Iterator[str]:
    """The modules within MODULE in order; a sequence is opened where one of ENDS lies inside it."""
    for child_name, child in module.named_children():
        path = above + child_name
        if isinstance(child, nn.Sequential) and any(end.startswith(f"{path}.") for end in ends):
            yield from _paths(child, f"{path}.", ends)
        else:
            yield path


@torch.no_grad()
def _compare(name: str, network: nn.Module, cuts: Cuts, widths: list[int]) -> None:
    """Raise StageError unless the modules, one after the other, make the maps that the network itself makes there."""
    whole: dict[str, Tensor] = {}
    image = torch.linspace(-2, 2, 3 * PROBE**2).view(1, 3, PROBE, PROBE)

    def keep(path: str) -> RemovableHandle:
        def enter(_: nn.Module, __: tuple[Tensor, ...], made: Tensor) -> None:
            whole[path] = made.clone()

        return network.get_submodule(path).register_forward_hook(enter)

    hooks = [keep(cut[-1]) for cut in cuts]
    try:
        network.forward_features(image)  # type: ignore[operator]
        for hook in hooks:
            hook.remove()
        maps = _run(network, cuts, image)
    except Exception as error:  # a network of any kind, on a size that it may not take
        raise _unfit(name, f"it does not run on {PROBE} x {PROBE} pixels ({first_line(error)})") from error
    for made, cut, width in zip(maps, cuts, widths, strict=True):
        if made.ndim != 4 or made.shape[1] != width or not torch.equal(made, whole[cut[-1]]):
            raise _unfit(name, NO_SEQUENCE)


def _run(network: nn.Module, cuts: Cuts, x: Tensor) -> list[Tensor]:
    """The last map of each cut, as they are when all have run: one that a later module writes into is of no use."""
    maps = []
    for cut in cuts:
        for path in cut:
            x = network.get_submodule(path)(x)
        maps.append(x)
    return maps


def _five(name: str, cuts: Cuts, strides: list[int]) -> tuple[Cuts, list[int]]:
    """Five stages: levels before the fifth from the end are of its stage; of four levels the first gives off its stem."""
    if len(cuts) >= LEVELS:
        first = len(cuts) - LEVELS + 1
        return (tuple(path for cut in cuts[:first] for path in cut), *cuts[first:]), strides[first - 1 :]
    stem, layer = cuts[0][:-1], cuts[0][-1:]
    if not stem:
        raise _unfit(name, "its first level has no stem that could be a stage of its own")
    return (stem, layer, *cuts[1:]), [strides[0], *strides]
