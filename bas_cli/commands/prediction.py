"""The command that uses a trained network on new photographs: `bas predict`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from bas_cli import console, options, progress
from bas_cli.options import Request
from stages.core.errors import StageError

Paths = Annotated[list[str], typer.Argument(metavar="PATH...", help="Files, folders, patterns.", show_default=False)]
Out = Annotated[Path, typer.Option("--out", help="Folder of the masks, `<sub-folder>/<name>.png`.", show_default=False)]
Labels = Annotated[
    Path | None,
    typer.Option(
        "--labels", help="Image-level labels, lines `name class class …`: other classes are ruled out.", show_default=False
    ),
]
Overlays = Annotated[bool, typer.Option("--overlays", help="Also overlays/: the masks over the photographs.")]
Probabilities = Annotated[bool, typer.Option("--probabilities", help="Also probabilities/: .npz of every class, half precision.")]
Coco = Annotated[bool, typer.Option("--coco", help="Also coco.json: all masks as COCO's run-length codes.")]
Crf = Annotated[bool, typer.Option("--crf", help="Refine by a dense CRF.")]
Again = Annotated[bool, typer.Option("--force", help="Write over what the same network has written.")]


Model = Annotated[
    Path | None,
    typer.Option(
        "--model",
        help="An .onnx file of `bas export` (sees photographs at scale 1, not mirrored) or a network.pth, in place of a run's.",
        show_default=False,
    ),
]
Format = Annotated[
    Literal["onnx", "torchscript", "torch-export"],
    typer.Option("--format", metavar="FORMAT", help="onnx, torchscript or torch-export."),
]
File = Annotated[
    Path | None,
    typer.Option("--out", help="The file (default: network.onnx, .ts or .pt2 beside the checkpoint).", show_default=False),
]
Images = Annotated[
    int, typer.Option("--images", metavar="N", min=50, help="Photographs of the validation list to compare on, at least 50.")
]


def export(
    format: Format = "onnx",
    run: options.RunDir = None,
    out: File = None,
    images: Images = 50,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """A run's segmentation network as a file that runs without bas.

    Pixels (B,3,H,W) from 0 to 255 go in, logits of any height and width come out, at one scale. The file is compared with
    the network on photographs and not kept where it disagrees. ONNX wants the packages of the extra `export`.
    """
    from stages.actions import export as exporting
    from stages.actions.predict import Predictor

    chosen = options.open_run(Request(run=run, device="cpu"))
    config: Any = chosen.sections["segment_predict"]
    predictor = Predictor(chosen.folder, config, chosen.runtime)  # refuses at once where there is no network
    from stages.nets.mmseg.portable import SUFFIXES

    target = out or predictor.checkpoint.with_suffix(SUFFIXES[format])
    done = exporting.export(chosen, predictor, format, target, images, progress.reporter(quiet))
    if as_json:
        console.document(done)
    elif not quiet:
        console.note(f"{done['file']}: {done['bytes'] / 1e6:.1f} MB")
        compared = f"on {done['images']} images of {done['sizes']} sizes, made of {done['photographs']} photographs"
        console.note(f"{done['label_agreement']:.4%} of the pixels get the same class {compared}")
        console.note(f"largest difference of logits {done['largest_difference']:.2g}")


def predict(
    paths: Paths,
    out: Out,
    run: options.RunDir = None,
    model: Model = None,
    labels: Labels = None,
    overlays: Overlays = False,
    probabilities: Probabilities = False,
    coco: Coco = False,
    crf: Crf = False,
    assignments: options.Set = None,
    device: options.Device = None,
    precision: options.Precision = None,
    force: Again = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Masks of new photographs by a run's segmentation network.

    Goes on after an unreadable file, names it at the end and then exits with 2. Asked again with the same network and
    settings, only what is missing or older than its photograph is made. predict.json names the classes by id.
    """
    from stages.actions import predict_files
    from stages.actions.datasets.photographs import collect
    from stages.actions.predict import Predictor
    from stages.data.labels import read_lines

    request = Request(run=run, assignments=assignments or [], device=device, precision=precision)
    chosen = options.open_run(request) if model is None else options.settings_alone(request)
    config: Any = chosen.sections["segment_predict"]
    predictor = Predictor(model or chosen.folder, config, chosen.runtime, crf)
    _warn_of_views(assignments or [], config, predictor.config)
    photographs = collect(paths, out)
    wanted = predict_files.Wanted(out, overlays, probabilities, None if labels is None else read_lines(labels))
    classes, started = predictor.classes, time.monotonic()  # the network is read before the clock starts
    summary = predict_files.predict(predictor, photographs, wanted, progress.reporter(quiet), force)
    if coco:
        predict_files.write_coco(photographs, classes, out, progress.reporter(quiet))
    _tell(summary, out, time.monotonic() - started, as_json, quiet)


def _warn_of_views(assignments: Sequence[str], asked: Any, used: Any) -> None:
    """Say which settings of the views have no effect on the file of a network."""
    names = [name for name in ("scales", "flip") if getattr(asked, name) != getattr(used, name)]
    idle = [name for name in names if any(text.startswith(f"segment_predict.{name}=") for text in assignments)]
    if idle:
        words = "no effect, an .onnx file sees photographs at scale 1 and not mirrored"
        console.warn(f"segment_predict.{' and '.join(idle)}: {words}")


def _tell(summary: Any, out: Path, seconds: float, as_json: bool, quiet: bool) -> None:
    """What came of it. Raises StageError where files could not be predicted."""
    rate = summary.written / max(seconds, 1e-9)
    if as_json:
        counts = {"written": summary.written, "kept": summary.kept, "bad": summary.bad}
        console.document({"out": str(out), **counts, "seconds": round(seconds, 2), "images_per_second": round(rate, 2)})
    elif not quiet:
        kept = f", {summary.kept} kept" if summary.kept else ""
        pace = f": {rate:.1f} images a second" if summary.written else ""
        console.note(f"{summary.written} mask{'s' * (summary.written != 1)} written to {out}{kept}{pace}")
    for path, why in summary.bad.items():
        console.warn(why if path in why else f"{path}: {why}")
    if summary.bad:
        total = summary.written + summary.kept + len(summary.bad)
        raise StageError(
            f"{len(summary.bad)} of {total} photographs could not be predicted",
            "they are named above",
            "Mend them, and ask again: the others are kept",
        )
