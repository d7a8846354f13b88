"""`minip2p check`: what a set of edit pairs holds, before it is trained on."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from . import files
from .arguments import optional
from .jobs import check_number

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

    from ..data.edit_checks import Finding, Survey
    from ..data.edits import EditPair, Edits

BATCH = 32  # pairs at a time for CLIP
ACROSS, LINES = 3, 4  # of the sheet: pairs in a row, lines of an instruction at most
SIDE, BETWEEN, APART, LINE = 192, 4, 26, 19  # pixels: a picture's longer side, between two, between cards, a line
CARD = 2 * SIDE + BETWEEN


@dataclass(frozen=True, kw_only=True)
class Options:
    """Tell what a set of edit pairs holds: how many, sizes, repeats, lengths, how much the pictures differ.

    Any layout is read. Broken pairs are named; the exit status is 1 if there are any.
    """

    data: Positional[Annotated[str, arg(metavar="DIR")]]
    """folders as the authors', WebDataset tars, parquet, MagicBrush, or OWNER/NAME of Hugging Face's hub"""
    part: Annotated[str | None, optional("NAME", "(default: train)")] = None
    """of a set in several parts, which"""
    output: Annotated[str | None, optional("PATH")] = None
    """a labelled sheet of pairs from all over the set, .png"""
    number: int = 12
    """pairs on the sheet"""
    clip: Annotated[str | None, optional("PATH")] = None
    """also CLIP's four numbers of each pair: its weights, or "tiny" for the tiny world's"""
    device: Annotated[str, arg(metavar="NAME")] = "auto"
    """for CLIP: auto (CUDA, else MPS, else CPU), cpu, cuda, cuda:1, mps"""


def run(options: Options) -> int:
    """Read every pair once, print the findings; the exit status."""
    from ..data.edits import open_edits

    check_number("number", options.number)
    if options.number < 1:
        raise ValueError(f"number {options.number}: expected at least 1")
    if options.output:
        if Path(options.output).suffix.lower() != ".png":
            raise ValueError(f"output {options.output}: the sheet is a picture of the kind .png")
        files.check_writable(Path(options.output))
    scorer = None if options.clip is None else Scorer(options.clip, options.device)
    edits = open_edits(options.data, part=options.part)
    survey, broken, shown = _read_all(edits, options.number, scorer)
    print(report(edits, survey, broken, scorer))
    if options.output and shown:
        sheet = draw(f"{edits.path}: {len(shown)} of {len(edits):,} pairs", shown)
        files.write(Path(options.output), files.png(sheet))
    return 1 if broken else 0


def _read_all(edits: "Edits", number: int, scorer: "Scorer | None"):
    """(findings, how many are broken, pairs for the sheet). Broken pairs are told as they are met."""
    from tqdm import tqdm

    from ..data.edit_checks import Survey
    from ..data.edits import EditsError
    from ..data.images import ImageError
    from ..text.bpe import BPE

    survey, broken, shown = Survey(encode=BPE.clip().offsets), 0, []
    with tqdm(range(len(edits)), "checking", unit="pair", leave=False) as bar:
        for i in bar:
            try:
                text, stored, pair = edits.read(i)
            except (EditsError, ImageError) as error:
                broken += 1
                bar.write(f"minip2p: broken: {edits.path}, pair {i}: {error}", file=sys.stderr)
                continue
            survey.add(text, (stored[0].data, stored[1].data), pair)
            if len(shown) < number and (i + 0.5) * number >= (len(shown) + 0.5) * len(edits):
                shown.append(pair)
            if scorer:
                scorer.add(pair)
    if scorer:
        scorer.score()
    return survey, broken, shown


class Scorer:
    """CLIP's numbers of the pairs that were added. Without both captions there is only the likeness of the pictures."""

    def __init__(self, path: str, device: str):
        import minip2p

        self.clip = minip2p.load_clip(None if path == "tiny" else path, device=device)
        self.waiting: list["EditPair"] = []
        self.values: dict[str, list[float]] = {"image": [], "caption_0": [], "caption_1": [], "direction": []}

    def add(self, pair: "EditPair") -> None:
        self.waiting.append(pair)
        if len(self.waiting) == BATCH:
            self.score()

    def score(self) -> None:
        """Of those that wait."""
        from ..evaluation.metrics import similarities

        pairs, self.waiting = self.waiting, []
        if not pairs:
            return
        told = [pair.input is not None and pair.output is not None for pair in pairs]
        found = similarities(
            self.clip, [pair.source for pair in pairs], [pair.target for pair in pairs],
            [pair.input or "" for pair in pairs], [pair.output or "" for pair in pairs],
        )  # fmt: skip
        for name, values in self.values.items():
            both = zip(getattr(found, name).tolist(), told)
            values += [value for value, captions in both if captions or name == "image"]


def report(edits: "Edits", survey: "Survey", broken: int, scorer: Scorer | None = None) -> str:
    """The findings, one a line."""
    prompts = int(edits.units[-1]) + 1
    rows = {"pairs": f"{len(edits):,}" + (f", of {prompts:,} prompts" if prompts < len(edits) else "")}
    rows["broken"] = f"{broken:,}, named above" if broken else "none"
    if survey.pairs:
        rows |= _told(survey)
    if scorer:
        names = {"image": "the two pictures", "caption_0": "source and caption", "caption_1": "target and caption"}
        for name, values in scorer.values.items():
            rows[f"CLIP {name.replace('_', ' ')}"] = f"{spread(values, '.3f')}, {names.get(name, 'the two changes')}"
    width = max(map(len, rows))
    return "\n".join([edits.path, *(f"  {name:{width}}  {told}" for name, told in rows.items())])


