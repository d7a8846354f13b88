"""Picture files: only chosen decoders run, only on files that end; sizes are bounded; colours are as in a browser."""

import ast
import io
import os
import socket
import struct
import sys
import time
import types
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from minip2p.cli import main
from minip2p.data import colour, picture_files
from minip2p.data.colour import PictureWarning
from minip2p.data.images import open_image
from minip2p.data.picture_files import FORMATS, decode
from minip2p.data.pixels import ImageError

PACKAGE = Path(__file__).parent.parent / "minip2p"
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"


def noise(width: int = 48, height: int = 32, mode: str = "RGB") -> Image.Image:
    bands = {"L": 1, "RGB": 3, "RGBA": 4}[mode]
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, bands), dtype=np.uint8)
    return Image.fromarray(pixels[..., 0] if bands == 1 else pixels)


def saved(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def opened(data: bytes) -> np.ndarray:
    return np.asarray(decode(io.BytesIO(data), "x"))


def refusal(path) -> str:
    """The error of a file that cannot be opened, in one line."""
    with pytest.raises(ImageError) as error:
        open_image(path)
    assert "\n" not in str(error.value)
    return str(error.value)


# Formats


def test_pictures_are_opened_in_one_place():
    """`Image.open` tries every decoder that Pillow has: nothing else of the package calls it."""
    calls = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr == "open" and ast.unparse(node.value).split(".")[-1] == "Image"
    }
    assert calls == {"data/picture_files.py"}


