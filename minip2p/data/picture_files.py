"""Picture files: which formats are read, how large they may be, and their pixels as 8-bit RGB.

Every picture file of the package is opened by `open_picture` or `decode`.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from ..regular import require_regular
from .colour import PictureWarning, as_rgb
from .pixels import ImageError

FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM")
"""that are read, by Pillow's names. Others start programs (EPS), or take seconds and gigabytes (JPEG 2000)"""
PLUGINS = "WebP", "Avif", "Tiff"
"""Pillow's modules for those that `Image.preinit` does not import"""
HEIF = b"heic heix heim heis hevc hevx hevm hevs mif1 msf1".split()
"""brands of HEIC files, bytes 8 to 11; HEIC is read where a plug-in for Pillow is installed"""
ENDINGS = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".pjpeg", ".pjp", ".mpo", ".webp", ".avif", ".avifs"),
    *(".gif", ".bmp", ".dib", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    *(".heic", ".heif", ".hif"),
)
"""of these formats' files, in lower case"""
PLAIN = {"jfif", "jfif_version", "jfif_unit", "jfif_density", "dpi", "progressive", "progression"}
"""notes in a JPEG or PNG that say nothing of its colours and of where its top is"""
MAX_PIXELS = 2**26
"""67 megapixels, for which a gigabyte of memory is enough; a JPEG of more is read at half its size"""
HUNGRY = ("WEBP", "AVIF", "HEIF")
"""formats with half as many pixels at most: their decoders hold several copies"""


@cache
def formats() -> tuple[str, ...]:
    """FORMATS as far as this Pillow has them, and HEIF with its plug-in."""
    Image.preinit()
    for plugin in PLUGINS:
        with suppress(ImportError):
            import_module(f"PIL.{plugin}ImagePlugin")
    for plugin in ("pillow_heif", "pi_heif"):
        try:
            import_module(plugin).register_heif_opener()
            break
        except ImportError:
            pass
    return tuple(name for name in (*FORMATS, "HEIF") if name in Image.OPEN)


@contextmanager
def open_picture(file: Path | BinaryIO, name: str) -> Iterator[Image.Image]:
    """A picture of which only the header is read; `.load()` reads the pixels. Errors call it `name`.

    Raises ImageError, also for what happens inside the `with`: the file is missing or is no regular file (a directory,
    a pipe, a device), is none of `formats`, is damaged, or has over MAX_PIXELS. Of an animation it is the first frame.
    """
    try:
        if isinstance(file, Path):
            require_regular(file, ImageError)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="PIL")  # about broken metadata, and pictures that are refused here
            with Image.open(file, formats=formats()) as image:
                _limit_size(image, name)
                yield image
    except ImageError:
        raise
    except Image.DecompressionBombError:
        raise ImageError(f"{name} has over {2 * Image.MAX_IMAGE_PIXELS:,} pixels; {_limit()}") from None
    except UnidentifiedImageError:
        raise ImageError(f"{name} {_what_it_is(file)}") from None
    except MemoryError:
        raise ImageError(f"{name} does not fit into memory") from None
    except Exception as error:  # decoders raise anything on damaged data: OSError, SyntaxError, struct.error, ...
        if isinstance(error, OSError) and error.strerror:  # the file system
            raise ImageError(f"{name}: {error.strerror.lower()}") from None
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{name} is damaged or cut short: {reason:.200}") from None


def decode(file: Path | BinaryIO, name: str) -> Image.Image:
    """`images.open_image` for a file or for bytes (io.BytesIO); errors call it `name`."""
    with open_picture(file, name) as image:
        image.load()
        if image.mode != "RGB" or image.format not in ("JPEG", "PNG") or image.info.keys() - PLAIN:
            return as_rgb(image, name)
        return Image.frombytes("RGB", image.size, image.tobytes())


def size_of(file: Path | BinaryIO, name: str) -> tuple[int, int]:
    """(width, height) of what `decode` gives, by the header. Raises ImageError where that is not a picture's."""
    with open_picture(file, name) as image:
        known = image.format != "PNG" or "exif" in image.info  # a PNG without is searched to its end
        return image.size[::-1] if known and image.getexif().get(0x0112, 1) >= 5 else image.size


def is_picture_name(name: str | Path) -> bool:
    """Whether a file of this name is taken for a picture: by its ending, and not hidden (as macOS' ._a.jpg)."""
    return Path(name).suffix.lower() in ENDINGS and not Path(name).name.startswith(".")


def _limit(most: float = MAX_PIXELS) -> str:
    return f"the limit is {most / 1e6:.0f} megapixels; make it smaller first"


def _limit_size(image: Image.Image, name: str) -> None:
    """Have a JPEG over MAX_PIXELS decoded at half its size; raise ImageError for others."""
    width, height = image.size
    most = MAX_PIXELS // 2 if image.format in HUNGRY else MAX_PIXELS
    if width * height <= most:
        return
    if image.format in ("JPEG", "MPO") and not image.info.get("progressive"):  # those are decoded as a whole first
        image.draft(image.mode, (width // 2, height // 2))
    if image.width * image.height > most:
        raise ImageError(f"{name} has {width:,} x {height:,} pixels; {_limit(most)}")
    size = f"{image.width:,} x {image.height:,}"
    warnings.warn(f"{name} has {width:,} x {height:,} pixels; read as {size}", PictureWarning, stacklevel=2)


def _what_it_is(file: Path | BinaryIO) -> str:
    """Of a file that is none of `formats`."""
    if isinstance(file, Path):
        with open(file, "rb") as opened:
            start = opened.read(12)
    else:
        file.seek(0)
        start = file.read(12)
    if start[4:8] == b"ftyp" and start[8:] in HEIF:
        return "is a HEIC picture, which needs a plug-in for Pillow: pip install pillow-heif"
    return f"is not a picture that can be read; expected one of {', '.join(FORMATS)}"
