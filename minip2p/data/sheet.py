"""Pictures in labelled rows and columns, as one picture."""

from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

CELL = 192  # pixels that the longer side of a cell has at least: smaller pictures are enlarged by a whole factor
GAP, MARGIN, HEAD = 10, 24, 26
INK, PALE, PAPER = (32, 32, 36), (112, 112, 120), (255, 255, 255)


class Row(NamedTuple):
    """A row of the sheet."""

    label: str
    heads: list[str]
    """above each cell; empty where the row above has told it"""
    cells: list[Image.Image]
    title: str = ""
    """above the row, over its whole width"""


def _cell_size(image: Image.Image) -> tuple[int, int]:
    factor = max(1, -(-CELL // max(image.size)))
    return image.width * factor, image.height * factor


def into(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The image as large as the cell allows; whole factors keep its pixels to be seen as they are."""
    factor = min(size[0] / image.width, size[1] / image.height)
    shape = max(1, round(image.width * factor)), max(1, round(image.height * factor))
    return image.resize(shape, Image.Resampling.NEAREST if factor.is_integer() else Image.Resampling.LANCZOS)


def lay_out(title: str, below: str, rows: list[Row], source: tuple[str, Image.Image] | None = None) -> Image.Image:
    """Title above; a named picture, if there is one, at the left; beside it the rows with their labels."""
    large, small = ImageFont.load_default(22), ImageFont.load_default(15)
    size = _cell_size(rows[0].cells[0])
    rows = [row._replace(cells=[into(cell, size) for cell in row.cells]) for row in rows]
    x_pad, y_pad = rows[0].cells[0].size
    label_width = max(round(small.getlength(row.label)) for row in rows) + (GAP if rows[0].label else 0)
    beside = None if source is None else into(source[1], (max(source[1].width, CELL), y_pad))
    left = MARGIN + (0 if beside is None else beside.width + 3 * GAP) + label_width  # of the cells
    width = left + max(len(row.cells) for row in rows) * (x_pad + GAP) - GAP + MARGIN
    lines = wrapped(title, large, width - 2 * MARGIN)
    told = wrapped(below, small, width - 2 * MARGIN)
    titles = [wrapped(row.title, small, width - left - MARGIN) if row.title else [] for row in rows]
    top = MARGIN + 30 * len(lines) + 20 * len(told) + 4 + 2 * GAP  # of the rows
    height = top - GAP + MARGIN
    height += sum(20 * len(above) + HEAD * bool(row.heads) + y_pad + GAP for above, row in zip(titles, rows))

    sheet = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(sheet)
    for i, line in enumerate(lines):
        pen.text((MARGIN, MARGIN + 30 * i), line, INK, large)
    for i, line in enumerate(told):
        pen.text((MARGIN, MARGIN + 30 * len(lines) + 20 * i), line, PALE, small)
    if beside is not None:
        first = top + 20 * len(titles[0])
        pen.text((MARGIN + beside.width / 2, first + HEAD / 2), source[0], INK, small, anchor="mm")
        sheet.paste(beside, (MARGIN, first + HEAD))
    for row, above in zip(rows, titles):
        for line in above:
            pen.text((left, top), line, INK, small)
            top += 20
        for i, head in enumerate(row.heads):
            pen.text((left + i * (x_pad + GAP) + x_pad / 2, top + HEAD / 2), head, INK, small, anchor="mm")
        top += HEAD * bool(row.heads)
        pen.text((left - GAP, top + y_pad / 2), row.label, INK, small, anchor="rm")
        for i, cell in enumerate(row.cells):
            sheet.paste(cell, (left + i * (x_pad + GAP), top))
        top += y_pad + GAP
    return sheet


def wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Lines of whole words, none wider than `width` unless a word is."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
