"""A contact sheet: labelled images in rows and columns, as one image."""

import textwrap
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

CELL = 192
"""pixels of a cell's longer side, at least: smaller images are enlarged by a whole factor"""
GAP, MARGIN, HEAD = 10, 24, 26
INK, PALE, PAPER = (32, 32, 36), (112, 112, 120), (255, 255, 255)


class Row(NamedTuple):
    """A row of the sheet."""

    label: str
    """above the row, over its whole width"""
    heads: list[str]
    """above each cell; empty if they are those of the row above"""
    cells: list[Image.Image]


def lay_out(title: str, below: str, rows: Sequence[Row]) -> Image.Image:
    """The sheet: the title, a text below it, then the rows. All cells are as large as the last of the first row."""
    large, small = ImageFont.load_default(22), ImageFont.load_default(15)
    size = cell_size(rows[0].cells[-1].size)
    width = 2 * MARGIN - GAP + max(len(row.cells) for row in rows) * (size[0] + GAP)
    texts, images, y = [], [], MARGIN

    def add_lines(text: str, font, colour: tuple[int, int, int], height: int) -> None:
        nonlocal y
        for line in wrapped(text, font, width - 2 * MARGIN):
            texts.append(((MARGIN, y), line, colour, font, "la"))
            y += height

    add_lines(title, large, INK, 30)
    add_lines(below, small, PALE, 20)
    y += 2 * GAP
    for row in rows:
        add_lines(row.label, small, INK, 20)
        lefts = [MARGIN + i * (size[0] + GAP) for i in range(len(row.cells))]
        for left, head in zip(lefts, row.heads):
            place = left + size[0] / 2, y + HEAD / 2
            texts.append((place, shortened(head, small, size[0]), INK, small, "mm"))
        y += HEAD * bool(row.heads)
        images += [(resized(image, size), (left, y)) for left, image in zip(lefts, row.cells)]
        y += size[1] + GAP
    sheet = Image.new("RGB", (width, y - GAP + MARGIN), PAPER)
    for image, place in images:
        sheet.paste(image, place)
    pen = ImageDraw.Draw(sheet)
    for each in texts:
        pen.text(*each)
    return sheet


def pair_rows(pairs: Iterable[tuple[str, Image.Image, Image.Image]], label: str = "", across: int = 3) -> list[Row]:
    """Rows of (instruction, source, target), `across` pairs in a row; the label is above the first."""
    heads, cells = [], []
    for text, *images in pairs:
        both = Image.new("RGB", (2 * CELL + GAP, CELL), PAPER)
        for i, image in enumerate(images):
            both.paste(resized(image, (CELL, CELL)), (i * (CELL + GAP), 0))
        heads.append(text)
        cells.append(both)
    starts = range(0, len(cells), across)
    return [Row("" if i else label, heads[i : i + across], cells[i : i + across]) for i in starts]


def cell_size(size: tuple[int, int]) -> tuple[int, int]:
    """(width, height) of a cell for images of `size`: a whole number of times theirs."""
    factor = max(1, -(-CELL // max(size)))
    return size[0] * factor, size[1] * factor


def resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The image as large as the cell allows; at a whole factor its pixels stay visible as squares."""
    factor = min(size[0] / image.width, size[1] / image.height)
    shape = max(1, round(image.width * factor)), max(1, round(image.height * factor))
    return image.resize(shape, Image.Resampling.NEAREST if factor.is_integer() else Image.Resampling.LANCZOS)


def wrapped(text: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """Lines no wider than `width`, broken between words, or within a word that is wider than a line."""
    letters = min(len(text), int(width))  # a letter has a pixel at least
    while letters > 1 and any(font.getlength(line) > width for line in textwrap.wrap(text, letters)):
        letters = letters * 9 // 10
    return textwrap.wrap(text, max(letters, 1))


def shortened(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """The text on one line, or as much of its beginning as fits, with dots."""
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    return wrapped(text, font, width - font.getlength("..."))[0] + "..."
