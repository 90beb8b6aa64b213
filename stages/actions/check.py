"""What is refused before any stage works: settings that do not go together, absent inputs, a device or weights out of reach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stages import PIPELINE
from stages.actions.configure import stage_module
from stages.core import config as configuration
from stages.core import inputs, lists, networks, published
from stages.core.config import Section
from stages.core.errors import StageError
from stages.core.manifest import begun_with, read_manifest
from stages.core.runtime import Runtime
from stages.data import demo, sources
from stages.data.dataset import Generated

FIRST = next(iter(PIPELINE))
RECIPE = "segment_train"  # the section that every training of the segmentation network follows
Sections = Mapping[str, Section]


def subset(named: Mapping[str, Sequence[int]] | None, classes: int) -> None:
    """Raise StageError where eval.subset holds ids that a dataset of so many CLASSES has not, or a name that is taken."""
    for name, ids in (named or {}).items():
        strange = [i for i in ids if not 0 <= i <= classes]
        if strange or name == "mIoU" or not ids:
            raise StageError(
                f"Bad value for eval.subset '{name}'",
                f"{strange or list(ids)} in a dataset of {classes} classes and background",
                f"Name some ids from 0 (background) to {classes}, under another name than mIoU",
            )


def stages(sections: Sections, names: Sequence[str], folder: Path) -> None:
    """Raise StageError where the stages NAMES cannot run on the seeds, maps, weights and imports that they name."""
    _seeds(sections, names)
    if "irn_instances" in names:
        _field(folder)
    if "segment_train" in names:
        _confidence(sections)
    if FIRST in names and "seed_infer" in names:
        _maps(sections)
    if any(_teaches(name) for name in names):
        networks.check(_network(sections), vars(sections[RECIPE])["weights"])
    for name in names:
        inputs.require_weights(sections[name])
        getattr(stage_module(name), "check", lambda _: None)(sections[name])  # a stage's own, where it has one
        _imports(name, sections, folder)


def anew(name: str, names: Sequence[str], force: bool) -> bool:
    """Whether FORCE makes a fresh stage anew where NAMES were asked for: an extra one that was not is kept."""
    return force and (name in names or FIRST in names)


def demo_lists(recipe: Generated | None, names: Sequence[str]) -> None:
    """Raise StageError where the stages NAMES ask for a list that a dataset which is to be generated will not have."""
    asked = [lists.list_of(name) for name in names] if recipe is not None else []
    strange = next((name for name in asked if name not in (None, *demo.LISTS)), None)
    if strange is not None:
        known = ", ".join(demo.LISTS)
        raise StageError(f"No image list '{strange}'", f"the generated images are in lists {known}", f"Name one of {known}")


def _teaches(name: str) -> bool:
    """Whether the stage trains the segmentation network."""
    return networks.SETTING in stage_module(name).SHARED


def _network(sections: Sections) -> str:
    return vars(sections["segment"])["network"]


def _seeds(sections: Sections, names: Sequence[str]) -> None:
    """Raise StageError where stages after the seeds are to run and only scored images have seeds."""
    reader = next((name for name in names if "seed_infer" in stage_module(name).NEEDS), None)
    if reader is not None and vars(sections["seed_infer"])["images"] != "train":
        raise StageError(
            f"Cannot run {reader}",
            "seed_infer.images is score, and it reads the seeds of all images to train on",
            "Stop before it with --until seed_infer, or --set seed_infer.images=train",
        )


def _confidence(sections: Sections) -> None:
    """Raise StageError where what masks are least sure of is to be left out, and they do not say how sure they are."""
    keep, config = vars(sections["refine"])["keep"], vars(sections["segment_train"])
    if config["void"] and (keep == "seeds" or config["supervision"] == "full"):
        why = "refine.keep is seeds" if keep == "seeds" else "segment_train.supervision is full"
        raise StageError(
            "Cannot leave out what the masks are least sure of",
            f"{why}, and only refined masks say how sure they are",
            "Set segment_train.void=0",
        )


def _field(folder: Path) -> None:
    """Raise StageError where the IRN that is there was trained without displacements: nothing tells instances apart."""
    made = begun_with(folder / "irn_train").get("config", {}).get("irn_train", {})
    if made.get("displacement") is False:
        raise StageError(
            "Cannot tell instances apart",
            "irn_train.displacement was false when IRN was trained",
            "Train it again with `bas refine irn --set irn_train.displacement=true`",
        )


def _maps(sections: Sections) -> None:
    """Raise StageError, before anything is trained, where a source needs a map that the seed network is not to make."""
    scored = vars(sections["seed_infer"])["sources"]
    if "agnostic" in sources.maps_of(scored) and vars(sections[FIRST])["agnostic"] == "none":
        raise StageError(
            f"Cannot make the sources {', '.join(scored)}",
            "replace and average take the class-agnostic foreground map, and seed_train.agnostic is none",
            "Set seed_train.agnostic=detached, or leave those sources out",
        )


def _imports(name: str, sections: Sections, folder: Path) -> None:
    """Raise StageError where a stage reads an import that is not there: maps may be a misspelt source."""
    for need in inputs.needs(stage_module(name), sections[name]):
        command = inputs.brought(need)
        if command is not None and read_manifest(folder / need) is None:
            source, kind = Path(need).name, Path(need).parent
            there = [path.name for path in (folder / kind).glob("*")]
            right = sources.meant(source, there) if str(kind) == inputs.IMPORTS else None
            question = f"Did you mean '{right}'? To import '{source}': " if right else ""
            todo = f"{question}Run `bas {command}` first"
            raise StageError(f"Cannot run {name}", f"its input {need} is not there in {folder}", todo)


def leak(sections: Sections, names: Sequence[str], classes: Sequence[str]) -> None:
    """Raise StageError where stages start from weights that were trained on COCO's masks, and COCO is what they learn."""
    told = [name for name in names if getattr(sections[name], "weights", None) == "coco"]
    if not told:
        return
    from stages.data import coco  # which draws polygons: too much for a call that only asks for the state of a run

    if set(coco.CLASSES) <= set(classes):
        raise StageError(
            f"Refused {told[0]}.weights=coco on COCO",
            "they were trained on COCO's pixel labels, and image-level labels are all that may be used of it",
            f"Set {told[0]}.weights=imagenet",
        )


