"""Whether a change helps: variants of a training, each with several seeds, all evaluated on the same items.

    OUT/run.json                     the header: what all runs have in common
    OUT/runs/rms-0/                  the training of the variant "rms" with seed 0, as `minip2p train` writes it
    OUT/rms-0/items.jsonl            a unit of work: its evaluation, a line for each item
    OUT/rms-0/about.json             its words, and what it cost: parameters, FLOP, pictures/s

A run is trained and evaluated by two functions, so that an ablation knows neither stages nor worlds:

    ablation = Ablation(folder=..., variants=[Variant(name="baseline"), ...], seeds=(0, 1, 2), train=..., evaluate=...)
    for unit in run(ablation): print(unit.name)           # trains what is missing; a stopped run continues
    print(table(rows(ablation)))                          # `ablation_table`
"""

import json
import math
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import __version__, engines
from ..data.pair_files import json_lines
from ..data.tables import read_rows
from ..files import read_json
from ..schema import checked, from_dict
from ..units import Result, Work, existing
from .cost import cost_of_run
from .curves import NAME

RUNS = "runs"
"""folder of the trainings"""
Train = Callable[["Variant", int, Path], None]
"""(variant, seed, folder): train the variant so that folder/model.safetensors is there. Called again after a stop, it
continues; once finished, it does nothing"""
Evaluate = Callable[[Path], Sequence[Mapping[str, Any]]]
"""weights -> a row for each item: "key", which names the item; numbers, one for each metric; perhaps "point", the image
scale; other texts, such as a kind of edit, by which rows can be chosen"""


@checked
class Variant:
    """A row of the table: a name, and the words by which its config differs, as `minip2p train --set` has them."""

    name: str
    words: tuple[str, ...] = ()

    def __post_init__(self):
        if not NAME.fullmatch(self.name):
            raise ValueError(f"name = {self.name!r}: expected a variant's name of letters, digits, - and .")


def parse_variant(text: str) -> Variant:
    """ "wide: model.unet.widths=(96, 192) dropout=0" -> its name and words. Raises ValueError for other texts."""
    name, colon, words = text.partition(":")
    if not colon:
        raise ValueError(f"variant {text!r}: expected NAME: WORD=VALUE ..., e.g. 'rms: model.unet.norm=rms'")
    return Variant(name=name.strip(), words=split_words(words))


def split_words(text: str) -> tuple[str, ...]:
    """ "a.b=(1, 2) c=3" -> ("a.b=(1, 2)", "c=3"): spaces within a value stay."""
    return tuple(filter(None, re.split(r"\s+(?=[\w.]+=)", text.strip())))


def read_variants(path: str | Path) -> list[Variant]:
    """The variants of a JSON file {"NAME": "WORD=VALUE ..."}, in its order; several words may also be a list.

    Raises ValueError that names the file for other values.
    """
    values = read_json(Path(path))
    try:
        texts = {name: split_words(words) if isinstance(words, str) else words for name, words in values.items()}
        return [from_dict(Variant, {"name": name, "words": words}) for name, words in texts.items()]
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """What is compared. Raises ValueError for variants or seeds that are named twice, and for none."""

    folder: Path
    variants: Sequence[Variant]
    """the first is the baseline, which the others are compared with"""
    seeds: Sequence[int] = (0, 1, 2)
    train: Train
    evaluate: Evaluate
    """of all items in one order, whatever the weights. Both functions must pickle for Ray"""
    header: Mapping[str, Any] = field(default_factory=dict)
    """everything else that determines the results, as values of JSON"""
    threads: int | None = None
    """CPU threads, on which the rounding depends; None: PyTorch's own number, or that of the resumed run"""

    def __post_init__(self):
        names = [variant.name.lower() for variant in self.variants]
        for what, values in (("variant", names), ("seed", [*self.seeds])):
            if not values:
                raise ValueError(f"an ablation without a {what}: expected at least one")
            if twice := [each for each in values if values.count(each) > 1]:
                raise ValueError(f"{what} {twice[0]} is given twice; expected different ones")

    @property
    def runs(self) -> dict[str, tuple[Variant, int]]:
        """Name of each run -> its variant and seed, seed by seed, so that a stopped ablation compares all variants."""
        return {f"{variant.name}-{seed}": (variant, seed) for seed in self.seeds for variant in self.variants}

    @property
    def work(self) -> Work:
        """A unit for each run."""
        return Work(folder=self.folder, names=[*self.runs], load=partial(RunMaker, ablation=self))


