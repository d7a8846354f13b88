"""Section 3.1: pairs made from captions alone, in three ways, and whether they show exactly the instructed change."""

from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...data.contact_sheet import CELL, Row, lay_out, pair_rows
from .. import miniature
from ..evaluation.common import markdown
from ..miniature import WAYS, inspect, read_candidates
from .claims import AGREES, Claim, Estimate, ratio
from .parts import Section, Setup, make_rows

PAPER = "section 3.1.2"
SHARED, COMMON, INDEPENDENT = WAYS
SHOWN = 6
"""pairs of each way on the contact sheet"""
Found = Mapping[str, Mapping[str, np.ndarray]]
"""way -> numbers of each instruction's pairs, (n,): all, exact, attributes, kept, kept_exact, kept_attributes"""


@cache
def make_pairs(setup: Setup) -> tuple[list[dict], dict[str, Path]]:
    """The instructions, and for each way the folder of all its pairs; what is there is not made again."""
    out, recipe = setup.out / "made", setup.sizes.recipe
    models = miniature.Models(
        language_model=setup.language_model, text2image=setup.text2image, clip=setup.clip, classifier=setup.classifier
    )
    _, prompts = miniature.make_prompts(recipe, out, setup.language_model)
    make = partial(miniature.make_way, prompts=prompts, samples=recipe.samples, recipe=recipe, out=out, models=models)
    return prompts, {way: make(way) for way in WAYS}


def made(setup: Setup) -> Section:
    """Pairs in each way, with and without the filter."""
    sizes, (prompts, folders) = setup.sizes, make_pairs(setup)
    n = min(sizes.inspected, len(prompts))
    candidates = {miniature.folder_of(way): read_candidates(folder) for way, folder in folders.items()}

    def rows(name: str) -> list[dict[str, Any]]:
        word, _, start = name.rpartition("_")
        here = [each for each in candidates[word] if 0 <= each[1]["id"] - int(start) < sizes.unit and each[1]["id"] < n]
        found = inspect(setup.classifier, setup.out / "made" / word, here, sizes.thresholds)
        return [
            {"prompt": prompt["id"], "seed": row["seed"], "kind": pair.kind, "kept": pair.kept}
            | {"attributes": pair.attributes, "exact": pair.exact}
            for (_, prompt, row), pair in zip(here, found, strict=True)
        ]

    starts = range(0, n, sizes.unit)
    names = [f"{word}_{start:07d}" for start in starts for word in candidates]
    lines = make_rows(setup, setup.out / "made" / "inspected", names, rows)
    found = {
        way: counts([row for start in starts for row in lines[f"{miniature.folder_of(way)}_{start:07d}"]], n)
        for way in WAYS
    }
    return section(found, draw_examples(setup, folders))


def counts(rows: Sequence[Mapping[str, Any]], n: int) -> dict[str, np.ndarray]:
    """How many of each instruction's pairs are ..., (n,) each."""
    found = {name: np.zeros(n) for name in ("all", "attributes", "exact")}
    found |= {f"kept_{name}": np.zeros(n) for name in found}
    for row in rows:
        for name in ("all", "attributes", "exact"):
            right = name == "all" or row[name]
            found[name][row["prompt"]] += right
            found[f"kept_{name}"][row["prompt"]] += right and row["kept"]
    return found


def section(found: Found, examples: Image.Image) -> Section:
    """What the numbers say."""
    rows = []
    for way, each in found.items():
        for word, prefix in (("none", ""), ("CLIP", "kept_")):
            whole = each[f"{prefix}all"]
            shares = [ratio(each[f"{prefix}{name}"], whole) for name in ("attributes", "exact")]
            cells = ("-" if share is None else share.shown() for share in shares)
            rows.append([way, word, f"{whole.sum():.0f}", *cells])
    text = f"""From captions the language model writes instructions and edited captions; of each the text-to-image
model makes pairs, with Prompt-to-Prompt as the paper does, with the common noise alone, and with different noise; then
the CLIP filter. *Attributes*: settings, times, media and things change as the captions do, by the attribute classifier.
*Exact*: sizes, places and weather are right too, and nothing else changes. Intervals are over instructions.

{markdown(["the two images have", "filter", "pairs", "attributes", "exact"], rows)}

![Pairs made in each way](examples.png)"""
    title, claims, figures = "Section 3.1: the made pairs", claims_of(found), {"examples.png": examples}
    return Section(title=title, text=f"{text}\n\n{explained(found, claims)}", claims=claims, figures=figures)


def explained(found: Found, claims: Sequence[Claim]) -> str:
    """Where the pairs owe their exactness to something else than sharing; computed from the same pairs."""
    if claims[1].verdict == AGREES:
        return ""
    noise, sharing = (difference(found, *which) for which in ((COMMON, INDEPENDENT), (SHARED, COMMON)))
    kept = difference(found, SHARED, INDEPENDENT, "kept_", "kept_")
    noise, sharing, kept = ("no number" if each is None else each.shown("+.1%") for each in (noise, sharing, kept))
    return f"""**What Prompt-to-Prompt is worth here.** To the exact pairs of independent images the common noise adds
{noise}, and sharing self-attention adds {sharing} to that; Figure 3 says why. After the filter, which also rejects
pairs that differ too much, both together are worth {kept}."""


def difference(found: Found, one: str, other: str, prefix: str = "", other_prefix: str = "") -> Estimate | None:
    """Exact pairs of all of one way minus those of another; with prefix "kept_", of those that the filter keeps."""
    above, below = found[one], found[other]
    minus = below[f"{other_prefix}exact"], below[f"{other_prefix}all"]
    return ratio(above[f"{prefix}exact"], above[f"{prefix}all"], minus)


def claims_of(found: Found) -> Sequence[Claim]:
    """Of exact pairs."""
    return [
        Claim(
            paper=PAPER,
            words=words,
            measured=f"pairs with exactly the instructed change: {measured}",
            number=difference(found, *which),
        )
        for words, measured, which in (
            (
                "Prompt-to-Prompt makes pairs that differ by the edit alone more often than independent images do",
                f"{SHARED} minus {INDEPENDENT}, no filter",
                (SHARED, INDEPENDENT),
            ),
            (
                "sharing self-attention is what makes the two images alike",
                f"{SHARED} minus {COMMON}, no filter",
                (SHARED, COMMON),
            ),
            ("the CLIP filter chooses the better pairs", f"{SHARED}: filtered minus all", (SHARED, SHARED, "kept_")),
        )
    ]


def draw_examples(setup: Setup, folders: Mapping[str, Path]) -> Image.Image:
    """The first instructions' first pairs in each way, and whether they pass the filter."""
    rows: list[Row] = []
    for way, folder in folders.items():
        first = {name: (name, prompt, row) for name, prompt, row in reversed(read_candidates(folder))}
        some = [first[name] for name in sorted(first)][:SHOWN]
        found = inspect(setup.classifier, folder, some, setup.sizes.thresholds)
        marks = (f"{'kept' if p.kept else 'rejected'}, {'exact' if p.exact else 'not exact'}" for p in found)
        shown = [(f"{p.prompt['edit']} ({mark})", *p.images) for p, mark in zip(found, marks)]
        rows += pair_rows(shown, way)
    blank = Row("no pairs", [], [Image.new("RGB", (CELL, CELL), "white")])
    return lay_out("Made pairs", "The same instructions in each way.", rows or [blank])
