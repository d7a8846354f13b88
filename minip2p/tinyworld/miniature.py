"""The paper's data generation in miniature (section 3.1), in the tiny world, where its result can be checked:

    captions -> a language model's instructions -> Prompt-to-Prompt pairs -> the CLIP filter -> a training set

The report says what could not be measured for the paper: how often a pair shows exactly the instructed change, with and
without Prompt-to-Prompt, with and without the filter. A stopped run continues where it was.
"""

import io
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
from PIL import Image
from pydantic import Field
from tqdm import tqdm

from ..data.captions import distinct
from ..data.pair_files import read_image, read_scores
from ..data.picture_files import decode
from ..datagen import clip_filter, instruction_files, instructions, pairs
from ..engines import Run
from ..evaluation.metrics import Thresholds
from ..files import write_file
from ..models.clip import CLIP
from ..pipeline import LanguageModel, Pipeline
from ..schema import Count, CountOrNone, SamplingSteps, Seed, Threads, checked
from .classifier import AttributeClassifier
from .evaluation.attributes import WHOLE, predict
from .evaluation.layout import locate, shows_edit
from .grammar import change, mismatch, parse_caption
from .scenes import Attributes, loose_captions, sample_scene

WAYS = {
    "Prompt-to-Prompt": {},
    "one noise, nothing shared": {"share": 0.0},
    "two noises": {"share": 0.0, "independent_noise": True},
}
"""what the two images of a pair have in common -> the settings that differ"""
COMPARED_SAMPLES = 2
"""pairs generated in each way from each compared instruction"""
INSPECTED = 400
"""pairs of the training set that the report inspects, at most"""


@checked
class Recipe:
    """What determines the training set, besides the models."""

    captions: Annotated[int, Field(ge=1, le=1_000_000)] = 2000
    """number of captions"""
    samples: Count = 4
    """pairs generated from each instruction"""
    steps: SamplingSteps = 12
    """steps of the text-to-image model's sampler"""
    compared: CountOrNone = 100
    """instructions from which the report also generates pairs without Prompt-to-Prompt"""
    seed: Seed = 0
    """random seed"""
    threads: Threads | None = None
    """CPU threads, on which the rounding depends; None: PyTorch's own number, or that of the resumed run"""
    thresholds: Thresholds = Thresholds(image=0.5, caption=0.85)
    """for the tiny CLIP, whose cosines of images and of captions differ from those of OpenAI's"""

    @property
    def instruction_settings(self) -> instructions.Settings:
        return instructions.Settings(max_tokens=128, seed=self.seed, threads=self.threads)

    @property
    def pair_settings(self) -> pairs.Settings:
        return pairs.Settings(
            samples=self.samples,
            batch_pairs=4,
            steps=self.steps,
            share=(0.1, 0.5),
            scale=(1.5, 3.0),
            most=4,
            thresholds=self.thresholds,
            seed=self.seed,
            threads=self.threads,
        )


RECIPE = Recipe()


@dataclass(frozen=True, kw_only=True)
class Models:
    """The networks that generate, filter and check."""

    language_model: LanguageModel
    text2image: Pipeline
    clip: CLIP
    classifier: AttributeClassifier


@dataclass(frozen=True, kw_only=True)
class InspectedPair:
    """A pair, and what it shows."""

    prompt: dict
    kept: bool
    """whether it passes the filter"""
    kind: str | None
    """of the change between the captions; None if there is no single change"""
    attributes: bool
    """whether the predicted attributes change as the captions do"""
    exact: bool
    """whether the second image shows exactly the instructed change: places, sizes and weather included"""
    images: tuple[Image.Image, Image.Image]


@dataclass(frozen=True, kw_only=True)
class Report:
    """The result of a recipe."""

    recipe: Recipe
    instructions: instruction_files.Summary
    inconsistent: dict[str, int]
    """reason (of `grammar.REASONS`) -> number of instructions that are inconsistent with their captions"""
    filtered: clip_filter.Filtered
    ways: dict[str, list[InspectedPair]]
    """key of WAYS -> all pairs generated that way, kept or not"""
    kept: list[InspectedPair]
    """a part of the training set"""


def sample_captions(n: int, seed: int) -> list[str]:
    """n different captions; some mention sizes, places or weather."""
    rng, captions = np.random.default_rng([seed, n, 4]), []
    while len(captions) < n:
        more = [loose_captions(sample_scene(rng), rng=rng, details=None)[0] for _ in range(n - len(captions))]
        captions = distinct([*captions, *more])
    return captions


