"""A run: its resolved configuration, the state of every stage, and their execution in order."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import IO, TYPE_CHECKING, Any, Literal

import configs
from stages import EXTRAS, PIPELINE
from stages.core import config as configuration
from stages.core import runtime as runtimes
from stages.core import stage as contract
from stages.core.config import Field, S, Section
from stages.core.errors import StageError
from stages.core.files import HashCache, own, write_text
from stages.core.log import Tell, open_log
from stages.data import dataset as datasets
from stages.data import sources

if TYPE_CHECKING:
    import logging

    from stages.data.scoring import Scores


class EvalConfig(Section):
    """What the numbers are reported on."""

    subset: Mapping[str, Sequence[int]] | None = Field(
        None, description="Further means beside mIoU: a name and its ids in the masks, e.g. {mIoU-6: [0, 8, 10, 12, 13, 17]}."
    )


class RefineConfig(Section):
    """Shared by the refinement's stages."""

    seed: str = Field("sum", description="Which of seed_infer.sources IRN reads; the same are scored.")
    power: float = Field(1.5, description="Exponent on the seeds before the walk.", gt=0)
    keep: Literal["masks", "seeds"] = Field(
        "masks", description="What the segmentation network learns from: masks (refined) or seeds."
    )


FIRST = next(iter(PIPELINE))
SHARED: dict[str, type[Section]] = {
    "data": datasets.Config,
    "runtime": runtimes.Config,
    "eval": EvalConfig,
    "refine": RefineConfig,
}


def stage_module(name: str) -> ModuleType:
    """The module of a stage; importing it does not import torch."""
    return importlib.import_module(f"stages.{name}")


def sections() -> dict[str, type[Section]]:
    """Every section of the configuration by name: the shared ones and one a stage."""
    return SHARED | {name: stage_module(name).Config for name in (*PIPELINE, *EXTRAS)}


def plan(resolved: Mapping[str, Section], names: Sequence[str]) -> list[str]:
    """The stages NAMES, and before each the extra ones that its settings call for."""
    planned: list[str] = []
    for name in names:
        wanted = [need for need in contract.needs(stage_module(name), resolved[name]) if need in EXTRAS]
        planned += [stage for stage in (*wanted, name) if stage not in planned]
    return planned


def resolve(name: str, assignments: Sequence[str] = (), overrides: Mapping[str, Any] | None = None) -> dict[str, Section]:
    """The configuration NAME (shipped or a YAML path) with `--set` assignments and overrides, every section validated.

    Raises StageError on an unknown name, key or bad value, and names the nearest valid one.
    """
    values = configs.load(name)
    known = sections()
    for assignment in assignments:
        keys, value = configuration.parse_assignment(assignment)
        for key in reversed(keys):
            value = {key: value}
        values = configuration.merge(values, value)
    values = configuration.merge(values, dict(overrides or {}))
    return build(values, known)


def former_data(folder: Path) -> dict[str, Any]:
    """Where the run's data lay when it was last used: a later command need not say it again."""
    data = _saved_data(folder)
    return {key: data[key] for key in ("root", "labels") if data.get(key) is not None}


