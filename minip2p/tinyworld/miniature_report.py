"""The report of the miniature: text and tables, and a page of examples."""

from collections import Counter
from collections.abc import Sequence
from itertools import zip_longest

from PIL import Image

from ..data.contact_sheet import CELL, Row, lay_out, pair_rows
from ..datagen import clip_filter
from .evaluation.common import markdown
from .miniature import InspectedPair, Report


def to_markdown(report: Report) -> str:
    """The report as text and tables."""
    s, f = report.instructions, report.filtered
    consistent = (s.accepted - sum(report.inconsistent.values())) / max(s.accepted, 1)
    ways = [
        [way, word, *_row([pair for pair in some if pair.kept or word == "none"])]
        for way, some in report.ways.items()
        for word in ("none", "CLIP")
    ]
    kinds = Counter(pair.kind for pair in report.kept).most_common()
    of_kind = [[kind or "no single change", *_row([p for p in report.kept if p.kind == kind])] for kind, _ in kinds]
    return f"""# From captions to a training set, in the tiny world

{s.captions} captions gave {s.accepted} instructions ({s.attempts} completions, {s.rate:.1%} accepted).
{consistent:.1%} of the instructions are consistent with their captions. {f.samples} pairs were generated from them
with {report.recipe.steps} steps; the filter kept {f.kept} ({f.kept / max(f.samples, 1):.1%}), from {f.prompts_kept} of
{f.prompts} instructions.

## Why completions were refused, and why instructions are inconsistent

{markdown(["reason", "completions or instructions"], (s.refused | report.inconsistent).items())}

## The filter

{clip_filter.table(f)}

## How often a pair shows exactly the instructed change

By the attribute classifier, for pairs generated in each way from the same instructions. *Attributes*: settings, times,
media and things change as the captions do. *Exact*: sizes, places and weather are correct too, and nothing else
changes.

{markdown(["the two images have", "filter", "pairs", "attributes", "exact"], ways)}

{len(report.kept)} pairs of the training set, by kind of change:

{markdown(["change", "pairs", "attributes", "exact"], [*of_kind, ["all", *_row(report.kept)]])}
"""


def _row(inspected: Sequence[InspectedPair]) -> list:
    n = len(inspected)
    counts = sum(pair.attributes for pair in inspected), sum(pair.exact for pair in inspected)
    return [n, *(f"{count / n:.1%}" if n else "-" for count in counts)]


def draw(report: Report) -> Image.Image:
    """Examples on a page: pairs that the filter kept, and pairs that it rejected."""
    f, rows = report.filtered, []
    rejected = [pair for pair in next(iter(report.ways.values())) if not pair.kept]
    for label, some in (("kept", _varied(report.kept)[:15]), ("rejected", _varied(rejected)[:6])):
        marked = ((f"{p.prompt['edit']} ({'exact' if p.exact else 'not exact'})", *p.images) for p in some)
        rows += pair_rows(marked, label)
    numbers = (
        f"{report.instructions.captions} captions, {report.instructions.accepted} instructions by the language model, "
        f"{f.samples} pairs by the text-to-image model, {f.kept} kept by the CLIP filter"
    )
    empty = Row("no pairs", [], [Image.new("RGB", (CELL, CELL), "white")])
    return lay_out("From captions to a training set", numbers, rows or [empty])


def _varied(inspected: Sequence[InspectedPair]) -> list[InspectedPair]:
    """One pair of each instruction, alternating between the kinds of change."""
    by_kind: dict[str | None, list[InspectedPair]] = {}
    for pair in {pair.prompt["id"]: pair for pair in reversed(inspected)}.values():
        by_kind.setdefault(pair.kind, []).insert(0, pair)
    return [pair for turn in zip_longest(*by_kind.values()) for pair in turn if pair is not None]
