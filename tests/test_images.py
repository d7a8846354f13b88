"""Images: every kind opens as one sees it, the size rule is the authors', fitting is undone, errors are one line."""

import io
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from minip2p.data import images
from minip2p.data.images import ImageError, fit, fit_size, from_tensor, open_image, to_tensor

RAMP = np.arange(0, 256, 5, dtype=np.uint8)[None].repeat(3, 0)
side = st.integers(1, 3000)


def opened(image: Image.Image, kind: str = "PNG", **options) -> np.ndarray:
    """The image after saving and opening it."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return np.asarray(open_image(Image.open(file)))


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


# Opening


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "I;16", "F"])
def test_a_grey_ramp_of_any_depth_is_the_same_ramp(mode):
    deep = {"I;16": RAMP.astype(np.uint16) * 257, "F": RAMP.astype(np.float32) / 255}
    image = Image.fromarray(deep[mode]) if mode in deep else Image.fromarray(RAMP).convert(mode)
    kind = "TIFF" if mode == "F" else "PNG"
    assert (opened(image, kind) == RAMP[..., None]).all()


def test_one_bit_is_black_and_white():
    assert set(opened(Image.fromarray(RAMP).convert("1", dither=0)).ravel()) == {0, 255}


def test_sixteen_bit_files_are_scaled_not_cut(tmp_path):
    """Of the modes in which Pillow opens 16 bits, none must come out white."""
    deep = np.array([[0, 257, 128 * 257, 65535]], dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "a.png")
    (tmp_path / "a.pgm").write_bytes(b"P5 4 1 65535\n" + deep.astype(">u2").tobytes())
    for name in ("a.png", "a.pgm"):
        assert np.asarray(open_image(tmp_path / name))[0, :, 0].tolist() == [0, 1, 128, 255], name


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB", "L"])
def test_transparency_is_put_on_white(mode):
    """An alpha channel, a palette with a transparent entry, and a colour named as transparent."""
    grey = Image.new("L", (4, 1), 100)
    if mode in ("RGBA", "LA"):
        image = grey.convert(mode)
        image.putalpha(Image.fromarray(np.array([[0, 128, 255, 255]], dtype=np.uint8)))
        options = {}
    else:
        grey.paste(7, (0, 0, 1, 1))
        image = grey.convert(mode)
        options = {"transparency": {"RGB": (7, 7, 7), "L": 7}.get(mode, image.getpixel((0, 0)))}
    row = opened(image, **options)[0, :, 0].tolist()
    assert row[0] == 255 and row[2:] == [100, 100]
    assert row[1] == (177 if mode in ("RGBA", "LA") else 100)


def test_exif_rotation_is_applied():
    image = noise(6, 4)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    assert (opened(image, exif=exif) == np.asarray(image.transpose(Image.Transpose.ROTATE_270))).all()


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_is_ignored():
    image = noise(8, 8)
    assert opened(image, exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12").shape == (8, 8, 3)


def test_cmyk_and_the_first_frame_of_an_animation():
    cmyk = opened(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "TIFF")
    assert cmyk[0, 0].tolist() == [255, 0, 0]
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    assert opened(frames[0], "GIF", save_all=True, append_images=frames[1:])[0, 0].tolist() == [255, 0, 0]


def test_arrays():
    grey = RAMP / 255
    deep = RAMP.astype(np.uint16) * 257
    for array in (RAMP, RAMP[..., None], grey, grey.astype(np.float32), RAMP.astype(np.int64), deep):
        assert (np.asarray(open_image(array)) == RAMP[..., None]).all()
    assert np.asarray(open_image(np.array([[True, False]])))[0, :, 0].tolist() == [255, 0]
    assert np.asarray(open_image(np.dstack([RAMP, RAMP, RAMP, 0 * RAMP]))).min() == 255
    for bad in (
        np.zeros((2, 2, 2)),
        np.zeros((0, 4, 3)),
        np.zeros(3),
        -np.ones((2, 2)),
        np.full((2, 2), np.nan),
        np.full((2, 2), 255.0),
        np.full((2, 2), 1.01),
        np.full((2, 2), 256),
        np.full((2, 2), -1),
        np.ones((2, 2), complex),
        np.array([["a"]]),
    ):
        with pytest.raises(ImageError):
            open_image(bad)


def test_an_invalid_file_is_an_error_of_one_line_that_names_it(tmp_path):
    good, text, empty = tmp_path / "good.png", tmp_path / "text.png", tmp_path / "empty.png"
    noise(64, 64).save(good)
    text.write_text("not a picture")
    empty.touch()
    (tmp_path / "short.png").write_bytes(good.read_bytes()[:3000])
    noise(64, 64).save(tmp_path / "whole.jpg")
    (tmp_path / "short.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:1000])
    cases = {
        "none.png": "no such file",
        ".": "folder",
        "text.png": "not a picture",
        "empty.png": "not a picture",
        "short.png": "damaged",
        "short.jpg": "damaged",
    }
    for name, reason in cases.items():
        with pytest.raises(ImageError) as error:
            open_image(tmp_path / name)
        assert str(tmp_path / name) in str(error.value) and reason in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(ImageError, match="NoneType"):
        open_image(None)


def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path, monkeypatch):
    image = noise(40, 40)
    image.save(tmp_path / "big.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_image(tmp_path / "big.png").size == (40, 40)  # over the warning's limit, below the error's
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ImageError, match="over 200 pixels"):
        open_image(tmp_path / "big.png")


@given(data=st.binary(max_size=200), at=st.integers(0, 400))
def test_damaged_files_give_a_picture_or_an_image_error(tmp_path_factory, data, at):
    file = io.BytesIO()
    noise(8, 8).save(file, "PNG")
    path = tmp_path_factory.getbasetemp() / "damaged.png"
    path.write_bytes(file.getvalue()[:at] + data + file.getvalue()[at + len(data) :])
    try:
        assert open_image(path).mode == "RGB"
    except ImageError as error:
        assert "\n" not in str(error) and str(path) in str(error)


def test_opening_leaves_a_given_picture_alone():
    image = noise(4, 4).convert("RGBA")
    before = image.tobytes()
    open_image(image)
    assert image.mode == "RGBA" and image.tobytes() == before


# Size and fit


@pytest.mark.parametrize(
    "given_, expected",
    [((768, 512), (576, 384)), ((1920, 1080), (512, 320)), ((300, 419), (384, 512)), ((9, 9), (512, 512))],
)
def test_published_sizes(given_, expected):
    assert fit_size(*given_, resolution=512, multiple=64) == expected


@given(side, side, st.integers(1, 16).map(lambda n: 64 * n))
def test_the_size_rule_is_the_authors(width, height, resolution):
    """Their formula on numbers, wherever it neither vanishes nor runs away."""
    f = resolution / max(width, height)
    f = math.ceil(min(width, height) * f / 64) * 64 / min(width, height)
    theirs = [int((n * f) // 64) * 64 for n in (width, height)]
    ours = fit_size(width, height, resolution, 64)
    assert all(n % 64 == 0 and 64 <= n <= 2 * resolution for n in ours)
    if min(theirs) > 0 and max(theirs) <= 2 * resolution:
        assert list(ours) == theirs


@pytest.mark.parametrize("size", [(1, 1), (1500, 1500), (8000, 1), (1, 8000), (3, 2)])
def test_extreme_pictures_fit(size):
    chosen = fit_size(*size, resolution=512, multiple=64)
    assert max(chosen) <= 1024
    for how in images.FITS:
        fitted = fit(Image.new("RGB", size, "teal"), chosen, how)
        assert fitted.image.size == chosen and fitted.restore(fitted.image).size == size
        assert fitted.image.getcolors() == [(chosen[0] * chosen[1], (0, 128, 128))]


def test_a_picture_of_8000_pixels_a_side(tmp_path):
    Image.new("1", (8000, 8000), 1).save(tmp_path / "wide.png")
    image = open_image(tmp_path / "wide.png")
    assert image.size == (8000, 8000) and fit_size(*image.size, 512, 64) == (512, 512)
    assert fit(image, (64, 64)).image.getcolors() == [(64 * 64, (255, 255, 255))]


@pytest.mark.parametrize("bad", [(0, 5, 512, 64), (5, 5, 0, 64), (5, 5, -1, 64), (5, 5, 51.5, 64), (5, 5, True, 64)])
def test_invalid_sizes_are_refused(bad):
    with pytest.raises(ValueError, match="whole number of pixels"):
        fit_size(*bad)


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 6), st.integers(1, 6))
def test_crop_is_the_authors_fit(w, h, x, y):
    image, size = noise(w, h), (16 * x, 16 * y)
    fitted = fit(image, size, "crop")
    assert fitted.image.tobytes() == ImageOps.fit(image, size, method=Image.Resampling.LANCZOS).tobytes()
    left, top, right, bottom = fitted.taken
    assert 0 <= left < right <= w and 0 <= top < bottom <= h
    assert math.isclose((right - left) / (bottom - top), size[0] / size[1])


@given(st.integers(2, 90), st.integers(2, 90), st.sampled_from(sorted(images.FITS)))
def test_restoring_puts_everything_back_where_it_was(w, h, how):
    """An image of two flat halves: fitted and restored, its halves are where they were."""
    pixels = np.full((h, w, 3), 40, dtype=np.uint8)
    pixels[:, w // 2 :] = 200
    fitted = fit(Image.fromarray(pixels), (256, 256), how)
    back = fitted.restore(fitted.image)
    assert back.size == (w, h)
    away = np.abs(np.arange(w) + 0.5 - w // 2) > 2  # from the edge, where resampling blurs
    assert np.abs(np.asarray(back, dtype=int) - pixels)[:, away].max(initial=0) <= 12


def test_restoring_keeps_what_crop_left_out():
    image = noise(100, 40)
    fitted = fit(image, (64, 64), "crop")
    back = np.asarray(fitted.restore(Image.new("RGB", (64, 64), "red")))
    assert (back[:, 30:70] == [255, 0, 0]).all()
    assert (back[:, :30] == np.asarray(image)[:, :30]).all() and (back[:, 70:] == np.asarray(image)[:, 70:]).all()


def test_an_unknown_fit_is_refused():
    with pytest.raises(ValueError, match="'squeeze'; there are crop, pad, stretch"):
        fit(noise(4, 4), (8, 8), "squeeze")


# Tensors


def test_tensors_and_back():
    image = noise(5, 7)
    x = to_tensor(image)
    assert x.shape == (3, 7, 5) and x.dtype == torch.float32 and x.min() >= 0 and x.max() <= 1
    assert from_tensor(x).tobytes() == image.tobytes()
    theirs = 2 * torch.tensor(np.array(image)).float() / 255 - 1  # the authors' line
    assert torch.equal(2 * x - 1, theirs.permute(2, 0, 1))


def test_writing_rounds_or_truncates():
    x = torch.tensor([-1.0, 0.4999 / 255, 0.5001 / 255, 254.9 / 255, 2.0]).expand(3, 1, 5)
    assert np.asarray(from_tensor(x))[0, :, 0].tolist() == [0, 0, 1, 255, 255]
    assert np.asarray(from_tensor(x, truncate=True))[0, :, 0].tolist() == [0, 0, 0, 254, 255]
    with pytest.raises(ValueError, match="shape"):
        from_tensor(torch.zeros(1, 3, 4, 4))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_no_picture(value):
    """On every way from floats to a picture: one such value is enough."""
    for dtype in (torch.float16, torch.float32, torch.float64, torch.bfloat16):
        x = torch.zeros(3, 2, 2, dtype=dtype)
        x[1, 0, 1] = value
        with pytest.raises(ValueError, match="not finite"):
            from_tensor(x)
    for shape in ((2, 2), (2, 2, 3), (2, 2, 4)):
        array = np.zeros(shape, np.float32)
        array[0, 1] = value
        with pytest.raises(ImageError, match="expected 0 to 1"):
            open_image(array)
    with pytest.raises(ImageError, match="expected 0 to 1"):
        open_image(Image.fromarray(np.full((2, 2), value, np.float32)))


@pytest.mark.parametrize(
    "dtype", [np.float16, np.float32, np.float64, np.uint8, np.uint16, np.uint32, np.int16, np.int64]
)
def test_the_type_of_an_array_says_what_white_is(dtype):
    """Not its values: a dark picture stays dark, and rounding above white makes no other picture of it."""
    white = {"f": 1, "u": 65535 if dtype == np.uint16 else 255, "i": 255}[np.dtype(dtype).kind]
    bright, dark = np.full((2, 2, 3), white, dtype), (np.full((2, 2, 3), white / 100)).astype(dtype)
    assert np.asarray(open_image(bright)).min() == 255 and np.asarray(open_image(dark)).max() <= 3
    if white == 1:
        assert np.asarray(open_image(dtype(1.001) * bright)).min() == 255
        assert np.asarray(open_image(dtype(-0.001) * bright)).max() == 0
