"""Pictures of any mode and depth as 8-bit sRGB, as one sees them in a browser."""

import io
import warnings
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from PIL import Image, ImageChops, ImageCms, ImageOps

from .pixels import ImageError, scaled

Convert = Callable[[Image.Image], Image.Image]

MODES = {"GRAY": "L", "RGB ": "RGB", "CMYK": "CMYK"}
"""an ICC profile's colour space -> Pillow's mode"""
READS = {"L": ("L", "RGB"), "RGB": ("RGB",), "CMYK": ("CMYK",)}
"""a picture's kind of colour -> the modes that its profile may have"""
GREY = ("1", "L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L", "I;16N")
STRIP = 2**20
"""pixels that are converted at a time: a conversion needs hardly more memory than the picture and its result"""


class PictureWarning(UserWarning):
    """Says what was done with a picture that its user may not expect."""


def as_rgb(image: Image.Image, name: str) -> Image.Image:
    """A new 8-bit RGB picture: upright as EXIF says, in sRGB by the ICC profile, transparency on white.

    More than 8 bits are scaled down. Raises ImageError for no pixels, and for values of which it is unknown what is
    white.
    """
    image.load()
    if 0 in image.size:
        raise ImageError(f"{name} has no pixels")
    ends, convert = _black_and_white(image, name), to_srgb(image, name)
    try:
        image = ImageOps.exif_transpose(image)
    except Exception:  # a broken EXIF block says nothing about rotation
        pass
    rgb, rows = Image.new("RGB", image.size), max(1, STRIP // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        if ends is not None:
            strip = Image.fromarray(scaled(np.asarray(strip), *ends, name))
        try:
            rgb.paste(_strip_as_rgb(strip, convert), (0, top))
        except ValueError:
            raise ImageError(f"{name}: colours of mode {image.mode} cannot be read; save it as RGB first") from None
    return rgb


def _strip_as_rgb(strip: Image.Image, convert: Convert | None) -> Image.Image:
    rgba = strip.convert("RGBA") if strip.has_transparency_data else None
    plain = strip if rgba is None else rgba.convert("RGB")
    plain = plain.convert("RGB") if convert is None else convert(plain)
    if rgba is None:
        return plain
    plain.putalpha(rgba.getchannel("A"))
    return Image.alpha_composite(Image.new("RGBA", plain.size, "white"), plain).convert("RGB")


def _black_and_white(image: Image.Image, name: str) -> tuple[int, int] | None:
    """(black, white) of a picture of one channel with more than 8 bits, as its file says; None for all others."""
    tags = getattr(image, "tag_v2", {})  # of TIFF: 258 is BitsPerSample; 262 is 0 where 0 is white
    if image.mode == "F":
        white = 1
    elif image.mode.startswith("I;16"):
        white = 2 ** tags.get(258, (16,))[0] - 1
    elif image.mode != "I":
        return None
    elif image.format in ("PNG", "PPM"):  # Pillow scales theirs to 16 bits
        white = 65535
    else:
        raise ImageError(f"{name} holds whole numbers of 32 bits, of which white is unknown; save it with 8 or 16 bits")
    return (white, 0) if tags.get(262) == 0 else (0, white)


def to_srgb(image: Image.Image, name: str) -> Convert | None:
    """What turns pictures of `image`'s kind, or parts of it, into sRGB; None where nothing changes.

    As browsers do: by the profile in the file, perceptually. A profile that cannot be read or is not of the picture's
    kind is ignored with a PictureWarning; one that moves no colour by more than one level of 255 is sRGB itself.
    """
    if not (data := image.info.get("icc_profile")):
        return None
    kind = image.mode if image.mode == "CMYK" else "L" if image.mode in GREY else "RGB"
    try:
        return _by_profile(data, kind)
    except Exception as error:  # littleCMS, about a broken profile
        reason = " ".join(str(error).split()) or type(error).__name__
        warnings.warn(f"{name}: its colour profile was ignored ({reason:.100})", PictureWarning, stacklevel=2)
        return None


@lru_cache(maxsize=8)  # a profile often serves a whole set of pictures
def _by_profile(data: bytes, kind: str) -> Convert | None:
    profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
    mode = MODES.get(profile.profile.xcolor_space, "other colours")
    if mode not in READS[kind]:
        raise ValueError(f"it is for {mode}, the picture is {kind}")
    exact = ImageCms.Flags.NOOPTIMIZE if mode == "L" else ImageCms.Flags.NONE  # slow, but tables are wrong in the dark
    transform = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), mode, "RGB", flags=exact)
    levels = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    palette = ImageCms.applyTransform(levels, transform).tobytes() if mode == "L" else None

    def convert(part: Image.Image) -> Image.Image:
        part = part.convert(mode)
        if palette is None:
            return ImageCms.applyTransform(part, transform)
        part.putpalette(palette)
        return part.convert("RGB")

    sample = _sample().convert(mode)
    changes = ImageChops.difference(convert(sample), sample.convert("RGB")).getextrema()
    return convert if max(high for _, high in changes) > 1 else None


def _sample() -> Image.Image:
    """Colours from all over RGB: 16 levels a channel."""
    levels = np.arange(0, 256, 17, dtype=np.uint8)
    return Image.fromarray(np.stack(np.meshgrid(levels, levels, levels), -1).reshape(64, 64, 3))
