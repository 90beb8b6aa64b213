"""Seeds: upsampling of the present classes, bytes on disk, throughput on a GPU."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor

from benchmarks import measure
from benchmarks.measure import Measured
from benchmarks.small_run import CLASSES, IMAGE, context, network, photographs, runtime
from stages.core.config import validate
from stages.data import seedfile
from stages.data.images import read_image
from stages.data.transforms import normalise
from stages.formulas import seeds
from stages.nets import bas

SCALES = (1.0, 0.5, 1.5, 2.0)
PRESENT = [3, 14]


def _grids() -> list[Tensor]:
    """Maps (C,h,w) of every class at four scales, in half precision as they are stored."""
    generator = torch.Generator().manual_seed(0)
    sizes = [seeds.strided_size(*seeds.scaled_size(*IMAGE, scale), 16) for scale in SCALES]
    return [torch.rand(CLASSES, *size, generator=generator).half() for size in sizes]


def every_class(grids: list[Tensor]) -> Tensor:
    """Full-size maps of the present classes, taken out after all have been upsampled and added."""
    rows, columns = seeds.strided_size(*IMAGE, 16)
    size = (rows * 16, columns * 16)
    total = sum(nnf.interpolate(grid[None].float(), size, mode="bilinear", align_corners=False)[0] for grid in grids)
    assert isinstance(total, Tensor)
    maps = total[:, : IMAGE[0], : IMAGE[1]]
    return (maps / (maps.amax((1, 2), keepdim=True) + seeds.MAX_EPS))[PRESENT]


def post() -> Measured:
    """Two present classes of twenty, four scales, 375 x 500."""
    grids = _grids()
    ours = seedfile.Seed(np.array(PRESENT), IMAGE, {"bas": [grid[PRESENT].numpy() for grid in grids]})
    measure.require_equal(torch.equal(seedfile.full_maps(ours, "bas"), every_class(grids)), "maps differ")
    pair = measure.in_turns(lambda: every_class(grids), lambda: seedfile.full_maps(ours, "bas"))
    return pair.against(6, {"image": IMAGE, "classes": CLASSES, "present": len(PRESENT), "scales": SCALES})


def store() -> Measured:
    """Bytes of a seed file beside the same maps as full-size float32, one `.npy` a source."""
    grids = [grid[PRESENT].numpy() for grid in _grids()]
    seed = seedfile.Seed(np.array(PRESENT), IMAGE, dict.fromkeys(("bas", "cam"), grids))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "seed.npz"
        seedfile.write(path, seed)
        ours, full = path.stat().st_size, 0
        for source in seed.maps:
            np.save(Path(folder) / f"{source}.npy", seedfile.full_maps(seed, source).numpy())
            full += (Path(folder) / f"{source}.npy").stat().st_size
    sizes = {"image": IMAGE, "present": len(PRESENT), "sources": len(seed.maps)}
    return Measured(ours / full, ours * 20 <= full, ours, "bytes", sizes=sizes, extra={"reference_bytes": full})


def one_view_at_a_time(net: bas.BasNet, images: list[Tensor], folder: Path) -> None:
    """Plain inference: float32, one view a pass, every class upsampled, full-size float32 on disk."""
    for index, image in enumerate(images):
        maps: dict[str, list[Tensor]] = {"bas": [], "cam": []}
        for scale in SCALES:
            view = nnf.interpolate(image, seeds.scaled_size(*IMAGE, scale), mode="bicubic")
            for flipped in (False, True):
                out = net(view.flip(-1) if flipped else view)
                for source, grid in (("bas", out.foreground), ("cam", out.class_maps.relu())):
                    maps[source].append((grid.flip(-1) if flipped else grid)[0])
        for source, grids in maps.items():
            np.save(folder / f"{index}_{source}.npy", every_class(grids).cpu().numpy())


def infer() -> Measured:
    """Images a second of the stage on a GPU, from files to files, without thresholds."""
    wait = measure.cuda()
    return inference_throughput(16, "resnet50", wait)


def inference_throughput(count: int, trunk: str, wait: measure.Work) -> Measured:
    """COUNT images of 375 x 500 through seed_infer and through the plain way, on this machine's device."""
    from stages import seed_infer

    run, config = runtime(), validate(seed_infer.Config, {"search": "none"}, "seed_infer")
    net, backbone = network(trunk)
    with TemporaryDirectory() as name:
        folder = Path(name)
        ctx = context("seed_infer", folder / "run", photographs(folder / "data", count), run)
        bas.save(net, backbone, ctx.input("seed_train") / "network.safetensors")
        plain = run.place(net.eval())
        paths = [sample.image for sample in ctx.dataset.split("train")]

        def reference() -> None:
            with torch.inference_mode():
                images = [run.place(normalise(read_image(path))[None]) for path in paths]
                one_view_at_a_time(plain, images, folder)

        def product() -> object:
            shutil.rmtree(ctx.out, ignore_errors=True)
            return seed_infer.run(config, ctx)

        pair = measure.in_turns(reference, product, wait=wait)
    sizes = {"image": IMAGE, "images": count, "trunk": trunk, "precision": run.precision}
    return pair.against(4, sizes, images_a_second=count / pair.seconds)
