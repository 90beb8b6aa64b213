"""The cost model of each stage: seconds, memory and disk from settings, counts of images and the machine.

Constants are read off a finished `voc_small` of 1,037 photographs (MobileNetV2, two hyperthreads of a server) and of single
parts timed there; all are good to a factor of two or three. The GPU's factor is a cautious guess.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from stages.core import networks

# Seconds on two cores: of a network for each pixel that it sees (training: forward and backward), MobileNetV2.
SEED_STEP = 1.45e-6  # 29.8 minutes for 1,536 steps of 16 crops of 224²
IRN_STEP = 3.4e-6
BOUNDARIES_ALONE = 0.4  # of it without the displacement branch: 7.2 minutes for 387 steps of 8 crops of 320²
SEGMENT_STEP = 2.3e-6  # 17.9 minutes for 1,000 steps of 8 crops of 241²
INFERENCE = 3.8e-7  # this and the next: 7.9 minutes for all photographs at three scales with flips
SEGMENT_INFERENCE = SEGMENT_STEP / 3
THRESHOLD = 1.6e-7  # one candidate of one class
# Seconds of one of two hyperthreads for each pixel: dense CRF of ten iterations (and for each of its labels), walk of 256 steps.
CRF, CRF_LABEL = (
    2.15e-6,
    3.2e-7,
)  # 5.4 minutes for two a photograph on both; .84 s for one with 21 at 384 x 288
WALK = {"chebyshev": 2.1e-7, "exact": 7.5e-7}  # .040 and .140 s at 500 x 375
GROUPS, FOLLOW = 4.0, 1e-9  # channels a class of instances has; a step along the displacements
LINK = 1e-3  # to take a file over
SEED_MASK = 3e-7  # to cut a seed into a mask, a pixel
SHARED_LATTICE = 1.5  # two masks of an image through one dense CRF, beside one mask
GPU = 50.0  # times two cores: not measured
# Trunks: seconds and activations beside MobileNetV2's, MB of weights; one that is not here, as timm's, counts as the last.
TRUNKS = {
    "tiny": (0.2, 0.4, 1.0),
    "mobilenet_v2": (1.0, 1.0, 9.0),
    "resnet18": (2.5, 0.5, 45.0),
    "resnet101": (11.0, 2.4, 170.0),
    "resnet101_caffe": (11.0, 2.4, 170.0),
    "resnet50": (6.5, 1.7, 94.0),
}
OTHER = TRUNKS["resnet50"]
# MB: of a process with torch, of one that runs the CRF; of activations a pixel, kept for the backward pass or not.
PROCESS, WORKER, KEPT, PASSING = 600.0, 350.0, 1.7e-3, 2.7e-3
# MB on disk a pixel of an image: a seed's maps (a class and pixel seen), labels, masks, walked maps, confidence.
SEED, LABEL, MASK, WALKED, CONFIDENCE = 1.1e-8, 4.9e-8, 2.2e-8, 1.8e-7, 2.5e-8


@dataclass(frozen=True)
class Facts:
    """Of the data: images by split, mean pixels and present classes an image, classes without background."""

    images: Mapping[str, int]
    pixels: float
    present: float
    classes: int


@dataclass(frozen=True)
class Machine:
    """Of the machine: SPEED of networks (two cores are 1), worker processes."""

    speed: float
    workers: int


@dataclass(frozen=True)
class Cost:
    """What a stage takes: seconds, peak memory in MB, disk in MB."""

    seconds: float = 0.0
    memory: float = 0.0
    disk: float = 0.0


Model = Callable[[Mapping[str, Any], Facts, Machine], Cost]  # sections of the configuration by name, data, machine


def machine(gpu: bool, threads: int, workers: int) -> Machine:
    """THREADS of arithmetic on a CPU, or a GPU; WORKERS processes."""
    return Machine(GPU if gpu else threads / 2, max(workers, 1))


def _training(trunk: str, pixels: float, steps: int, unit: float, machine: Machine) -> Cost:
    """STEPS of PIXELS each. The network is kept, and with the optimizer's state once more for resuming."""
    slow, wide, weights = TRUNKS.get(trunk, OTHER)
    return Cost(steps * pixels * unit * slow / machine.speed, PROCESS + pixels * KEPT * wide, 3 * weights)


