"""`minip2p attention`: what its figure shows, what it records, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFont
from test_cli import files, here, pixels, weights  # noqa: F401 (fixtures are taken by name)

import minip2p
from minip2p.cli import heatmaps, main
from minip2p.control.observe import Record
from minip2p.text.align import positions


def attention(*words: str, text="make it night", output="out.png") -> int:
    """`minip2p attention` with the editor's weights; words come last and win."""
    given = ["--input", "in.png", "--edit", text, "--weights", "editor.safetensors"]
    if "--prompt" in words:
        given = ["--weights", "painter.safetensors"]
    return main(["attention", *given, "--output", output, "--steps", "2", *words])


def cell(figure: np.ndarray, column: int, row: int, columns: int, rows: int, size=(192, 144), foot=heatmaps.FOOT):
    """Pixels of one heat map of a figure of one block, counted from its right and lower border."""
    x = figure.shape[1] - heatmaps.MARGIN - (columns - column) * (size[0] + heatmaps.GAP) + heatmaps.GAP
    y = figure.shape[0] - heatmaps.MARGIN - (rows - row) * (size[1] + foot + heatmaps.GAP) + heatmaps.GAP
    return figure[y : y + size[1], x : x + size[0]]


# What it shows


def test_the_figure_is_the_record_over_the_edited_picture(here, capsys):
    assert attention("--seed", "5", "--from", "0.5") == 0
    out, err = capsys.readouterr()
    figure, pipe, record = pixels("out.png"), minip2p.load("editor.safetensors"), Record(during=(0.5, 1))
    assert out.startswith(f"out.png: {figure.shape[1]}x{figure.shape[0]}; of all attention ") and "step/s" in err
    result = pipe.edit("in.png", "make it night", steps=2, seed=5, control=[record])
    large = heatmaps.enlarged(result, (192, 144))
    for i, word in enumerate(("make", "it", "night")):
        tokens = positions(pipe.tokenizer, "make it night", word)
        for j, (shape, size) in enumerate((((24, 32), None), ((6, 8), (6, 8)), ((3, 4), (3, 4)))):
            values = record.word(tokens, shape, size)[0].numpy()
            expected = heatmaps.overlay(large, values / values.max(), smooth=size is None)
            assert (cell(figure, i, j, 3, 3) == np.asarray(expected)).all(), (word, size)
    left = figure[:, heatmaps.MARGIN : heatmaps.MARGIN + 192]
    assert sum((left[y : y + 144] == np.asarray(large)).all() for y in range(500)) == 1  # the edited picture itself


def test_one_scale_for_all_words_and_only_the_mean(here):
    assert attention("--scale", "all", "--average", "--words", "night", "make it", "--place", "mid", "up") == 0
    pipe, record = minip2p.load("editor.safetensors"), Record(places=("mid", "up"))
    large = heatmaps.enlarged(pipe.edit("in.png", "make it night", steps=2, control=[record]), (192, 144))
    tokens = [positions(pipe.tokenizer, "make it night", word) for word in ("night", "make it")]
    maps = [record.word(each, (24, 32))[0].numpy() for each in tokens]
    top, figure = max(x.max() for x in maps), pixels("out.png")
    y = figure.shape[0] - heatmaps.MARGIN - (heatmaps.HEAD + 144) - heatmaps.GAP  # two pictures at the left are higher
    for i, values in enumerate(maps):
        x = figure.shape[1] - heatmaps.MARGIN - (2 - i) * (192 + heatmaps.GAP) + heatmaps.GAP
        rows = [figure[at : at + 144, x : x + 192] for at in range(y - 144, y)]
        assert any((row == np.asarray(heatmaps.overlay(large, values / top))).all() for row in rows)


