"""Names of segmentation networks: our own, heads of mmsegmentation on our trunks, configs that it ships, a config's path.

Nothing of mmsegmentation is imported here: the command asks before any stage works.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from stages.core.errors import StageError

SETTING = "segment.network"  # that names one; where it is a path, the config's content counts, and what it builds on
OURS = "deeplabv2"
TITLES = {
    OURS: "DeepLabV2",
    "deeplabv3plus": "DeepLabV3+",
    "deeplabv3": "DeepLabV3",
    "upernet": "UPerNet",
    "pspnet": "PSPNet",
    "fcn": "FCN",
}  # of networks on a trunk of our table
HEADS = tuple(TITLES)[1:]  # those whose head is mmsegmentation's
ALIASES = {"segformer": "segformer_mit-b0"}  # networks with a trunk of their own, by their usual name
OF_TRUNKS = ("imagenet", "coco", "seed")  # initial weights of our trunks alone
SUFFIX = ".py"
NO_MODELS = ("datasets", "schedules")  # folders of the shipped configs that hold parts without a network


def takes_trunk(name: str) -> bool:
    """Whether the network stands on a trunk of our table; others bring their own."""
    return name == OURS or name in HEADS


def title(name: str, backbone: str) -> str:
    """The network in words, with its trunk where it is one of our table."""
    return f"{TITLES[name]} on {backbone}" if takes_trunk(name) else Path(name).stem if is_file(name) else name


def is_file(name: str) -> bool:
    """Whether NAME is meant as the path of a config."""
    return name.endswith(SUFFIX)


@cache
def shipped() -> dict[str, Path]:
    """The configs of networks that the installed mmsegmentation ships, by name."""
    spec = find_spec("mmseg")
    roots = [Path(folder) / ".mim" / "configs" for folder in (spec.submodule_search_locations or ())] if spec else []
    files = [path for root in roots for path in root.glob(f"**/*{SUFFIX}")]
    return {path.stem: path for path in sorted(files) if path.parent.name not in NO_MODELS and path.stem != "default_runtime"}


def config_file(name: str) -> Path:
    """The config that NAME, no network on our trunks, stands for. Raises StageError where there is none, with the nearest."""
    if is_file(name):
        path = Path(name).expanduser()
        if not path.is_file():
            raise StageError(f"Cannot read network {name}", "no such file", "Give the path of an mmsegmentation config")
        return path
    found = shipped().get(ALIASES.get(name, name))
    if found is None:
        known = [OURS, *HEADS, *ALIASES]
        near = list(dict.fromkeys(difflib.get_close_matches(name, known, 1, 0.5) + difflib.get_close_matches(name, shipped(), 3)))
        meant = f"Did you mean {' or '.join(near)}? " if near else ""
        todo = f"{meant}Use {', '.join(known)}, a config that mmsegmentation ships, or the path of one"
        raise StageError(f"Unknown network '{name}'", "neither ours nor mmsegmentation's", todo)
    return found


def check(name: str, weights: str) -> None:
    """Raise StageError on a name that stands for no network, and on initial WEIGHTS that it cannot have."""
    if not takes_trunk(name):
        config_file(name)
        check_weights(name, weights)


def check_weights(name: str, weights: str) -> None:
    """Raise StageError where WEIGHTS are of our trunks, as network NAME has one of its own."""
    if weights in OF_TRUNKS:
        todo = "Set segment_train.weights=none, or give a state dict of the network or of its trunk with --weights FILE"
        raise StageError(f"No {weights} weights for network {name}", "it brings a trunk of its own", todo)


def files(name: str) -> Iterator[Path]:
    """The files of the user's own that decide network NAME: a config given by its path, and those that it builds on.

    What mmsegmentation ships is decided by its version. A config is read as text and not run.
    """
    if is_file(name):
        yield from _with_bases(config_file(name))


def _with_bases(path: Path) -> Iterator[Path]:
    yield path
    try:
        body = ast.parse(path.read_text(encoding="utf-8")).body
    except (SyntaxError, ValueError):
        return
    for node in body:
        if isinstance(node, ast.Assign) and any(isinstance(one, ast.Name) and one.id == "_base_" for one in node.targets):
            named = [one.value for one in ast.walk(node.value) if isinstance(one, ast.Constant) and isinstance(one.value, str)]
            for base in (path.parent / name for name in named):
                if base.is_file():
                    yield from _with_bases(base)
