"""Recipes: all that decides an edited picture's pixels, as a dict of JSON values that the picture itself carries.

`edit` writes recipes and performs them; `show --again` reads one and performs it: what ran is what was recorded.
"""

import io
import json
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import ExifTags, Image, PngImagePlugin

from . import sheet

if TYPE_CHECKING:
    from ..pipeline import Pipeline

SETTINGS = (
    "text_scale", "image_scale", "seed", "steps", "sampler", "spacing", "resolution", "fit", "keep_size", "low_memory"
)  # fmt: skip
FORMATS = {
    ".png": ("PNG", {}),
    ".webp": ("WEBP", {"lossless": True}),
    ".jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".tif": ("TIFF", {"compression": "tiff_lzw"}),
    ".tiff": ("TIFF", {"compression": "tiff_lzw"}),
    ".bmp": ("BMP", {}),
}
WITHOUT = ("BMP",)
KEY = "minip2p"  # of the PNG text; elsewhere the start of EXIF's ImageDescription


def versions(pipe: "Pipeline") -> dict:
    """What made a picture, beside the recipe: it should not matter, and is told for the case that it does."""
    import torch

    from .. import __version__

    python = platform.python_version()
    return {"minip2p": __version__, "torch": torch.__version__, "python": python, "device": str(pipe.device)}


def perform(pipe: "Pipeline", picture: Path, recipe: dict, on_step: Callable[[Any], None] | None = None) -> Image.Image:
    """The edited picture, or the contact sheet, of a recipe."""

    def edit(**changes) -> Image.Image:
        settings = {name: recipe[name] for name in SETTINGS} | changes
        return pipe.edit(picture, recipe["instruction"], **settings, on_step=on_step)

    if not recipe.get("grid"):
        return edit()
    return sheet.draw(picture, recipe, edit)


def edits(recipe: dict) -> int:
    """How many pictures a recipe paints: one, or the cells of its sheet; none where nothing is asked for."""
    n = 1
    for values in recipe.get("grid", {}).values():
        n *= len(values)
    return n if recipe["instruction"].strip() else 0


def same(one: dict, other: dict) -> bool:
    """Whether two recipes ask for the same pixels: not where files lie, nor which versions run."""
    return _essence(one) == _essence(other)


def _essence(recipe: dict) -> dict:
    rest = {name: value for name, value in recipe.items() if name != "made_with"}
    return rest | {part: {k: v for k, v in recipe[part].items() if k != "path"} for part in ("input", "weights")}


def check_format(path: Path) -> None:
    """Raises ValueError for an ending that names no format of ours."""
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"output {path}: unknown ending {path.suffix!r}; expected one of {', '.join(FORMATS)}")


def carries(path: Path) -> bool:
    """Whether the format has a place for the recipe."""
    return FORMATS[path.suffix.lower()][0] not in WITHOUT


def encode(image: Image.Image, path: Path, recipe: dict) -> bytes:
    """A file's bytes: the picture in the format of the path's ending, with its recipe where that has a place for it."""
    kind, options = FORMATS[path.suffix.lower()]
    if kind == "PNG":
        info = PngImagePlugin.PngInfo()
        info.add_itxt(KEY, json.dumps(recipe, ensure_ascii=False))
        options = options | {"pnginfo": info}
    elif kind not in WITHOUT:
        exif = Image.Exif()
        exif[ExifTags.Base.ImageDescription] = f"{KEY} {json.dumps(recipe)}"  # of ASCII, as EXIF has it
        options = options | {"exif": exif}
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def read(path: Path) -> dict:
    """The recipe that a picture carries. Raises ValueError for no picture, no recipe, or not an edit's."""
    if not path.exists():
        raise ValueError(f"{path}: no such file")
    if path.is_dir():
        raise ValueError(f"{path} is a directory; expected a picture that minip2p made")
    try:
        with Image.open(path) as image:
            image.load()  # a PNG's text may come after its pixels
            text = image.info.get(KEY) or _description(image)
    except Exception as error:  # decoders raise anything on damaged data
        raise ValueError(f"{path} cannot be read as a picture: {error}") from None
    if not text:
        raise ValueError(f"{path} carries no recipe; what minip2p edits does, unless a program rewrote it")
    try:
        recipe = json.loads(text)
    except ValueError:
        raise ValueError(f"{path}: its recipe is damaged") from None
    if not {*SETTINGS, "instruction", "input", "weights"} <= set(recipe):
        raise ValueError(f"{path}: its recipe is not that of an edit")
    return recipe


def _description(image: Image.Image) -> str | None:
    text = image.getexif().get(ExifTags.Base.ImageDescription)
    return text.removeprefix(KEY).strip() if isinstance(text, str) and text.startswith(KEY) else None


def made_already(path: Path, recipe: dict) -> bool:
    """Whether `path` is a whole picture with this very recipe."""
    if not os.path.isfile(path) or not carries(path):
        return False
    try:
        return same(read(path), recipe)
    except ValueError:
        return False
