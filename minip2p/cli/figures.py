"""Figures of the command line: grids of images, attention maps over an image, and contact sheets of edit pairs."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..data.contact_sheet import CELL, GAP, INK, PALE, PAPER, Row, lay_out, resized

if TYPE_CHECKING:
    from ..data.edits import EditPair

# Grids


def grid_rows(grid: Mapping[str, list], make: Callable[..., Image.Image], widest: int = 5) -> list[Row]:
    """Columns of the grid's first axis, rows of its second; one axis is broken into rows. `make` makes a cell."""
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
        (13, 2, 48),
        (42, 4, 77),
        (78, 9, 98),
        (120, 15, 106),
        (165, 23, 99),
        (203, 48, 79),
        (232, 83, 54),
        (247, 126, 37),
        (251, 170, 67),
        (252, 210, 108),
        (250, 246, 175),
    ],
    dtype=float,
)
"""dark violet to pale yellow, lightness 0.16 to 0.96 in OKLab in equal steps: twice the value looks twice as bright"""


class Column(NamedTuple):
    """The maps of one word, or of one place."""

    label: str
    maps: Sequence[np.ndarray]
    """one per row, (y, x) of any size, 0 or more"""
    mark: tuple[float, float] | None = None
    """a place to mark, as fractions of width and height"""


class MapRow(NamedTuple):
    """One size of maps."""

    label: str
    smooth: bool
    """interpolate between the map's pixels"""


class Texts(NamedTuple):
    """The texts of an attention figure beside its labels."""

    title: str
    below: str
    """what was averaged, how the image was made"""
    legend: str
    """the meaning of bright"""
    number: Callable[[float], str]
    """formats a value"""


def attention_figure(
    texts: Texts,
    images: Sequence[tuple[str, Image.Image]],
    rows: Sequence[MapRow],
    columns: Sequence[Column],
    cell: int = 192,
) -> Image.Image:
    """A column per word with a heat map per row, over the last of the labelled images; that is about `cell` pixels wide
    or high. Each map has its own scale."""
    size = map_size(images[-1][1].size, cell)
    images = [(name, resized(image, size)) for name, image in images]
    cells = []
    for column in columns:
        tops = [float(x.max()) for x in column.maps]
        maps = [overlay(images[-1][1], x / (top or 1), row.smooth) for x, top, row in zip(column.maps, tops, rows)]
        if column.mark is not None:
            maps = [marked(each, *column.mark) for each in maps]
        cells.append([_footed(each, f"0 to {texts.number(top)}") for each, top in zip(maps, tops)])
    sheet_rows = [
        Row(row.label, [] if j else [column.label for column in columns[block]], [each[j] for each in cells[block]])
        for block in _blocks(len(columns), WIDEST)
        for j, row in enumerate(rows)
    ]
    beside = [(name, _footed(image, "")) for name, image in images]
    return lay_out(texts.title, [texts.below, _legend(), texts.legend], sheet_rows, beside, cell=1)


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


def marked(image: Image.Image, x: float, y: float) -> Image.Image:
    """The image with a circle at (x, y), fractions of its width and height."""
    image, x, y = image.copy(), x * image.width, y * image.height
    pen = ImageDraw.Draw(image)
    for radius, colour, width in ((8, "black", 4), (7, "white", 2)):
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), outline=colour, width=width)
    return image


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
