"""Figure 3: two images of two captions, with Prompt-to-Prompt, with the same noise alone, and with different noise."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ...data.contact_sheet import Row, lay_out
from ...data.images import from_tensor
from ...evaluation.summary import new_figure
from ..evaluation import mechanisms
from ..evaluation.common import markdown
from ..evaluation.pairs import DRAWN, OTHER_NOISE, SHARES, Way, evaluate_way, held_out_pairs, make_pairs
from .claims import AGREES, Claim, Estimate, mean
from .parts import Section, Setup, make_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLAIN: tuple[Way, ...] = (*SHARES, OTHER_NOISE, DRAWN)
WAYS: tuple[Way, ...] = (*PLAIN, *mechanisms.WAYS)
SHARED = tuple(share for share in SHARES if share > 0)
"""the ends of the paper's uniform draw are its first and its last"""
SHOWN = 4
"""examples"""
PAPER = "Figure 3, section 3.1.2"
Found = Mapping[str, Sequence[Mapping[str, Any]]]
"""way as a word -> a line for each pair: source, target (whether they are correct), changed"""


def figure3(setup: Setup) -> Section:
    """Pairs of held-out captions that change one thing, at all shares."""
    sizes, held = setup.sizes, held_out_pairs(setup.sizes.pairs)
    starts = range(0, sizes.pairs, sizes.unit)

    def rows(name: str) -> list[dict[str, Any]]:
        word, _, start = name.rpartition("_")
        some = range(int(start), min(int(start) + sizes.unit, sizes.pairs))
        edits, captions = (each[some.start : some.stop] for each in held)
        way, how = next(way for way in WAYS if str(way) == word), {"steps": sizes.generation_steps}
        found = evaluate_way(setup.text2image, setup.classifier, edits, captions, way, some, **how)
        columns = found.source.tolist(), found.target.tolist(), found.changed.tolist()
        return [
            {"pair": i, "kind": edit.kind, "source": source, "target": target, "changed": changed}
            for i, edit, source, target, changed in zip(some, edits, *columns, strict=True)
        ]

    names = [f"{way}_{start:07d}" for start in starts for way in WAYS]
    lines = make_rows(setup, setup.out / "figure3" / "pairs", names, rows)
    found = {str(way): [row for start in starts for row in lines[f"{way}_{start:07d}"]] for way in WAYS}
    return section(found, draw_examples(setup))


def section(found: Found, examples: Image.Image) -> Section:
    """What the numbers say."""
    claims = list(claims_of(found))
    text = f"""Two loosely worded captions that differ by one thing are made into two images: with the same noise, while
the second image uses the first one's self-attention logits in the first part of the steps (*share*); with the same
noise and share 0; and with different noise; *as drawn* are the two scenes' renderings. A pixel counts as changed if one
of its channels differs by more than 0.1; an image is correct if the attribute classifier sees in it what the caption
says, and nothing else.

{table("share", found, PLAIN)}

![Pixels changed, and correct targets, by share](shares.png)

![Examples](examples.png)

{explained(found, claims)}"""
    figures = {"shares.png": draw(found), "examples.png": examples}
    return Section(title="Figure 3: Prompt-to-Prompt", text=text, claims=claims, figures=figures)


def table(head: str, found: Found, ways: Sequence[Way]) -> str:
    """What came out of these ways, in Markdown."""
    heads = [head, "pairs", "pixels changed", "source correct", "target correct"]
    columns = "changed", "source", "target"
    return markdown(
        heads, [[way, len(found[str(way)]), *(of(found, way, name).shown() for name in columns)] for way in ways]
    )


def values(found: Found, way: Way, name: str) -> np.ndarray:
    """A figure of each pair that was made in this way: (n,)."""
    return np.array([row[name] for row in found[str(way)]], float)


def of(found: Found, way: Way, name: str) -> Estimate:
    """Its mean, with an interval."""
    return mean(values(found, way, name))


def while_sharing(found: Found, name: str) -> np.ndarray:
    """Each pair's mean over all shares above 0: (n,)."""
    return np.mean([values(found, share, name) for share in SHARED], axis=0)


def claims_of(found: Found) -> Sequence[Claim]:
    """What the paper claims of Figure 3, and what came out."""
    other, common = values(found, OTHER_NOISE, "changed"), values(found, 0.0, "changed")
    targets = while_sharing(found, "target") - values(found, OTHER_NOISE, "target")
    return (
        Claim(
            paper=PAPER,
            words="with Prompt-to-Prompt (and its common noise), the two images differ less than independent ones",
            measured="pixels changed: different noise minus shares above 0",
            number=mean(other - while_sharing(found, "changed")),
            above=0.05,
        ),
        Claim(
            paper=PAPER,
            words="sharing self-attention keeps more of the image than the common noise alone",
            measured="pixels changed: share 0 minus shares above 0",
            number=mean(common - while_sharing(found, "changed")),
            above=0.01,
        ),
        Claim(
            paper=PAPER,
            words="the second image still shows its caption",
            measured="correct targets: shares above 0 minus different noise",
            number=mean(targets),
            above=-0.05,
        ),
    )


