"""Figures of the command line: colours, sizes, and texts that stay on the page."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFont

from minip2p.cli import figures
from minip2p.data import contact_sheet


def lightness(colours: np.ndarray) -> np.ndarray:
    """L of OKLab (Ottosson 2020) of colours 0 ... 255."""
    c = colours / 255
    c = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    lms = c @ np.array(
        [
            [0.4122214708, 0.2119034982, 0.0883024619],
            [0.5363325363, 0.6806995451, 0.2817188376],
            [0.0514459929, 0.1073969566, 0.6299787005],
        ]
    )
    return np.cbrt(lms) @ [0.2104542553, 0.7936177850, -0.0040720468]


def test_lightness_grows_evenly_with_the_value():
    values = np.linspace(0, 1, 101)
    seen = lightness(figures.heat(values[None])[0])
    assert np.abs(seen - (0.16 + 0.8 * values)).max() < 0.015 and (np.diff(seen) > 0).all()


def test_values_outside_are_clipped():
    assert (figures.heat(np.array([[-1.0, 0.0, 1.0, 2.0]]))[0] == figures.COLOURS[[0, 0, -1, -1]]).all()


LETTERS = st.text(st.characters(codec="latin-1", exclude_categories=["C"]), min_size=1, max_size=40)


@settings(max_examples=15)
@given(st.lists(LETTERS, min_size=1, max_size=20), st.integers(1, 3), st.booleans())
def test_nothing_leaves_the_page(labels, rows, wide):
    """Whatever the words and their number, the margins stay white."""
    picture = Image.new("RGB", (48, 20) if wide else (20, 48), "black")
    ones = [np.ones((2, 3))] * rows
    columns = [(label, ones) for label in labels]
    figure = figures.attention_figure(
        " ".join(labels), "below " * 20, {"a": picture}, [("64 x 64", False)] * rows, columns
    )
    page = np.asarray(figure.convert("L")).copy()
    assert page.min() < 128
    m = contact_sheet.MARGIN - 4  # letters may lean a little over their start
    page[m:-m, m:-m] = 255
    assert (page == 255).all()


@given(st.lists(LETTERS, max_size=12).map(" ".join), st.integers(30, 400))
def test_wrapped_lines_fit_and_lose_nothing(text, width):
    font = ImageFont.load_default(17)
    lines = contact_sheet.wrapped(text, font, width)
    assert all(font.getlength(line) <= width for line in lines)
    assert "".join("".join(lines).split()) == "".join(text.split())


@given(LETTERS | LETTERS.map("{}\nlast".format), st.integers(30, 100))
def test_a_label_is_no_wider_than_its_cell(text, width):
    font = ImageFont.load_default(17)
    label, plain = contact_sheet.shortened(text, font, width), " ".join(text.split())
    assert font.getlength(label) <= width and (label == plain or plain.startswith(label.removesuffix("...")))