def to_fetch(sections: Sections, names: Sequence[str]) -> list[str]:
    """The addresses of the published weights that the stages NAMES start from and that are not kept on this machine."""
    known = [published.TRUNKS.get(trunk, {}).get(weights) for trunk, weights in _trunks(sections, names)]
    return [address for address in known if address is not None and not published.kept(address).is_file()]


def rehearse(sections: Sections, names: Sequence[str], runtime: Runtime, look: bool) -> None:
    """Raise StageError, in the words of the stage that would, where the device is absent, initial weights do not fit or, unless
    this is only a LOOK, cannot be fetched, or a network of mmsegmentation cannot be trained.

    Imports torch only where that can be: for a device or precision that is asked for, timm's trunks, networks that bring
    their own, and weights beyond the published ones that every call knows of.
    """
    if names and (runtime.config.device == "cuda" or runtime.config.precision == "16-mixed"):
        _ = runtime.device, runtime.precision
    if _with_own_trunk(sections, names):
        _try_network(_network(sections), vars(sections[RECIPE]))
    for trunk, weights in _trunks(sections, names):
        _try_trunk(trunk, weights)
    for address in [] if look else to_fetch(sections, names):
        published.require(address)


def _with_own_trunk(sections: Sections, names: Sequence[str]) -> set[str]:
    """The stages of NAMES that train a network which brings its own trunk."""
    return set() if networks.takes_trunk(_network(sections)) else {name for name in names if _teaches(name)}


def _trunks(sections: Sections, names: Sequence[str]) -> dict[tuple[str, str], None]:
    """The trunks of ours or timm's that the stages NAMES train, each with its initial weights."""
    rest = [sections[name] for name in names if name not in _with_own_trunk(sections, names)]
    pairs = [(getattr(section, "backbone", None), getattr(section, "weights", "none")) for section in rest]
    return {(trunk, weights): None for trunk, weights in pairs if trunk is not None}


def _try_trunk(trunk: str, weights: str) -> None:
    """Build a trunk and fill it, unless it is one of ours and its weights are known to be there."""
    timm = trunk.startswith(configuration.TIMM)
    known = ("imagenet",) if timm else published.TRUNKS[trunk]
    unknown = weights not in ("none", "seed", *known)
    if timm or unknown:
        from stages.nets import backbones, pretrained

        built = backbones.build(trunk)
        if unknown:
            pretrained.load_weights(built, weights)


def _try_network(name: str, recipe: Mapping[str, Any]) -> None:
    """Build a network that brings its own trunk, fill it, and let it see two crops."""
    from stages.nets.mmseg import network, rehearsal

    spec = network.Network(name=name, classes=rehearsal.CLASSES, loss=recipe["loss"], crop=recipe["crop"])
    rehearsal.rehearse(spec, recipe["weights"])
