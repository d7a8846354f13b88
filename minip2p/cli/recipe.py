"""Recipes: all that decides a picture's pixels, as a dict of JSON values that the picture itself carries.

A verb that makes pictures writes recipes and performs them (`perform`, in its file); `show --again` reads one and
performs it: what ran is what was recorded. A recipe's "verb" says whose it is; an edit's has none.
"""

import io
import json
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import ExifTags, Image, PngImagePlugin

from . import files, sheet

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
AGAIN = ("edit", "generate", "sdedit", "pair", "invert")
WITHOUT = ("BMP",)
KEY = "minip2p"  # of the PNG text; elsewhere the start of EXIF's ImageDescription


def versions(pipe: "Pipeline") -> dict:
    """What made a picture, beside the recipe: it should not matter, and is told for the case that it does."""
    import torch

    from .. import __version__

    python = platform.python_version()
    return {"minip2p": __version__, "torch": torch.__version__, "python": python, "device": str(pipe.device)}


def weights_of(pipe: "Pipeline", how: Any, output: Path) -> dict:
    """Which weights, as a recipe tells it; `how` are the options of `arguments.Loading`."""
    path = how.weights and files.relative(how.weights, output)
    return {
        "path": path, "fingerprint": pipe.fingerprint, "ema": how.ema, "config": list(how.config), "dtype": how.dtype
    }  # fmt: skip


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
    parts = {part: recipe[part] for part in ("input", "weights") if part in recipe}
    return rest | {part: {k: v for k, v in values.items() if k != "path"} for part, values in parts.items()}


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
    """The recipe that a picture carries. Raises ValueError for no picture or no recipe."""
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
        raise ValueError(f"{path} carries no recipe; what minip2p makes does, unless a program rewrote it")
    try:
        recipe = json.loads(text)
    except ValueError:
        raise ValueError(f"{path}: its recipe is damaged") from None
    if not isinstance(recipe, dict):
        raise ValueError(f"{path}: its recipe is damaged")
    return recipe


def verb_of(recipe: dict) -> str:
    """The verb that performs a recipe. Raises ValueError where none does: of a scene, of a figure."""
    if "verb" not in recipe and {*SETTINGS, "instruction", "input", "weights"} <= set(recipe):
        return "edit"
    if recipe.get("verb") in AGAIN:
        return recipe["verb"]
    raise ValueError(f"its recipe is not one that can be made again; those of {', '.join(AGAIN)} can")


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
