"""A run: its resolved configuration, the state of every stage, and their execution in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from stages import EXTRAS, PIPELINE
from stages.actions import check as checks
from stages.actions import run_folder
from stages.actions.configure import EvalConfig, RefineConfig, plan, stage_module
from stages.actions.states import Report, Still, at_work, held_back, stale_inputs, with_beginning
from stages.core import freshness, inputs, lists
from stages.core import runtime as runtimes
from stages.core import stage as contract
from stages.core.config import S, Section
from stages.core.errors import StageError
from stages.core.files import HashCache
from stages.core.log import Tell, open_log
from stages.core.manifest import begun_with, read_manifest
from stages.data import dataset as datasets

if TYPE_CHECKING:
    import logging

    from stages.data.scoring import Scores


class Run:
    """One run directory with its configuration. LOOK: images that would have to be generated are not, no hash is kept."""

    def __init__(self, folder: Path, resolved: Mapping[str, Section], look: bool = False) -> None:
        self.folder, self.sections, self.look = folder, dict(resolved), look
        self.runtime = runtimes.Runtime(self._section("runtime", runtimes.Config))
        self._dataset: datasets.Dataset | None = None
        self.hashes = HashCache(folder / "hashes.json")
        self._hold: IO[str] | None = None
        self.on_warning: Tell = lambda message: None
        self.on_note: Tell = lambda message: None
        self.on_start: Callable[[], object] = lambda: None  # nothing is refused any more, and work begins
        self.reporter: contract.Reporter | None = None  # shows the generation of the demo

    def _section(self, name: str, kind: type[S]) -> S:
        section = self.sections[name]
        assert isinstance(section, kind)
        return section

    def section(self, name: str) -> Any:
        """The settings of a stage, on whatever list of images."""
        return self.sections[lists.stage_of(name)]

    def canonical(self, name: str) -> str:
        """NAME without its list where that is the one which is read anyway. Raises StageError on what cannot be a list."""
        return lists.canonical(name, ("val", self._section("data", datasets.Config).val))

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
        """The dataset, opened once. Raises StageError where it is only looked at and has to be generated."""
        if self._dataset is None:
            config = self._section("data", datasets.Config)
            if self.look:
                datasets.require_generated(config, self.folder)
            self._dataset = datasets.open_dataset(config, self.folder, self._watch)
            checks.subset(self._section("eval", EvalConfig).subset, len(self._dataset.classes))
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

    def check(self, names: Sequence[str]) -> None:
        """Raise StageError where the stages NAMES cannot use the data or lack a file of weights or imported maps.

        Writes nothing, so demo's images are left for later.
        """
        names = plan(self.sections, names)
        stages = [lists.stage_of(name) for name in names]
        checks.stages(self.sections, stages, self.folder)
        checks.demo_lists(self.recipe, names)
        if self.recipe is None:
            for role in dict.fromkeys(role for name in names for role in lists.read_by(stage_module(name), name)):
                self.dataset.split(role)
            checks.leak(self.sections, stages, self.dataset.classes)

    def rehearse(self, names: Sequence[str]) -> None:
        """Raise StageError where the device, a trunk or initial weights that the stages NAMES are to use cannot be used."""
        checks.rehearse(self.sections, [lists.stage_of(name) for name in names], self.runtime, self.look)

    def to_fetch(self, names: Sequence[str]) -> list[str]:
        """The addresses of published weights that the stages NAMES start from and that are not on this machine."""
        return checks.to_fetch(self.sections, [lists.stage_of(name) for name in names])

    def require(self, planned: Sequence[str], due: Sequence[str]) -> None:
        """Raise StageError where `execute` would refuse to run the stages DUE of those PLANNED; nothing is run."""
        for number, name in enumerate(due):
            inputs.require(stage_module(name), self.section(name), self.folder, due[:number])
        if due:
            self.rehearse(planned[planned.index(due[0]) :])

    def begin(self) -> logging.Logger:
        """Make the folder, hold it, keep the configuration in it and open the log.

        Raises StageError where it is another dataset's, or another process works in it.
        """
        log = self._enter()
        self.save_config()
        return log

    def _enter(self) -> logging.Logger:
        """As `begin`, but the configuration that the folder holds stays: what is refused changes no run."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.hold()
        run_folder.tidy(self.folder)
        self.require_place()
        return open_log(self.folder, self.on_warning, self.on_note)

    def hold(self) -> None:
        """Keep other processes out of the folder as long as this one lives. Raises StageError where another works in it."""
        self._hold = self._hold or run_folder.hold(self.folder)

    def require_place(self) -> None:
        """Raise StageError where the folder holds a run of another dataset, OSError where it cannot be written into."""
        run_folder.require_room(self.folder)
        run_folder.require_same_data(self.folder, self.sections["data"].plain(), self._other_images)

    def save_config(self) -> None:
        """Write config.yaml. Raises StageError when the folder holds a run of another dataset."""
        self.require_place()
        run_folder.save_config(self.folder, self.sections)

    def _other_images(self) -> bool:
        """Whether stages were made from other images: a moved data folder is not another dataset."""
        for name in (*PIPELINE, *EXTRAS):
            for split, value in begun_with(self.folder / name).get("data", {}).items():
                return value != self.dataset.digest(split, self.hashes)
        return False

    def wanted(self, name: str, still: Still | None = None) -> dict[str, Any]:
        """The fingerprint that the stage's result should have now; of an import, whose folder may be gone, what can be known."""
        if inputs.brought(name):
            split = {"train": (still or self.dataset).digest("train", self.hashes)}
            return {**begun_with(self.folder / name), "data": split}
        stage = stage_module(name)
        reads = lists.read_by(stage, name)
        return freshness.fingerprint(stage, self.sections, still or self.dataset, self.folder, self.hashes, reads)

    def report(self, name: str, still: Still | None = None) -> Report:
        """State, reason, metrics and outputs of one stage."""
        begun = begun_with(self.folder / name)
        now = freshness.state(self.folder / name, self.wanted(name, still)) if begun else freshness.NOT_RUN
        if name == self._at_work[0]:
            now = freshness.State("partial", self._at_work[1])
        manifest = read_manifest(self.folder / name) or {}
        count = manifest.get("outputs", {}).get("count", 0)
        return Report(name, now.state, now.why, manifest.get("metrics", {}), manifest.get("seconds"), count)

    @cached_property
    def _at_work(self) -> tuple[str, str]:
        return ("", "") if self._hold is not None else at_work(self.folder)

    def stages(self) -> list[str]:
        """The pipeline with the extra stages that its settings call for, then those, and other lists, made all the same."""
        planned = plan(self.sections, list(PIPELINE))
        others = lists.found(self.folder)
        return planned + [name for name in (*EXTRAS, *others) if name not in planned and begun_with(self.folder / name)]

    def reports(self, still: Still | None = None) -> list[Report]:
        """The state of every import and stage; a stage whose input is stale or missing is at best stale itself."""
        still = still or Still(lambda: self.dataset)
        needs = {name: inputs.needs(stage_module(name), self.section(name)) for name in self.stages()}
        imports = {need: () for names in needs.values() for need in names if inputs.brought(need)}
        rows = held_back((self._row(name, still), needed) for name, needed in (imports | needs).items())
        if not self.look:
            self.hashes.save()
        return with_beginning(rows, self._at_work)

    def _row(self, name: str, still: Still) -> Report:
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
        log = self._enter()
        still = Still(lambda: self.dataset)
        rows = self._rows(still)
        planned, untried = plan(self.sections, names), True
        for name in planned:
            kept = rows.get(name)
            before = kept if kept is not None and kept.state == "done" else self.report(name, still)
            anew = checks.anew(name, names, force)
            if before.state == "done" and not anew:
                yield rows.get(name, before), False
                continue
            inputs.require(stage_module(name), self.section(name), self.folder)  # before the demo is generated
            if untried:
                self.rehearse(planned[planned.index(name) :])
                self.save_config()
                self.on_start()
                untried = False
            self._warn(name, rows, log)
            log.info(self.runtime.describe())
            contract.execute(stage_module(name), self.section(name), self.context(name, reporter, log), self.wanted(name), anew)
            still = Still(lambda: self.dataset)  # images may have changed while the stage ran
            rows = self._rows(still)
            yield self.report(name, still), True
        if untried:
            self.save_config()

    def _rows(self, still: Still) -> dict[str, Report]:
        return {row.name: row for row in self.reports(still)}

    def context(self, name: str, reporter: contract.Reporter, log: logging.Logger) -> contract.Context:
        """What the stage or import NAME may use."""
        return contract.Context(self.folder, name, self.dataset, self.sections, self.runtime, reporter, log)

    def _warn(self, name: str, rows: Mapping[str, Report], log: logging.Logger) -> None:
        unlabelled, left_out = self.dataset.unlabelled, self.dataset.left_out
        warnings = [f"{count} images are left out, as they are not in {path}" for path, count in left_out.items()]
        if unlabelled:
            warnings.append(f"{len(unlabelled)} images without a label are left out of training, first '{unlabelled[0]}'")
        warnings += stale_inputs(name, inputs.needs(stage_module(name), self.section(name)), rows)
        for warning in warnings:
            log.warning(warning)

    def score(self, name: str, reporter: contract.Reporter) -> Scores | None:
        """Score the outputs of a finished stage again; None for a stage that has nothing to score."""
        stage = stage_module(name)
        if not hasattr(stage, "score"):
            return None
        return stage.score(self.section(name), self.context(name, reporter, open_log(self.folder)))
