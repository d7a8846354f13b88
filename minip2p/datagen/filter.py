"""The CLIP filter of the paper (section 3.1.2): which of the made pairs are kept, told from their scores alone.

    filtered = run("pairs", Thresholds(image=0.7))      # writes pairs/seeds.json and pairs/filter.json
    print(table(filtered))

A sample is kept if it passes all rules, has a picture (is a candidate), and is among the best `most` of its prompt by
direction. No picture is made, opened or deleted, so thresholds can be tried again and again.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoints.mapped import replace_file
from ..evaluation.metrics import KEYS, PAPER, RULES, Thresholds
from . import units

Score = Mapping[str, Any]
"""of a sample, as a unit's scores tell it: sample, seed, candidate, and the authors' keys of similarities"""
EDGES = np.linspace(-1, 1, 201)
"""of the histograms' bins"""
NUMBERS = {"sample": int, "seed": int, "candidate": bool} | dict.fromkeys(KEYS.values(), (int, float))


def keep(
    scores_by_unit: Mapping[str, Sequence[Score]], thresholds: Thresholds = PAPER, most: int | None = 4
) -> dict[str, list[int]]:
    """{unit: seeds kept of it, best direction first}: at most `most` of a prompt, all its units together; None: all.

    Of equal directions the earlier sample is the better. Units with none are left out; the others are in the order of
    prompts and samples, in whatever order they were given. Raises ValueError that names unit and line of a bad score.
    """
    seen = Seen(thresholds, most)
    for unit, scores in scores_by_unit.items():
        seen.add(unit, scores)
    return seen.kept()


@dataclass(frozen=True, kw_only=True, order=True)
class Pick:
    """A sample that passes; the best sorts first."""

    rank: tuple[float, int, str]
    """minus its direction, its index, its unit"""
    seed: int = field(compare=False)
    candidate: bool = field(compare=False)
    """whether it has a picture, without which it is not kept"""
    values: tuple[float, ...] = field(compare=False)
    """its similarities, in the order of RULES"""


class Seen:
    """What is told of the units seen so far. It holds the best of each prompt and counts, not the scores."""

    def __init__(self, thresholds: Thresholds, most: int | None):
        if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 1):
            raise ValueError(f"keep {most!r}: expected how many of a prompt, at least 1")
        self.thresholds, self.most = thresholds, most
        self.best: dict[int, list[Pick]] = {}
        """by prompt, sorted: the best `most` that pass, and the best `most` of those that have a picture"""
        self.samples = self.passed = 0
        self.fell, self.alone = dict.fromkeys(RULES, 0), dict.fromkeys(RULES, 0)
        self.all, self.good = np.zeros((2, len(RULES), len(EDGES) - 1), dtype=np.int64)
        """(rule, bin): how many samples there were, and how many of those pass every rule"""

    def add(self, unit: str, scores: Sequence[Score]) -> None:
        """One more unit. Raises ValueError that names unit and line of a bad score."""
        check(unit, scores)
        passing = [self._passes(score) for score in scores]
        values = np.array([[score[KEYS[rule]] for rule in RULES] for score in scores]).reshape(-1, len(RULES))
        self.all += histograms(values)
        self.good += histograms(values[np.array(passing, dtype=bool)])
        best = self.best.setdefault(place(unit)[0], [])
        for score, row, passes in zip(scores, values.tolist(), passing):
            if passes:
                rank = -score[KEYS["direction"]], score["sample"], unit
                best.append(Pick(rank=rank, seed=score["seed"], candidate=score["candidate"], values=tuple(row)))
        best.sort()
        if self.most is not None:
            there = [pick for pick in best[self.most :] if pick.candidate]
            best[self.most :] = there[: max(0, self.most - sum(pick.candidate for pick in best[: self.most]))]

    def _passes(self, score: Score) -> bool:
        rules = self.thresholds.refuses(score)
        self.samples += 1
        self.passed += not rules
        for rule in rules:
            self.fell[rule] += 1
        if len(rules) == 1:
            self.alone[rules[0]] += 1
        return not rules

    def picks(self) -> list[Pick]:
        """What is kept, prompt by prompt, the best of each first."""
        return [pick for best in self.best.values() for pick in [p for p in best if p.candidate][: self.most]]

    def lost(self) -> int:
        """How many would be kept if they had a picture."""
        return sum(not pick.candidate for best in self.best.values() for pick in best[: self.most])

    def kept(self) -> dict[str, list[int]]:
        """As `keep` tells it."""
        found: dict[str, list[int]] = {}
        for pick in self.picks():
            found.setdefault(pick.rank[2], []).append(pick.seed)
        return dict(sorted(found.items(), key=lambda item: place(item[0])))


@dataclass(frozen=True, kw_only=True)
class Filtered:
    """What a filter kept, and to what the others fell. All counts are of samples unless they say otherwise."""

    thresholds: Thresholds
    keep: int | None
    """of a prompt, at most; None: all that pass"""
    samples: int
    fell: dict[str, int]
    """by rule; a sample may fall to several"""
    alone: dict[str, int]
    """by rule: those that fell to no other"""
    passed: int
    lost: int
    """passed and are among the best `keep` of their prompt, but have no picture: they were no candidates when it was
    made, and pictures of worse ones take their places, if there are any"""
    over: int
    """passed, but enough of their prompt are better"""
    kept: int
    prompts: int
    prompts_kept: int
    """prompts of which at least one sample is kept"""
    seeds: dict[str, list[int]]
    """unit -> seeds, best direction first"""
    histograms: dict[str, dict[str, list[int]]]
    """rule -> "all", "passed", "kept" -> how many samples in each bin of EDGES"""


