"""Figure 8: the editor against SDEdit, by CLIP's image and direction similarity, on held-out edits of the tiny world.

The sweep is `minip2p evaluate`'s. It runs twice, on the same edits: with captions that leave open what the paper's
captions leave open, and with captions that specify the whole scene, which no caption of a photograph does.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np

from ...data.edits import Edits
from ...engines import run
from ...evaluation.curves import Curve, Settings
from ...evaluation.summary import ACROSS, UP, Point, figure, read_points, summarize, table
from ...evaluation.sweep import sweep
from ..evaluation.common import held_out
from ..miniature import finish
from ..scenes import Edit, loose_captions, sample_edit
from .claims import AGREES, UNDECIDED, Claim, Estimate, mean, slope, statistic
from .parts import Section, Setup
from .sets import Rendered

PAPER = "Figure 8"
CAPTIONS = {
    "loose": "captions that leave sizes, places and weather open",
    "full": "captions that specify the whole scene",
}
TRUE = "editor-of-true-pairs"
CURVES = {"editor": ("editor", "editor-from-pairs"), "sdedit": ("sdedit", "text2image"), TRUE: ("editor", "editor")}
"""name -> its method and its model"""
GRID = 50
"""places at which two curves are compared"""


def figure8(setup: Setup) -> Section:
    """The curves of the editor and of SDEdit with both kinds of captions; with loose ones also of the other editor."""
    drawn = {"loose": ("editor", "sdedit", TRUE), "full": ("editor", "sdedit")}
    points = {kind: {name: sweep_points(setup, kind, name) for name in names} for kind, names in drawn.items()}
    editor, sdedit, true = points["loose"].values()
    gaps = {kind: gap(curves["editor"], curves["sdedit"]) for kind, curves in points.items()}
    claims = (
        Claim(
            paper=PAPER,
            words="at equal direction similarity, the editor's image similarity lies above SDEdit's",
            measured="mean height of the editor's curve over SDEdit's, where both have points; loose captions",
            number=gaps["loose"],
            form="+.3f",
        ),
        Claim(
            paper=PAPER,
            words="along the image scale, image similarity rises",
            measured="image similarity, per unit of the image scale",
            number=slope([each.values[UP] for each in editor], setup.sizes.image_scales),
            form="+.3f",
        ),
        Claim(
            paper=PAPER,
            words="along the image scale, direction similarity falls",
            measured="fall of the direction similarity, per unit of the image scale",
            number=slope([-each.values[ACROSS] for each in editor], setup.sizes.image_scales),
            form="+.3f",
        ),
    )
    rows = {kind: [row for curve in curves.values() for row in summarize(curve)] for kind, curves in points.items()}
    parts = [
        f"### With {words}\n\n![Image against direction similarity]({kind}.png)\n\n{table(rows[kind], about=())}"
        for kind, words in CAPTIONS.items()
    ]
    text = f"""{len(editor[0].keys)} held-out edits (all kinds but weather, which loose captions do not mention), edited
by the editor from made pairs, as the paper's is, at several image scales, and by SDEdit, towards the edited caption, at
several strengths. Up: more of the image is kept; to the right: the change follows the text more. The editor of true
pairs is there to tell what is due to the made ones.

{chr(10).join(f"{part}{chr(10)}" for part in parts)}
{explained(gaps, {kind: curves["sdedit"] for kind, curves in points.items()})}

