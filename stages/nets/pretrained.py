"""Initial weights: published ones by name, files of others by their names of tensors, and a report of what fitted."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stages.core import published, reading
from stages.core.config import TIMM
from stages.core.errors import StageError
from stages.core.files import sha256
from stages.nets import public_names
from stages.nets.backbones import CAFFE, Backbone

PUBLISHED = ("imagenet", "coco")


@dataclass(frozen=True)
class WeightReport:
    """What a weight file filled: names that the network misses and names in the file that nothing uses."""

    source: str
    loaded: int
    missing: tuple[str, ...]
    unused: tuple[str, ...]
    file: str = ""  # name and sha256 of the published file
    maker: str = ""  # whose names the file had, where they are not the trunk's own
    head: str = ""  # what became of the head of a segmentation network in the file, if there was one
    taught: bool = False  # whether layers were taken that masks have taught, of which nothing is known here

    def line(self) -> str:
        """One sentence for the log."""
        maker = f", names of {self.maker}" if self.maker else ""
        head = f"; {self.head}" if self.head else ""
        return (
            f"weights {self.source}{self.file and f' ({self.file})'}{maker}: {self.loaded} tensors loaded, "
            f"{len(self.missing)} missing{_some(self.missing)}, {len(self.unused)} unused{_some(self.unused)}{head}"
        )

    def facts(self) -> dict[str, Any]:
        """All of it as plain values, every name written out."""
        return asdict(self)


def _some(names: tuple[str, ...]) -> str:
    return f" ({', '.join(names[:4])}{', …' if len(names) > 4 else ''})" if names else ""


def load_weights(backbone: Backbone, source: str, head: nn.Module | None = None) -> WeightReport:
    """Fill a trunk from SOURCE: none (stay random), imagenet or coco (fetched by the trunk's maker) or a file.

    "coco" was trained on COCO's pixel labels (torchvision's DeepLabV3, or DeepLabV2's own start): a result must say so.
    Files are read weights-only, and names of public DeepLab checkpoints are known (`public_names`). HEAD, the pyramid of a
    DeepLabV2, is filled too where a file has one of as many classes. Raises StageError when the file is missing,
    unreadable or of another network.
    """
    if source == "none":
        return WeightReport("none", 0, tuple(backbone.state_dict()), ())
    state, file = (read_state(Path(source)), None) if source not in PUBLISHED else _published(backbone.name, source)
    found = public_names.recognise(state)
    _require_arithmetic(backbone.name, found, source)
    pyramid = {name: tensor for name, tensor in found.tensors.items() if name.startswith(public_names.HEAD)}
    report = fill(backbone, {name: tensor for name, tensor in found.tensors.items() if name not in pyramid}, source)
    words, taken = _fill_head(head, pyramid)
    return replace(
        report,
        file=f"{file.name}, sha256 {sha256(file)}" if file else "",
        maker=found.maker,
        head=words,
        taught=bool(taken),
        loaded=report.loaded + taken,
        unused=report.unused + (() if taken else tuple(pyramid)),
    )


def _require_arithmetic(name: str, found: public_names.Recognised, source: str) -> None:
    """Raise StageError where the weights of Caffe's ResNet would go into torchvision's: all names fit, and no number would."""
    if found.caffe and not name.endswith(CAFFE):
        raise StageError(
            f"Weights {source} are of Caffe's ResNet",
            f"{found.maker} strides in the first convolution of a block, and its pixels are BGR from 0 to 255; {name} does not",
            f"Set the stage's backbone to resnet101{CAFFE}",
        )


def _fill_head(head: nn.Module | None, pyramid: dict[str, Tensor]) -> tuple[str, int]:
    """Fill HEAD where the PYRAMID of a file fits; returns what was done in words, and the number of tensors."""
    classes = next((len(tensor) for tensor in pyramid.values()), 0)
    if head is None or not classes:
        return "", 0
    state = {name.removeprefix(public_names.HEAD): tensor for name, tensor in pyramid.items()}
    own = head.state_dict()
    if {key: tensor.shape for key, tensor in state.items()} != {key: tensor.shape for key, tensor in own.items()}:
        wanted = next(len(tensor) for tensor in own.values())
        return f"its head of {classes} classes is not taken, {wanted} are wanted", 0
    head.load_state_dict(state)
    return f"its head of {classes} classes is taken, which masks have taught that are not known here", len(state)


def _published(name: str, source: str) -> tuple[dict[str, Tensor], Path | None]:
    """torchvision's or timm's weights and the file that they are kept in, if it is known."""
    if name.startswith(TIMM) and source == "imagenet":
        from stages.nets import timm_trunks

        return timm_trunks.pretrained(name)
    address = published.TRUNKS.get(name, {}).get(source)
    if address is None:
        raise StageError(
            f"No {source} weights for backbone '{name}'", "none are published", "Set weights=none or give --weights FILE"
        )
    with reading.told(f"Cannot fetch weights {address}", "Give a local file with --weights FILE"):
        state = torch.hub.load_state_dict_from_url(address, map_location="cpu", check_hash=True, weights_only=True)
    return state, published.kept(address)


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a `.safetensors` or weights-only `.pth` file; a wrapping "state_dict" or "model" entry is opened."""
    if not path.is_file():
        raise StageError(f"Cannot read weights {path}", "no such file", "Check the path given to --weights")
    with reading.told(f"Cannot read weights {path}", "Give a state dict of tensors", "not a weights-only file ({})"):
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict):
        raise StageError(f"Cannot read weights {path}", "it holds no dictionary of tensors", "Give a state dict of tensors")
    return state


LEAST = 0.9  # of a trunk's tensors, below which weights are of another network


def fill(module: nn.Module, state: dict[str, Tensor], source: str, least: float = LEAST) -> WeightReport:
    """Copy the tensors of STATE whose name and shape fit into MODULE and report the rest.

    Raises StageError when less than the share LEAST of the module's tensors is found: weights of another network.
    """
    own = module.state_dict()
    fits = {k: v for k, v in state.items() if k in own and torch.is_tensor(v) and v.shape == own[k].shape}
    missing = tuple(k for k in own if k not in fits and not k.endswith("num_batches_tracked"))
    wanted = sum(not k.endswith("num_batches_tracked") for k in own)
    if len(missing) > (1 - least) * wanted:
        raise StageError(
            f"Weights {source} are of another network",
            f"{len(missing)} of {wanted} tensors are missing or of another shape, first '{missing[0]}'",
            "Give weights of the configured backbone, or set another backbone",
        )
    module.load_state_dict({**own, **fits})
    return WeightReport(str(source), len(fits), missing, tuple(k for k in state if k not in fits))
