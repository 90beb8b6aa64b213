"""Commands about datasets themselves: `bas data init` and `bas data prepare`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from bas_cli import console, options, progress
from stages.core.errors import StageError

Public = Annotated[
    Literal["voc", "coco"],
    typer.Argument(metavar="DATASET", help="voc (VOC 2012 with SBD) or coco (COCO 2014).", show_default=False),
]
Root = Annotated[
    Path | None, typer.Option("--root", help="Folder to prepare it in (default data/voc or data/coco).", show_default=False)
]
Archives = Annotated[
    Path | None,
    typer.Option("--archives", help="Folder of the archives, or of what they held (default the same).", show_default=False),
]
Download = Annotated[bool, typer.Option("--download", help="Fetch the archives that are not on disk.")]
Unchecked = Annotated[bool, typer.Option("--unchecked", help="Take archives whose checksum is not the published one.")]


Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The folder of the photographs.", show_default=False)]
Out = Annotated[
    Path | None, typer.Option("--out", help="The configuration's file (default ./<name of the folder>.yaml).", show_default=False)
]
Share = Annotated[
    float, typer.Option("--val-share", metavar="SHARE", min=0.01, max=0.9, help="Share of the images that is held out.")
]
Seed = Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Decides which images are held out.")]
Over = Annotated[bool, typer.Option("--force", help="Write over a configuration and lists that are there.")]


def init(
    folder: Folder,
    out: Out = None,
    labels: options.Labels = None,
    share: Share = 0.2,
    seed: Seed = 0,
    force: Over = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """A configuration for a folder of labelled photographs, and the lists of images to train on and to hold out.

    DIR has one sub-folder a class, or holds a file of labels (CSV, JSON, JSON lines, Label Studio's JSON, CVAT's XML), or is
    a VOC devkit or in COCO's format. True masks, if there are any, lie in DIR/masks. `bas run DIR` does this by itself.
    """
    from stages.actions.datasets.init import Wish, initialise

    root = folder.expanduser().resolve()
    config = (out or Path(f"{root.name}.yaml")).expanduser().absolute()
    if out is None and config.is_relative_to(root):
        why = "the photographs' folder is left alone"
        raise StageError(f"No configuration is written into {root}", why, "Say where: --out FILE")
    if config.exists() and not force:
        raise StageError(f"{config} is there already", "it may have been changed by hand", "Choose --out FILE, or --force")
    lists = config.with_name(f"{config.stem}_lists")
    given = labels and labels.expanduser().absolute()
    found = initialise(Wish(root, config, lists, str(lists), given, share, seed, force))
    if as_json:
        console.document(found)
        return
    console.found_table(found)
    if not quiet:
        console.note(f"next: bas run {shlex.quote(str(config))}")


def prepare(
    dataset: Public,
    root: Root = None,
    archives: Archives = None,
    download: Download = False,
    unchecked: Unchecked = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """A public dataset ready to run: archives unpacked, masks drawn, the official lists; asked again, it goes on or finds all.

    voc wants VOCtrainval_11-May-2012.tar and SBD's benchmark.tgz (3.4 GB), coco train2014.zip, val2014.zip and
    annotations_trainval2014.zip (20 GB), or the folders that they unpack to. Nothing is fetched without --download.
    """
    from stages.actions.datasets.preparation import Preparation

    place = (root or Path("data") / dataset).expanduser()
    sources = (archives or place).expanduser()
    prepared = Preparation(place, sources, download, unchecked, progress.reporter(quiet))
    done = _PREPARE[dataset](prepared)
    for warning in done["warnings"]:
        console.warn(warning)
    if as_json:
        console.document(done)
    elif not quiet:
        _tell(done)


def _voc(prepared: Any) -> dict[str, Any]:
    from stages.actions.datasets import prepare_voc

    return prepare_voc.prepare(prepared)


def _coco(prepared: Any) -> dict[str, Any]:
    from stages.actions.datasets import prepare_coco

    return prepare_coco.prepare(prepared)


def _tell(done: Mapping[str, Any]) -> None:
    console.note("; ".join(done["did"]) if done["did"] else "everything is there already, nothing was done")
    lists = ", ".join(f"{name} {count['images']:,}" for name, count in done["lists"].items())
    console.note(f"{done['root']}: {lists}; labels from {done['labels']}")
    console.note(f"next: bas run {done['dataset']} --data {shlex.quote(done['root'])}")


_PREPARE = {"voc": _voc, "coco": _coco}