{unlike_the_paper(claims, gap(true, sdedit, along=UP), len(editor[0].keys))}"""
    figures = {f"{kind}.png": figure(each) for kind, each in rows.items()}
    return Section(title="Figure 8: the editor and SDEdit", text=text, claims=claims, figures=figures)


def sweep_points(setup: Setup, kind: str, name: str) -> list[Point]:
    """The points of one of CURVES, made or read."""
    method, model = CURVES[name]
    places = setup.sizes.strengths if method == "sdedit" else setup.sizes.image_scales
    curve = Curve(name=name, method=method, source=str(setup.file(model)), points=places)
    edits, load = held_out_set(setup, kind), partial(_models, setup, model)
    work = sweep(load, curve, edits, settings_of(setup), setup.out / "figure8" / kind)
    finish(f"{name}, {kind} captions", run(work))
    return read_points(work.folder)


def held_out_set(setup: Setup, kind: str) -> Edits:
    """The held-out edits with one kind of captions."""
    edits, captions = held_out_edits(setup.sizes.items)
    return Edits(Rendered(edits, [each[kind] for each in captions], setup.size), f"held-out edits, {kind} captions")


def settings_of(setup: Setup) -> Settings:
    """Of the sweep."""
    sizes = setup.sizes
    return Settings(
        split="all",
        n=sizes.items,
        image_scales=sizes.image_scales,
        strengths=sizes.strengths,
        steps=sizes.edit_steps,
        seed=sizes.seed,
        unit=sizes.unit,
        batch_size=sizes.unit,
        threads=sizes.threads,
    )


def _models(setup: Setup, model: str) -> tuple:
    return getattr(setup, model.replace("-", "_")), setup.clip


def held_out_edits(n: int) -> tuple[list[Edit], list[dict[str, tuple[str, str]]]]:
    """The first n held-out edits that loose captions mention, and of each the captions of both of CAPTIONS."""

    def sample(rng: np.random.Generator) -> Edit:
        while (edit := sample_edit(rng)).kind == "weather":
            pass
        return edit

    edits, rng = held_out("edits", n, sample)
    loose = [tuple(loose_captions(edit.source, edit.target, rng=rng)) for edit in edits]
    full = [(edit.source.caption, edit.target.caption) for edit in edits]
    return edits, [{"loose": a, "full": b} for a, b in zip(loose, full, strict=True)]


# How far one curve lies above another


def gap(above: Sequence[Point], below: Sequence[Point], along: str = ACROSS) -> Estimate | None:
    """By how much the first curve's image similarity exceeds the second's at equal direction similarity: the mean over
    the direction similarities that both reach. None if they have none in common. along=UP: the other way round.

    A curve is taken as its frontier: for a direction similarity the highest image similarity with at least that.
    """
    keys = along, UP if along == ACROSS else ACROSS
    both = [[np.stack([each.values[key] for each in points]) for key in keys] for points in (above, below)]
    ends = [(x.mean(axis=1).min(), x.mean(axis=1).max()) for x, _ in both]
    low, high = max(low for low, _ in ends), min(high for _, high in ends)
    if not low < high:
        return None
    at = np.linspace(low, high, GRID)

    def height(weights: np.ndarray) -> np.ndarray:
        first, second = (frontier(weights @ x.T, weights @ y.T, at) for x, y in both)
        return (first - second).mean(axis=1)

    return statistic(height, both[0][0].shape[1])


def frontier(x: np.ndarray, y: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The highest y at x >= each of `at`, on the lines between successive points of curves, (r, k) each:
    (r, len(at)); right of all points that of the last one."""
    x0, x1, y0, y1 = (each[:, :, None] for each in (x[:, :-1], x[:, 1:], y[:, :-1], y[:, 1:]))
    along = np.divide(at - x0, x1 - x0, out=np.full(x0.shape[:2] + at.shape, -1.0), where=x1 != x0)
    on_lines = np.where((along >= 0) & (along <= 1), y0 + along * (y1 - y0), -np.inf).max(axis=1)
    at_points = np.where(x[:, :, None] >= at, y[:, :, None], -np.inf).max(axis=1)
    found = np.maximum(on_lines, at_points)
    last = np.take_along_axis(y, x.argmax(axis=1)[:, None], 1)
    return np.where(np.isneginf(found), last, found)


def explained(gaps: dict[str, Estimate | None], sdedit: dict[str, Sequence[Point]]) -> str:
    """What captions do for SDEdit; computed from the same results."""
    shown = {kind: "nothing in common" if each is None else each.shown("+.3f") for kind, each in gaps.items()}
    kept = {kind: mean(points[0].values[UP] - points[-1].values[UP]) for kind, points in sdedit.items()}
    first, last = (sdedit["loose"][at].point for at in (0, -1))
    loose, full = kept["loose"], kept["full"]
    lesson = (
        """The more a caption says, the less SDEdit has to read from the image: at high strengths it draws the scene
that the caption describes, and if that is the whole scene, it is the source with the edit."""
        if full.high < loose.low
        else """With captions that specify the whole scene, too, SDEdit loses what the noise covers; the caption does
not make up for it."""
    )
    return f"""**What SDEdit owes to its captions.** SDEdit knows the source image only through what noise leaves of it,
and all else from the edited caption. From strength {first} to {last} its image similarity falls by
{loose.shown("+.3f")} where captions leave sizes, places and weather open, as those of photographs leave nearly
everything, and by {full.shown("+.3f")} where they specify the whole scene. {lesson} The editor's lead at equal
direction similarity is {shown["loose"]} with the former captions and {shown["full"]} with the latter. So the paper's
comparison is that with loose captions; the other says that a baseline which is told the answer needs no image. The
editor is given only an instruction in both."""


def unlike_the_paper(claims: Sequence[Claim], lead: Estimate | None, n: int) -> str:
    """What to learn where the curves do not have the paper's shape. lead: by how much the direction similarity of the
    editor of true pairs exceeds SDEdit's at equal image similarity. n: number of items."""
    parts = []
    if claims[0].verdict != AGREES:
        reason = (
            f"""The method is not the reason, nor the size: the editor of true pairs, whose networks are the same, lies
to the right of SDEdit: at equal image similarity, its direction similarity is higher by {lead.shown("+.3f")}. So it is
the made pairs that hold the other one back; the ceiling measures how much."""
            if lead and lead.low > 0
            else "The editor of true pairs does not lead SDEdit either, so made pairs alone are not the reason."
        )
        parts.append(f"""**Why the editor does not lie above SDEdit here.** {reason} And SDEdit is hard to beat here:
even a loose caption names every thing, its colour, the setting, the time and the medium, which captions of photographs
never do.""")
    if any(claim.verdict == UNDECIDED for claim in claims[1:]):
        parts.append(f"An undecided slope along the image scale is one that {n} edits cannot tell from zero.")
    return "\n\n".join(parts)
