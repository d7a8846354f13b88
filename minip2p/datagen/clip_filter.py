"""The paper's CLIP filter (section 3.1.2): it chooses pairs of a training set by the scores that were stored with them.

    filtered = run("pairs", Thresholds(image=0.7))      # writes pairs/seeds.json and pairs/filter.json
    print(table(filtered))

A sample is kept if it passes all rules, has images (is a candidate), and is among the best `most` of these of its
prompt by direction. No image is opened, made or deleted, so other thresholds can be tried at any time.
"""

import hashlib
import json
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data.layouts.seeds import whole
from ..data.pair_files import done_units, read_unit
from ..evaluation.metrics import KEYS, PAPER, RULES, Thresholds
from ..files import remove_unfinished, write_file, write_json

Score = Mapping[str, Any]
"""of a sample, as in scores.jsonl: sample, seed, candidate, and the authors' keys of the similarities"""
QUANTILES = (0.1, 0.5, 0.9)
TYPES = {"sample": int, "seed": int, "candidate": bool} | dict.fromkeys(KEYS.values(), (int, float))
"""of a score's values"""


@dataclass(frozen=True, kw_only=True)
class Filtered:
    """What a filter kept, and which rules the other samples failed. Counts are of samples unless stated otherwise."""

    thresholds: Thresholds
    keep: int | None
    """of a prompt, at most; None: all that pass"""
    samples: int
    fell: dict[str, int]
    """failed this rule, and perhaps others"""
    passed: int
    kept: int
    prompts: int
    prompts_kept: int
    """prompts of which at least one sample is kept"""
    seeds: dict[str, list[int]]
    """unit -> seeds of the kept samples, the best direction first"""
    quantiles: dict[str, list[float]]
    """rule -> QUANTILES of the similarity over all samples, to choose thresholds by"""


def filter_units(
    units: Iterable[tuple[str, Sequence[Score]]], thresholds: Thresholds = PAPER, most: int | None = 4
) -> Filtered:
    """Filter the (name, scores) of units. Similarities and what is kept stay in memory.

    most: pairs of a prompt, at most; None: all that pass. Raises ValueError that names unit and line of a bad score.
    """
    if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 1):
        raise ValueError(f"keep {most!r}: expected a number of pairs of a prompt, at least 1")
    count = Counter(samples=0, passed=0, kept=0, prompts=0, prompts_kept=0)
    fell = dict.fromkeys(RULES, 0)
    values: dict[str, array] = {rule: array("f") for rule in RULES}
    seeds: dict[str, list[int]] = {}
    for unit, scores in units:
        samples, passed = check(unit, scores), []
        for score in samples:
            rules = thresholds.refuses(score)
            passed += [] if rules else [score]
            for rule in rules:
                fell[rule] += 1
        for rule in RULES:
            values[rule].extend(score[KEYS[rule]] for score in samples)
        passed.sort(key=lambda score: (-score[KEYS["direction"]], score["sample"]))
        if kept := [score["seed"] for score in passed if score["candidate"]][:most]:
            seeds[unit] = kept
        count.update(samples=len(samples), passed=len(passed), kept=len(kept), prompts=1, prompts_kept=bool(kept))
    quantiles = {rule: np.quantile(each or [0.0], QUANTILES).tolist() for rule, each in values.items()}
    return Filtered(thresholds=thresholds, keep=most, fell=fell, seeds=seeds, quantiles=quantiles, **count)


def run(
    folder: str | Path,
    thresholds: Thresholds = PAPER,
    most: int | None = 4,
    on_unit: Callable[[int, int], None] = lambda done, total: None,
    *,
    overwrite: bool = False,
) -> Filtered:
    """Filter all finished units of a folder, and write its seeds.json and filter.json.

    on_unit(units read, all units) is called after each unit. The same units and thresholds give the same bytes.
    overwrite: also a seeds.json without a filter.json, as the authors' sets have it. Raises ValueError if there is such
    a list, there are no units, or a score is broken; then nothing is written.
    """
    folder, names = Path(folder), done_units(folder)
    if not names:
        raise ValueError(f"{folder}: no finished unit is in it; expected a folder that minip2p pairs wrote")
    seeds, about = folder / "seeds.json", folder / "filter.json"
    if seeds.exists() and not about.exists() and not overwrite:
        raise ValueError(f"{seeds} is a list that minip2p filter did not make; to replace it, add --overwrite")

    def read() -> Iterator[tuple[str, list[dict]]]:
        for i, name in enumerate(names, 1):
            yield name, read_unit(folder, name)[1]
            on_unit(i, len(names))

    try:
        result = filter_units(read(), thresholds, most)
    except ValueError as error:
        raise ValueError(str(error) if str(folder) in str(error) else f"{folder}: {error}") from None
    write_json(about, record(result))  # first: where it is, the list is ours
    write_file(seeds, seeds_bytes(result.seeds))
    remove_unfinished(folder, {seeds.name, about.name})
    return result


def seeds_bytes(seeds: Mapping[str, Sequence[int]]) -> bytes:
    """The authors' seeds.json, [[unit, [seed, ...]], ...], with a unit per line."""
    return ("[" + ",\n".join(json.dumps([unit, list(each)]) for unit, each in seeds.items()) + "]\n").encode()


def record(result: Filtered) -> dict:
    """The content of filter.json: thresholds, counts, and the hash of seeds.json."""
    values = {name: value for name, value in asdict(result).items() if name not in ("seeds", "quantiles")}
    return values | {"seeds_sha256": hashlib.sha256(seeds_bytes(result.seeds)).hexdigest()}


def table(result: Filtered) -> str:
    """How many samples failed which rule, how the similarities are distributed, and how many are kept; Markdown."""

    def line(*cells) -> str:
        return f"| {' | '.join(map(str, cells))} |"

    def part(n: int) -> str:
        return f"{n} ({n / max(result.samples, 1):.1%})"

    rules = [line("rule", "failed", *(f"{q:.0%} are below" for q in QUANTILES)), "|---" * 5 + "|"]
    for rule, limit in RULES.items():
        least = f"{rule.replace('_', ' ')} >= {getattr(result.thresholds, limit):g}"
        quantiles = [f"{value:.3f}" for value in result.quantiles[rule]]
        rules.append(line(least, part(result.fell[rule]), *quantiles))
    rows = {"all": result.samples, "passed all rules": result.passed, "kept": result.kept}
    of_all = [line("samples", "number"), "|---|---|", *(line(name, part(n)) for name, n in rows.items())]
    prompts = f"{result.prompts_kept} of {result.prompts} prompts have at least one kept pair."
    return "\n".join([*rules, "", *of_all, "", prompts])


def check(unit: str, scores: Sequence[Score]) -> list[Score]:
    """The scores, with seeds as whole numbers. Raises ValueError that names unit and line of one that lacks a value."""
    checked = []
    for number, score in enumerate(scores, 1):
        found = score | {"seed": whole(score["seed"])} if isinstance(score, dict) and "seed" in score else score
        for key, kind in TYPES.items():
            value = found.get(key) if isinstance(found, dict) else None
            if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool) or value != value:
                given = json.dumps(score)[:80]
                raise ValueError(f"unit {unit}, line {number} of its scores: expected {key!r}, a number, in {given}")
        checked.append(found)
    return checked