def test_a_place_is_marked_and_shows_where_it_looks(here):
    assert attention("--at", "9,5", "30,20") == 0
    pipe, record = minip2p.load("editor.safetensors"), Record(kind="self")
    large = heatmaps.enlarged(pipe.edit("in.png", "make it night", steps=2, control=[record]), (192, 144))
    values = record.looks((9.5 / 32, 5.5 / 24), (3, 4), (3, 4))[0].numpy()
    expected = np.asarray(heatmaps.overlay(large, values / values.max(), smooth=False))
    found = cell(pixels("out.png"), 0, 2, 2, 3)
    differs = (found != expected).any(-1)
    y, x = np.nonzero(differs)
    assert 0.004 < differs.mean() < 0.01
    assert (x.min() + x.max()) / 2 == 57 and (y.min() + y.max()) / 2 == 33  # six times 9.5 and 5.5


def test_a_prompt_is_painted(here, capsys):
    assert attention("--prompt", "a red house, a blue house", "--resolution", "16", "--cell", "64", "--ends") == 0
    assert pixels("out.png").shape[1] >= heatmaps.NARROWEST
    seen = json.loads(Image.open("out.png").info["minip2p"])
    assert seen["attention"]["prompt"] == "a red house, a blue house" and seen["attention"]["text_scale"] == 7.5
    assert "input" not in seen["attention"] and seen["weights"]["path"] == "painter.safetensors"
    assert attention("--prompt", "a red house", "--low-memory", "--sampler", "heun", "--pixels", "16") == 0


def test_what_the_model_does_not_read_is_told(here, capsys):
    assert attention(text="make it night " * 6) == 0
    assert "minip2p: note: the model reads no more than 14 tokens; cut off: " in capsys.readouterr().err


def test_the_figure_carries_how_it_was_made(here):
    assert attention("--seed", "5", output="deep/out.png") == 0
    seen = json.loads(Image.open("deep/out.png").info["minip2p"])
    assert seen["attention"]["input"]["path"] == "../in.png" and len(seen["attention"]["input"]["sha256"]) == 64
    assert (seen["attention"]["edit"], seen["attention"]["seed"]) == ("make it night", 5)
    assert seen["weights"]["fingerprint"] == minip2p.load("editor.safetensors").fingerprint
    assert attention("--seed", "5", output="again.png") == 0
    assert (pixels("again.png") == pixels("deep/out.png")).all()


# What it refuses


@pytest.mark.parametrize(
    "words, expected",
    [
        (["--prompt", "x", "--edit", "y"], "leave out --input and --edit"),
        (["--steps", "0"], "steps 0"),
        (["--cell", "5"], "cell 5: expected 16 to 2048"),
        (["--text-scale", "0"], "text scale 0.0: the network never reads the text"),
        (["--edit", "  "], "the text is empty"),
        (["--edit", "?!"], "'?!' has no words; --ends shows"),
        (["--words", "day"], "'day' is not in the prompt 'make it night'; its words are: make, it, night"),
        (["--at", "3"], "--at '3': expected x,y"),
        (["--at", "3,-1"], "--at '3,-1': expected x,y"),
        (["--at", "32,0"], "--at 32,0 is outside of the picture, which has 32x24 pixels"),
        (["--at", "3,3", "--ends"], "choose one"),
        (["--from", "0.5", "--to", "0.5"], "from 0.5 to 0.5 of a run of 2 steps there is none"),
        (["--to", "2"], "during 2.0: expected a number from 0 to 1"),
        (["--pixels", "1"], "nothing was recorded"),
        (["--place", "top"], "'top'"),
        (["--sampler", "magic"], "unknown sampler 'magic'"),
        (["--input", "nope.png"], "nope.png: no such file"),
        (["--output", "in.png"], "output in.png is the input"),
        (["--output", "out.doc"], "unknown ending '.doc'"),
        (["--weights", "nope.safetensors"], "nope.safetensors"),
        (["--weights", "painter.safetensors"], "it paints from text and cannot edit"),
        (["--prompt", "x", "--weights", "editor.safetensors"], "it edits pictures and cannot paint"),
    ],
)
def test_mistakes_are_one_line(here, capsys, words, expected):
    before = files()
    assert attention(*words) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("minip2p: error: ") and expected in error and files() == before


