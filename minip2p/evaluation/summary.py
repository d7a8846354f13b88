"""What the samples of curves say: means with bootstrap intervals, paired differences, a table and the figure.

points = read_points("out/editor")
rows = summarize(points)            # a dict for each point; table(rows) in Markdown
figure(rows).savefig("figure.png")
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.tables import read_rows
from ..files import read_json
from .curves import METHODS
from .metrics import KEYS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RESAMPLES = 2000
LEVEL = 0.95
"""of the intervals"""
METRICS = {
    KEYS[name]: words
    for name, words in {
        "image": "image similarity",
        "direction": "direction similarity",
        "caption_0": "source and caption",
        "caption_1": "result and caption",
    }.items()
}
METRICS |= {"l1": "L1", "l2": "L2", "clip_i": "CLIP-I", "dino": "DINO", "clip_t": "CLIP-T"}
METRICS |= {"correct": "correct", "psnr": "PSNR in dB"}
"""key in a sample -> what the table calls it"""
ABOUT = (
    *("model", "clip_model", "dino_model", "pixels", "filter", "protocol", "split"),
    *("text_scale", "image_scale", "steps", "resolution", "seed"),
)
"""of a header: what a row of the summary repeats, so that a number cannot lose what it was measured with"""
ACROSS, UP = KEYS["direction"], KEYS["image"]


@dataclass(frozen=True, kw_only=True)
class Point:
    """The samples of a curve at one scale, in the order of the items."""

    header: dict[str, Any]
    point: float | None
    turns: str | None
    """of MagicBrush: "single" or "multi" """
    keys: list[str]
    values: dict[str, np.ndarray]
    """metric -> (n,)"""

    @property
    def place(self) -> tuple[float | None, str | None]:
        """What two curves must have in common for their samples to be compared."""
        return self.point, self.turns


def read_points(folder: str | Path) -> list[Point]:
    """The points of the curve in a folder, as far as samples are there. Raises ValueError for another folder."""
    folder = Path(folder)
    if not (folder / "run.json").is_file():
        raise ValueError(f"{folder}: no run.json; expected the folder of a curve, such as OUT/editor of a finished run")
    header, found = read_json(folder / "run.json"), {}
    if "curve" not in header or not isinstance(header.get("points"), list):
        raise ValueError(f"{folder}: its run.json is not that of minip2p evaluate")
    for path in sorted(folder.glob("*.jsonl"), key=lambda path: path.stem.rpartition("_")[2]):
        for _, row in read_rows(path):
            found.setdefault((row.get("point"), row.get("turns")), []).append(row)
    order = {point: i for i, point in enumerate(header["points"])}
    points = []
    for (point, turns), rows in sorted(found.items(), key=lambda each: (str(each[0][1]), order.get(each[0][0], 0))):
        names = [name for name in METRICS if all(isinstance(row.get(name), float) for row in rows)]
        values = {name: np.array([row[name] for row in rows]) for name in names}
        keys = [str(row.get("key")) for row in rows]
        points.append(Point(header=header, point=point, turns=turns, keys=keys, values=values))
    return points


def summarize(points: Sequence[Point], against: dict[str, Sequence[Point]] | None = None) -> list[dict[str, Any]]:
    """A row for each point: what it was measured with, n, and for each metric mean, low and high.

    against: name -> points of another run; where these have the same scale and items, "differences" holds the paired
    difference to them, with an interval: this - other.
    """
    rows = []
    for each in points:
        h = each.header
        row = {"curve": h["curve"], "method": h["method"], "point": each.point}
        row |= {"turns": each.turns} if each.turns else {}
        row |= {"n": len(each.keys)} | {name: estimate(values) for name, values in each.values.items()}
        row |= {name: h[name] for name in ABOUT if h.get(name) is not None}
        for name, others in (against or {}).items():
            other = next((other for other in others if (other.place, other.keys) == (each.place, each.keys)), None)
            if other is not None:
                common = each.values.keys() & other.values.keys()
                differences = {key: estimate(each.values[key] - other.values[key]) for key in METRICS if key in common}
                row.setdefault("differences", {})[name] = differences
        rows.append(row)
    return rows


def estimate(values: np.ndarray) -> dict[str, float]:
    """The mean of (n,) values, or of (seeds, n), and its percentile bootstrap interval (Efron & Tibshirani 1993).

    Seeds and items are resampled independently of each other (Owen 2007): the interval says what other seeds and other
    items might give. Of one seed it is about items alone; few seeds are known to give intervals that are too narrow.
    Equal numbers of items are resampled alike, so what is paired stays paired.
    """
    items = resamples(values.shape[-1])
    means = items @ values if values.ndim == 1 else (items * (resamples(len(values), 1) @ values)).sum(axis=1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {"mean": float(values.mean()), "low": float(low), "high": float(high)}


@cache
def resamples(n: int, stream: int = 0) -> np.ndarray:
    """How often each of n items is in each resample, over n: (RESAMPLES, n). stream: of random numbers."""
    counts = np.random.default_rng(stream).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
    return counts.astype(np.float32) / n


def table(rows: Sequence[dict[str, Any]], about: Sequence[str] = ABOUT) -> str:
    """The rows in Markdown, then the differences, if there are any. Metrics as "mean [low, high]".

    about: what of the headers each row repeats; all of it in a file, which others may copy rows from.
    """
    metrics = [name for name in METRICS if any(name in row for row in rows)]
    about = [name for name in about if any(name in row for row in rows)]
    heads = ["curve", "at", "n", *(METRICS[name] for name in metrics), *(name.replace("_", " ") for name in about)]
    lines = [heads, ["---"] * len(heads)]
    for row in rows:
        numbers = [shown(row.get(name)) for name in metrics]
        lines.append([row["curve"], _place(row), f"{row['n']}", *numbers, *(str(row.get(name, "")) for name in about)])
    text = [line_of(line) for line in lines]
    pairs = [(row, name, each) for row in rows for name, each in row.get("differences", {}).items()]
    if pairs:
        heads = ["curve", "at", "minus", "n", *(METRICS[name] for name in metrics)]
        text += ["", "Paired differences:", "", line_of(heads), line_of(["---"] * len(heads))]
        for row, name, each in pairs:
            numbers = [shown(each.get(metric), "+") for metric in metrics]
            text.append(line_of([row["curve"], _place(row), name, f"{row['n']}", *numbers]))
    interval = f"In brackets: {LEVEL:.0%} intervals, by {RESAMPLES} bootstrap resamples of the items."
    return "\n".join([*text, "", interval])


def line_of(cells: Sequence[str]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _place(row: dict[str, Any]) -> str:
    word, turns = METHODS[row["method"]], row.get("turns")
    scale = "" if row["point"] is None else f"{word} {row['point']:g}"
    return ", ".join(filter(None, (scale, f"{turns} turn" if turns else "")))


def shown(value: dict[str, float] | None, sign: str = "") -> str:
    """An estimate as "mean [low, high]"; sign: "+" shows both signs."""
    return "" if value is None else f"{value['mean']:{sign}.4f} [{value['low']:{sign}.4f}, {value['high']:{sign}.4f}]"


def figure(rows: Sequence[dict[str, Any]]) -> "Figure":
    """Image similarity against direction similarity, a line for each curve through its points, with intervals.

    Up: more of the picture is kept; to the right: the edit follows the text more. Raises ValueError without matplotlib.
    """
    curves = list(dict.fromkeys(row["curve"] for row in rows))
    drawn = new_figure(7.5, 4.8 + 0.2 * len(curves))
    axes = drawn.subplots()
    for i, name in enumerate(curves):
        points = [row for row in rows if row["curve"] == name]
        x, y = ([row[metric]["mean"] for row in points] for metric in (ACROSS, UP))
        bars = {}
        for axis, metric in (("xerr", ACROSS), ("yerr", UP)):
            sides = [[abs(row[metric]["mean"] - row[metric][end]) for row in points] for end in ("low", "high")]
            bars[axis] = sides
        colour, word = f"C{i}", METHODS[points[0]["method"]]
        axes.errorbar(x, y, **bars, fmt="none", ecolor=colour, alpha=0.3, lw=1)
        axes.plot(x, y, marker="o", ms=5, color=colour, label=f"{name} ({word})" if word else name)
        for row in (points[0], points[-1]) if len(points) > 1 and word else ():
            at = row[ACROSS]["mean"], row[UP]["mean"]
            axes.annotate(f"{row['point']:g}", at, xytext=(5, 5), textcoords="offset points", color=colour)
    axes.set_xlabel("CLIP direction similarity")
    axes.set_ylabel("CLIP image similarity")
    axes.set_title(_title(rows[0]), fontsize=9)
    axes.grid(alpha=0.3)
    drawn.legend(loc="outside lower center", fontsize=9)
    return drawn


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure of this size in inches. Raises ValueError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError("the figure needs matplotlib, which is missing: pip install 'minip2p[plot]'") from None
    return Figure(figsize=(width, height), layout="constrained")


def _title(row: dict[str, Any]) -> str:
    """What all curves of a figure were measured with, on two lines."""
    first = f"{row['n']} items, {row['protocol']} protocol, CLIP {row['clip_model']}"
    return f"{first}\npixels {row['pixels']}; {row['filter']}"