def histograms(values: np.ndarray) -> np.ndarray:
    """Of similarities (n, rules), how many lie in each bin of EDGES: (rules, bins)."""
    bins = len(EDGES) - 1
    counts = np.zeros((values.shape[1], bins), dtype=np.int64)
    index = ((values.clip(-1, 1) + 1) * (bins / 2)).astype(np.int64).clip(max=bins - 1)
    np.add.at(counts, (np.arange(values.shape[1]), index), 1)
    return counts


def filtered(seen: Seen) -> Filtered:
    """The result of all units seen."""
    seeds = seen.kept()
    picks, lost = seen.picks(), seen.lost()
    values = np.array([pick.values for pick in picks]).reshape(-1, len(RULES))
    layers = {"all": seen.all, "passed": seen.good, "kept": histograms(values)}
    by_rule = {rule: {name: layer[i].tolist() for name, layer in layers.items()} for i, rule in enumerate(RULES)}
    return Filtered(
        thresholds=seen.thresholds, keep=seen.most, samples=seen.samples, fell=dict(seen.fell), alone=dict(seen.alone),
        passed=seen.passed, lost=lost, over=seen.passed - lost - len(picks), kept=len(picks),
        prompts=len(seen.best), prompts_kept=len({place(unit)[0] for unit in seeds}), seeds=seeds, histograms=by_rule,
    )  # fmt: skip


def run(
    folder: str | Path, thresholds: Thresholds = PAPER, most: int | None = 4,
    on_unit: Callable[[int, int], None] | None = None,
) -> Filtered:
    """Filter all finished units of a folder; write its seeds.json, then filter.json, each whole or not at all.

    on_unit is told how many units are read, and of how many. The same units and thresholds give the same bytes. Raises
    ValueError where there are no units or a score is broken; then nothing is written.
    """
    folder = Path(folder)
    seen, names = Seen(thresholds, most), units.done_units(folder)
    if not names:
        raise ValueError(f"{folder}: no finished unit is in it; expected a folder that minip2p pairs wrote")
    for i, name in enumerate(names, 1):
        try:
            seen.add(name, units.read_unit(folder, name)[1])
        except ValueError as error:
            raise ValueError(str(error) if str(folder) in str(error) else f"{folder}: {error}") from None
        if on_unit is not None:
            on_unit(i, len(names))
    result = filtered(seen)
    data = seeds_bytes(result.seeds)
    replace_file(folder / "seeds.json", lambda path: path.write_bytes(data))
    about = (json.dumps(record(result), indent=2) + "\n").encode()
    replace_file(folder / "filter.json", lambda path: path.write_bytes(about))
    return result


def seeds_bytes(seeds: Mapping[str, Sequence[int]]) -> bytes:
    """The authors' seeds.json, [[unit, [seed, ...]], ...], a unit a line."""
    return ("[" + ",\n".join(json.dumps([unit, list(each)]) for unit, each in seeds.items()) + "]\n").encode()


def record(result: Filtered) -> dict:
    """What filter.json tells: thresholds, counts, and the hash of the seeds.json that they are of."""
    values = {name: value for name, value in asdict(result).items() if name not in ("seeds", "histograms")}
    return values | {"seeds_sha256": hashlib.sha256(seeds_bytes(result.seeds)).hexdigest()}


def table(result: Filtered) -> str:
    """How many samples fell to which rule and what became of the others, as Markdown."""

    def line(*cells) -> str:
        return f"| {' | '.join(map(str, cells))} |"

    def part(n: int) -> str:
        return f"{n} ({n / max(result.samples, 1):.1%})"

    rules = [line("rule", "fell to it", "to it alone"), "|---|---|---|"]
    for rule, limit in RULES.items():
        least = f"{rule.replace('_', ' ')} >= {getattr(result.thresholds, limit):g}"
        rules.append(line(least, part(result.fell[rule]), part(result.alone[rule])))
    rows = {"all": result.samples, "passed every rule": result.passed}
    if result.keep is not None:
        rows[f"passed, but {result.keep} of their prompt are better"] = result.over
    rows |= {"lost: would be kept, but have no picture": result.lost, "kept": result.kept}
    of_all = [line("samples", "number"), "|---|---|", *(line(name, part(n)) for name, n in rows.items())]
    prompts = f"{result.prompts_kept} of {result.prompts} prompts have at least one pair that is kept."
    return "\n".join([*rules, "", *of_all, "", prompts])


def place(unit: str) -> tuple[int, int, str]:
    """(prompt, first sample, name): by the first a unit belongs to its prompt, by all three it is sorted."""
    parsed = units.parse_name(unit)
    if parsed is None:
        raise ValueError(f"{unit!r} is no unit's name; expected one like {units.unit_name(12)!r}")
    return parsed[0], parsed[1].start if parsed[1] else -1, unit


def check(unit: str, scores: Sequence[Score]) -> None:
    """Raises ValueError that names the unit and the line of a score that lacks a value or has one of a wrong kind."""
    if not isinstance(scores, (list, tuple)):
        raise ValueError(f"unit {unit}: its scores are a {type(scores).__name__}; expected a list, one a sample")
    for number, score in enumerate(scores, 1):
        where = f"unit {unit}, line {number} of its scores"
        if not isinstance(score, Mapping):
            raise ValueError(f"{where}: {json.dumps(score)[:80]}; expected an object, a sample's values")
        for key, kind in NUMBERS.items():
            if key not in score:
                raise ValueError(f"{where}: {key!r} is missing")
            value = score[key]
            if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool) or value != value:
                expected = {int: "a whole number", bool: "true or false"}.get(kind, "a number")
                raise ValueError(f"{where}: {key!r} is {json.dumps(value)[:80]}; expected {expected}")
