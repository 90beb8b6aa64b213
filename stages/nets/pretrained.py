"""Initial weights: published ones by name, files of others by their names of tensors, and a report of what fitted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

from stages.core.config import TIMM
from stages.core.errors import StageError
from stages.core.files import sha256
from stages.nets.backbones import TRUNKS, Backbone

PUBLISHED = ("imagenet", "coco")


@dataclass(frozen=True)
class WeightReport:
    """What a weight file filled: names that the network misses and names in the file that nothing uses."""

    source: str
    loaded: int
    missing: tuple[str, ...]
    unused: tuple[str, ...]
    file: str = ""  # name and sha256 of the published file

    def line(self) -> str:
        """One sentence for the log."""
        return (
            f"weights {self.source}{self.file and f' ({self.file})'}: {self.loaded} tensors loaded, "
            f"{len(self.missing)} missing{_some(self.missing)}, {len(self.unused)} unused{_some(self.unused)}"
        )


def _some(names: tuple[str, ...]) -> str:
    return f" ({', '.join(names[:4])}{', …' if len(names) > 4 else ''})" if names else ""


def load_weights(backbone: Backbone, source: str) -> WeightReport:
    """Fill a trunk from SOURCE: none (stay random), imagenet or coco (fetched by the trunk's maker) or a file.

    "coco" is the trunk of torchvision's DeepLabV3, which was trained on COCO's pixel labels: a result must say so.
    Files are read weights-only. Raises StageError when the file is missing, unreadable or of another network.
    """
    if source == "none":
        return WeightReport("none", 0, tuple(backbone.state_dict()), ())
    if source not in PUBLISHED:
        return fill(backbone, read_state(Path(source)), source)
    state, file = _published(backbone.name, source)
    return replace(fill(backbone, state, source), file=f"{file.name}, sha256 {sha256(file)}" if file else "")


def _published(name: str, source: str) -> tuple[dict[str, Tensor], Path | None]:
    """torchvision's or timm's weights and the file that they are kept in, if it is known."""
    if name.startswith(TIMM) and source == "imagenet":
        from stages.nets import timm_trunks

        return timm_trunks.pretrained(name)
    weights = TRUNKS[name].weights.get(source) if name in TRUNKS else None
    if weights is None:
        raise StageError(
            f"No {source} weights for backbone '{name}'", "none are published", "Set weights=none or give --weights FILE"
        )
    try:
        published = torchvision.models.get_weight(weights)
        state = published.get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise StageError(f"Cannot fetch torchvision's {weights}", str(error), "Give a local file with --weights FILE") from error
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(published.url).name
    return {key.removeprefix("backbone."): value for key, value in state.items()}, file


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a `.safetensors` or weights-only `.pth` file; a wrapping "state_dict" or "model" entry is opened."""
    if not path.is_file():
        raise StageError(f"Cannot read weights {path}", "no such file", "Check the path given to --weights")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0][:160]
        raise StageError(
            f"Cannot read weights {path}", f"not a weights-only file ({reason})", "Give a state dict of tensors"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict):
        raise StageError(f"Cannot read weights {path}", "it holds no dictionary of tensors", "Give a state dict of tensors")
    return state


def fill(module: nn.Module, state: dict[str, Tensor], source: str) -> WeightReport:
    """Copy the tensors of STATE whose name and shape fit into MODULE and report the rest.

    Raises StageError when fewer than nine in ten of the module's tensors are found: weights of another network.
    """
    own = module.state_dict()
    fits = {k: v for k, v in state.items() if k in own and torch.is_tensor(v) and v.shape == own[k].shape}
    missing = tuple(k for k in own if k not in fits and not k.endswith("num_batches_tracked"))
    wanted = sum(not k.endswith("num_batches_tracked") for k in own)
    if len(missing) > 0.1 * wanted:
        raise StageError(
            f"Weights {source} are of another network",
            f"{len(missing)} of {wanted} tensors are missing or of another shape, first '{missing[0]}'",
            "Give weights of the configured backbone, or set another backbone",
        )
    module.load_state_dict({**own, **fits})
    return WeightReport(str(source), len(fits), missing, tuple(k for k in state if k not in fits))
