"""Figure 10: the editor's curve for less training data, for data that no filter chose, and without sharing."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...data.latents import Latents
from ...evaluation.curves import Curve, clip_name
from ...evaluation.metrics import KEYS
from ...evaluation.protocols import FILTER, PIXELS, choose
from ...evaluation.summary import ACROSS, UP, Point, figure, summarize, table
from ...evaluation.sweep import SweepMaker
from ...loading import load
from .claims import AGREES, Claim, mean
from .editors import DATA, KEPT, encoded, evaluated, on_data, train_on_data, values
from .figure8 import held_out_set, settings_of
from .parts import Section, Setup

NAMES = (KEPT, "p2p-10", "p2p-1", "p2p-all", "common-kept")
PAPER = "Figure 10"
Found = Mapping[str, Mapping[str, np.ndarray]]
"""name -> similarity -> (image scales, n), the mean over the seeds"""


def figure10(setup: Setup) -> Section:
    """Train, evaluate, compare: one editor of each kind of data, as in the paper."""
    how = {"train": partial(train_on_data, setup), "evaluate": partial(evaluate_sweep, setup)}
    results = evaluated(setup, "figure10", on_data(*NAMES), 1, **how)
    found = {name: {key: values(results, name, key).mean(axis=0) for key in KEYS.values()} for name in NAMES}
    about = {"protocol": "paired", "clip_model": clip_name(setup.clip), "pixels": PIXELS["paired"], "filter": FILTER}
    return section(found, setup.sizes.image_scales, about, len(Latents.open(encoded(setup, KEPT))))


def evaluate_sweep(setup: Setup, weights: Path) -> list[dict[str, Any]]:
    """CLIP's similarities of the held-out edits of Figure 8, with loosely worded captions, at each image scale."""
    settings, edits, n = settings_of(setup), held_out_set(setup, "loose"), setup.sizes.items
    curve = Curve(name="editor", method="editor", source=str(weights), points=setup.sizes.image_scales)
    pipe, items = load(weights, device=setup.device, dtype=setup.dtype), choose(edits, settings)
    maker = SweepMaker(curve=curve, pipe=pipe, clip=setup.clip, edits=edits, items=items, settings=settings)
    lines = [line for name in curve.units(n, settings.unit) for line in maker.make(name).content.splitlines()]
    return [{key: row[key] for key in ("key", "point", *KEYS.values())} for row in map(json.loads, lines)]


def section(found: Found, scales: Sequence[float], about: Mapping[str, str], pairs: int) -> Section:
    """What the numbers say. pairs: in all of the paper's data."""
    points = [
        Point(
            header={"curve": DATA[name].what, "method": "editor", **about},
            point=scale,
            turns=None,
            keys=[str(i) for i in range(each[UP].shape[1])],
            values={key: x[k] for key, x in each.items()},
        )
        for name, each in found.items()
        for k, scale in enumerate(scales)
    ]
    rows, claims = summarize(points), claims_of(found)
    text = f"""One editor for each training set, equally many steps, at text scale and image scales as in Figure 8, on
the same held-out edits with loosely worded captions.

![Image against direction similarity](curves.png)

{table(rows, about=())}

{explained(found, claims, pairs)}"""
    return Section(
        title="Figure 10: less data, no filter, no sharing",
        text=text,
        claims=claims,
        figures={"curves.png": figure(rows)},
    )


def explained(found: Found, claims: Sequence[Claim], pairs: int) -> str:
    """What to learn where little data does not make an editor that keeps the image."""
    if claims[0].verdict == AGREES:
        return ""
    little, more, much = (found[name][UP].mean() for name in ("p2p-1", "p2p-10", KEPT))
    return f"""**Why less data need not keep more of the image.** The paper's 1% still teaches an editor to copy its
input; what it does not learn is to change it. A likely reason that it is not so here: copying must be learned, too,
since the inputs for the image start at zero and an editor that has learned nothing draws another image. 1% are
{max(1, round(pairs / 100))} of {pairs} pairs here, and some 3,000 in the paper. The mean image similarity is
{little:.3f} with them, {more:.3f} with 10%, and {much:.3f} with all."""


def claims_of(found: Found) -> list[Claim]:
    """Of the mean over the image scales, paired by edit."""

    def claim(words: str, name: str, key: str, sign: int) -> Claim:
        both = ("the paper's data", DATA[name].what)
        measured = f"{'image' if key == UP else 'direction'} similarity: {both[sign > 0]} minus {both[sign < 0]}"
        number = mean(sign * (found[name][key] - found[KEPT][key]).mean(axis=0))
        return Claim(paper=PAPER, words=words, measured=measured, number=number, form="+.3f")

    return [
        claim("less data: only subtle edits, so high image similarity", "p2p-1", UP, 1),
        claim("less data: only subtle edits, so low direction similarity", "p2p-1", ACROSS, -1),
        claim("without the CLIP filter, less of the image is kept", "p2p-all", UP, -1),
    ]