def test_something_to_see_is_needed(here, capsys):
    assert main(["attention", "--output", "x.png"]) == 2
    assert "expected --input PICTURE --edit" in capsys.readouterr().err


def test_words_are_checked_before_weights_are_loaded(here, capsys):
    assert attention("--words", "day", "--weights", "nope.safetensors") == 2
    assert "'day' is not in the prompt" in capsys.readouterr().err


# The drawing


def lightness(colours: np.ndarray) -> np.ndarray:
    """L of OKLab (Ottosson 2020) of colours 0 ... 255."""
    c = colours / 255
    c = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    lms = c @ np.array([[0.4122214708, 0.2119034982, 0.0883024619], [0.5363325363, 0.6806995451, 0.2817188376],
                        [0.0514459929, 0.1073969566, 0.6299787005]])  # fmt: skip
    return np.cbrt(lms) @ [0.2104542553, 0.7936177850, -0.0040720468]


def test_lightness_grows_evenly_with_the_value():
    values = np.linspace(0, 1, 101)
    seen = lightness(heatmaps.heat(values[None])[0])
    assert np.abs(seen - (0.16 + 0.8 * values)).max() < 0.015 and (np.diff(seen) > 0).all()


def test_values_outside_are_cut():
    assert (heatmaps.heat(np.array([[-1.0, 0.0, 1.0, 2.0]]))[0] == heatmaps.COLOURS[[0, 0, -1, -1]]).all()


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(16, 400))
def test_cells_are_whole_multiples_of_small_pictures(width, height, most):
    size = heatmaps.cell_size((width, height), most)
    if max(width, height) <= most:
        assert size[0] % width == size[1] % height == 0 and most <= max(size) < 2 * most
    else:
        assert max(size) == most


LETTERS = st.text(st.characters(codec="latin-1", exclude_categories=["C"]), min_size=1, max_size=40)


@settings(max_examples=15)
@given(st.lists(LETTERS, min_size=1, max_size=20), st.integers(1, 3), st.booleans(), st.integers(1, 2), st.booleans())
def test_nothing_leaves_the_page(labels, rows, own_scale, pictures, wide):
    """Whatever the words and their number, the margins stay white."""
    picture = Image.new("RGB", (48, 20) if wide else (20, 48), "black")
    ones = [np.ones((2, 3))] * rows
    text = heatmaps.Text(" ".join(labels), "below " * 20, "own " * 20, "common " * 20, "{:.3f}".format)
    figure = heatmaps.draw(
        text, [("input", picture)] * pictures, [heatmaps.Row("64 x 64", False)] * rows,
        [heatmaps.Column(label, ones) for label in labels], own_scale=own_scale, cell=50,
    )  # fmt: skip
    page = np.asarray(figure.convert("L")).copy()
    assert page.min() < 128
    m = heatmaps.MARGIN - 4  # letters may lean a little over their start
    page[m:-m, m:-m] = 255
    assert (page == 255).all()


@given(st.lists(LETTERS, max_size=12).map(" ".join), st.integers(30, 400))
def test_wrapped_lines_fit_and_lose_nothing(text, width):
    font = ImageFont.load_default(17)
    lines = heatmaps.wrapped(text, font, width)
    assert all(font.getlength(line) <= width for line in lines)
    assert "".join("".join(lines).split()) == "".join(text.split())


@given(LETTERS, st.integers(30, 100))
def test_a_label_is_no_wider_than_its_cell(text, width):
    font = ImageFont.load_default(17)
    label = heatmaps.shortened(text, font, width)
    assert font.getlength(label) <= width and (label == text or text.startswith(label.removesuffix("...")))


@given(st.integers(1, 60))
def test_columns_are_broken_evenly(n):
    blocks = heatmaps._blocks(n, heatmaps.WIDEST)
    lengths = [len(range(n)[block]) for block in blocks]
    assert sum(lengths) == n and max(lengths) == lengths[0] <= heatmaps.WIDEST
    assert len(blocks) == -(-n // heatmaps.WIDEST)