def make(recipe: Recipe, out: Path, models: Models) -> Report:
    """Generate the training set in `out`/pairs, or what is missing of it, and inspect it.

    ValueError if `out` holds the files of another recipe, or other files.
    """
    there = sorted(path.name for path in out.iterdir() if path.name[0] != ".") if out.is_dir() else []
    if there and not {"prompts.run.json", "prompts.jsonl.parts"} & set(there):
        raise ValueError(f"output {out} holds other files, such as {there[0]}; choose a new folder")
    summary, prompts = make_prompts(recipe, out, models.language_model)
    settings = recipe.pair_settings
    finish("pairs", pairs.make(lambda: (models.text2image, models.clip), prompts, settings, out / "pairs"))
    filtered = clip_filter.run(out / "pairs", settings.thresholds, settings.most)
    ways, some = {}, prompts[: recipe.compared]
    for way in WAYS:
        folder = make_way(way, some, COMPARED_SAMPLES, recipe, out / "compared", models)
        ways[way] = inspect(models.classifier, folder, read_candidates(folder), settings.thresholds)
    kept = [row for row in read_candidates(out / "pairs") if row[2]["seed"] in filtered.seeds.get(row[0], ())]
    kept = kept[:: max(1, len(kept) // INSPECTED)][:INSPECTED]
    reasons = Counter(mismatch(p["input"], p["edit"], p["output"]) for p in prompts)
    return Report(
        recipe=recipe,
        instructions=summary,
        inconsistent={reason: n for reason, n in reasons.most_common() if reason},
        filtered=filtered,
        ways=ways,
        kept=inspect(models.classifier, out / "pairs", kept, settings.thresholds),
    )


def make_prompts(
    recipe: Recipe, out: Path, language_model: LanguageModel
) -> tuple[instruction_files.Summary, list[dict]]:
    """Write captions and the language model's instructions to `out`; a summary, and a row for each instruction."""
    captions = sample_captions(recipe.captions, recipe.seed)
    summary = instruction_files.write(language_model, captions, out / "prompts.jsonl", recipe.instruction_settings)
    write_file(out / "captions.txt", "".join(f"{caption}\n" for caption in captions))
    return summary, pairs.read_prompts(out / "prompts.jsonl")


def make_way(way: str, prompts: list[dict], samples: int, recipe: Recipe, out: Path, models: Models) -> Path:
    """Generate pairs in one of WAYS, and keep the images of all, whatever their scores; their folder in `out`."""
    all_of_them = {"samples": samples, "most": samples, "thresholds": Thresholds(image=-1, caption=-1, direction=-1)}
    settings, folder = replace(recipe.pair_settings, **all_of_them, **WAYS[way]), out / folder_of(way)
    finish(way, pairs.make(lambda: (models.text2image, models.clip), prompts, settings, folder))
    return folder


def folder_of(way: str) -> str:
    """The folder of the pairs that were made in this way."""
    return way.replace(" ", "-").replace(",", "").lower()


def finish(what: str, run: Run) -> None:
    """Make what is missing of a run."""
    for _ in tqdm(run, what, total=run.total, initial=run.done, unit="unit", leave=False):
        pass


def read_candidates(folder: Path) -> list[tuple[str, dict, dict]]:
    """(unit, prompt, scores) of all pairs of a folder that have images."""
    return [(name, prompt, row) for name, prompt, rows in read_scores(folder) for row in rows if row["candidate"]]


def inspect(
    classifier: AttributeClassifier, folder: Path, rows: list[tuple[str, dict, dict]], thresholds: Thresholds
) -> list[InspectedPair]:
    """What these pairs of a folder show (`read_candidates`), and whether they pass the filter."""
    inspected = []
    for name, prompt, row in tqdm(rows, "inspecting pairs", unit="pair", leave=False):
        files = [read_image(folder, name, row["seed"], edited) for edited in (False, True)]
        images = tuple(decode(io.BytesIO(file), f"{folder}, unit {name}") for file in files)
        inspected.append(inspect_pair(classifier, prompt, images, kept=not thresholds.refuses(row)))
    return inspected


def inspect_pair(
    classifier: AttributeClassifier, prompt: dict, images: tuple[Image.Image, Image.Image], *, kept: bool
) -> InspectedPair:
    """What a pair shows. prompt: its captions "input" and "output", and its instruction "edit"."""
    predicted = predict(classifier, images)
    before, after = map(locate, images, predicted)
    exact = shows_edit(before, prompt["edit"], after)
    try:
        captions = [parse_caption(prompt[name]) for name in ("input", "output")]
    except ValueError:
        kind, attributes = None, False
    else:
        kind = change(*captions)
        attributes = _difference(*predicted) == _difference(*(caption.attributes for caption in captions))
    return InspectedPair(prompt=prompt, kept=kept, kind=kind, attributes=attributes, exact=exact, images=images)


def _difference(before: Attributes, after: Attributes) -> dict:
    values = {name: (getattr(before, name), getattr(after, name)) for name in WHOLE}
    changed = {name: pair for name, pair in values.items() if pair[0] != pair[1]}
    return changed | {"removed": before.things - after.things, "added": after.things - before.things}
