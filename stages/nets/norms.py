"""Batch-norm that learns nothing: networks from published weights keep the statistics that came with them.

It takes both: `fix` takes scale and shift out of training, once; `hold` puts the layers into evaluation mode, again after
every `train()`, which lets them go.
"""

from __future__ import annotations

from torch import nn


def batch_norms(module: nn.Module) -> list[nn.Module]:
    """The batch-norm layers within MODULE, whatever their dimensions."""
    return [layer for layer in module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]


def fix(module: nn.Module) -> None:
    """Give scale and shift of every batch-norm within MODULE no gradient."""
    for norm in batch_norms(module):
        norm.requires_grad_(False)


def hold(module: nn.Module) -> None:
    """Let every batch-norm within MODULE use its stored statistics and update none."""
    for norm in batch_norms(module):
        norm.eval()
