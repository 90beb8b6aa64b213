"""DeepLabV2, and any other network, inside mmsegmentation: only here it, mmengine and mmcv are imported.

ops (its two compiled operators, for mmcv-lite) · trunk, head, segmentor, losses (what we register) · catalogue (the
model section of any network) · network (build, save, load) · inference (logits) · start, rehearsal (first weights, and
whether it can be trained) · data, pairs, optim, hooks, state, engine, runner, learn (training by its Runner) · portable,
standalone (files for others). The operators must be in place before mmsegmentation is imported; importing this package
does it.
"""

from __future__ import annotations

from stages.nets.mmseg import ops

ops.install()
