"""The configuration of a run: its sections, and how a shipped one or a YAML file becomes them with what a call says."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import configs
from stages import EXTRAS, PIPELINE
from stages.core import config as configuration
from stages.core import inputs, lists, networks
from stages.core import runtime as runtimes
from stages.core.config import Field, S, Section
from stages.core.errors import StageError
from stages.data import dataset as datasets
from stages.data import sources


class EvalConfig(Section):
    """What the numbers are reported on."""

    subset: Mapping[str, Sequence[int]] | None = Field(
        None, description="Further means beside mIoU: a name and its ids in the masks, e.g. {mIoU-6: [0, 8, 10, 12, 13, 17]}."
    )


class RefineConfig(Section):
    """Shared by the refinement's stages."""

    seed: str = Field("sum", description="Which of seed_infer.sources IRN reads; the same are scored.")
    power: float = Field(1.5, description="Exponent on the seeds before the walk.", gt=0)
    keep: Literal["masks", "seeds", "better"] = Field(
        "masks",
        description="What the segmentation network learns from: masks (refined), seeds, or of both what looks better.",
    )


class SegmentConfig(Section):
    """Shared by the stages that train a segmentation network."""

    network: str = Field(
        networks.OURS,
        description=f"Segmentation network: {', '.join((networks.OURS, *networks.HEADS))} on the trunk segment_train.backbone; "
        f"{', '.join(networks.ALIASES)}, the name of a config that mmsegmentation ships, or the path of one (code, which runs).",
        later=True,
    )


CHOICE = "mask_choice"  # the stage that takes corrections
SHARED: dict[str, type[Section]] = {
    "data": datasets.Config,
    "runtime": runtimes.Config,
    "eval": EvalConfig,
    "refine": RefineConfig,
    "segment": SegmentConfig,
}


def stage_module(name: str) -> ModuleType:
    """The module of a stage, on whatever list of images; importing it does not import torch."""
    return importlib.import_module(f"stages.{lists.stage_of(name)}")


def sections() -> dict[str, type[Section]]:
    """Every section of the configuration by name: the shared ones and one a stage."""
    return SHARED | {name: stage_module(name).Config for name in (*PIPELINE, *EXTRAS)}


def plan(resolved: Mapping[str, Section], names: Sequence[str]) -> list[str]:
    """The stages NAMES, and before each the extra ones that its settings call for, and those that these read."""
    planned: list[str] = []

    def add(name: str) -> None:
        for need in inputs.needs(stage_module(name), resolved[lists.stage_of(name)]):
            if need in EXTRAS:
                add(need)
        if name not in planned:
            planned.append(name)

    for name in names:
        add(name)
    return planned


def resolve(
    name: str,
    assignments: Sequence[str] = (),
    overrides: Mapping[str, Any] | None = None,
    former: Mapping[str, Any] | None = None,
) -> dict[str, Section]:
    """The configuration NAME (shipped or a YAML path) with `--set` assignments and overrides, every section validated.

    FORMER: the configuration that the run had before; what `remember` takes from it need not be said again.
    Raises StageError on an unknown name, key or bad value, and names the nearest valid one.
    """
    return settle(remember(configs.load(name), former or {}), assignments, overrides)


def settle(
    values: Mapping[str, Any], assignments: Sequence[str] = (), overrides: Mapping[str, Any] | None = None
) -> dict[str, Section]:
    """Plain VALUES, those left out at their defaults, with `--set` assignments and overrides, validated. Raises StageError."""
    known, settled = sections(), dict(values)
    for assignment in assignments:
        keys, value = configuration.parse_assignment(assignment)
        for key in reversed(keys):
            value = {key: value}
        settled = configuration.merge(settled, value)
    return build(configuration.merge(settled, dict(overrides or {})), known)


def remember(values: dict[str, Any], former: Mapping[str, Any]) -> dict[str, Any]:
    """VALUES with what a run was called with FORMERLY: where its data lay, files of weights, masks corrected by hand.

    Files of weights are for stages of which VALUES name no weights: a configuration that does is meant. So are corrections.
    """
    data = former.get("data") or {}
    kept: dict[str, Any] = {"data": {key: data[key] for key in ("root", "labels") if data.get(key) is not None}}
    for name, section in former.items():
        weights = section.get("weights") if isinstance(section, Mapping) else None
        if weights not in (None, *inputs.WEIGHTS) and "weights" not in (values.get(name) or {}):
            kept[name] = {"weights": weights}
    corrected = (former.get(CHOICE) or {}).get("corrected")
    if corrected and "corrected" not in (values.get(CHOICE) or {}):
        kept[CHOICE] = {"corrected": corrected}
    return configuration.merge(values, kept)


def saved(folder: Path) -> dict[str, Any]:
    """The run's config.yaml as plain values; empty where there is none or it is damaged."""
    try:
        values = configuration.read_yaml((folder / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def build(values: Mapping[str, Any], known: Mapping[str, type[S]]) -> dict[str, S]:
    """Validate plain values against the sections. Raises StageError."""
    for key in values:
        if key not in known:
            raise configuration.unknown_key(key, key, list(known))
    built = {key: configuration.validate(section, values.get(key) or {}, key) for key, section in known.items()}
    _check_sources(vars(built["seed_infer"])["sources"], vars(built["refine"])["seed"])
    return built


def _check_sources(scored: Sequence[str], refined: str) -> None:
    """Raise StageError on a source that cannot be read, and where IRN would read a seed that is not scored."""
    sources.maps_of((*scored, refined))
    if refined not in scored:
        right = sources.meant(refined)
        more = ", ".join(dict.fromkeys([*scored, right or refined]))
        raise StageError(
            f"Bad value for refine.seed: {refined}",
            f"seed_infer.sources are {', '.join(scored)}, and the seed that is scored is the seed that IRN reads",
            f"Did you mean '{right}'? " * (right is not None) + f'Name one of them, or --set seed_infer.sources="[{more}]"',
        )
