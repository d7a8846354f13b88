"""What an ablation says: for each variant means with intervals, paired differences to the baseline, and its cost.

found = rows(ablation)              # Row values; rows(ablation, kind="colour") takes those items only
print(table(found))                 # Markdown
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from . import summary
from .ablation import Ablation, read_run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COSTS = {
    "parameters": ("parameters", 1e6, "M"),
    "flop": ("FLOP a call", 1e9, "G"),
    "pictures_per_s": ("pictures/s", 1, ""),
}
"""key of a run's cost -> what the table calls it, its unit and that unit's sign"""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A variant, over all seeds; where it was evaluated at several image scales, a variant at one of them."""

    variant: str
    words: tuple[str, ...]
    point: float | None
    """the image scale; None: the model's own, or none"""
    seeds: int
    estimates: dict[str, dict[str, float]]
    """metric -> n (items), mean, low, high"""
    differences: dict[str, dict[str, float]]
    """metric -> the same of this variant - baseline, paired by seed and item; the baseline has none"""
    cost: dict[str, float]
    """of `cost.cost_of_run`, the median over the seeds"""


Values = dict[tuple[float | None, str], tuple[list[str], np.ndarray]]
"""(point, metric) -> the items' keys, and the numbers (seeds, n)"""


def rows(ablation: Ablation, **where: str) -> list[Row]:
    """A row for each variant and point, of the items whose labels are `where`: rows(ablation, kind="colour").

    Raises ValueError for a run that is not finished, for runs evaluated on different items, and where no item is left.
    """
    found, baseline = [], None
    for variant in ablation.variants:
        runs = [read_run(ablation, name) for name, (each, _) in ablation.runs.items() if each is variant]
        values = _values([items for _, items in runs], where, variant.name)
        baseline = values if baseline is None else baseline
        cost = {key: median(about[key] for about, _ in runs) for key in COSTS if all(key in about for about, _ in runs)}
        for point in dict.fromkeys(point for point, _ in values):
            here = {metric: each for (at, metric), each in values.items() if at == point}
            minus = {} if values is baseline else _differences(here, point, baseline, variant.name)
            found.append(
                Row(
                    variant=variant.name,
                    words=variant.words,
                    point=point,
                    seeds=len(runs),
                    estimates={metric: _estimate(x) for metric, (_, x) in here.items()},
                    differences={metric: _estimate(x) for metric, x in minus.items()},
                    cost=cost,
                )
            )
    return found


def _values(runs: Sequence[Sequence[Mapping[str, Any]]], where: Mapping[str, str], name: str) -> Values:
    """The numbers of a variant's runs, one for each seed, by point and metric."""
    columns: list[dict[tuple[float | None, str], dict[str, float]]] = []
    for items in runs:
        columns.append({})
        for item in items:
            if all(item.get(label) == word for label, word in where.items()):
                numbers = {key: x for key, x in item.items() if isinstance(x, float) and key != "point"}
                for metric, x in numbers.items():
                    columns[-1].setdefault((item.get("point"), metric), {})[item["key"]] = x
    first = {at: [*column] for at, column in columns[0].items()}
    if any({at: [*column] for at, column in each.items()} != first for each in columns):
        raise ValueError(f"{name}: its seeds were evaluated on different items")
    if not first:
        raise ValueError(f"{name}: no item has {', '.join(f'{key} {word}' for key, word in where.items())}")
    return {at: (keys, np.array([[*each[at].values()] for each in columns])) for at, keys in first.items()}


def _differences(
    ours: Mapping[str, tuple[list[str], np.ndarray]], point: float | None, baseline: Values, name: str
) -> dict[str, np.ndarray]:
    """Metric -> ours - the baseline's (seeds, n)."""
    theirs = {metric: baseline[point, metric] for metric in ours if (point, metric) in baseline}
    if any(ours[metric][0] != keys for metric, (keys, _) in theirs.items()):
        raise ValueError(f"{name} was evaluated on other items than the baseline")
    return {metric: ours[metric][1] - x for metric, (_, x) in theirs.items()}


