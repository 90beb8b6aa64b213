"""`python -m benchmarks.fullsize --data DIR`: images a second and peak memory of refinement on photographs of full size.

The stages irn_labels and irn_masks themselves, on the list DIR/ImageSets/Segmentation/train.txt of a devkit. What they
read is made up: seeds are smooth maps of the present classes, IRN has random weights, so their figures are of speed
alone. One JSON line on stdout: images a second of the whole stages, and of the walk alone (step by step and expanded).
The peak memory is that of this process, where the network and the walk are; `crf_procs` tells that of a CRF's worker.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import torch.nn.functional as nnf

from benchmarks import measure, small_run
from benchmarks.registry import machine, versions
from stages import irn_labels, irn_masks
from stages.core.config import validate
from stages.core.stage import Context
from stages.data import dataset, seedfile, sources
from stages.data.images import size
from stages.formulas import seeds, walk
from stages.nets import backbones, irn

SOURCE = "sum"  # what IRN reads unless told otherwise


def make_inputs(folder: Path, data: dataset.Dataset, trunk: str) -> None:
    """Seeds of every image of the training list and an IRN, as the stages before would leave them in FOLDER."""
    generator = torch.Generator().manual_seed(0)
    for sample in data.split("train"):
        extent = size(sample.image)
        coarse = torch.rand(2, len(sample.labels), 6, 8, generator=generator)
        maps = nnf.interpolate(coarse, seeds.strided_size(*extent, seeds.TRUNK_STRIDE), mode="bicubic").clamp(0, 1).half()
        made = seedfile.Seed(np.array(sample.labels), extent, {name: [maps[k].numpy()] for k, name in enumerate(("bas", "cam"))})
        seedfile.write(sources.seed_path(folder / "seed_infer", sample.id), made)
    torch.manual_seed(0)
    (folder / "irn_train").mkdir()
    irn.save(irn.Irn(backbones.build(trunk)), folder / "irn_train" / "network.safetensors")


def walks(folder: Path, data: dataset.Dataset, method: walk.Method) -> float:
    """Seconds that the walks of all images take one after another, boundaries from noise of the images' own sizes."""
    spent = 0.0
    for index, sample in enumerate(data.split("train")):
        maps = seedfile.strided_maps(
            seedfile.read(sources.seed_path(folder / "seed_infer", sample.id)), SOURCE, torch.device("cpu")
        )
        edge = torch.rand(maps.shape[-2:], generator=torch.Generator().manual_seed(index)) ** 2
        began = time.perf_counter()
        walk.random_walk(maps, edge, method=method)
        spent += time.perf_counter() - began
    return spent


def timed(stage: Callable[[Any, Context], object], config: Any, ctx: Context) -> float:
    """Seconds of a whole stage."""
    began = time.perf_counter()
    stage(config, ctx)
    return time.perf_counter() - began


def figures(data: dataset.Dataset, folder: Path, trunk: str) -> dict[str, Any]:
    """What the line tells."""
    make_inputs(folder, data, trunk)
    run, images = small_run.runtime(), len(data.split("train"))
    stages = {name: small_run.context(name, folder, data, run) for name in ("irn_labels", "irn_masks")}
    seconds = {
        "labels": timed(irn_labels.run, validate(irn_labels.Config, {}, "irn_labels"), stages["irn_labels"]),
        "walk_exact": walks(folder, data, "exact"),
        "walk_chebyshev": walks(folder, data, "chebyshev"),
        "masks": timed(irn_masks.run, validate(irn_masks.Config, {"pad": 512}, "irn_masks"), stages["irn_masks"]),
    }
    rates = {f"{name}_a_second": round(images / value, 3) for name, value in seconds.items()}
    return {"images": images, **rates, "workers": run.workers, "peak_mb": round(measure.peak_memory_mb()), "trunk": trunk}


def main(words: Sequence[str]) -> int:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fullsize", description=__doc__)
    parser.add_argument("--data", required=True, help="folder in the devkit's layout")
    parser.add_argument("--trunk", default="resnet50", help="trunk of IRN")
    choice = parser.parse_args(words)
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        data = dataset.open_dataset(validate(dataset.Config, {"root": choice.data, "train": "train"}, "data"), Path(folder))
        line = {"id": "fullsize", **figures(data, Path(folder), choice.trunk), "machine": machine(), "versions": versions()}
    print(json.dumps(line, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
