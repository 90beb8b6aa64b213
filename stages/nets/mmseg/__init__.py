"""DeepLabV2 inside mmsegmentation: the only imports of mmsegmentation, mmengine and mmcv are in this folder.

ops (its two compiled operators, for mmcv-lite) · trunk, head, segmentor, losses (what we register) · network
(build, save, load, logits) · data, optim, hooks, state, runner (training by its Runner). The operators must be
in place before mmsegmentation is imported; importing this package does it.
"""

from __future__ import annotations

from stages.nets.mmseg import ops

ops.install()
