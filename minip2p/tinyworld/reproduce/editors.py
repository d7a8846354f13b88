"""Editors trained on sets of pairs that differ in one thing, which the ceiling and Figure 10 evaluate.

All start from the text-to-image model, as in the paper, and are trained for equally many steps. A training is done
once, in OUT/editors; `evaluation.ablation` runs it, evaluates it, and pairs the results.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ...data.edits import Edits, open_edits
from ...data.latents import Latents
from ...data.pair_files import unit_name
from ...datagen import clip_filter, precompute
from ...evaluation import ablation
from ...evaluation.ablation import Ablation, Variant
from ...files import replace_file
from ...loading import load
from ...pipeline import Pipeline
from ...training.config import DiffusionTraining
from ...training.pairs import read_texts
from ...training.stages import start_or_resume
from ..evaluation.edits import evaluate_editor
from ..miniature import finish
from ..scenes import loose_captions
from ..training.datasets import draw_edits
from ..training.presets import EDITOR_FROM_PAIRS
from ..training.stages import STAGES
from .made import COMMON, INDEPENDENT, SHARED, make_pairs
from .parts import Setup
from .sets import Rendered, edit_of


@dataclass(frozen=True, kw_only=True)
class Data:
    """What an editor is trained on."""

    what: str
    """as the tables call it"""
    way: str | None = None
    """how its pairs are made; None: rendered, so that every pair is right"""
    filtered: bool = True
    fraction: float = 1.0
    """of the prompts"""
    plenty: bool = False
    """of rendered ones: as many as `Sizes.rendered`, otherwise as many as the filter keeps"""
    same: bool = False
    """of rendered ones: those that the kept pairs' instructions ask for, otherwise random edits"""


KEPT = "p2p-kept"
"""the paper's way, with which all others are compared"""
DATA = {
    KEPT: Data(what="Prompt-to-Prompt, CLIP filter (the paper)", way=SHARED),
    "true": Data(what="true pairs, as many as kept"),
    "true-same": Data(what="true pairs of the same instructions", same=True),
    "p2p-all": Data(what="Prompt-to-Prompt, no filter", way=SHARED, filtered=False),
    "common-kept": Data(what="common noise, nothing shared, CLIP filter", way=COMMON),
    "independent-kept": Data(what="independent noise, CLIP filter", way=INDEPENDENT),
    "p2p-10": Data(what="10% of the paper's pairs", way=SHARED, fraction=0.1),
    "p2p-1": Data(what="1% of the paper's pairs", way=SHARED, fraction=0.01),
    "rendered": Data(what="true pairs, as many as one likes", plenty=True),
}


def evaluated(
    setup: Setup, part: str, variants: Sequence[Variant], seeds: int, train: ablation.Train, evaluate: ablation.Evaluate
) -> Ablation:
    """Train the editors that are not trained yet, and evaluate those that are not evaluated yet, in OUT/PART."""
    header = {key: value for key, value in setup.header.items() if key != "threads"} | {"part": part}
    found = Ablation(
        folder=setup.out / part,
        variants=variants,
        seeds=range(seeds),
        train=train,
        evaluate=evaluate,
        header=header,
        threads=setup.sizes.threads,
    )
    finish(part, ablation.run(found))
    return found


def on_data(*names: str) -> list[Variant]:
    """Variants that differ in their training data alone."""
    return [Variant(name=name) for name in names]


def train_on_data(setup: Setup, variant: Variant, seed: int, folder: Path) -> None:
    """The editor of a key of DATA. It is trained once, in OUT/editors, and copied to each part that evaluates it."""
    run, starts_from = setup.out / "editors" / f"{variant.name}-{seed}", [setup.file("text2image")]
    prompts = {group for group, _ in Latents.open(encoded(setup, variant.name)).groups}
    part = max(DATA[variant.name].fraction, 1 / len(prompts))  # of few prompts one, at least
    config = replace(base_config(setup, variant.name, seed), fraction=part)
    weights, states, finished = (run / name for name in ("model.safetensors", "state", "finished"))
    if states.exists() or not weights.exists():
        train(setup, config, run, starts_from)
        states.rename(finished)
    shutil.rmtree(finished, ignore_errors=True)
    replace_file(folder / "model.safetensors", lambda path: shutil.copyfile(weights, path))


def train(setup: Setup, config: DiffusionTraining, run: Path, starts_from: Sequence[Path]) -> None:
    """Train an editor, or continue its training."""
    spec, name = STAGES["editor"], run.name
    config = spec.resolve(config, starts_from)
    logs = start_or_resume(spec, config, run, init_from=starts_from, device=setup.device)
    for _ in tqdm(logs, name, unit="log", leave=False):
        pass


