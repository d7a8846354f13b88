"""The paper's way from captions to a training set, whole and small: in the tiny world, which knows the truth.

    captions -> a writer's instructions -> Prompt-to-Prompt pairs -> the CLIP filter -> a training set (section 3.1)

A report tells what no one could measure for the paper: how often a pair shows exactly the instructed change, with and
without Prompt-to-Prompt, with and without the filter. All of it can be stopped at any moment and goes on.
"""

import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ..checkpoints.mapped import replace_file
from ..data.captions import distinct
from ..data.grammar import change, parse_caption, why_not
from ..data.scenes import loose_captions, sample_scene
from ..evaluation.layout import scenes_of, shows
from ..evaluation.metrics import Thresholds
from ..evaluation.reader import Reading, read
from . import blocks, filter, pairs, write
from .units import read_picture, read_scores

if TYPE_CHECKING:
    from ..models.clip import CLIP
    from ..models.reader import Reader
    from ..pipeline import Pipeline
    from ..pipeline.writer import Writer

WAYS = {
    "Prompt-to-Prompt": {},
    "one noise, nothing shared": {"share": 0.0},
    "two noises": {"share": 0.0, "apart": True},
}
"""how the two pictures of a pair are tied to each other -> what that changes in the settings"""
ALL = Thresholds(image=-1.0, caption=-1.0, direction=-1.0)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What decides a miniature training set, beside the models."""

    captions: int = 2000
    seed: int = 0
    writing: write.Settings = field(default_factory=lambda: write.Settings(max_tokens=128, temperature=0.5))
    painting: pairs.Settings = field(
        default_factory=lambda: pairs.Settings(
            samples=4, batch_pairs=4, steps=20, share=(0.1, 0.5), scale=(2.0, 4.0), most=4,
            thresholds=Thresholds(image=0.5, caption=0.85, direction=0.8),
        )
    )
    """its candidates are what the filter keeps. The thresholds are the tiny CLIP's, whose cosines lie elsewhere than
    those of OpenAI's, for which the paper's are"""
    compared: int = 100
    """prompts of which the report paints pairs in each of WAYS"""
    compared_samples: int = 2
    """of each"""

    @property
    def thresholds(self) -> Thresholds:
        return self.painting.thresholds

    @property
    def keep(self) -> int:
        """Pairs of a prompt, at most."""
        return self.painting.most

    def seeded(self) -> "Recipe":
        """The same with its seed given to all parts."""
        parts = {name: replace(getattr(self, name), seed=self.seed) for name in ("writing", "painting")}
        return replace(self, **parts)


RECIPES = {"tiny": Recipe()}


@dataclass(frozen=True, kw_only=True)
class Models:
    """Who takes part."""

    writer: "Writer"
    painter: "Pipeline"
    clip: "CLIP"
    reader: "Reader"


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A pair, and what it shows."""

    unit: str
    prompt: dict
    score: dict
    kept: bool
    """whether the filter keeps it"""
    kind: str | None
    """of the change between the captions; None where they differ by more or less than one"""
    as_read: bool
    """whether what the reader finds changes as the captions do"""
    exact: bool
    """whether the second picture is what the instruction makes of the first, places, sizes and weather included"""
    pictures: tuple[Image.Image, Image.Image]


@dataclass(frozen=True, kw_only=True)
class Report:
    """What came of a recipe."""

    recipe: Recipe
    writing: blocks.Summary
    disagreements: dict[str, int]
    """reason -> instructions that do not agree with their captions by the tiny world's grammar"""
    filtered: filter.Filtered
    ways: dict[str, list[Shown]]
    """a word of WAYS -> pairs that were painted for comparison, all of them, kept or not"""
    kept: list[Shown]
    """of the training set's pairs, some"""


def own_captions(n: int, seed: int) -> list[str]:
    """n different captions of the tiny world; sizes, places and weather are told in some."""
    rng, found = np.random.default_rng([seed, n, 4]), []
    while len(found) < n:
        more = [loose_captions(sample_scene(rng), rng=rng, details=None)[0] for _ in range(n - len(found))]
        found = distinct([*found, *more])
    return found


