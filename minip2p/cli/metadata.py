"""The metadata of a generated image: all that decides its pixels, as JSON values stored in the file.

A verb that makes images records its options as metadata, and makes the image from the metadata (`make`, in the verb's
file). `minip2p show --again` reads the metadata of a file and calls the same function, so what is recorded is what ran.
"""

import io
import json
import platform
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import ExifTags, Image, PngImagePlugin

from ..files import parse_json
from . import files
from .arguments import loras

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
KEY = "minip2p"  # of a PNG's text; in other formats the start of EXIF's ImageDescription
PLACES = "path", "lora", "vae"
"""of the input and the weights: where they are; their hash and fingerprint say what they are"""
LONGEST, DEEPEST = 200_000, 50
"""letters of metadata, and its levels"""


def origin(pipe: "Pipeline", loading: "Loading", output: Path, **images: str | Path | None) -> dict[str, Any]:
    """The part of the metadata that names the images read (input, mask), the weights and the versions."""
    values: dict[str, Any] = {
        name: {"path": files.relative(image, output), "sha256": files.sha256(Path(image))}
        for name, image in images.items()
        if image is not None
    }
    values["weights"] = {
        "path": loading.weights and files.relative(loading.weights, output),
        "fingerprint": pipe.fingerprint,
        "ema": loading.ema,
        "config": list(loading.config),
        "dtype": loading.dtype if loading.dtype == "tf32" else str(pipe.dtype).removeprefix("torch."),
    }
    if loading.vae is not None:
        values["weights"]["vae"] = files.relative(loading.vae, output)
    if loading.lora:
        merged = loras(loading.lora)
        values["weights"]["lora"] = [{"path": files.relative(file, output), "weight": w} for file, w in merged]
    if loading.compile:  # its kernels round otherwise
        values["weights"]["compile"] = True
    if loading.text_cleaning is not None:  # earlier versions did not record it
        values["weights"]["text_cleaning"] = loading.text_cleaning
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
    return {
        name: {k: v for k, v in value.items() if k not in PLACES} if isinstance(value, dict) else value
        for name, value in metadata.items()
        if name != "made_with"
    }


def check_outputs(*paths: Path, overwrite: bool = False) -> list[dict | None]:
    """The metadata of each of the images that are there already, else None.

    Raises ValueError for an image that cannot be written: the format is unknown, there is no place, or a file is there
    that minip2p did not make. `overwrite` gives that file up.
    """
    for path in paths:
        if path.suffix.lower() not in FORMATS:
            raise ValueError(f"output {path}: unknown ending {path.suffix!r}; expected one of {', '.join(FORMATS)}")
    files.check_writable(*paths)
    found = [read_if_ours(path) for path in paths]
    for path, ours in zip(paths, found):
        if not overwrite and ours is None and path.exists():
            raise ValueError(f"output {path} is a file that minip2p did not make; to replace it, add --overwrite")
    return found


def encode(image: Image.Image, path: Path, metadata: dict) -> bytes:
    """The image as a file in the format of the path's ending, with its metadata.

    Raises ValueError for what the format cannot hold: too large an image, too much metadata.
    """
    kind, options = FORMATS[path.suffix.lower()]
    buffer = io.BytesIO()
    try:
        text = json.dumps(metadata, ensure_ascii=False)
        text.encode()  # raises for halves of characters, which words of a command and JSON can hold
        if len(text) > LONGEST:
            raise ValueError(f"{len(text):,} letters of metadata, such as the texts, are over {LONGEST:,}")
        if kind == "PNG":
            info = PngImagePlugin.PngInfo()
            info.add_itxt(KEY, text)
            options = options | {"pnginfo": info}
        else:
            exif = Image.Exif()
            exif[ExifTags.Base.ImageDescription] = f"{KEY} {json.dumps(metadata)}"  # in ASCII, as EXIF requires
            options = options | {"exif": exif}
        image.save(buffer, kind, **options)
    except UnicodeEncodeError:
        raise ValueError(f"output {path}: a text holds half a character (a lone surrogate); type it anew") from None
    except (ValueError, OSError, struct.error) as error:
        raise ValueError(f"output {path} cannot be written as {kind}: {error}") from None
    return buffer.getvalue()


def read(path: Path) -> dict:
    """The metadata of an image file. Raises ValueError if it is not an image, has none, or it is not JSON."""
    from ..data.picture_files import open_picture

    with open_picture(path, str(path)) as image:
        image.load()  # a PNG's text may come after its pixels
        text = image.info.get(KEY) or _description(image)
    if not text:
        raise ValueError(f"{path} has no metadata of minip2p; another program may have removed it")
    if not isinstance(text, str) or len(text) > LONGEST:
        raise ValueError(f"{path}: its metadata is no text of up to {LONGEST:,} letters")
    metadata = parse_json(text, f"{path}: its metadata")
    if _is_deeper(metadata, DEEPEST):
        raise ValueError(f"{path}: its metadata is nested over {DEEPEST} deep")
    return metadata


def _is_deeper(value: Any, levels: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels < 0 or any(_is_deeper(each, levels - 1) for each in inner)


def read_if_ours(path: Path) -> dict | None:
    """The metadata of an image that minip2p made, None for any other file."""
    try:
        return read(path) if path.is_file() else None
    except ValueError:
        return None


def _description(image: Image.Image) -> str | None:
    text = image.getexif().get(ExifTags.Base.ImageDescription)
    return text.removeprefix(KEY).strip() if isinstance(text, str) and text.startswith(KEY) else None