def _told(survey: "Survey") -> dict[str, str]:
    rows = {"captions": f"{survey.captions:,} pairs have them", "sizes": sizes_of(survey)}
    rows["unequal sizes"] = named(survey.unequal)
    rows["same pair again"] = named(survey.repeated)
    rows["pictures again"] = named(survey.reworded, ", with other instructions")
    rows["no instruction"] = named(survey.empty)
    rows["words"] = f"{spread(survey.words)} in an instruction"
    room = survey.room
    rows["CLIP tokens"] = f"{spread(survey.tokens)}; CLIP reads {room} and with start and end {room + 2}"
    rows["cut by CLIP"] = named(survey.cut)
    if survey.cut.count:
        tokens, read, lost = survey.longest
        rows["the longest"] = f"{tokens} tokens: ... {shortened(read[-60:])} | not read: {shortened(lost[:120])}"
    rows["difference"] = f"{spread(survey.differences, '.3f')}; 0 is equal, 1 is black and white"
    rows["equal pictures"] = named(survey.same)
    return rows


def spread(values: Sequence[float], form: str = ",.0f") -> str:
    """The least, the middle one and the most."""
    if not len(values):
        return "none"
    ordered = sorted(values)
    least, middle, most = (format(value, form) for value in (ordered[0], ordered[len(ordered) // 2], ordered[-1]))
    return least if least == most else f"{least} to {most}, median {middle}"


def sizes_of(survey: "Survey") -> str:
    """By area: the least, the middle, the most; and the commonest."""
    if len(survey.sizes) == 1:
        return "all {}x{}".format(*next(iter(survey.sizes)))
    by_area = sorted(survey.sizes.elements(), key=lambda size: size[0] * size[1])
    least, middle, most = ("{}x{}".format(*by_area[i]) for i in (0, len(by_area) // 2, -1))
    (commonest, count), *_ = survey.sizes.most_common(1)
    several = f"{len(survey.sizes):,} sizes, most often {{}}x{{}} (of {count:,})".format(*commonest)
    return f"{least} to {most}, median {middle}; {several}"


def named(finding: "Finding", what: str = "") -> str:
    """How many, and which."""
    if not finding.count:
        return "none"
    more = ", ..." if finding.count > len(finding.named) else ""
    return f"{finding.count:,}{what}: {', '.join(finding.named)}{more}"


def shortened(text: str) -> str:
    """In one line."""
    return " ".join(text.split())


def draw(title: str, pairs: Sequence["EditPair"]) -> "Image.Image":
    """Pairs side by side in cards, source and target with the instruction beneath."""
    from PIL import Image, ImageDraw, ImageFont

    from ..data.sheet import GAP, INK, MARGIN, PALE, PAPER, wrapped

    across = min(ACROSS, len(pairs))
    width = across * (CARD + APART) - APART
    rows = [[Card(pair) for pair in pairs[i : i + across]] for i in range(0, len(pairs), across)]
    large, tiny = ImageFont.load_default(22), ImageFont.load_default(12)
    heads = wrapped(title, large, width)
    top = MARGIN + 30 * len(heads) + GAP + LINE
    heights = [max(card.tall for card in row) + LINE * max(len(card.lines) for card in row) for row in rows]
    size = 2 * MARGIN + width, top + sum(height + 24 + APART for height in heights)
    sheet = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(sheet)
    for i, head in enumerate(heads):
        pen.text((MARGIN, MARGIN + 30 * i), head, INK, large)
    for i in range(across):
        for side, head in enumerate(("source", "target")):
            pen.text((MARGIN + i * (CARD + APART) + side * (SIDE + BETWEEN), top - LINE), head, PALE, tiny)
    for row, height in zip(rows, heights):
        for i, card in enumerate(row):
            card.draw(sheet, pen, MARGIN + i * (CARD + APART), top, max(card.tall for card in row))
        top += height + 24 + APART
    return sheet


class Card:
    """A pair on the sheet: two pictures, lines of the instruction, and where the pair lies."""

    def __init__(self, pair: "EditPair"):
        from PIL import ImageFont

        from ..data.sheet import into, wrapped

        self.small, self.tiny = ImageFont.load_default(15), ImageFont.load_default(12)
        self.pictures = [into(picture, (SIDE, SIDE)) for picture in (pair.source, pair.target)]
        self.tall = max(picture.height for picture in self.pictures)
        lines = wrapped(pair.instruction or "(no instruction)", self.small, CARD)
        if len(lines) > LINES:
            lines = [*lines[: LINES - 1], f"{lines[LINES - 1]} ..."]
        self.lines = [within(line, self.small, CARD) for line in lines]
        self.name = within(pair.name, self.tiny, CARD)

    def draw(self, sheet: "Image.Image", pen: "ImageDraw.ImageDraw", left: int, top: int, tall: int) -> None:
        """At that place, the pictures at the bottom of a row that is `tall`."""
        from ..data.sheet import INK, PALE

        for side, picture in enumerate(self.pictures):
            x = left + side * (SIDE + BETWEEN) + (SIDE - picture.width) // 2
            sheet.paste(picture, (x, top + tall - picture.height))
        for k, line in enumerate(self.lines):
            pen.text((left, top + tall + 8 + LINE * k), line, INK, self.small)
        pen.text((left, top + tall + 10 + LINE * len(self.lines)), self.name, PALE, self.tiny)


def within(text: str, font: "ImageFont.FreeTypeFont", width: float) -> str:
    """The text, or as much of it as the width allows, with dots."""
    if font.getlength(text) <= width:
        return text
    most = next(n for n in range(min(len(text), 200), -1, -1) if n == 0 or font.getlength(f"{text[:n]} ...") <= width)
    return f"{text[:most]} ..."
