"""The figure of `minip2p attention`: over a picture, a heat map for each word (a column) and size of maps (a row)."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..data.sheet import INK, PALE, PAPER

WIDEST = 8  # columns beside each other; more go below
GAP, MARGIN, HEAD, FOOT, LINE = 10, 28, 30, 20, 22
NARROWEST = 640  # pixels, so that title and legend have room
OPAQUE, DIMMED = 0.68, 0.85  # the heat map over the picture, and what is left of that's own light

COLOURS = np.array([
    (13, 2, 48), (42, 4, 77), (78, 9, 98), (120, 15, 106), (165, 23, 99), (203, 48, 79), (232, 83, 54), (247, 126, 37),
    (251, 170, 67), (252, 210, 108), (250, 246, 175),
], dtype=float)  # fmt: skip
"""Dark violet to pale yellow in equal steps of lightness, 0.16 to 0.96 in OKLab: twice the value is seen as twice."""


class Column(NamedTuple):
    """What one word, or one place, has to show."""

    label: str
    maps: Sequence[np.ndarray]
    """one a row, (y, x) of any size, from 0 up"""
    mark: tuple[float, float] | None = None
    """a place to be marked, as fractions of width and height"""


class Row(NamedTuple):
    """One kind of map."""

    label: str
    smooth: bool
    """whether to interpolate between the map's pixels, or to let them be seen"""


class Text(NamedTuple):
    """What the figure says beside its labels."""

    title: str
    below: str
    """what was averaged, how the picture was made"""
    own: str
    """what bright means where each map has its own scale"""
    common: str
    """what bright means where all have one"""
    number: Callable[[float], str]
    """how a value is written"""


def draw(
    text: Text, pictures: Sequence[tuple[str, Image.Image]], rows: Sequence[Row], columns: Sequence[Column], *,
    own_scale: bool = True, cell: int = 192,
) -> Image.Image:
    """The figure. The maps lie over the last of the labelled pictures, whose longer side is at least `cell` pixels."""
    over = pictures[-1][1]
    size = cell_size(over.size, cell)
    pictures = [(label, enlarged(picture, size)) for label, picture in pictures]
    most = max(float(x.max()) for column in columns for x in column.maps)
    tops = [[float(x.max()) if own_scale else most for x in column.maps] for column in columns]
    cells = [
        [_cell(pictures[-1][1], x, top, row.smooth, column.mark) for x, top, row in zip(column.maps, tops[i], rows)]
        for i, column in enumerate(columns)
    ]
    feet = [[f"0 to {text.number(top)}" if own_scale else "" for top in column] for column in tops]
    legend = (text.own, "0", "the number below") if own_scale else (text.common, "0", text.number(most))
    return _lay_out(text, legend, pictures, [row.label for row in rows], [c.label for c in columns], cells, feet)


def heat(values: np.ndarray) -> np.ndarray:
    """Values 0 ... 1 (y, x), cut to that -> colours (y, x, 3), 0 ... 255."""
    at = np.linspace(0, 1, len(COLOURS))
    return np.stack([np.interp(values, at, channel) for channel in COLOURS.T], axis=-1)


def overlay(picture: Image.Image, values: np.ndarray, smooth: bool = True) -> Image.Image:
    """The heat map of values 0 ... 1 (y, x) over the picture without its colours, in the picture's size."""
    how = Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST
    large = np.asarray(Image.fromarray(values.astype(np.float32)).resize(picture.size, how))
    grey = DIMMED * np.asarray(picture.convert("L"), dtype=float)[..., None]
    return Image.fromarray(np.rint(OPAQUE * heat(large) + (1 - OPAQUE) * grey).astype(np.uint8))


def _cell(picture: Image.Image, values: np.ndarray, top: float, smooth: bool, mark) -> Image.Image:
    cell = overlay(picture, values / (top or 1.0), smooth)
    if mark is not None:
        x, y = mark[0] * cell.width, mark[1] * cell.height
        pen = ImageDraw.Draw(cell)
        for radius, colour, width in ((8, "black", 4), (7, "white", 2)):
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), outline=colour, width=width)
    return cell


