"""Device, precision, threads and seed, decided once, with the reason logged. Nothing else names a device."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from stages.core.config import Field, Section
from stages.core.errors import StageError
from stages.core.limits import cores, free_memory

if TYPE_CHECKING:
    import torch
    from lightning_fabric import Fabric

    T = TypeVar("T", bound="torch.Tensor | torch.nn.Module")


MEMORY_SHARE = 0.8  # of what is free goes to worker processes
# whose versions a manifest tells
PACKAGES = ("torch", "torchvision", "numpy", "lightning-fabric", "mmsegmentation", "mmengine", "mmcv-lite", "pydensecrf2")


class Config(Section):
    """Where and how the stages compute; only the seed makes a finished stage stale."""

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto (a GPU if there is one), cpu or cuda.")
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = Field(
        "auto", description="auto, 32-true, bf16-mixed or 16-mixed, for training and network inference."
    )
    workers: int = Field(
        -1, description="Processes that read images or run the CRF; -1 = one a core, fewer where memory is short.", ge=-1
    )
    threads: int = Field(0, description="Threads of arithmetic on a CPU; 0 = torch's choice, one a core.", ge=0)
    seed: int = Field(0, description="Seed of weights, order, crops and class draws.", ge=0)


@dataclass(frozen=True)
class Placement:
    """What follows from the device, for an engine that does not ask Fabric."""

    device: torch.device
    pin_memory: bool = False
    tune: bool = False  # try convolution algorithms out
    backend: str = "gloo"  # of several processes
    ids: tuple[int, ...] | None = None  # this process's own device among several
    half: bool = False  # whether float16 can be trained in


@dataclass(frozen=True)
class Runtime:
    """The decisions for one process; torch is imported when they are first needed."""

    config: Config

    @cached_property
    def device(self) -> torch.device:
        """The device of this run. Raises StageError when CUDA is asked for and absent."""
        import torch

        wanted = self.config.device
        if wanted == "cuda" and not torch.cuda.is_available():
            raise StageError(
                "Cannot use --device cuda", "torch sees no CUDA GPU here", "Use --device auto or cpu, or check `nvidia-smi`"
            )
        return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")

    @cached_property
    def precision(self) -> str:
        """Mixed bfloat16 where the hardware multiplies it, else float32."""
        import torch

        if self.config.precision == "16-mixed" and self.device.type == "cpu":
            raise StageError("Cannot use --precision 16-mixed", "a CPU has no mixed float16", "Use auto, 32-true or bf16-mixed")
        if self.config.precision != "auto":
            return self.config.precision
        if self.device.type == "cuda":
            return "bf16-mixed" if torch.cuda.is_bf16_supported() else "16-mixed"
        bfloat16 = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
        return "bf16-mixed" if bfloat16() else "32-true"

    @cached_property
    def fabric(self) -> Fabric:
        """Lightning Fabric on the decided device, in one process. Raises StageError under a launcher of several."""
        import logging

        import torch
        from lightning_fabric import Fabric

        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise StageError("Cannot run in several processes", "WORLD_SIZE is above 1", "Start bas without torchrun, on one GPU")
        if self.config.threads:
            torch.set_num_threads(self.config.threads)
        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it would repeat what the log says of precision
        precision: Any = self.precision
        fabric = Fabric(accelerator="cuda" if self.device.type == "cuda" else "cpu", devices=1, precision=precision)
        fabric.launch()
        return fabric

    @property
    def placement(self) -> Placement:
        """The device and what follows from it."""
        device = self.fabric.device  # Fabric also sets the threads
        if device.type != "cuda":
            return Placement(device)
        local = int(os.environ.get("LOCAL_RANK", "0"))
        return Placement(device, pin_memory=True, tune=True, backend="nccl", ids=(local,), half=True)

    def place(self, thing: T, channels_last: bool = False) -> T:
        """Move a tensor or module to the device; CHANNELS_LAST also orders its 4-D tensors for faster convolutions."""
        import torch

        placed: Any = thing.to(self.device, non_blocking=True)
        return placed.to(memory_format=torch.channels_last) if channels_last else placed

    @property
    def expects_gpu(self) -> bool:
        """Whether the device will be a GPU, as far as that can be said without torch."""
        return self.config.device == "cuda" or (self.config.device == "auto" and Path("/dev/nvidia0").exists())

    @property
    def workers(self) -> int:
        """Processes for reading images and for the CRF."""
        return self.config.workers if self.config.workers >= 0 else cores()

    def workers_of(self, size: int) -> int:
        """Processes that take SIZE bytes of memory each: as many as asked for, else as cores and free memory allow."""
        free = free_memory()
        if self.config.workers >= 0 or free is None:
            return self.workers
        return max(min(cores(), int(MEMORY_SHARE * free) // size), 1)

    @property
    def masks_at_once(self) -> int:
        """Masks of one image that F2 judges together: a GPU wants many, a CPU gains up to two (ResNet50, MobileNetV2)."""
        return 2 if self.device.type == "cpu" else 128

    @property
    def walks_at_once(self) -> int:
        """Images whose random walks are one: on a GPU a single small grid leaves most of it idle, a CPU gains nothing."""
        return 1 if self.device.type == "cpu" else 32

    def describe(self) -> str:
        """One line for the log: what was decided."""
        device, precision = f"device {self.device.type}", f"precision {self.precision}"
        asked = self.config
        return f"{device} ({asked.device}), {precision} ({asked.precision}), {cores()} cores, seed {asked.seed}"

    def reset_peak(self) -> None:
        """Start measuring the GPU's peak memory anew."""
        import torch

        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()

    def peak_mb(self) -> int:
        """Peak memory in MB: of the GPU during the stage, else of this process since its start."""
        import resource

        import torch

        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated() >> 20
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10

    def facts(self) -> dict[str, Any]:
        """What a manifest says of the machine and the versions."""
        return {
            "seed": self.config.seed,
            "device": self.device.type,
            "precision": self.precision,
            "peak_memory_mb": self.peak_mb(),
            "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        }


def generator_states() -> list[torch.Tensor]:
    """The states of the random generators of all GPUs; none where there is none."""
    import torch

    return torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []


def restore_generator_states(states: list[torch.Tensor]) -> None:
    """Put the generators of GPUs back, where as many are there."""
    import torch

    if states and len(states) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states)


def _version(package: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"
