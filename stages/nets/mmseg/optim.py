"""DeepLabV2's optimizer: SGD (or AdamW) with three learning rates, accumulation and mixed precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from torch import nn

from stages.core.errors import StageError
from stages.core.runtime import Placement
from stages.nets.norms import batch_norms


@dataclass(frozen=True)
class Rates:
    """The optimizer's settings; the head's weights and biases learn faster, and its biases do not decay."""

    kind: Literal["sgd", "adamw"] = "sgd"
    lr: float = 2.5e-4
    momentum: float = 0.9
    weight_decay: float = 5e-4
    head_weight: float = 10.0
    head_bias: float = 20.0


def parameter_groups(model: nn.Module, rates: Rates) -> list[dict[str, Any]]:
    """Groups at 1x (trunk), 1x without decay (batch-norm, where it is trained), head_weight and head_bias.

    Parameters that need no gradient (frozen batch-norm) are in none. Empty groups are left out.
    """
    norm = {id(parameter) for layer in batch_norms(model) for parameter in layer.parameters()}
    members: dict[str, list[nn.Parameter]] = {"trunk": [], "norm": [], "head_weight": [], "head_bias": []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            head = "head_bias" if name.endswith("bias") else "head_weight"
            group = head if not name.startswith("backbone.") else "norm" if id(parameter) in norm else "trunk"
            members[group].append(parameter)
    settings = {
        "trunk": (1.0, rates.weight_decay),
        "norm": (1.0, 0.0),
        "head_weight": (rates.head_weight, rates.weight_decay),
        "head_bias": (rates.head_bias, 0.0),
    }
    return [
        {
            "params": members[key],
            "lr": rates.lr * times,
            "initial_lr": rates.lr * times,
            "weight_decay": decay,
            "name": key,
        }
        for key, (times, decay) in settings.items()
        if members[key]
    ]


class Bf16OptimWrapper(OptimWrapper):
    """bfloat16 autocast on any device. It needs no loss scaling, and mmengine's own wrapper refuses a CPU."""

    def __init__(self, device: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.device = device

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        with super().optim_context(model), torch.autocast(self.device, torch.bfloat16):
            yield


def optimizer(model: nn.Module, rates: Rates) -> torch.optim.Optimizer:
    """The optimizer over the groups; AdamW takes RATES' momentum as its first β."""
    groups = parameter_groups(model, rates)
    if rates.kind == "adamw":
        return torch.optim.AdamW(groups, lr=rates.lr, betas=(rates.momentum, 0.999))
    return torch.optim.SGD(groups, lr=rates.lr, momentum=rates.momentum)


def wrap(model: nn.Module, rates: Rates, place: Placement, precision: str, accumulate: int) -> OptimWrapper:
    """The optimizer in the wrapper of PRECISION: 32-true, bf16-mixed or 16-mixed (where the device can)."""
    made = optimizer(model, rates)
    if precision == "bf16-mixed":
        return Bf16OptimWrapper(place.device.type, optimizer=made, accumulative_counts=accumulate)
    if precision == "16-mixed" and place.half:
        return AmpOptimWrapper(dtype="float16", optimizer=made, accumulative_counts=accumulate)
    if precision == "32-true":
        return OptimWrapper(optimizer=made, accumulative_counts=accumulate)
    raise StageError(
        f"Cannot train at precision {precision} on {place.device.type}",
        "not supported",
        "Use --precision 32-true or bf16-mixed",
    )