def cell_size(size: tuple[int, int], cell: int) -> tuple[int, int]:
    """(width, height) of a cell for pictures of `size`: a whole number of times theirs, or fitted into the cell."""
    longer = max(size)
    factor = -(-cell // longer) if longer <= cell else cell / longer
    return tuple(max(1, round(side * factor)) for side in size)


def enlarged(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The picture in a cell's size, its pixels to be seen as they are where the factor is whole."""
    whole = size[0] % picture.width == 0 and size[1] % picture.height == 0
    return picture.resize(size, Image.Resampling.NEAREST if whole else Image.Resampling.LANCZOS)


def _lay_out(text: Text, legend, pictures, row_labels, heads, cells, feet) -> Image.Image:
    """Title and legend above; the pictures at the left, one below the other; beside them blocks of columns."""
    large, middle, small = (ImageFont.load_default(size) for size in (26, 17, 14))
    x, y = pictures[0][1].size
    blocks = _blocks(len(heads), WIDEST)
    across = blocks[0].stop
    left = MARGIN + x + 2 * GAP + max(round(middle.getlength(label)) for label in row_labels) + GAP  # of the cells
    width = max(left + across * (x + GAP) - GAP + MARGIN, NARROWEST)
    title, below = wrapped(text.title, large, width - 2 * MARGIN), wrapped(text.below, middle, width - 2 * MARGIN)
    told = wrapped(legend[0], middle, width - 2 * MARGIN)
    foot = FOOT * bool(feet[0][0])
    block_height = HEAD + len(row_labels) * (y + foot + GAP)
    head_height = 34 * len(title) + LINE * (len(below) + len(told)) + 2 * GAP + LINE + GAP
    body = max(len(blocks) * block_height + (len(blocks) - 1) * GAP, len(pictures) * (HEAD + y + GAP))
    sheet = Image.new("RGB", (width, MARGIN + head_height + body - GAP + MARGIN), PAPER)
    pen = ImageDraw.Draw(sheet)

    top = MARGIN
    for lines, font, colour, step in ((title, large, INK, 34), (below, middle, PALE, LINE)):
        for line in lines:
            pen.text((MARGIN, top), line, colour, font)
            top += step
    _bar(sheet, (MARGIN, top + GAP), legend[1:], middle)
    top += GAP + LINE + GAP // 2
    for line in told:
        pen.text((MARGIN, top), line, PALE, middle)
        top += LINE
    top = MARGIN + head_height

    for i, (label, picture) in enumerate(pictures):
        at = top + i * (HEAD + y + GAP)
        pen.text((MARGIN + x / 2, at + HEAD / 2), label, INK, middle, anchor="mm")
        sheet.paste(picture, (MARGIN, at + HEAD))
    for block in blocks:
        for place, i in enumerate(range(len(heads))[block]):
            at = left + place * (x + GAP)
            pen.text((at + x / 2, top + HEAD / 2), shortened(heads[i], middle, x), INK, middle, anchor="mm")
            for j, cell in enumerate(cells[i]):
                down = top + HEAD + j * (y + foot + GAP)
                sheet.paste(cell, (at, down))
                pen.text((at + x / 2, down + y + foot / 2 + 1), feet[i][j], PALE, small, anchor="mm")
        for j, label in enumerate(row_labels):
            down = top + HEAD + j * (y + foot + GAP)
            pen.text((left - GAP, down + y / 2), label, INK, middle, anchor="rm")
        top += block_height + GAP
    return sheet


def _bar(sheet: Image.Image, at: tuple[int, int], ends: tuple[str, str], font) -> None:
    """The colours as a bar between what their ends mean."""
    pen = ImageDraw.Draw(sheet)
    length, height = 240, 16
    start = at[0] + round(font.getlength(ends[0])) + GAP
    strip = heat(np.linspace(0, 1, length)[None].repeat(height, 0))
    sheet.paste(Image.fromarray(np.rint(strip).astype(np.uint8)), (start, at[1]))
    pen.text((at[0], at[1] + height / 2), ends[0], INK, font, anchor="lm")
    pen.text((start + length + GAP, at[1] + height / 2), ends[1], INK, font, anchor="lm")


def _blocks(n: int, most: int) -> list[slice]:
    """n columns in blocks of at most `most`, about equally long, the first the longest."""
    count = -(-n // most)
    each = -(-n // count)
    return [slice(i, min(i + each, n)) for i in range(0, n, each)]


def wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Lines no wider than `width`, broken between words, or within one that is wider alone."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        lines += [word] if lines[-1] else []
        lines[-1] = word
        while len(lines[-1]) > 1 and font.getlength(lines[-1]) > width:
            fits = max(n for n in range(1, len(lines[-1])) if n == 1 or font.getlength(lines[-1][:n]) <= width)
            lines[-1:] = [lines[-1][:fits], lines[-1][fits:]]
    return lines


def shortened(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """The text, or as much of its beginning as there is room for."""
    if font.getlength(text) <= width:
        return text
    return next((f"{text[:n]}..." for n in range(len(text), 0, -1) if font.getlength(f"{text[:n]}...") <= width), "")
