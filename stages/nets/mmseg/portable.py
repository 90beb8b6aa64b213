"""The segmentation network as a file that runs without this project: ONNX, TorchScript or torch.export.

In every format: `images` (B,3,H,W) float32 RGB from 0 to 255, any height and width → `logits` (B,C,H,W), at one scale. The
names of the classes, background first, lie in the file as JSON.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stages.core import reading
from stages.core.errors import StageError
from stages.formulas.segmentation import resize_logits
from stages.nets.mmseg import inference, network
from stages.nets.mmseg.data import MEAN, Array

SUFFIXES = {"onnx": ".onnx", "torchscript": ".ts", "torch-export": ".pt2"}
CLASSES = "classes.json"  # name of the list of classes in a file of torch's
EXAMPLE = (2, 3, 97, 129)  # what the formats watch the network work on; no size is kept
LEAST = 32  # pixels a side that a network takes

Look = Callable[[Tensor], Tensor]  # images (B,3,H,W) → logits (B,C,H,W)


class Portable(nn.Module):
    """The network between pixels and logits of the image's own size."""

    def __init__(self, net: network.Segmentor) -> None:
        super().__init__()
        self.colours, self.net = inference.Colours(net), net

    def forward(self, images: Tensor) -> Tensor:
        """images (B,3,H,W), 0..255 → logits (B,C,H,W)."""
        return resize_logits(inference.look(self.net, self.colours(images)), images.shape[-2:])


class Bins(nn.Module):
    """Adaptive average pooling to COUNT x COUNT as two matrix products, which ONNX can say of images of any size."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, x: Tensor) -> Tensor:
        """x (B,N,h,w) → (B,N,COUNT,COUNT)."""
        return self._shares(x.shape[-2], x) @ x @ self._shares(x.shape[-1], x).mT

    def _shares(self, length: int, like: Tensor) -> Tensor:
        """(COUNT,LENGTH): what each place gives to each bin; bin i spans ⌊i·length/COUNT⌋ to ⌈(i+1)·length/COUNT⌉."""
        bins = torch.arange(self.count, device=like.device)[:, None]
        places = torch.arange(length, device=like.device)
        inside = (places >= bins * length // self.count) & (places < ((bins + 1) * length + self.count - 1) // self.count)
        return inside.to(like.dtype) / inside.sum(1, keepdim=True)


def _with_bins(model: Portable) -> Portable:
    """A copy of MODEL whose adaptive pools are Bins."""
    changed = copy.deepcopy(model)
    pools = [(name, part) for name, part in changed.named_modules() if isinstance(part, nn.AdaptiveAvgPool2d)]
    for name, pool in pools:
        if isinstance(pool.output_size, int) and pool.output_size > 1:
            changed.set_submodule(name, Bins(pool.output_size))
    return changed


def write(net: network.Segmentor, format: str, path: Path) -> None:
    """Write NET in FORMAT, a key of SUFFIXES. Raises StageError where what the format needs is not installed."""
    net.cpu()
    model = Portable(net).eval()
    with torch.no_grad(), _silence():
        _WRITERS[format](model, torch.zeros(EXAMPLE), path, json.dumps(network.classes(net), ensure_ascii=False))


def _onnx(model: Portable, example: Tensor, path: Path, classes: str) -> None:
    _require("onnx", "onnxscript")
    axes = {0: "batch", 2: "height", 3: "width"}
    program: Any = torch.onnx.export(
        _with_bins(model),
        (example,),
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes={"images": axes},
        dynamo=True,
    )
    program.model.metadata_props["classes"] = classes
    program.save(str(path), external_data=False)


def _torchscript(model: Portable, example: Tensor, path: Path, classes: str) -> None:
    traced: Any = torch.jit.trace(model, example, check_trace=False)
    torch.jit.save(traced, str(path), _extra_files={CLASSES: classes})


def _torch_export(model: Portable, example: Tensor, path: Path, classes: str) -> None:
    auto = torch.export.Dim.AUTO
    program = torch.export.export(model, (example,), dynamic_shapes=({0: auto, 2: auto, 3: auto},))
    torch.export.save(program, str(path), extra_files={CLASSES: classes})


_WRITERS = {"onnx": _onnx, "torchscript": _torchscript, "torch-export": _torch_export}


def read(path: Path) -> tuple[Look, tuple[str, ...]]:
    """The function in a file that `write` wrote, and its classes. Raises StageError on other files."""
    readers = {SUFFIXES[name]: reader for name, reader in _READERS.items()}
    if path.suffix not in readers:
        raise StageError(f"Cannot use {path}", "its name tells no format", f"Give a file in {', '.join(readers)}")
    with reading.told(f"Cannot read network {path}", "Give a file that `bas export` wrote"):
        with _silence():
            look, classes = readers[path.suffix](path)
        return look, tuple(json.loads(classes))


def logits(look: Look, image: Array) -> Tensor:
    """What LOOK gives of one image (H,W,3) uint8: (C,H,W). What is smaller than LEAST is filled up with the mean colour."""
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).float()
    height, width = pixels.shape[1:]
    filled = torch.tensor(MEAN).view(3, 1, 1).repeat(1, max(height, LEAST), max(width, LEAST))
    filled[:, :height, :width] = pixels
    return look(filled[None])[0, :, :height, :width]


def _from_onnx(path: Path) -> tuple[Look, str]:
    _require("onnxruntime")
    import onnxruntime

    if not path.is_file():
        raise OSError("no such file")
    try:
        session = onnxruntime.InferenceSession(path.read_bytes(), providers=onnxruntime.get_available_providers())
    except Exception as error:  # onnxruntime's exceptions share no other parent
        raise ValueError(error) from error

    def look(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])

    return look, session.get_modelmeta().custom_metadata_map["classes"]


def _from_torchscript(path: Path) -> tuple[Look, str]:
    extra = {CLASSES: ""}
    return torch.no_grad()(torch.jit.load(str(path), "cpu", _extra_files=extra)), _text(extra)


def _from_torch_export(path: Path) -> tuple[Look, str]:
    extra = {CLASSES: ""}
    return torch.no_grad()(torch.export.load(str(path), extra_files=extra).module()), _text(extra)


def _text(extra: dict[str, Any]) -> str:
    found = extra[CLASSES]
    return found.decode() if isinstance(found, bytes) else found


_READERS = {"onnx": _from_onnx, "torchscript": _from_torchscript, "torch-export": _from_torch_export}


def _require(*packages: str) -> None:
    from importlib.util import find_spec

    absent = [name for name in packages if find_spec(name) is None]
    if absent:
        raise StageError("Cannot use ONNX", f"{' and '.join(absent)} not installed", "pip install 'bas-wsss[export]'")


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Without the exporters' own reports, and their advice on themselves."""
    level = logging.getLogger("torch.onnx").level
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        try:
            yield
        finally:
            logging.getLogger("torch.onnx").setLevel(level)