def make(
    recipe: Recipe, out: Path, models: Models, *, show: Callable[[str, int, int], None] = lambda *_: None,
    looked_at: int = 400,
) -> Report:
    """Make the training set `out`/pairs, or what of it is not there yet, and look at what came of it.

    show is told what is being done, how much of it is done, and of how much. looked_at: pairs of the training set, at
    most, that the reader looks at. Raises ValueError where `out` holds another recipe's.
    """
    recipe = recipe.seeded()
    captions = _captions(recipe, out)
    summary = blocks.write(
        models.writer, captions, out / "prompts.jsonl", recipe.writing,
        show=lambda progress: show("instructions", progress.done, progress.total),
    )  # fmt: skip
    prompts = pairs.read_prompts(out / "prompts.jsonl")
    _paint(models, prompts, recipe.painting, out / "pairs", "pairs", show)
    filtered = filter.run(out / "pairs", recipe.thresholds, recipe.keep)
    ways = {}
    for way, changes in WAYS.items():
        settings = replace(
            recipe.painting, samples=recipe.compared_samples, most=recipe.compared_samples, thresholds=ALL, **changes
        )
        folder = out / "compared" / way.replace(" ", "-").replace(",", "").lower()
        _paint(models, prompts[: recipe.compared], settings, folder, way, show)
        ways[way] = list(_look(models.reader, folder, _all(folder), recipe.thresholds, show))
    chosen = [(name, seed) for name, seeds in filtered.seeds.items() for seed in seeds]
    chosen = set(chosen[:: max(1, len(chosen) // looked_at)][:looked_at])
    kept = list(_look(models.reader, out / "pairs", chosen, recipe.thresholds, show))
    reasons = Counter(why_not(p["input"], p["edit"], p["output"]) for p in prompts)
    del reasons[None]
    return Report(
        recipe=recipe, writing=summary, disagreements=dict(reasons.most_common()), filtered=filtered, ways=ways,
        kept=kept,
    )  # fmt: skip


def _captions(recipe: Recipe, out: Path) -> list[str]:
    """The recipe's, also as a file. Raises ValueError where the file there is another's."""
    captions, path = own_captions(recipe.captions, recipe.seed), out / "captions.txt"
    text = "".join(f"{caption}\n" for caption in captions)
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise ValueError(f"{path} holds other captions than this recipe's; choose another --output, or the same seed")
    out.mkdir(parents=True, exist_ok=True)
    replace_file(path, lambda part: part.write_text(text, encoding="utf-8"))
    return captions


def _paint(
    models: Models, prompts: Sequence[dict], settings: pairs.Settings, folder: Path, what: str,
    show: Callable[[str, int, int], None],
) -> None:
    total = len(pairs.work(prompts, settings))
    done = len(pairs.done_units(folder)) if folder.is_dir() else 0
    show(what, done, total)
    for _ in pairs.make(models.painter, models.clip, prompts, settings, folder):
        done += 1
        show(what, done, total)


def _all(folder: Path) -> set[tuple[str, int]]:
    """(unit, seed) of every pair that has pictures."""
    return {(name, row["seed"]) for name, _, rows in read_scores(folder) for row in rows if row["candidate"]}


def _look(
    reader: "Reader", folder: Path, chosen: set[tuple[str, int]], thresholds: Thresholds,
    show: Callable[[str, int, int], None],
) -> Iterator[Shown]:
    """What the chosen (unit, seed)s of a folder show."""
    done = 0
    for name, prompt, rows in read_scores(folder):
        mine = [row for row in rows if (name, row["seed"]) in chosen and row["candidate"]]
        for row in mine:
            pictures = tuple(_picture(folder, name, row["seed"], edited) for edited in (False, True))
            yield look(reader, name, prompt, row, not thresholds.refuses(row), pictures)
            done += 1
            show("looking at pairs", done, len(chosen))


def look(
    reader: "Reader", unit: str, prompt: dict, score: dict, kept: bool, pictures: tuple[Image.Image, Image.Image]
) -> Shown:
    """What a pair shows."""
    try:
        told = parse_caption(prompt["input"]), parse_caption(prompt["output"])
    except ValueError:
        told = None
    as_read = told is not None and _moved(*read(reader, pictures)) == _moved(*(_reading(each) for each in told))
    before, after = scenes_of(reader, pictures)
    return Shown(
        unit=unit, prompt=prompt, score=score, kept=kept, kind=None if told is None else change(*told),
        as_read=as_read, exact=shows(before, prompt["edit"], after), pictures=pictures,
    )  # fmt: skip


def _reading(told) -> Reading:
    return Reading(**told.readable()._asdict())


def _moved(before: Reading, after: Reading) -> dict:
    """What differs between two readings."""
    differs = {
        name: (getattr(before, name), getattr(after, name)) for name in ("setting", "time", "medium")
        if getattr(before, name) != getattr(after, name)
    }  # fmt: skip
    return differs | {"gone": before.things - after.things, "new": after.things - before.things}


def _picture(folder: Path, unit: str, seed: int, edited: bool) -> Image.Image:
    return Image.open(io.BytesIO(read_picture(folder, unit, seed, edited))).convert("RGB")


def percent(values: Sequence[bool]) -> str:
    """"73.1%" of them are true; "-" of none."""
    return f"{np.mean(values):.1%}" if len(values) else "-"


def markdown(report: Report) -> str:
    """The report in words and tables."""
    r, w, f = report.recipe, report.writing, report.filtered
    wrong = sum(report.disagreements.values())
    agree = (w.accepted - wrong) / max(w.accepted, 1)
    lines = [
        "# From captions to a training set, in the tiny world",
        "",
        f"{w.captions} captions gave {w.accepted} instructions ({w.attempts} completions, {w.rate:.1%} accepted); "
        f"{agree:.1%} of these agree with their captions by the tiny world's grammar. They were painted as {f.samples} "
        f"pairs of {r.painting.steps} steps, of which the filter kept {f.kept} ({f.kept / max(f.samples, 1):.1%}), for "
        f"{f.prompts_kept} of {f.prompts} instructions.",
        "",
        "## Why completions were refused, and instructions do not agree",
        "",
        "| reason | completions or instructions |", "|---|---|",
        *(f"| {reason} | {n} |" for reason, n in (w.refused | report.disagreements).items()),
        "",
        "## The filter",
        "",
        filter.table(f),
        "",
        "## How often a pair shows exactly the instructed change",
        "",
        f"By the reader, on the first {len(next(iter(report.ways.values()), []))} pairs painted in each way from the "
        "same prompts. *As read*: settings, times, media and things change as the captions say. *Exactly*: sizes, "
        "places and the weather are found too, and nothing else changes.",
        "",
        "| the two pictures have | filter | pairs | as read | exactly |", "|---|---|---|---|---|",
    ]
    for way, shown in report.ways.items():
        for name, some in (("none", shown), ("CLIP", [each for each in shown if each.kept])):
            read_right, exact = percent([s.as_read for s in some]), percent([s.exact for s in some])
            lines.append(f"| {way} | {name} | {len(some)} | {read_right} | {exact} |")
    lines += ["", f"Of {len(report.kept)} pairs of the training set, by what changes:", ""]
    lines += ["| change | pairs | as read | exactly |", "|---|---|---|---|"]
    kinds = Counter(each.kind for each in report.kept)
    for kind, n in [*kinds.most_common(), ("all", len(report.kept))]:
        some = [each for each in report.kept if kind == "all" or each.kind == kind]
        name = kind or "more or less than one"
        lines.append(f"| {name} | {n} | {percent([s.as_read for s in some])} | {percent([s.exact for s in some])} |")
    return "\n".join([*lines, ""])


def to_json(report: Report) -> str:
    """The recipe and the numbers."""
    ways = {
        way: [{"kept": s.kept, "kind": s.kind, "as_read": s.as_read, "exact": s.exact} for s in shown]
        for way, shown in {**report.ways, "training set": report.kept}.items()
    }
    values = {
        "recipe": asdict(report.recipe), "writing": asdict(report.writing), "disagreements": report.disagreements,
        "filter": filter.record(report.filtered), "pairs": ways,
    }  # fmt: skip
    return json.dumps(values, indent=1) + "\n"
