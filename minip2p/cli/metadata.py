"""The metadata of a generated image: all that decides its pixels, as JSON values stored in the file.

A verb that makes images records its options as metadata, and makes the image from the metadata (`make`, in the verb's
file). `minip2p show --again` reads the metadata of a file and calls the same function, so what is recorded is what ran.
"""

import io
import json
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import ExifTags, Image, PngImagePlugin

from . import files

if TYPE_CHECKING:
    from ..pipeline import Pipeline
    from .arguments import Loading

FORMATS = {
    ".png": ("PNG", {}),
    ".webp": ("WEBP", {"lossless": True}),
    ".jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".tif": ("TIFF", {"compression": "tiff_lzw"}),
    ".tiff": ("TIFF", {"compression": "tiff_lzw"}),
}
REPEATABLE = ("edit", "generate", "sdedit", "pair", "invert")
"""verbs whose images can be made again"""
KEY = "minip2p"  # of a PNG's text; in other formats the start of EXIF's ImageDescription


def origin(pipe: "Pipeline", loading: "Loading", output: Path, image: str | Path | None = None) -> dict[str, Any]:
    """The part of the metadata that names the input image, if there is one, the weights and the versions."""
    values: dict[str, Any] = {}
    if image is not None:
        values["input"] = {"path": files.relative(image, output), "sha256": files.sha256(Path(image))}
    values["weights"] = {
        "path": loading.weights and files.relative(loading.weights, output),
        "fingerprint": pipe.fingerprint,
        "ema": loading.ema,
        "config": list(loading.config),
        "dtype": loading.dtype,
    }
    return values | {"made_with": versions(pipe)}


def versions(pipe: "Pipeline") -> dict[str, str]:
    """Versions and device. They should not change the pixels; they are recorded in case they do."""
    import torch

    from .. import __version__

    python = platform.python_version()
    return {"minip2p": __version__, "torch": torch.__version__, "python": python, "device": str(pipe.device)}


def equal(one: dict, other: dict) -> bool:
    """Whether two metadata describe the same pixels, wherever files are and whichever versions ran."""
    return _pixels(one) == _pixels(other)


def _pixels(metadata: dict) -> dict:
    parts = {
        part: {k: v for k, v in metadata[part].items() if k != "path"}
        for part in ("input", "weights")
        if part in metadata
    }
    return {name: value for name, value in metadata.items() if name != "made_with"} | parts


def check_output(path: Path) -> None:
    """Raise ValueError if an image cannot be written to `path`: unknown format, or no place to write."""
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"output {path}: unknown ending {path.suffix!r}; expected one of {', '.join(FORMATS)}")
    files.check_writable(path)


def encode(image: Image.Image, path: Path, metadata: dict) -> bytes:
    """The image as a file in the format of the path's ending, with its metadata."""
    kind, options = FORMATS[path.suffix.lower()]
    if kind == "PNG":
        info = PngImagePlugin.PngInfo()
        info.add_itxt(KEY, json.dumps(metadata, ensure_ascii=False))
        options = options | {"pnginfo": info}
    else:
        exif = Image.Exif()
        exif[ExifTags.Base.ImageDescription] = f"{KEY} {json.dumps(metadata)}"  # in ASCII, as EXIF requires
        options = options | {"exif": exif}
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def read(path: Path) -> dict:
    """The metadata of an image file. Raises ValueError if it is not an image or has none."""
    if not path.exists():
        raise ValueError(f"{path}: no such file")
    if path.is_dir():
        raise ValueError(f"{path} is a directory; expected an image that minip2p made")
    try:
        with Image.open(path) as image:
            image.load()  # a PNG's text may come after its pixels
            text = image.info.get(KEY) or _description(image)
    except Exception as error:  # decoders raise anything on damaged data
        raise ValueError(f"{path} cannot be read as an image: {error}") from None
    if not text:
        raise ValueError(f"{path} has no metadata of minip2p; another program may have removed it")
    try:
        metadata = json.loads(text)
    except ValueError:
        metadata = None
    if not isinstance(metadata, dict):
        raise ValueError(f"{path}: its metadata is damaged")
    return metadata


def _description(image: Image.Image) -> str | None:
    text = image.getexif().get(ExifTags.Base.ImageDescription)
    return text.removeprefix(KEY).strip() if isinstance(text, str) and text.startswith(KEY) else None


def verb_of(metadata: dict) -> str:
    """The verb that made the image. Raises ValueError if it cannot make it again, as for a scene or a figure."""
    verb = metadata.get("verb", "edit" if "instruction" in metadata else None)
    if verb not in REPEATABLE:
        raise ValueError(f"this image cannot be made again; those of {', '.join(REPEATABLE)} can")
    return verb


def is_made(path: Path, metadata: dict) -> bool:
    """Whether `path` is an image with this metadata."""
    if not path.is_file():
        return False
    try:
        return equal(read(path), metadata)
    except ValueError:
        return False
