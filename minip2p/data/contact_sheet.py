"""A contact sheet: images in labelled rows and columns, as one image."""

from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

CELL = 192
"""pixels of a cell's longer side, at least: smaller images are enlarged by a whole factor"""
GAP, MARGIN, HEAD = 10, 24, 26
INK, PALE, PAPER = (32, 32, 36), (112, 112, 120), (255, 255, 255)


class Row(NamedTuple):
    """A row of the sheet."""

    label: str
    heads: list[str]
    """above each cell; empty if they are those of the row above"""
    cells: list[Image.Image]
    title: str = ""
    """above the row, over its whole width"""


def lay_out(
    title: str,
    below: str | Sequence[str | Image.Image],
    rows: list[Row],
    beside: Sequence[tuple[str, Image.Image]] = (),
    cell: int = CELL,
) -> Image.Image:
    """The sheet: title, lines of text or images below it, then the rows with their labels.

    beside: labelled images at the left of the rows, one below the other. cell: pixels of a cell's longer side, at
    least; all cells are as large as the first one.
    """
    large, small = ImageFont.load_default(22), ImageFont.load_default(15)
    size = cell_size(rows[0].cells[0].size, cell)
    rows = [row._replace(cells=[resized(cell, size) for cell in row.cells]) for row in rows]
    x_pad, y_pad = rows[0].cells[0].size
    beside = [(label, resized(image, (max(image.width, cell), y_pad))) for label, image in beside]
    label_width = max(round(small.getlength(row.label)) for row in rows)
    left = MARGIN + max((image.width + 3 * GAP for _, image in beside), default=0)
    left += label_width + (GAP if label_width else 0)  # of the cells
    width = left + max(len(row.cells) for row in rows) * (x_pad + GAP) - GAP + MARGIN
    width = max(width, *(MARGIN + each.width + MARGIN for each in below if isinstance(each, Image.Image)), 0)

    titles = [wrapped(row.title, small, width - left - MARGIN) if row.title else [] for row in rows]
    head = _header(title, [below] if isinstance(below, str) else below, width, large, small)
    heights = [20 * len(above) + HEAD * bool(row.heads) + y_pad + GAP for above, row in zip(titles, rows)]
    first = head.height + 20 * len(titles[0])
    columns_end = first + len(beside) * (HEAD + y_pad + GAP)
    sheet = Image.new("RGB", (width, max(head.height + sum(heights), columns_end) - GAP + MARGIN), PAPER)
    sheet.paste(head, (0, 0))
    pen = ImageDraw.Draw(sheet)
    for i, (label, image) in enumerate(beside):
        top = first + i * (HEAD + y_pad + GAP)
        pen.text((MARGIN + image.width / 2, top + HEAD / 2), label, INK, small, anchor="mm")
        sheet.paste(image, (MARGIN, top + HEAD))
    top = head.height
    for row, above, height in zip(rows, titles, heights):
        for i, line in enumerate(above):
            pen.text((left, top + 20 * i), line, INK, small)
        y = top + height - y_pad - GAP
        for i, text in enumerate(row.heads):
            place = (left + i * (x_pad + GAP) + x_pad / 2, y - HEAD / 2)
            pen.text(place, shortened(text, small, x_pad), INK, small, anchor="mm")
        pen.text((left - GAP, y + y_pad / 2), row.label, INK, small, anchor="rm")
        for i, cell in enumerate(row.cells):
            sheet.paste(cell, (left + i * (x_pad + GAP), y))
        top += height
    return sheet


def _header(title: str, below: Sequence[str | Image.Image], width: int, large, small) -> Image.Image:
    """The part of the sheet above the rows."""
    inner = width - 2 * MARGIN
    items: list[tuple[str | Image.Image, int]] = [(line, 30) for line in wrapped(title, large, inner)]
    for each in below:
        items += (
            [(line, 20) for line in wrapped(each, small, inner)] if isinstance(each, str) else [(each, each.height)]
        )
    head = Image.new("RGB", (width, MARGIN + sum(height for _, height in items) + 4 + 2 * GAP), PAPER)
    pen, top = ImageDraw.Draw(head), MARGIN
    for item, height in items:
        if isinstance(item, Image.Image):
            head.paste(item, (MARGIN, top))
        elif height == 30:
            pen.text((MARGIN, top), item, INK, large)
        else:
            pen.text((MARGIN, top), item, PALE, small)
        top += height
    return head


def cell_size(size: tuple[int, int], least: int = CELL) -> tuple[int, int]:
    """(width, height) of a cell for images of `size`: a whole number of times theirs."""
    factor = max(1, -(-least // max(size)))
    return size[0] * factor, size[1] * factor


def resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The image as large as the cell allows; at a whole factor its pixels stay visible as squares."""
    factor = min(size[0] / image.width, size[1] / image.height)
    shape = max(1, round(image.width * factor)), max(1, round(image.height * factor))
    return image.resize(shape, Image.Resampling.NEAREST if factor.is_integer() else Image.Resampling.LANCZOS)


def wrapped(text: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """Lines no wider than `width`, broken between words, or within a word that is wider than a line."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        lines += [word] if lines[-1] else []
        lines[-1] = word
        while (n := max(_fitting(lines[-1], font, width), 1)) < len(lines[-1]):
            lines[-1:] = [lines[-1][:n], lines[-1][n:]]
    return lines


def shortened(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """The text on one line, or as much of its beginning as fits, with dots."""
    text = " ".join(text.split())
    if _fitting(text, font, width) == len(text):
        return text
    n = _fitting(text, font, width - font.getlength("..."))
    return f"{text[:n]}..." if n else ""


def _fitting(text: str, font: ImageFont.FreeTypeFont, width: float) -> int:
    """The number of characters from the first that fit into `width`."""
    n = 0
    while n < len(text) and font.getlength(text[: n + 1]) <= width:
        n += 1
    return n