def _saved_data(folder: Path) -> dict[str, Any]:
    """The section `data` of the run's config.yaml; empty where there is none or it is damaged."""
    try:
        values = configuration.read_yaml((folder / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    data = values.get("data") if isinstance(values, dict) else None
    return data if isinstance(data, dict) else {}


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
        raise StageError(
            f"Bad value for refine.seed: {refined}",
            f"seed_infer.sources are {', '.join(scored)}, and the seed that is scored is the seed that IRN reads",
            f'Name one of them, or --set seed_infer.sources="[{", ".join([*scored, refined])}]"',
        )


@dataclass(frozen=True)
class Report:
    """The state of one stage, for people and for --json."""

    name: str
    state: str
    why: str
    metrics: Mapping[str, float]
    seconds: float | None
    outputs: int

    def row(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "name": self.name,
            "state": self.state,
            "why": self.why,
            "metrics": dict(self.metrics),
            "seconds": self.seconds,
            "outputs": self.outputs,
        }


class _Still:
    """The dataset of a run at one moment: each split is looked at once for all stages."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._known: dict[str, str] = {}

    def digest(self, role: str, hashes: HashCache) -> str:
        """Content digest of a split."""
        if role not in self._known:
            self._known[role] = self._run.dataset.digest(role, hashes)
        return self._known[role]


class Run:
    """One run directory with its configuration."""

    def __init__(self, folder: Path, resolved: Mapping[str, Section]) -> None:
        self.folder, self.sections = folder, dict(resolved)
        self.runtime = runtimes.Runtime(self._section("runtime", runtimes.Config))
        self._dataset: datasets.Dataset | None = None
        self.hashes = HashCache(folder / "hashes.json")
        self._hold: IO[str] | None = None
        self.on_warning: Tell = lambda message: None
        self.on_note: Tell = lambda message: None
        self.reporter: contract.Reporter | None = None  # shows the generation of the demo

    def _section(self, name: str, kind: type[S]) -> S:
        section = self.sections[name]
        assert isinstance(section, kind)
        return section

    @property
    def recipe(self) -> datasets.Generated | None:
        """What the run's data is generated from; None where photographs are read."""
        return self._section("data", datasets.Config).recipe

    @property
    def refined(self) -> str:
        """The source of seeds that IRN reads."""
        return self._section("refine", RefineConfig).seed

    @property
    def dataset(self) -> datasets.Dataset:
        """The dataset, opened once."""
        if self._dataset is None:
            self._dataset = datasets.open_dataset(self._section("data", datasets.Config), self.folder, self._watch)
            self._check_subset(len(self._dataset.classes))
        return self._dataset

    def _watch(self, names: Sequence[str]) -> Iterator[str]:
        """Pass the names of generated images on and show how far they are."""
        if self.reporter is None:
            yield from names
            return
        with self.reporter.track("generating", len(names)) as meter:
            for name in names:
                yield name
                meter.advance()

    def _check_subset(self, classes: int) -> None:
        for name, ids in (self._section("eval", EvalConfig).subset or {}).items():
            strange = [i for i in ids if not 0 <= i <= classes]
            if strange or name == "mIoU" or not ids:
                raise StageError(
                    f"Bad value for eval.subset '{name}'",
                    f"{strange or list(ids)} in a dataset of {classes} classes and background",
                    f"Name some ids from 0 (background) to {classes}, under another name than mIoU",
                )

    def check(self, names: Sequence[str]) -> None:
        """Raise StageError where the stages NAMES cannot use the data or lack a file of weights or imported maps.

        Writes nothing, so demo's images are left for later.
        """
        names = plan(self.sections, names)
        self._check_seeds(names)
        if "irn_instances" in names:
            self._check_field()
        if FIRST in names and "seed_infer" in names:
            self._check_maps()
        for name in names:
            contract.require_weights(self.sections[name])
            contract.require_inputs(stage_module(name), self.sections[name], self.folder, contract.IMPORTS)
        if self.recipe is None:
            for role in dict.fromkeys(role for name in names for role in stage_module(name).READS):
                self.dataset.split(role)

    def begin(self) -> logging.Logger:
        """Make the folder, hold it, keep the configuration in it and open the log.

        Raises StageError where it is another dataset's, or another process works in it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._hold = self._hold or self._own()
        self.save_config()
        return open_log(self.folder, self.on_warning, self.on_note)

    def _check_seeds(self, names: Sequence[str]) -> None:
        """Raise StageError where stages after the seeds are to run and only scored images have seeds."""
        reader = next((name for name in names if "seed_infer" in stage_module(name).NEEDS), None)
        if reader is not None and vars(self.sections["seed_infer"])["images"] != "train":
            raise StageError(
                f"Cannot run {reader}",
                "seed_infer.images is score, and it reads the seeds of all images to train on",
                "Stop before it with --until seed_infer, or --set seed_infer.images=train",
            )

    def _check_field(self) -> None:
        """Raise StageError where the IRN that is there was trained without displacements: nothing tells instances apart."""
        made = contract.begun_with(self.folder / "irn_train").get("config", {}).get("irn_train", {})
        if made.get("displacement") is False:
            raise StageError(
                "Cannot tell instances apart",
                "irn_train.displacement was false when IRN was trained",
                "Train it again with `bas refine irn --set irn_train.displacement=true`",
            )

    def _check_maps(self) -> None:
        """Raise StageError, before anything is trained, where a source needs a map that the seed network is not to make."""
        scored = vars(self.sections["seed_infer"])["sources"]
        if "agnostic" in sources.maps_of(scored) and vars(self.sections[FIRST])["agnostic"] == "none":
            raise StageError(
                f"Cannot make the sources {', '.join(scored)}",
                "replace and average take the class-agnostic foreground map, and seed_train.agnostic is none",
                "Set seed_train.agnostic=detached, or leave those sources out",
            )

    def _own(self) -> IO[str]:
        try:
            return own(self.folder / ".lock")
        except BlockingIOError as fault:
            raise StageError(
                f"Run folder {self.folder} is in use", str(fault.strerror), "Wait for it to end, or choose another with --run DIR"
            ) from fault

    def save_config(self) -> None:
        """Write config.yaml. Raises StageError when the folder holds a run of another dataset."""
        import yaml

        values = {name: section.plain() for name, section in self.sections.items()}
        path, old = self.folder / "config.yaml", _saved_data(self.folder)
        reader, root = (key in old and old[key] != values["data"][key] for key in ("reader", "root"))
        begun = any(contract.begun_with(self.folder / name) for name in (*PIPELINE, *EXTRAS))
        if begun and (reader or (root and self._other_images())):
            raise StageError(
                f"Run folder {self.folder} belongs to another dataset",
                f"it holds a run on {old.get('root') or old.get('reader')}",
                "Choose another folder with --run DIR, or remove this one",
            )
        text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            write_text(path, text)

    def _other_images(self) -> bool:
        """Whether stages were made from other images: a moved data folder is not another dataset."""
        for name in (*PIPELINE, *EXTRAS):
            for split, value in contract.begun_with(self.folder / name).get("data", {}).items():
                return value != self.dataset.digest(split, self.hashes)
        return False

    def wanted(self, name: str, still: _Still | None = None) -> dict[str, Any]:
        """The fingerprint that the stage's result should have now; of an import, whose folder may be gone, what can be known."""
        if name.startswith(contract.IMPORTS):
            split = {"train": (still or self.dataset).digest("train", self.hashes)}
            return {**contract.begun_with(self.folder / name), "data": split}
        return contract.fingerprint(stage_module(name), self.sections, still or self.dataset, self.folder, self.hashes)

    def report(self, name: str, still: _Still | None = None) -> Report:
        """State, reason, metrics and outputs of one stage."""
        begun = contract.begun_with(self.folder / name)
        now = contract.state(self.folder / name, self.wanted(name, still)) if begun else contract.NOT_RUN
        manifest = contract.read_manifest(self.folder / name) or {}
        count = manifest.get("outputs", {}).get("count", 0)
        return Report(name, now.state, now.why, manifest.get("metrics", {}), manifest.get("seconds"), count)

    def stages(self) -> list[str]:
        """The pipeline with the extra stages that its settings call for, then those that were made all the same."""
        planned = plan(self.sections, list(PIPELINE))
        return planned + [name for name in EXTRAS if name not in planned and contract.begun_with(self.folder / name)]

    def reports(self, still: _Still | None = None) -> list[Report]:
        """The state of every import and stage; a stage whose input is stale or missing is at best stale itself."""
        rows: list[Report] = []
        behind: dict[str, str] = {}
        still = still or _Still(self)
        needs = {name: contract.needs(stage_module(name), self.sections[name]) for name in self.stages()}
        imports = {need: () for names in needs.values() for need in names if need.startswith(contract.IMPORTS)}
        for name, needed in (imports | needs).items():
            row = self._row(name, still)
            waiting = next((need for need in needed if need in behind), None)
            if row.state == "done" and waiting is not None:
                row = Report(name, "stale", f"its input {waiting} is {behind[waiting]}", row.metrics, row.seconds, row.outputs)
            if row.state != "done":
                behind[name] = row.state
            rows.append(row)
        self.hashes.save()
        return rows

    def _row(self, name: str, still: _Still) -> Report:
        """The report on a stage; where its inputs cannot even be compared, it is stale for that reason."""
        try:
            return self.report(name, still)
        except StageError as fault:
            return Report(name, "stale", f"{fault.what}: {fault.why}", {}, None, 0)

    def execute(self, names: Sequence[str], reporter: contract.Reporter, force: bool = False) -> Iterator[tuple[Report, bool]]:
        """Run the stages NAMES in order; yields each one's report and whether it was run now.

        What is stale before the first of NAMES stays so: the log warns of it, and a stage that is kept in spite of it is
        reported as stale.
        """
        log = self.begin()
        still = _Still(self)
        rows = self._rows(still)
        planned, untried = plan(self.sections, names), True
        for name in planned:
            kept = rows.get(name)
            before = kept if kept is not None and kept.state == "done" else self.report(name, still)
            anew = force and (name in names or FIRST in names)  # an extra stage that was not asked for is not made anew
            if before.state == "done" and not anew:
                yield rows.get(name, before), False
                continue
            if untried:
                self._try_trunks(planned)
                untried = False
            self._warn(name, rows, log)
            log.info(self.runtime.describe())
            contract.execute(stage_module(name), self.sections[name], self.context(name, reporter, log), self.wanted(name), anew)
            still = _Still(self)  # images may have changed while the stage ran
            rows = self._rows(still)
            yield self.report(name, still), True

    def _try_trunks(self, names: Sequence[str]) -> None:
        """Raise StageError where timm has no such trunk as one of NAMES wants, or it does not fit: before any of them works."""
        trunks = [getattr(self.sections[name], "backbone", "") for name in names]
        for trunk in dict.fromkeys(trunk for trunk in trunks if trunk.startswith(configuration.TIMM)):
            from stages.nets import backbones

            backbones.build(trunk)

    def _rows(self, still: _Still) -> dict[str, Report]:
        return {row.name: row for row in self.reports(still)}

    def context(self, name: str, reporter: contract.Reporter, log: logging.Logger) -> contract.Context:
        """What the stage or import NAME may use."""
        shared = {key: self.sections[key] for key in SHARED}
        return contract.Context(self.folder, name, self.dataset, shared, self.runtime, reporter, log)

    def _warn(self, name: str, rows: Mapping[str, Report], log: logging.Logger) -> None:
        unlabelled = self.dataset.unlabelled
        warnings = []
        if unlabelled:
            warnings.append(f"{len(unlabelled)} images without a label are left out of training, first '{unlabelled[0]}'")
        for need in contract.needs(stage_module(name), self.sections[name]):
            if need in rows and rows[need].state == "stale":
                imported = need.startswith(contract.IMPORTS)
                remedy = f"Run `bas seed import DIR --name {Path(need).name}` again" if imported else "`bas run` makes both anew"
                warnings.append(f"{name} reads {need}, which is stale: {rows[need].why}. {remedy}")
        for warning in warnings:
            log.warning(warning)

    def score(self, name: str, reporter: contract.Reporter) -> Scores | None:
        """Score the outputs of a finished stage again; None for a stage that has nothing to score."""
        stage = stage_module(name)
        if not hasattr(stage, "score"):
            return None
        return stage.score(self.sections[name], self.context(name, reporter, open_log(self.folder)))