@pytest.fixture
def ghostscript(tmp_path, monkeypatch) -> Path:
    """What a program named gs writes when something starts it."""
    programs, sign = tmp_path / "programs", tmp_path / "started"
    programs.mkdir()
    (programs / "gs").write_text(f"#!/bin/sh\ntouch {sign}\n")
    (programs / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    return sign


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.eps", "a"])
def test_no_picture_starts_a_program(ghostscript, capsys, name):
    Path(name).write_bytes(EPS)
    assert "not a picture that can be read" in refusal(name)
    words = ["--edit", "x", "--output", "out.png"]
    assert main(["show", name]) == main(["edit", "--input", name, *words]) == 2
    assert not ghostscript.exists() and capsys.readouterr().err.count("not a picture") == 2


def test_formats_that_nobody_chose_are_refused(tmp_path):
    for kind in ("ICO", "TGA", "PCX", "SGI", "PDF", "JPEG2000", "XBM", "DDS"):
        data = saved(noise(32).convert("1" if kind == "XBM" else "RGB"), kind)
        (tmp_path / "x.png").write_bytes(data)
        assert "expected one of PNG, JPEG" in refusal(tmp_path / "x.png"), kind
    for start in (
        b"8BPS\0\1",
        b"SIMPLE  =                    T",
        b"\xd7\xcd\xc6\x9a",
        b"<svg xmlns=''/>",
        b"GRIB",
        b"\x89HDF",
    ):
        (tmp_path / "x.png").write_bytes(start + bytes(99))
        assert "expected one of PNG, JPEG" in refusal(tmp_path / "x.png")


@pytest.mark.parametrize("kind", FORMATS)
def test_chosen_formats_open_whatever_the_name(tmp_path, kind):
    noise().save(tmp_path / "x.txt", kind)
    assert open_image(tmp_path / "x.txt").size == (48, 32)


def test_heic_is_named_and_read_with_its_plug_in(tmp_path, monkeypatch):
    path = tmp_path / "x.jpg"
    for brand in (b"heic", b"mif1", b"hevc"):
        path.write_bytes(b"\0\0\0\x18ftyp" + brand + bytes(40))
        assert "is a HEIC picture" in refusal(path) and "pip install pillow-heif" in refusal(path)

    def open_heif(file, name):
        image = Image.new("RGB", (3, 2), "teal")
        image.format = "HEIF"
        return image

    def register_heif_opener():
        Image.register_open("HEIF", open_heif, lambda start: start[4:8] == b"ftyp")

    plugin = types.ModuleType("pillow_heif")
    plugin.register_heif_opener = register_heif_opener
    monkeypatch.setitem(sys.modules, "pillow_heif", plugin)
    picture_files.formats.cache_clear()
    try:
        assert open_image(path).size == (3, 2)
    finally:
        Image.OPEN.pop("HEIF", None)
        Image.ID.remove("HEIF")
        picture_files.formats.cache_clear()


# Files that do not end, or are damaged


def test_what_is_no_regular_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    os.symlink(tmp_path / "pipe.png", tmp_path / "link.png")
    os.symlink(tmp_path / "loop.png", tmp_path / "loop.png")
    server = socket.socket(socket.AF_UNIX)
    os.chdir(tmp_path)
    server.bind("socket.png")
    started = time.monotonic()
    for name in ("pipe.png", "link.png", "socket.png"):
        assert "is a pipe or a socket" in refusal(name)
    for name in ("/dev/zero", "/dev/null"):
        assert "is a device" in refusal(name)
    server.close()
    assert "is a folder" in refusal(tmp_path)
    assert "no such file" in refusal("none.png")
    for name in ("a\0b.png", "n" * 300, "loop.png", "pipe.png/x.png"):
        refusal(name)
    assert time.monotonic() - started < 1


def cut(kind: str) -> list[bytes]:
    data = saved(noise(), kind)
    return [data[: len(data) * k // 16] for k in range(16)]


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_cut_short_is_a_picture_or_one_line(kind):
    for data in cut(kind):
        try:
            assert opened(data).shape == (32, 48, 3)
        except ImageError as error:
            assert str(error).startswith("x ") and "\n" not in str(error)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*chunks: bytes, size=(4, 4)) -> bytes:
    """A grey PNG of this size with more chunks; only that of 4x4 has all its pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 0, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + header
        + b"".join(chunks)
        + chunk(b"IDAT", zlib.compress(bytes(20)))
        + chunk(b"IEND", b"")
    )


def test_large_texts_and_profiles_are_bounded():
    """Megabytes of zeros compress to nothing."""
    zeros = zlib.compress(bytes(20_000_000), 9)
    started = time.monotonic()
    for bomb in (
        [chunk(b"zTXt", b"minip2p\0\0" + zeros)],
        [chunk(b"iTXt", b"minip2p\0\1\0\0\0" + zeros)],
        [chunk(b"iCCP", b"x\0\0" + zeros)],
        [chunk(b"tEXt", b"minip2p\0" + bytes(1_000_000))] * 70,
    ):
        with pytest.raises(ImageError, match="x is damaged"):
            opened(png(*bomb))
    assert time.monotonic() - started < 2


def test_of_many_frames_and_pages_only_the_first_is_read():
    first, second = noise(), Image.new("RGB", (48, 32), "red")
    gif = saved(first, "GIF")
    frame = gif[gif.index(b",\0\0\0\0") : -1]
    many = gif[:-1] + 20_000 * frame + b";"
    started = time.monotonic()
    assert (opened(many) == opened(gif)).all()
    for kind in ("TIFF", "WEBP", "PNG"):
        more = {"lossless": True} if kind == "WEBP" else {}
        data = saved(first, kind, save_all=True, append_images=[second, first] * 20, **more)
        assert (opened(data) == np.asarray(first)).all(), kind
    assert time.monotonic() - started < 3


# Size


@pytest.mark.parametrize("size", [(13_300, 13_300), (8193, 8192), (1, 2**27), (2**31 - 1, 1)])
def test_too_many_pixels_are_refused_by_the_header(size):
    with pytest.raises(ImageError, match="the limit is 67 megapixels"):
        opened(png(size=size))


def test_a_large_jpeg_is_read_at_half_its_size(monkeypatch):
    monkeypatch.setattr(picture_files, "MAX_PIXELS", 4000)
    image = noise(100, 80)
    with pytest.warns(PictureWarning, match="x has 100 x 80 pixels; read as 50 x 40"):
        assert opened(saved(image, "JPEG")).shape == (40, 50, 3)
    for kind, more in (("JPEG", {"progressive": True}), ("PNG", {}), ("TIFF", {}), ("WEBP", {})):
        with pytest.raises(ImageError, match="100 x 80 pixels; the limit"):
            opened(saved(image, kind, **more))


def test_strips_make_no_difference(monkeypatch):
    data = [saved(noise(50, 40, "RGBA"), "PNG"), saved(noise(mode="L").convert("P"), "GIF"), p3_file(noise())]
    whole = [opened(each) for each in data]
    monkeypatch.setattr(colour, "STRIP", 100)
    assert all((opened(each) == before).all() for each, before in zip(data, whole))


# Depth


def tiff(values: np.ndarray) -> bytes:
    return saved(Image.fromarray(values), "TIFF")


def test_floats_are_from_0_to_1_and_are_never_guessed():
    ramp = np.linspace(0, 1, 48, dtype=np.float32)[None].repeat(3, 0)
    assert (opened(tiff(ramp))[..., 0] == np.rint(255 * ramp)).all()
    assert (opened(tiff(ramp / 100)) <= 3).all(), "a dark picture stays dark"
    assert (opened(tiff(ramp * np.float32(1.001))) - opened(tiff(ramp))).max() <= 1, "rounding is forgiven"
    for bad in (255 * ramp, 1.1 * ramp, ramp - 0.1, np.full_like(ramp, np.nan), np.full_like(ramp, np.inf)):
        with pytest.raises(ImageError, match="expected 0 to 1"):
            opened(tiff(bad.astype(np.float32)))


def test_whole_numbers_have_the_white_of_their_type():
    deep = np.array([[0, 257, 128 * 257, 65535]], dtype=np.uint16)
    assert opened(tiff(deep))[0, :, 0].tolist() == [0, 1, 128, 255]
    assert opened(tiff(deep // 257))[0, :, 0].tolist() == [0, 0, 0, 1], "a dark 16-bit picture is dark"
    negative = tiff(deep).replace(struct.pack("<HHIHH", 262, 3, 1, 1, 0), struct.pack("<HHIHH", 262, 3, 1, 0, 0))
    assert opened(negative)[0, :, 0].tolist() == [255, 254, 127, 0], "where 0 is white"
    with pytest.raises(ImageError, match="of which white is unknown"):
        opened(tiff(deep.astype(np.int32)))
    for top in (65535, 1023):
        ten = b"P5 4 1 %d\n" % top + (deep.astype(float) / 65535 * top).astype(">u2").tobytes()
        assert opened(ten)[0, :, 0].tolist()[::3] == [0, 255]


# Colour


def fixed(*values: float) -> bytes:
    return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(65536 * value)) for value in values)


def gamma(value: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IHxx", 1, round(256 * value))


P3 = np.array([[0.5151, 0.2920, 0.1571], [0.2412, 0.6922, 0.0666], [-0.0011, 0.0419, 0.7841]])
"""Display P3's primaries, adapted to D50, in columns"""
SRGB = np.array([[0.4361, 0.3851, 0.1431], [0.2225, 0.7169, 0.0606], [0.0139, 0.0971, 0.7141]])


def profile(space: bytes, tags: dict[bytes, bytes], connection: bytes = b"XYZ ") -> bytes:
    """An ICC profile (version 2.1)."""
    name = b"desc\0\0\0\0" + struct.pack(">I", 2) + b"x\0" + bytes(78)
    tags = {b"desc": name, b"cprt": b"text\0\0\0\0x\0\0\0", b"wtpt": fixed(0.9642, 1, 0.8249), **tags}
    table, body, start = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for tag, data in tags.items():
        data += bytes(-len(data) % 4)
        table += tag + struct.pack(">II", start + len(body), len(data))
        body += data
    head = struct.pack(
        ">I4xI4s4s4s", start + len(body), 0x02100000, b"prtr" if space == b"CMYK" else b"mntr", space, connection
    )
    head += bytes(12) + b"acsp" + bytes(28) + struct.pack(">iii", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + table + body


def p3_profile() -> bytes:
    tags = {b"rgb"[i : i + 1] + b"XYZ": fixed(*P3[:, i]) for i in range(3)}
    return profile(b"RGB ", tags | {letter + b"TRC": gamma(2.2) for letter in (b"r", b"g", b"b")})


def p3_file(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    return saved(image, kind, icc_profile=p3_profile(), **options)


def encoded(linear: np.ndarray) -> np.ndarray:
    """Linear light 0 ... 1 as levels of sRGB."""
    linear = linear.clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def in_srgb(pixels: np.ndarray) -> np.ndarray:
    """Display P3 (gamma 2.2) in sRGB, by their definitions."""
    return encoded((pixels / 255) ** 2.2 @ (np.linalg.inv(SRGB) @ P3).T)


def test_display_p3_is_shown_in_srgb():
    image = noise(64, 64)
    for kind, more in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True})):
        assert np.abs(opened(p3_file(image, kind, **more)) - in_srgb(np.asarray(image))).max() < 2, kind
    assert (opened(saved(image, "PNG")) == np.asarray(image)).all()
    red = opened(p3_file(Image.new("RGB", (1, 1), (200, 50, 50))))[0, 0]
    assert red[0] > 210 and red[1] < 40, "more colourful in sRGB's numbers"


def test_alpha_and_rotation_stay_with_a_profile():
    image, exif = noise(20, 10, "RGBA"), Image.Exif()
    exif[0x0112] = 6
    pixels = np.asarray(image)
    alpha = pixels[..., 3:] / 255
    expected = np.rot90(in_srgb(pixels[..., :3]) * alpha + 255 * (1 - alpha), -1)
    assert np.abs(opened(p3_file(image, exif=exif)) - expected).max() < 2
    palette = noise(mode="L").convert("P")
    assert np.abs(opened(p3_file(palette)) - in_srgb(np.asarray(palette.convert("RGB")))).max() < 2


@pytest.mark.parametrize("deep", [False, True])
def test_grey_with_a_profile(deep):
    """Linear grey: half of the light is 188 in sRGB. Grey pictures may have profiles of RGB, too."""
    ramp = np.arange(256, dtype=np.uint8)[None]
    image = Image.fromarray(ramp.astype(np.uint16) * 257 if deep else ramp)
    linear = profile(b"GRAY", {b"kTRC": gamma(1.0)})
    assert np.abs(opened(saved(image, "PNG", icc_profile=linear))[0, :, 0] - encoded(ramp[0] / 255)).max() <= 1
    found = opened(saved(image, "PNG", icc_profile=p3_profile()))[0, :, 0]
    assert np.abs(found - encoded((ramp[0] / 255) ** 2.2)).max() <= 2


def test_cmyk_with_a_profile():
    """A printer with four grey inks: the profile says so, a fixed formula would show cyan."""
    nodes = np.indices((2, 2, 2, 2)).reshape(4, -1)
    lab = np.stack([255 * (1 - nodes).prod(0), np.full(16, 128), np.full(16, 128)], -1).astype(np.uint8)
    same = bytes(range(256))
    matrix = b"".join(struct.pack(">i", 65536 * (i % 4 == 0)) for i in range(9))
    lut = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + matrix + 4 * same + lab.tobytes() + 3 * same
    data = {"icc_profile": profile(b"CMYK", {b"A2B0": lut}, b"Lab ")}
    for kind in ("TIFF", "JPEG"):
        for ink, grey in (((0, 0, 0, 0), 255), ((255, 0, 0, 0), 0), ((0, 0, 255, 0), 0)):
            shown = opened(saved(Image.new("CMYK", (8, 8), ink), kind, **data))[0, 0]
            assert np.abs(shown.astype(int) - grey).max() <= 3, (kind, ink)
    assert opened(saved(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "TIFF"))[0, 0].tolist() == [0, 255, 255]


def test_pictures_in_srgb_keep_every_pixel():
    own = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = noise(64, 64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (opened(saved(image, "PNG", icc_profile=own)) == np.asarray(image)).all()


@pytest.mark.parametrize("data", [b"junk", b"", bytes(200), p3_profile()[:200], profile(b"GRAY", {b"kTRC": gamma(1)})])
def test_a_profile_that_says_nothing_is_ignored_with_a_note(data):
    image = noise()
    if data == b"":
        assert (opened(saved(image, "PNG", icc_profile=data)) == np.asarray(image)).all()
        return
    with pytest.warns(PictureWarning, match="x: its colour profile was ignored"):
        assert (opened(saved(image, "PNG", icc_profile=data)) == np.asarray(image)).all()


def test_a_text_in_place_of_a_profile_is_ignored():
    """A PNG's text may have any name."""
    with pytest.warns(PictureWarning, match="ignored"):
        assert opened(png(chunk(b"tEXt", b"icc_profile\0words"))).shape == (4, 4, 3)
