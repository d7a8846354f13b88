"""Figures of the command line: grids of images, attention maps over an image, and contact sheets of edit pairs."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..data.contact_sheet import CELL, GAP, INK, PALE, PAPER, Row, lay_out, resized

if TYPE_CHECKING:
    from ..data.edits import EditPair

# Grids


MOST_CELLS = 100


def cells_of(grid: Mapping[str, list], rows: int = 1) -> int:
    """The number of cells of `rows` such grids; without axes a grid has one. Raises ValueError for over MOST_CELLS."""
    cells = rows * math.prod(map(len, grid.values()))
    if cells > MOST_CELLS:
        raise ValueError(f"a sheet of {cells:,} images; expected at most {MOST_CELLS}")
    return cells


def grid_rows(grid: Mapping[str, list], make: Callable[..., Image.Image], widest: int = 5) -> list[Row]:
    """Columns of the grid's first axis, rows of its second; one axis is broken into rows. `make` makes a cell."""
    cells_of(grid)
    (across, columns), *others = grid.items()
    heads = [label(across, x) for x in columns]
    if others:
        [(down, values)] = others
        cells = [[make(**{across: x, down: y}) for x in columns] for y in values]
        return [Row(label(down, y), [] if i else heads, cells[i]) for i, y in enumerate(values)]
    cells = [make(**{across: x}) for x in columns]
    return [Row("", heads[i : i + widest], cells[i : i + widest]) for i in range(0, len(cells), widest)]


def label(name: str, value: float) -> str:
    return f"{name.replace('_', ' ')} {value:g}"


def settings_line(metadata: Mapping[str, Any], names: Sequence[str]) -> str:
    """The settings that are the same in all cells, and the sampler."""
    return ", ".join(
        [*(label(name, metadata[name]) for name in names if name not in metadata["grid"]), metadata["sampler"]]
    )


def side_by_side(*images: Image.Image) -> Image.Image:
    """Images of one height in a row, a sixteenth of their width apart."""
    gap = max(1, images[0].width // 16)
    width = sum(image.width + gap for image in images) - gap
    row, x = Image.new("RGB", (width, images[0].height), PAPER), 0
    for image in images:
        row.paste(image, (x, 0))
        x += image.width + gap
    return row


# Attention maps

OPAQUE, DIMMED = 0.68, 0.85
"""opacity of a heat map, and the brightness of the image below it"""
FOOT = 20
"""pixels below a map for the values that its colours mean"""
WIDEST = 8
"""columns beside each other; more go below"""
COLOURS = np.array(
    [
        list(bytes.fromhex(c))
        for c in "0d0230 2a044d 4e0962 780f6a a51763 cb304f e85336 f77e25 fbaa43 fcd26c faf6af".split()
    ],
    dtype=float,
)
"""dark violet to pale yellow, lightness 0.16 to 0.96 in OKLab in equal steps: twice the value looks twice as bright"""


LEGEND = "Bright pixels attend to the word. Each map has its own scale; below it, the highest probability."


def attention_figure(
    title: str,
    below: str,
    images: Sequence[tuple[str, Image.Image]],
    rows: Sequence[tuple[str, bool]],
    columns: Sequence[tuple[str, Sequence[np.ndarray]]],
    cell: int = 192,
) -> Image.Image:
    """A column per word with a heat map per row, over the last of the labelled images; that is about `cell` pixels wide
    or high.

    rows: a label, and whether to interpolate between the map's pixels. columns: a word, and its maps (y, x) of any
    size, 0 or more, one per row; each has its own scale.
    """
    size = map_size(images[-1][1].size, cell)
    images = [(name, resized(image, size)) for name, image in images]
    cells = []
    for _, maps in columns:
        tops = [float(x.max()) for x in maps]
        drawn = [overlay(images[-1][1], x / (top or 1), smooth) for x, top, (_, smooth) in zip(maps, tops, rows)]
        cells.append([_footed(each, f"0 to {top:.2g}") for each, top in zip(drawn, tops)])
    sheet_rows = [
        Row(label, [] if j else [word for word, _ in columns[block]], [each[j] for each in cells[block]])
        for block in _blocks(len(columns), WIDEST)
        for j, (label, _) in enumerate(rows)
    ]
    beside = [(name, _footed(image, "")) for name, image in images]
    return lay_out(title, [below, _legend(), LEGEND], sheet_rows, beside, cell=1)


def heat(values: np.ndarray) -> np.ndarray:
    """Values (y, x), clipped to 0 ... 1 -> colours (y, x, 3), 0 ... 255."""
    at = np.linspace(0, 1, len(COLOURS))
    return np.stack([np.interp(values, at, channel) for channel in COLOURS.T], axis=-1)


def overlay(image: Image.Image, values: np.ndarray, smooth: bool = True) -> Image.Image:
    """The heat map of values 0 ... 1 (y, x) over the image in grey, in the image's size."""
    how = Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST
    large = np.asarray(Image.fromarray(values.astype(np.float32)).resize(image.size, how))
    grey = DIMMED * np.asarray(image.convert("L"), dtype=float)[..., None]
    return Image.fromarray(np.rint(OPAQUE * heat(large) + (1 - OPAQUE) * grey).astype(np.uint8))


def map_size(size: tuple[int, int], cell: int) -> tuple[int, int]:
    """(width, height) of maps for images of `size`: a whole multiple of it, or fitted into the cell."""
    longer = max(size)
    factor = -(-cell // longer) if longer <= cell else cell / longer
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _footed(image: Image.Image, text: str) -> Image.Image:
    """The image with a line of text below."""
    whole = Image.new("RGB", (image.width, image.height + FOOT), PAPER)
    whole.paste(image, (0, 0))
    place = (image.width / 2, image.height + FOOT / 2 + 1)
    ImageDraw.Draw(whole).text(place, text, PALE, ImageFont.load_default(14), anchor="mm")
    return whole


def _legend() -> Image.Image:
    """The colours as a bar. Its width is the least width of the figure, so that the title has room."""
    font, length, height = ImageFont.load_default(15), 240, 16
    legend = Image.new("RGB", (592, height + 2 * GAP), PAPER)
    strip = heat(np.linspace(0, 1, length)[None].repeat(height, 0))
    legend.paste(Image.fromarray(np.rint(strip).astype(np.uint8)), (20, GAP))
    pen = ImageDraw.Draw(legend)
    pen.text((0, GAP + height / 2), "0", INK, font, anchor="lm")
    pen.text((20 + length + GAP, GAP + height / 2), "the number below", INK, font, anchor="lm")
    return legend


def _blocks(n: int, most: int) -> list[slice]:
    """n columns in blocks of at most `most`, about equally long, the first the longest."""
    each = -(-n // -(-n // most))
    return [slice(i, min(i + each, n)) for i in range(0, n, each)]


# Contact sheets of edit pairs


def pair_sheet(title: str, pairs: Sequence["EditPair"], across: int = 3) -> Image.Image:
    """Source and target of each pair below the instruction, `across` pairs in a row."""
    cells = []
    for pair in pairs:
        cell = Image.new("RGB", (2 * CELL, CELL), PAPER)
        for x, image in ((0, pair.source), (CELL, pair.target)):
            cell.paste(resized(image, (CELL - GAP, CELL)), (x, 0))
        cells.append(cell)
    heads = [pair.instruction or "(no instruction)" for pair in pairs]
    rows = [Row("", heads[i : i + across], cells[i : i + across]) for i in range(0, len(cells), across)]
    return lay_out(title, "source, target", rows)
