"""Whether a stage's result is still the right one, by content: its fingerprint against the one that it should have now."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from stages.core import inputs, networks
from stages.core.config import Section
from stages.core.files import HashCache, read_json
from stages.core.manifest import STARTED, lost, read_manifest

NOT_CONTENT = frozenset({"weights"})  # settings that name a file: its content counts, not its path


@dataclass(frozen=True)
class State:
    """done, stale, partial or missing, and why."""

    state: str
    why: str


NOT_RUN = State("missing", "not run yet")


def fingerprint(
    stage: ModuleType, sections: Mapping[str, Section], dataset: Any, run_dir: Path, hashes: HashCache, reads: Iterable[str]
) -> dict[str, Any]:
    """Everything that decides a stage's result: settings, seed, inputs' digests, images and labels it READS, files it names."""
    name = inputs.name_of(stage)
    needed = inputs.needs(stage, sections[name])
    digests = {split: dataset.digest(split, hashes) for split in reads}
    seed = {"runtime": {"seed": sections["runtime"].plain()["seed"]}}
    return {
        "stage": name,
        "config": _settings(sections, (name, *stage.SHARED)) | seed,
        "inputs": {need: (read_manifest(run_dir / need) or {}).get("digest") for need in needed},
        "data": {split: value for split, value in digests.items() if value is not None},
        **_files(stage, sections, sections[name], hashes),
    }


def _files(stage: ModuleType, sections: Mapping[str, Section], own: Section, hashes: HashCache) -> dict[str, Any]:
    """Digests of the files that settings name: initial weights, and the config of a network where a path is given."""
    inputs.require_weights(own)
    weights = getattr(own, "weights", None)
    found: dict[str, Any] = {}
    if weights is not None:
        found["weights"] = weights if weights in inputs.WEIGHTS else hashes.of(Path(weights))
    if networks.SETTING in stage.SHARED:
        configs = [hashes.of(file) for file in networks.files(vars(sections["segment"])["network"])]
        found |= {"network": configs} if configs else {}
    return found


def _settings(sections: Mapping[str, Section], names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Plain values by section of what NAMES name: whole sections, or single settings as `refine.seed`."""
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        section, _, setting = name.partition(".")
        values = sections[section].deciding(NOT_CONTENT)
        chosen = {key: value for key, value in values.items() if key == setting or not setting}
        found |= {section: {**found.get(section, {}), **chosen}} if chosen else {}
    return found


def state(folder: Path, wanted: Mapping[str, Any]) -> State:
    """Compare a stage's folder with the fingerprint that its result should have."""
    manifest = read_manifest(folder)
    if manifest is None:
        started = read_json(folder / STARTED)
        if started is None:
            return NOT_RUN
        changed = differences(started, wanted)
        if changed:
            return State("stale", f"interrupted, and since then: {changed[0]}")
        return State("partial", "interrupted; run again to go on")
    changed = differences(manifest["fingerprint"], wanted)
    if changed:
        return State("stale", changed[0] + (f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""))
    gone = next(lost(folder, manifest), None)
    return State("stale", f"output {gone} is missing or changed") if gone else State("done", "")


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """What changed between two fingerprints, field by field, in words."""
    tables = [value for value in (old, new) if isinstance(value, Mapping)]
    if len(tables) == 2 or (tables and None in (old, new)):  # a table that came later is not there before
        before, now = old or {}, new or {}
        keys = dict.fromkeys([*before, *now])
        return [line for key in keys for line in differences(before.get(key), now.get(key), f"{where}.{key}".lstrip("."))]
    if old == new:
        return []
    if where.startswith("inputs."):
        name = where.removeprefix("inputs.")
        return [f"{name} was {'imported' if inputs.brought(name) else 'run'} again or is missing"]
    if where == "files":
        return ["the files that were imported changed"]
    if where.startswith("data."):
        return [f"the images or labels of split '{where.split('.')[1]}' changed"]
    if where in ("weights", "network"):
        return [f"the {'initial weights' if where == 'weights' else 'config of the network'} changed"]
    before, now = ("the default" if value is None else value for value in (old, new))
    return [f"{where.removeprefix('config.')}: {before} → {now}"]