@dataclass(frozen=True, kw_only=True)
class RunMaker:
    """Trains and evaluates one run after the other."""

    ablation: Ablation

    @property
    def header(self) -> dict[str, Any]:
        own = {"minip2p": __version__, "ablation": "variants", **self.ablation.header}
        return own | {"threads": self.ablation.threads, "made_with": {"torch": torch.__version__}}

    def make(self, name: str) -> Result:
        (variant, seed), folder = self.ablation.runs[name], self.ablation.folder / RUNS / name
        self.ablation.train(variant, seed, folder)
        items = check_items(self.ablation.evaluate(folder / "model.safetensors"), name)
        about = {"variant": variant.name, "words": list(variant.words), "seed": seed} | cost_of_run(folder)
        files = {"items.jsonl": json_lines(items), "about.json": (json.dumps(about, indent=2) + "\n").encode()}
        return Result(files, {"models": 1, "items": len(items)})


def check_items(rows: Sequence[Mapping[str, Any]], name: str) -> list[dict[str, Any]]:
    """The rows, with numbers as floats. Raises ValueError for none, and for numbers that are not finite."""
    if not rows:
        raise ValueError(f"{name}: the evaluation gave no items")
    items, numbers = [], (int, float, np.number, np.bool_)
    for row in rows:
        items.append({key: float(x) if isinstance(x, numbers) else x for key, x in row.items()})
        if not isinstance(row.get("key"), str):
            raise ValueError(f"{name}: an item without a key, which pairs it with those of other runs")
        if wrong := [key for key, x in items[-1].items() if isinstance(x, float) and not math.isfinite(x)]:
            raise ValueError(f"{name}: {wrong[0]} of item {row['key']} is not finite; did its training diverge?")
    return items


def run(ablation: Ablation, **engine: Any) -> engines.Run:
    """Train and evaluate the runs that are not there yet; each is yielded when its unit was written.

    engine: options of `engines.run`. A finished run's states are removed, as nothing continues from them. Raises
    ValueError where the folder holds another ablation, or a run of the same name and other words. Variants and seeds
    may be added to a finished ablation.
    """
    for name in sorted(existing(ablation.folder) & ablation.runs.keys()):
        _check_words(ablation, name)
        _remove_states(ablation, name)
    started = engines.run(ablation.work, **engine)

    def finished() -> Iterator:
        for unit in started:
            _remove_states(ablation, unit.name)
            yield unit

    return replace(started, units=finished())


def _remove_states(ablation: Ablation, name: str) -> None:
    shutil.rmtree(ablation.folder / RUNS / name / "state", ignore_errors=True)


def _check_words(ablation: Ablation, name: str) -> None:
    path, words = ablation.folder / name / "about.json", [*ablation.runs[name][0].words]
    if (was := read_json(path).get("words")) != words:
        raise ValueError(f"{path}: it was trained with {was}, this variant has {words}; choose another name")


def read_run(ablation: Ablation, name: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What is known about a finished run, and its items. Raises ValueError for a run that is not finished."""
    folder = ablation.folder / name
    if not folder.is_dir():
        raise ValueError(f"{folder}: this run is not finished; repeat the command to continue")
    return read_json(folder / "about.json"), [row for _, row in read_rows(folder / "items.jsonl")]