def _steps(config: Any, data: Facts) -> int:
    return config.epochs * max(data.images["train"] // config.batch, 1)


def _seed_train(sections: Mapping[str, Any], data: Facts, machine: Machine) -> Cost:
    config = sections["seed_train"]
    return _training(config.backbone, config.batch * config.crop**2, _steps(config, data), SEED_STEP, machine)


def _cam_train(sections: Mapping[str, Any], data: Facts, machine: Machine) -> Cost:
    config = sections["cam_train"]
    return _training(config.backbone, config.batch * config.crop**2, _steps(config, data), SEED_STEP, machine)


def _seed_infer(sections: Mapping[str, Any], data: Facts, machine: Machine) -> Cost:
    config, slow = sections["seed_infer"], TRUNKS.get(sections["seed_train"].backbone, OTHER)[0]
    images, seen = data.images[config.images], 2 * data.pixels * sum(scale**2 for scale in config.scales)
    searched = 0 if config.search == "none" else min(data.images[config.search], images)
    judged = searched * data.present * len(config.sources) * config.thresholds * data.pixels * config.judge_scale**2
    seconds = (images * seen * INFERENCE + judged * THRESHOLD) * slow / machine.speed
    memory = PROCESS + 2 * data.pixels * max(config.scales) ** 2 * PASSING
    return Cost(seconds, memory, images * seen * data.present * SEED)


def _crf(images: int, data: Facts, labels: float, iterations: int, machine: Machine) -> float:
    """Seconds of one dense CRF an image."""
    return images * data.pixels * (CRF + CRF_LABEL * labels) * iterations / 10 / machine.workers


def _irn_labels(sections: Mapping[str, Any], data: Facts, machine: Machine) -> Cost:
    images = data.images["train"]
    seconds = 2 * _crf(images, data, data.present + 1, sections["irn_labels"].iterations, machine)
    return Cost(seconds, PROCESS + machine.workers * WORKER, images * data.pixels * LABEL)


def _irn_train(sections: Mapping[str, Any], data: Facts, machine: Machine) -> Cost:
    config = sections["irn_train"]
    unit = IRN_STEP if config.displacement else IRN_STEP * BOUNDARIES_ALONE
    return _training(config.backbone, config.batch * config.crop**2, _steps(config, data), unit, machine)


def _irn_masks(sections: Mapping[str, Any], data: Facts, machine: Machine) -> Cost:
    config, slow = sections["irn_masks"], TRUNKS.get(sections["irn_train"].backbone, OTHER)[0]
    network = 2 * max(data.pixels, config.pad**2) * INFERENCE * slow / machine.speed
    longer = 2.0 ** (config.exp_times - 8)
    walk = data.pixels * WALK[config.method] * (longer if config.method == "exact" else longer**0.5)
    images, masks = data.images["train"], 1 + config.crf
    disk = images * data.pixels * (masks * MASK + CONFIDENCE) + data.images["score"] * data.pixels * WALKED
    smooth = _crf(images, data, data.present + 1, config.iterations, machine) if config.crf else 0.0
    return Cost(images * (network + walk) + smooth, PROCESS + 2 * data.pixels * PASSING, disk)


def _irn_instances(sections: Mapping[str, Any], data: Facts, machine: Machine) -> Cost:
    config, slow = sections["irn_instances"], TRUNKS.get(sections["irn_train"].backbone, OTHER)[0]
    network = 2 * max(data.pixels, config.pad**2) * INFERENCE * slow / machine.speed
    steps = 2.0 ** (config.exp_times - 8)
    walk = GROUPS * data.pixels * WALK[config.method] * (steps if config.method == "exact" else steps**0.5)
    follow = config.steps * data.pixels * FOLLOW
    return Cost(data.images["train"] * (network + walk + follow), PROCESS + 2 * data.pixels * PASSING, 0.0)


def _mask_choice(sections: Mapping[str, Any], data: Facts, machine: Machine) -> Cost:
    config, slow = sections["mask_choice"], TRUNKS.get(sections["seed_train"].backbone, OTHER)[0]
    keep, images = sections["refine"].keep, data.images["train"]
    compared = images if keep == "better" else min(config.images, images)
    seeds = compared if keep == "masks" else images
    judged = data.pixels * config.judge_scale**2 * (INFERENCE + 2 * data.present * THRESHOLD) * slow / machine.speed
    smooth = SHARED_LATTICE * _crf(compared, data, data.present + 1, config.iterations, machine)
    seconds = images * LINK + compared * judged + smooth + seeds * data.pixels * SEED_MASK
    return Cost(seconds, PROCESS + machine.workers * WORKER, seeds * data.pixels * MASK)


def _segment_train(sections: Mapping[str, Any], data: Facts, machine: Machine) -> Cost:
    config, scales = sections["segment_train"], sections["segment_train"].scales
    seen = scales if sections["segment"].network == networks.OURS else (1.0,)
    pixels = config.batch * config.crop**2 * sum(scale**2 for scale in seen)
    return _training(_segment_trunk(sections), pixels, config.steps, SEGMENT_STEP, machine)


def _segment_trunk(sections: Mapping[str, Any]) -> str:
    """The trunk of the segmentation network; of one that brings its own, its name, which counts as any other."""
    name = sections["segment"].network
    return sections["segment_train"].backbone if networks.takes_trunk(name) else name


def _segment_predict(sections: Mapping[str, Any], data: Facts, machine: Machine) -> Cost:
    config, slow = sections["segment_predict"], TRUNKS.get(_segment_trunk(sections), OTHER)[0]
    images, views, labels = data.images["val"], 1 + config.flip, data.classes + 1
    seen = views * data.pixels * sum(scale**2 for scale in config.scales)
    seconds = images * seen * SEGMENT_INFERENCE * slow / machine.speed
    memory, disk = PROCESS + seen * PASSING, images * data.pixels * MASK
    if not config.crf:
        return Cost(seconds, memory, disk)
    seconds += _crf(images, data, labels, config.crf_iterations, machine)
    return Cost(seconds, memory + machine.workers * WORKER, 2 * disk)


def _self_masks(sections: Mapping[str, Any], data: Facts, machine: Machine) -> Cost:
    view, slow = sections["segment_predict"], TRUNKS.get(_segment_trunk(sections), OTHER)[0]
    images, own = data.images["train"], data.present + 1
    seen = (1 + view.flip) * data.pixels * sum(scale**2 for scale in view.scales)
    smooth = _crf(images, data, own, view.crf_iterations, machine) if sections["self_masks"].crf else 0.0
    seconds = images * seen * SEGMENT_INFERENCE * slow / machine.speed + smooth
    return Cost(seconds, PROCESS + seen * PASSING + machine.workers * WORKER, images * data.pixels * (MASK + CONFIDENCE))


MODELS: dict[str, Model] = {
    "seed_train": _seed_train,
    "cam_train": _cam_train,
    "seed_infer": _seed_infer,
    "irn_labels": _irn_labels,
    "irn_train": _irn_train,
    "irn_masks": _irn_masks,
    "irn_instances": _irn_instances,
    "mask_choice": _mask_choice,
    "segment_train": _segment_train,
    "self_masks": _self_masks,
    "segment_retrain": _segment_train,
    "segment_predict": _segment_predict,
}