def base_config(setup: Setup, data: str, seed: int) -> DiffusionTraining:
    """The training of an editor on DATA: the preset of the editor from made pairs, at these sizes."""
    sizes, preset, size = setup.sizes, EDITOR_FROM_PAIRS, side_of(setup, DATA[data])
    steps = sizes.ablation_steps if DATA[data].plenty else sizes.training_steps
    loop = replace(
        preset.train,
        steps=steps,
        batch_size=sizes.batch_size,
        warmup=min(preset.train.warmup, steps // 5),
        seed=seed,
        save_every=250,
        preview_every=steps,
        keep=1,
    )
    return replace(
        preset,
        model=replace(preset.model, sampling=replace(preset.model.sampling, resolution=size)),
        size=size,
        resize=None,
        data=(str(encoded(setup, data)),),
        held_out=0,
        train=loop,
    )


# Data


@cache
def encoded(setup: Setup, name: str) -> Path:
    """The precomputed set of these DATA, made where it is missing. A fraction is taken from it in training."""
    data = DATA[name]
    whole = next(key for key, each in DATA.items() if each == replace(data, fraction=1.0, what=each.what))
    edits, crops = edits_of(setup, data), 1 if data.plenty else setup.sizes.crops
    how = precompute.Settings(size=side_of(setup, data), crops=crops, flips=False, texts=False)
    mark, folder = read_texts(edits, skip_broken=False).mark, setup.out / "editors" / f"data-{whole}"
    finish(f"encoding {whole}", precompute.precompute(partial(raw_model, setup), edits, how, folder, data=mark))
    return folder


def side_of(setup: Setup, data: Data) -> int:
    """Side of its images in pixels."""
    return setup.sizes.ablation_size if data.plenty else setup.size


def raw_model(setup: Setup) -> Pipeline:
    """The text-to-image model as training loads it."""
    return load(setup.file("text2image"), device=setup.device, inference=False)


def edits_of(setup: Setup, data: Data) -> Edits:
    """The pairs themselves. Raises ValueError where the filter kept none."""
    size, seed = side_of(setup, data), setup.sizes.seed
    if data.plenty:
        return true_pairs(setup.sizes.rendered, size, seed)
    folder, recipe = make_pairs(setup)[1][data.way or SHARED], setup.sizes.recipe
    filtered = clip_filter.run(folder, recipe.thresholds, recipe.pair_settings.most)
    if not filtered.kept:
        raise ValueError(
            f"{folder}: the CLIP filter kept none of {filtered.samples} pairs; its thresholds are too high"
        )
    if data.way:
        return open_edits(folder, filtered=data.filtered)
    return same_pairs(setup, filtered) if data.same else true_pairs(filtered.kept, size, seed)


def true_pairs(n: int, size: int, seed: int) -> Edits:
    """n rendered edits that no evaluation has, loosely worded. size: side of their images in pixels."""
    edits = [edit for row in draw_edits(n, 1, seed) for edit in row]
    rng = np.random.default_rng([seed, n, 5])
    captions = [tuple(loose_captions(edit.source, edit.target, rng=rng, details=None)) for edit in edits]
    return Edits(Rendered(edits, captions, size), f"{n} rendered edits of {size} pixels, seed {seed}")


def same_pairs(setup: Setup, filtered: clip_filter.Filtered) -> Edits:
    """What the pairs that the filter kept should show, rendered; without instructions that fit no captions."""
    prompts = {unit_name(prompt["id"]): prompt for prompt in make_pairs(setup)[0]}
    rng = np.random.default_rng([setup.sizes.seed, 6])
    drawn = [(prompts[unit], edit_of(prompts[unit], rng)) for unit, seeds in filtered.seeds.items() for _ in seeds]
    found = [(prompt, edit) for prompt, edit in drawn if edit is not None]
    if not found:
        raise ValueError(f"none of {len(drawn)} kept pairs has an instruction that fits its captions")
    captions = [(prompt["input"], prompt["output"]) for prompt, _ in found]
    return Edits(Rendered([edit for _, edit in found], captions, setup.size), f"{len(found)} rendered edits")


# Judging


def evaluate_truth(setup: Setup, weights: Path) -> list[dict[str, Any]]:
    """Each held-out edit against the truth, as `minip2p tiny evaluate` does."""
    s, pipe = setup.sizes, load(weights, device=setup.device, dtype=setup.dtype)
    results = evaluate_editor(pipe, s.edits, steps=s.edit_steps, batch_size=s.unit, seed=s.seed)
    return [
        {"key": str(i), "kind": each.edit.kind, "correct": each.correct, "psnr": min(each.psnr, 100.0)}
        for i, each in enumerate(results)
    ]


def values(found: Ablation, name: str, metric: str, **where: str) -> np.ndarray:
    """The numbers of a variant: (seeds, n); where items have several points, (seeds, points, n)."""
    seeds = []
    for run, (variant, _) in found.runs.items():
        if variant.name == name:
            _, items = ablation.read_run(found, run)
            items = [
                item for item in items if metric in item and all(item.get(key) == word for key, word in where.items())
            ]
            points = dict.fromkeys(item.get("point") for item in items)
            columns = [[item[metric] for item in items if item.get("point") == point] for point in points]
            seeds.append(columns if None not in points else columns[0])
    return np.array(seeds)
