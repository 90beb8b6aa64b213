"""Losses that are no numbers any more: found without waiting for a GPU at every step, and told with the batch that made them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stages.core.errors import StageError

NAMED = 32  # images of a batch that are named
NEVER = 1 << 62
MOST = 1000  # losses of different names in a training


@dataclass(frozen=True)
class Found:
    """A step (0-based), and which of its losses is not finite."""

    step: int
    name: str


class Finite:
    """The first step with a loss that is not finite; the device is waited for only where that is asked."""

    def __init__(self) -> None:
        self._first: Tensor | None = None  # of step and loss as one number
        self._names: list[str] = []  # losses, which need not be the same at every step

    def add(self, step: int, losses: Mapping[str, Tensor]) -> None:
        """Look at the scalar LOSSES of STEP."""
        self._names += [name for name in losses if name not in self._names]
        codes = torch.tensor([step * MOST + self._names.index(name) for name in losses])
        finite = torch.stack([loss.detach().isfinite() for loss in losses.values()])
        bad = torch.where(finite, NEVER, codes.to(finite.device)).min()
        self._first = bad if self._first is None else torch.minimum(self._first, bad)

    @property
    def first(self) -> Found | None:
        """The first such step, and the first of its losses; None where all were finite."""
        code = NEVER if self._first is None else int(self._first)
        return None if code == NEVER else Found(code // MOST, self._names[code % MOST])


def spoilt(net: nn.Module) -> str | None:
    """What is not finite of a network, in words: its first such parameter; None where all are finite."""
    name = next((name for name, parameter in net.named_parameters() if not bool(parameter.isfinite().all())), None)
    return name and f"Parameter '{name}' is not finite"


def require_numbers(logits: Tensor) -> Tensor:
    """LOGITS as they are. Raises StageError where one is no number."""
    if bool(logits.isnan().any()):
        raise StageError("Cannot predict", "the network gives values that are no numbers", "Train the network again")
    return logits


def diverged(what: str, step: int, images: Sequence[str], todo: str = "Lower the learning rate and run again") -> StageError:
    """WHAT happened at STEP (1-based), whose batch held IMAGES, in the words of a fault; the last good state stays."""
    more = f" and {len(images) - NAMED} more" if len(images) > NAMED else ""
    batch = f"training diverged on images {', '.join(images[:NAMED])}{more}"
    return StageError(f"{what} at step {step}", batch, todo)
