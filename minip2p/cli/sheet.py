"""Contact sheets: pictures made with several scales, seeds or prompts, in labelled rows and columns."""

from collections.abc import Callable, Mapping
from pathlib import Path

from PIL import Image

from ..data.sheet import CELL, MARGIN, PAPER, Row, lay_out

AXES = {"text-scale": float, "image-scale": float, "seed": int, "steps": int}
WIDEST = 5  # cells in a row where there is one axis


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


def rows_of(grid: dict[str, list], make: Callable[..., Image.Image]) -> list[Row]:
    """Columns of the grid's first axis, rows of its second; with one axis, rows of WIDEST. `make` makes a cell."""
    (across, columns), *others = grid.items()
    heads = [label(across, x) for x in columns]
    if others:
        [(down, values)] = others
        cells = [[make(**{across: x, down: y}) for x in columns] for y in values]
        return [Row(label(down, y), [] if i else heads, cells[i]) for i, y in enumerate(values)]
    cells = [make(**{across: x}) for x in columns]
    return [Row("", heads[i : i + WIDEST], cells[i : i + WIDEST]) for i in range(0, len(cells), WIDEST)]


def label(name: str, value: float) -> str:
    return f"{name.replace('_', ' ')} {value:g}"
