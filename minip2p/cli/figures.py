"""Figures of the command line: grids of images, attention maps over an image, and contact sheets of edit pairs."""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..data.contact_sheet import CELL, PAPER, Row, lay_out, pair_rows, resized

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


def grid_cells(grid: Mapping[str, list]) -> list[dict[str, Any]]:
    """The settings of each cell of a grid; without axes there is one."""
    cells_of(grid)
    return [dict(zip(grid, values)) for values in product(*grid.values())]


def grid_rows(grid: Mapping[str, list], make: Callable[..., Image.Image], widest: int = 5) -> list[Row]:
    """Columns of the grid's first axis, rows of its second; one axis is broken into rows; without axes there is one
    cell. `make` makes a cell."""
    cells_of(grid)
    if not grid:
        return [Row("", [], [make()])]
    (across, columns), *others = grid.items()
    heads = [label(across, x) for x in columns]
    if others:
        [(down, values)] = others
        return [Row(label(down, y), heads, [make(**{across: x, down: y}) for x in columns]) for y in values]
    cells = [make(**{across: x}) for x in columns]
    return [Row("", heads[i : i + widest], cells[i : i + widest]) for i in range(0, len(cells), widest)]


def beside(name: str, image: Image.Image, rows: Sequence[Row]) -> list[Row]:
    """The rows with an image at the left of the first."""
    cells = [image, *[Image.new("RGB", (1, 1), PAPER)] * (len(rows) - 1)]
    heads = [name, *[""] * (len(rows) - 1)]
    return [Row(row.label, [head, *row.heads], [cell, *row.cells]) for head, cell, row in zip(heads, cells, rows)]


def side_by_side(*images: Image.Image) -> Image.Image:
    """Images of one height in a row, a sixteenth of their width apart."""
    gap = max(1, images[0].width // 16)
    width = sum(image.width + gap for image in images) - gap
    row, x = Image.new("RGB", (width, images[0].height), PAPER), 0
    for image in images:
        row.paste(image, (x, 0))
        x += image.width + gap
    return row


def label(name: str, value: float) -> str:
    """A setting of a grid as the label of its row or column."""
    return f"{name.replace('_', ' ')} {value:g}"


def settings_line(metadata: Mapping[str, Any], names: Sequence[str]) -> str:
    """The settings that are the same in all cells, and the sampler."""
    return ", ".join(
        [*(label(name, metadata[name]) for name in names if name not in metadata["grid"]), metadata["sampler"]]
    )


# Attention maps

OPAQUE, DIMMED = 0.68, 0.85
"""opacity of a heat map, and the brightness of the image below it"""
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

LEGEND = "Pixels attend to the word: dark violet is 0, pale yellow the map's highest probability, which is above it."


def attention_figure(
    title: str,
    below: str,
    images: Mapping[str, Image.Image],
    rows: Sequence[tuple[str, bool]],
    columns: Sequence[tuple[str, Sequence[np.ndarray]]],
) -> Image.Image:
    """A row of the images, then a column per word with a heat map per row, over the last of the images.

    rows: a label, and whether to interpolate between the map's pixels. columns: a word, and its maps (y, x) of any
    size, 0 or more, one per row; each has its own scale.
    """
    images = {name: resized(image, (CELL, CELL)) for name, image in images.items()}
    *_, ground = images.values()
    sheet_rows = [Row("", list(images), list(images.values()))]
    for at in range(0, len(columns), WIDEST):
        for j, (label, smooth) in enumerate(rows):
            maps = [(word, each[j], float(each[j].max())) for word, each in columns[at : at + WIDEST]]
            heads = [f"{word}: {top:.2g}" for word, _, top in maps]
            sheet_rows.append(Row(label, heads, [overlay(ground, x / (top or 1), smooth) for _, x, top in maps]))
    return lay_out(title, f"{below}. {LEGEND}", sheet_rows)


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


# Contact sheets of edit pairs


def pair_sheet(title: str, pairs: Sequence["EditPair"]) -> Image.Image:
    """Source and target of each pair below the instruction."""
    rows = pair_rows((pair.instruction or "(no instruction)", pair.source, pair.target) for pair in pairs)
    return lay_out(title, "source, target", rows)
