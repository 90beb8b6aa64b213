"""Weights that others published for our trunks: where they lie, where they are kept, whether they can be had. Without torch."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

from stages.core.errors import StageError

TORCHVISION = "https://download.pytorch.org/models/"
# DeepLabV2's own start, trained on COCO's pixel labels
CAFFE_COCO = "http://vllab1.ucmerced.edu/~whung/adv-semi-seg/resnet101COCO-41f33a49.pth"
# the trunks of stages.nets.backbones, and the weights of each by source; every name holds the beginning of the file's sha256
TRUNKS: dict[str, dict[str, str]] = {
    "resnet18": {"imagenet": f"{TORCHVISION}resnet18-f37072fd.pth"},
    "resnet50": {"imagenet": f"{TORCHVISION}resnet50-0676ba61.pth", "coco": f"{TORCHVISION}deeplabv3_resnet50_coco-cd0a2569.pth"},
    "resnet101": {
        "imagenet": f"{TORCHVISION}resnet101-63fe2227.pth",
        "coco": f"{TORCHVISION}deeplabv3_resnet101_coco-586e9e4e.pth",
    },
    "resnet101_caffe": {"coco": CAFFE_COCO},
    "mobilenet_v2": {"imagenet": f"{TORCHVISION}mobilenet_v2-b0353104.pth"},
    "tiny": {},
}
PATIENCE = 8.0  # seconds for a server to answer


def kept(address: str) -> Path:
    """The file that torch.hub keeps what lies at ADDRESS in."""
    cache = os.getenv("XDG_CACHE_HOME", "~/.cache")
    home = os.getenv("TORCH_HOME", f"{cache}/torch")
    return Path(home).expanduser() / "hub" / "checkpoints" / Path(address).name


def require(address: str) -> None:
    """Raise StageError, within seconds, where the weights at ADDRESS are neither kept here nor can be fetched."""
    file = kept(address)
    fault = None if file.is_file() else _unreachable(address)
    if fault is not None:
        raise StageError(
            f"No weights {file.name}",
            f"they are not in {file.parent}, and cannot be fetched from {urlsplit(address).hostname} ({fault})",
            "Put the file there, or give it with --weights FILE",
        )


def _unreachable(address: str) -> str | None:
    """Why what lies at ADDRESS cannot be fetched, None where it can. No name server makes us wait: the question has a thread."""
    import threading
    import urllib.request

    told: list[str | None] = []

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=PATIENCE).close()
            told.append(None)
        except (OSError, ValueError) as error:
            told.append(str(getattr(error, "reason", None) or error))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return told[0] if told else f"no answer within {PATIENCE:.0f} s"