def _estimate(values: np.ndarray) -> dict[str, float]:
    return {"n": values.shape[1]} | summary.estimate(values)


def table(found: Sequence[Row]) -> str:
    """The rows in Markdown: metrics as "mean [low, high]", differences to the baseline with signs, and the cost.

    The baseline is the first row's variant.
    """
    named = [metric for row in found for metric in row.estimates]
    metrics = {metric: summary.METRICS.get(metric, metric) for metric in dict.fromkeys(named)}
    costs = {key: about for key, about in COSTS.items() if any(key in row.cost for row in found)}
    scales = any(row.point is not None for row in found)
    heads = ["variant", *(["image scale"] if scales else []), "seeds", "items"]
    heads += [head for word in metrics.values() for head in (word, f"- {found[0].variant}")] + [
        word for word, _, _ in costs.values()
    ]
    lines = [heads, ["---"] * len(heads)]
    for row in found:
        line = [row.variant, *([_scale(row.point)] if scales else []), str(row.seeds)]
        line.append("/".join(dict.fromkeys(f"{each['n']}" for each in row.estimates.values())))
        for metric in metrics:
            line += [summary.shown(row.estimates.get(metric)), summary.shown(row.differences.get(metric), "+")]
        line += [
            f"{row.cost[key] / unit:.3g}{sign}" if key in row.cost else "" for key, (_, unit, sign) in costs.items()
        ]
        lines.append(line)
    words = [f"- {row.variant}: {' '.join(row.words) or '(no change)'}" for row in found]
    note = (
        f"In brackets: {summary.LEVEL:.0%} intervals, by {summary.RESAMPLES} bootstrap resamples of seeds and items; "
    )
    note += "differences are paired by seed and item. With one seed they are about items alone."
    return "\n".join([*map(summary.line_of, lines), "", *dict.fromkeys(words), "", note])


def differences(found: Sequence[Row]) -> "Figure | None":
    """Each variant's difference to the baseline with its interval, a panel for each metric; None where nothing is
    evaluated at the model's own image scale. Raises ValueError without matplotlib."""
    rows = [row for row in found if row.point is None and row.differences]
    if not rows:
        return None
    metrics = [*rows[0].differences]
    drawn = summary.new_figure(2 + 3 * len(metrics), 1.2 + 0.3 * len(rows))
    panels = drawn.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    for axes, metric in zip(panels, metrics, strict=True):
        for y, row in enumerate(rows):
            each = row.differences[metric]
            axes.plot([each["low"], each["high"]], [y, y], color="C0", alpha=0.5)
            axes.plot(each["mean"], y, marker="o", color="C0")
        axes.axvline(0, color="grey", lw=1)
        axes.set_yticks(range(len(rows)), [row.variant for row in rows])
        axes.set_xlabel(f"{summary.METRICS.get(metric, metric)}, minus the baseline's")
        axes.grid(alpha=0.3)
    panels[0].set_ylim(len(rows) - 0.5, -0.5)  # from above, in the table's order
    first = rows[0].estimates[metrics[0]]["n"]
    drawn.suptitle(f"{rows[0].seeds} seeds, {first} items, {summary.LEVEL:.0%} intervals", fontsize=9)
    return drawn


def curves(found: Sequence[Row], about: Mapping[str, Any]) -> "Figure":
    """Figure 8's axes with a curve for each variant through its image scales, as in Figure 10.

    about: what all were measured with, of a curve's header. Raises ValueError without matplotlib.
    """
    named = {name: about[name] for name in ("protocol", "clip_model", "pixels", "filter")}
    rows = [row for row in found if row.point is not None]
    return summary.figure(
        [
            named
            | {"curve": row.variant, "method": "editor", "point": row.point}
            | {"n": row.estimates[summary.UP]["n"]}
            | row.estimates
            for row in rows
        ]
    )


def _scale(point: float | None) -> str:
    return "" if point is None else f"{point:g}"
