"""A run's numbers for people: keys `split/source/kind/metric` as a table a stage, a line a source, a column a kind.

Keys `split/loss…` are of trainings; of keys `split/source/kind` the value has no other name than its kind (`AP`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from bas_cli import console

if TYPE_CHECKING:
    from rich.table import Table

Metrics = Mapping[str, float]
Kinds = dict[str, dict[str, float]]  # kind → metric → value
CLASS_COLUMNS = 6
MARK = "to IRN"  # beside the source that is refined
LEGEND = {  # kinds whose names do not say all
    "oracle": "the threshold that is best on true masks, for comparison alone",
    "fixed": "the configured threshold",
    "image-specific": "a threshold of each image's own, found without true masks",
    "better": "of each image the seed or the mask, whichever looks better by signs that need no true mask",
    "combined": "the signs together; right: in how many percent of the cases they prefer what true masks prefer",
    "plain": "the network alone",
    "crf": "and a dense CRF after it",
}
METRICS_IN_A_CELL = 2  # of a source with more, every kind is a line and every metric a column


def by_source(metrics: Metrics) -> dict[str, Kinds]:
    """Values by `split/source`, kind and metric; losses are left out."""
    found: dict[str, Kinds] = {}
    for key, value in metrics.items():
        if not _is_loss(key):
            split, source, kind, metric = (*key.split("/"), "", "")[:4]
            found.setdefault(f"{split}/{source}", {}).setdefault(kind, {})[metric] = value
    return found


def _is_loss(key: str) -> bool:
    return key.split("/")[1:2] == ["loss"]


def headline(metrics: Metrics, refined: str) -> str:
    """The numbers that tell most about a stage: those of the REFINED source, or of the last one, by kind; else the last."""
    sources = by_source(metrics)
    if not sources:
        return "".join(f"{key} {value:.4g}" for key, value in list(metrics.items())[-1:])
    name = next((name for name in sources if name.partition("/")[2] == refined), list(sources)[-1])
    metric = _metrics(sources[name])[0]
    values = ", ".join(f"{kind} {found[metric]:.1f}" for kind, found in sources[name].items() if metric in found)
    return f"{name} {metric}".rstrip() + f": {values}"


def _metrics(kinds: Kinds) -> list[str]:
    """Names of what is measured, thresholds apart: mean IoU over a subset, then over all classes, then what else there is."""
    names = dict.fromkeys(name for values in kinds.values() for name in values if name != "threshold")
    return sorted(names, key=lambda name: (not name.startswith("mIoU"), name == "mIoU"))


def stage_tables(stages: Mapping[str, Metrics], refined: str) -> Iterator[Table]:
    """One table a stage that scored something, before it the stages that did not, with what they have."""
    losses = {stage: {k: v for k, v in metrics.items() if _is_loss(k)} for stage, metrics in stages.items()}
    if any(losses.values()):
        yield _loss_table({stage: values for stage, values in losses.items() if values})
    for stage, metrics in stages.items():
        sources = by_source(metrics)
        few = {name: kinds for name, kinds in sources.items() if len(_metrics(kinds)) <= METRICS_IN_A_CELL}
        if few:
            yield _source_table(stage, few, refined)
        for name in (name for name in sources if name not in few):
            yield _kind_table(f"{stage}: {name} (percent, but losses as they are, and cases counted)", sources[name])


def legend(stages: Mapping[str, Metrics], refined: str) -> Iterator[str]:
    """What the names in the tables of `stage_tables` mean, a line each."""
    found = [(name, kind) for metrics in stages.values() for name, kinds in by_source(metrics).items() for kind in kinds]
    if any(name.endswith(f"/{refined}") for name, _ in found):
        yield f"{MARK:<14}  the source of seeds that IRN reads and refines (refine.seed)"
    kinds = {kind for _, kind in found}
    yield from (f"{kind:<14}  {words}" for kind, words in LEGEND.items() if kind in kinds)


def _loss_table(stages: Mapping[str, Metrics]) -> Table:
    shown = console.table("losses at the end of training", "stage", "", words=2)
    for stage, metrics in stages.items():
        shown.add_row(stage, ",  ".join(f"{key.rpartition('/')[2]} {value:.4g}" for key, value in metrics.items()))
    return shown


def _source_table(stage: str, sources: Mapping[str, Kinds], refined: str) -> Table:
    """Lines of sources, that which IRN reads marked, columns of kinds; in a cell the means, and the threshold that gave them."""
    kinds = list(dict.fromkeys(kind for found in sources.values() for kind in found))
    names = list(dict.fromkeys(name for found in sources.values() for name in _metrics(found)))
    at = " @ threshold" if any("threshold" in values for found in sources.values() for values in found.values()) else ""
    shown = console.table(f"{stage}: " + f"{' / '.join(names)} in percent{at}".lstrip(), "source", *kinds)
    for source, found in sources.items():
        mark = f"  ({MARK})" if len(sources) > 1 and source.partition("/")[2] == refined else ""
        shown.add_row(source + mark, *(_cell(found.get(kind, {}), names) for kind in kinds))
    return shown


def _kind_table(title: str, kinds: Kinds) -> Table:
    """Lines of kinds, columns of metrics: three digits that count, whole numbers as they are."""
    names = _metrics(kinds)
    shown = console.table(title, "", *names)
    for kind, values in kinds.items():
        cells = [values.get(name) for name in names]
        shown.add_row(kind, *("–" if v is None else str(v) if isinstance(v, int) else f"{v:.3g}" for v in cells))
    return shown


def _cell(values: Mapping[str, float], names: list[str]) -> str:
    means = " / ".join(f"{values[name]:.1f}" if name in values else "–" for name in names) if values else "–"
    return means + (f" @ {values['threshold']:.2f}" if "threshold" in values else "")


def class_tables(classes: Mapping[str, Metrics]) -> Iterator[Table]:
    """Values by class, one column a source and kind."""
    keys = list(classes)
    names = list(dict.fromkeys(name for row in classes.values() for name in row))
    for start in range(0, len(keys), CLASS_COLUMNS):
        part = keys[start : start + CLASS_COLUMNS]
        shown = console.table("by class (in percent)", "class", *(key.removesuffix("/mIoU").replace("/", "\n") for key in part))
        for name in names:
            shown.add_row(name, *(console.cell(classes[key].get(name)) for key in part))
        yield shown