def explained(found: Found, claims: Sequence[Claim]) -> str:
    """What to learn where sharing does not do what the paper uses it for; computed from the same pairs."""
    fewer, sharing, shown = claims
    if sharing.verdict == AGREES:
        return ""
    other, common, drawn = (of(found, way, "changed").value for way in (OTHER_NOISE, 0.0, DRAWN))
    noise = (other - common) / max(other - drawn, 1e-9)
    last = mean(values(found, SHARED[-1], "changed") - values(found, 0.0, "changed"))
    held = "first caption for 50% of the steps"
    text = mean(values(found, held, "changed") - values(found, 0.0, "changed"))
    right = mean(values(found, held, "target") - values(found, 0.0, "target"))
    by_words = """So part of what the common noise leaves open is decided by the words, through cross-attention, in the
first steps. The likely reason: a latent has 16x16 cells, and a thing covers few of them. Its noise and its words place
it, and little is left on which cells would have to agree. In Stable Diffusion a thing covers hundreds of the 64x64
cells."""
    cost = mean(values(found, SHARED[-1], "target") - values(found, 0.0, "target"))
    costs = f"""**What sharing costs.** From share 0 to share {SHARED[-1]} the correct targets move by
{cost.shown("+.1%")}. A likely reason: these edits change, add or remove a thing, and shared logits hold the shapes of
the first image where the second caption asks for others. The paper, too, shares for different fractions of the steps,
as edits need different amounts of change (section 3.1.2)."""
    return f"""**Why sharing does not help here, and what does.** Self-attention logits say which places of an image
belong together; copying them carries the first image's layout over. That pays where the layout would otherwise change.
Here it hardly does: with one noise and nothing shared {common:.1%} of the pixels change, with two noises {other:.1%},
and the edit alone needs {drawn:.1%}, so the common noise does {noise:.0%} of what can be done before anything is
shared. From share 0 to share {SHARED[-1]} the changed pixels move by {last.shown("+.1%")}. The rows below say where the
layout comes from: what changes if logits are shared in one guidance branch alone, if guidance is strong, and if the
*text* is shared instead, so that the second image is drawn from the first caption at first and from its own from then
on.

{table("the same noise, and", found, tuple(mechanisms.WAYS))}

With the first caption for half of the steps the changed pixels move by {text.shown("+.1%")}, and the correct targets by
{right.shown("+.1%")}. {by_words if text.high < 0 else ""}

{costs if shown.verdict != AGREES else ""}"""


def draw(found: Found) -> "Figure":
    """Pixels changed and targets correct, over the share."""
    figure = new_figure(9, 4)
    for axes, name, words in zip(figure.subplots(1, 2), ("changed", "target"), ("pixels changed", "targets correct")):
        here = [of(found, share, name) for share in SHARES]
        low, high = zip(*((each.low, each.high) for each in here))
        axes.fill_between(SHARES, low, high, alpha=0.2, lw=0)
        axes.plot(SHARES, [each.value for each in here], marker="o", ms=4, label="common noise, shared attention")
        for way, colour, style in ((OTHER_NOISE, "C1", "--"), (DRAWN, "C7", ":")):
            line = of(found, way, name)
            axes.axhspan(line.low, line.high, alpha=0.12, color=colour, lw=0)
            axes.axhline(line.value, color=colour, ls=style, label=way)
        axes.set_xlabel("share of the steps")
        axes.set_ylabel(words)
        axes.set_ylim(0, None if name == "changed" else 1.02)
        axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="lower right")
    return figure


def draw_examples(setup: Setup) -> Image.Image:
    """The first pairs: the source, its target at several shares, and both with different noise."""
    n, rows = min(SHOWN, setup.sizes.pairs), []
    edits, captions = held_out_pairs(n)
    how = {"steps": setup.sizes.generation_steps}
    some = (0.0, 0.3, 0.6, 0.9)
    made = [make_pairs(setup.text2image, edits, captions, way, range(n), **how) for way in (*some, OTHER_NOISE)]
    heads = ["source", *(f"share {share}" for share in some), "other noise"]
    for i, (before, after) in enumerate(captions):
        cells = [made[0][0][i], *(targets[i] for _, targets in made)]
        rows.append(Row(f"{before} -> {after}", heads, [from_tensor(x) for x in cells]))
    below = "The source image of the first caption, then images of the second caption."
    return lay_out("Prompt-to-Prompt in the tiny world", below, rows)
