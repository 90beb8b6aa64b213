"""mmengine's loop and Runner as trainings here need them: quiet, on the device they are told, resumable to the same bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.multiprocessing as multiprocessing
from mmengine.logging import MMLogger
from mmengine.model import MMDistributedDataParallel
from mmengine.runner import IterBasedTrainLoop, Runner
from mmseg.registry import LOOPS
from torch import nn

from stages.core import interrupt
from stages.core.runtime import Placement
from stages.nets.mmseg import hooks, state


@LOOPS.register_module()
class StepLoop(IterBasedTrainLoop):
    """mmengine's loop, but its loader already starts at the step to go on from, so nothing is replayed.

    A step has ACCUMULATE passes; an interrupt waits for its end.
    """

    def __init__(self, *given: Any, accumulate: int, **named: Any) -> None:
        super().__init__(*given, **named)
        self._accumulate = accumulate

    def start_at(self, iteration: int) -> None:
        """Count from ITERATION on."""
        self._iter = iteration

    def run(self) -> nn.Module:  # type: ignore[override]
        self.runner.call_hook("before_train")
        self.runner.call_hook("before_train_epoch")
        while self._iter < self._max_iters:
            interrupt.check()
            with interrupt.finishing():
                self._step()
        self.runner.call_hook("after_train_epoch")
        self.runner.call_hook("after_train")
        return self.runner.model

    def _step(self) -> None:
        """The passes of one step of the optimizer."""
        for _ in range(self._accumulate):
            self.runner.model.train()
            self.run_iter(next(self.dataloader_iterator))


class QuietRunner(Runner):
    """A Runner that prints nothing, writes one log file, keeps to its device and begins as BEGIN says."""

    def __init__(self, place: Placement, begin: Callable[[QuietRunner], None], **kwargs: Any) -> None:
        self.place, self.begin = place, begin
        super().__init__(**kwargs)

    def setup_env(self, env_cfg: dict[str, Any]) -> None:
        """mmengine's, but how the program starts processes stays; one log folder for all resumes."""
        method = multiprocessing.get_start_method(allow_none=True)
        super().setup_env({**env_cfg, "mp_cfg": {"mp_start_method": method or "fork"}})
        multiprocessing.set_start_method(method, force=True)
        self._timestamp = "mmengine"

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        logger = super().build_logger(*args, **kwargs)
        logger.handlers = [h for h in logger.handlers if hasattr(h, "baseFilename")]
        return logger

    def dump_config(self) -> None:
        """The checkpoint holds the description; mmengine would write an empty configuration."""

    def wrap_model(self, model_wrapper_cfg: Any, model: nn.Module) -> nn.Module:  # type: ignore[override]
        model = model.to(self.place.device)
        if not self.distributed:
            return model
        return MMDistributedDataParallel(module=model, device_ids=self.place.ids, broadcast_buffers=False)

    def load_or_resume(self) -> None:
        """Called once everything is built, has its random weights, and the loader runs: the last moment before the first step."""
        self.begin(self)

    def go_on(self, kept: dict[str, Any], accumulate: int) -> None:
        """Take up the KEPT state, of a training whose steps have ACCUMULATE passes."""
        hooks.bare(self.model).load_state_dict(kept["net"])
        self.optim_wrapper.load_state_dict(kept["optimizer"])  # type: ignore[union-attr]
        self.train_loop.start_at(kept["step"] * accumulate)  # type: ignore[attr-defined]
        state.restore_generators(kept["generators"])
        self.logger.info(f"resumed after {kept['step']} steps")
