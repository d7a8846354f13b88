"""Contact sheets: pictures made with several scales, seeds or prompts, in labelled rows and columns."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

AXES = {"text-scale": float, "image-scale": float, "seed": int, "steps": int}
CELL = 192  # pixels that the longer side of a cell has at least: smaller pictures are enlarged by a whole factor
WIDEST = 5  # cells in a row where there is one axis
GAP, MARGIN, HEAD = 10, 24, 26
INK, PALE, PAPER = (32, 32, 36), (112, 112, 120), (255, 255, 255)


def parse_grid(words: tuple[str, ...], axes: Mapping[str, type] = AXES) -> dict[str, list[float | int]]:
    """("text-scale=3,5", "seed=0,1,2") -> {"text_scale": [3.0, 5.0], "seed": [0, 1, 2]}: columns, then rows."""
    grid = {}
    for word in words:
        name, equals, values = word.replace("_", "-").partition("=")
        if name not in axes or not equals:
            raise ValueError(f"--grid {word!r}: expected NAME=VALUE,VALUE,... with a name of {', '.join(axes)}")
        try:
            grid[name.replace("-", "_")] = [axes[name](value) for value in values.split(",")]
        except ValueError:
            raise ValueError(f"--grid {word!r}: expected numbers with commas between, e.g. {name}=1,2,3") from None
    if len(grid) != len(words) or len(grid) > 2:
        raise ValueError(f"--grid {' '.join(words)}: expected one or two different names")
    return grid


def draw(picture: Path, recipe: dict, edit: Callable[..., Image.Image]) -> Image.Image:
    """The sheet of a recipe with a grid; `edit` makes a cell from the axes' values."""
    from ..data.images import open_image

    axes = (axis.replace("-", "_") for axis in AXES)
    fixed = ", ".join([label(name, recipe[name]) for name in axes if name not in recipe["grid"]] + [recipe["sampler"]])
    return lay_out(recipe["instruction"], fixed, rows_of(recipe["grid"], edit), ("input", open_image(picture)))


def rows_of(grid: dict[str, list], make: Callable[..., Image.Image]) -> list["Row"]:
    """Columns of the grid's first axis, rows of its second; with one axis, rows of WIDEST. `make` makes a cell."""
    (across, columns), *others = grid.items()
    heads = [label(across, x) for x in columns]
    if others:
        [(down, values)] = others
        cells = [[make(**{across: x, down: y}) for x in columns] for y in values]
        return [Row(label(down, y), [] if i else heads, cells[i]) for i, y in enumerate(values)]
    cells = [make(**{across: x}) for x in columns]
    return [Row("", heads[i : i + WIDEST], cells[i : i + WIDEST]) for i in range(0, len(cells), WIDEST)]


class Row(NamedTuple):
    """A row of the sheet."""

    label: str
    heads: list[str]
    """above each cell; empty where the row above has told it"""
    cells: list[Image.Image]
    title: str = ""
    """above the row, over its whole width"""


def label(name: str, value: float) -> str:
    return f"{name.replace('_', ' ')} {value:g}"


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
