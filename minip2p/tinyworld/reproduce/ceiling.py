"""The ceiling: how much better an editor would be if its training pairs were right. The paper could not measure it.

Editors of one size and equally many steps, on true pairs and on made ones, evaluated on the same held-out edits.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np

from ...evaluation.ablation import Ablation
from ..evaluation.common import markdown
from ..scenes import EDIT_KINDS
from .claims import UNDECIDED, Claim, mean
from .editors import DATA, KEPT, evaluate_truth, evaluated, on_data, train_on_data, values
from .parts import Section, Setup

NAMES = (KEPT, "true", "true-same", "p2p-all", "common-kept", "independent-kept")


def ceiling(setup: Setup) -> Section:
    """Train, evaluate, and compare."""
    how = {"train": partial(train_on_data, setup), "evaluate": partial(evaluate_truth, setup)}
    found = evaluated(setup, "ceiling", on_data(*NAMES), setup.sizes.seeds, **how)
    return section(found, setup.sizes.training_steps)


def section(found: Ablation, steps: int) -> Section:
    """What the numbers say."""
    correct = {name: values(found, name, "correct") for name in NAMES}
    seeds, n = correct[KEPT].shape
    rows = []
    for name in NAMES:
        minus = "" if name == KEPT else mean(correct[name] - correct[KEPT]).shown("+.1%")
        psnr = np.median(values(found, name, "psnr"))
        rows.append([DATA[name].what, mean(correct[name]).shown(), minus, f"{psnr:.1f} dB"])
    kinds = [kind for kind in EDIT_KINDS if values(found, KEPT, "correct", kind=kind).size]
    by_kind = [
        [DATA[name].what, *(mean(values(found, name, "correct", kind=kind)).shown(".0%") for kind in kinds)]
        for name in NAMES
    ]
    counts = [f"{kind} ({values(found, KEPT, 'correct', kind=kind).shape[1]})" for kind in kinds]
    lost, images = (mean(correct[name] - correct[KEPT]).shown("+.1%") for name in ("true", "true-same"))
    asked = mean(correct["true"] - correct["true-same"]).shown("+.1%")
    claims = claims_of(correct)
    text = f"""An editor learns from pairs that another model made, and it learns what is wrong with them, too: what
Prompt-to-Prompt changes beside the edit, the editor learns to change. In the tiny world true pairs exist, so what that
costs is a number. Editors of one size start from the same text-to-image model and are trained for {steps:,} steps
({seeds} seed{"s" * (seeds > 1)} each) on each set of pairs; all edit the same {n} held-out images. An edit is correct
if the rendered target is nearer to the result than the source and 16 other edits of the source. Intervals are over
seeds and edits.

{markdown(["trained on", "correct", "minus the paper's way", "median PSNR"], rows)}

**True pairs minus the paper's: {lost}.** This is what learning from made pairs costs. It has two parts. The images:
true pairs of the same instructions minus made ones, {images}. The instructions: random edits, all kinds alike, minus
those that the language model asks for, {asked}.

Correct, by kind of edit (and number of edits):

{markdown(["trained on", *counts], by_kind)}

{explained(claims, seeds, n)}"""
    return Section(title="The ceiling: what made pairs cost", text=text, claims=claims)


def explained(claims: Sequence[Claim], seeds: int, n: int) -> str:
    """What to think of what is undecided."""
    unclear = [claim.number for claim in claims if claim.verdict == UNDECIDED and claim.number]
    if not unclear:
        return ""
    width = max(number.high - number.low for number in unclear) / 2
    return f"""**What is undecided.** {seeds} seed{"s" * (seeds > 1)} and {n} edits cannot tell a difference of less
than about {100 * width:.0f} points from chance. Small differences between the ways to make pairs are to be expected:
an editor learns from the pairs that are kept, and since the filter also rejects pairs that differ too much, the kept
sets are more alike than the made ones (section 3.1)."""


def claims_of(correct: dict[str, np.ndarray]) -> Sequence[Claim]:
    """Of correct edits, (seeds, n) for each of NAMES."""
    return [
        Claim(
            paper=paper,
            words=words,
            measured=f"correct edits: {DATA[one].what} minus {DATA[other].what}",
            number=mean(correct[one] - correct[other]),
        )
        for paper, words, one, other in (
            ("section 5", "the editor is limited by the pairs that the text-to-image model makes", "true", KEPT),
            ("section 3.1.2", "the CLIP filter makes a better training set", KEPT, "p2p-all"),
            ("section 3.1.2", "Prompt-to-Prompt makes a better training set than common noise", KEPT, "common-kept"),
            (
                "section 3.1.2",
                "Prompt-to-Prompt makes a better training set than independent images",
                KEPT,
                "independent-kept",
            ),
        )
    ]
