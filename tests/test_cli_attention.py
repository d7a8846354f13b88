"""`minip2p attention`: what its figure shows, its metadata, and its errors."""

import json

import numpy as np
import pytest
from helpers_cli import files, pixels
from PIL import Image

import minip2p
from minip2p.cli import figures, main
from minip2p.control.record import Record
from minip2p.data import contact_sheet
from minip2p.text.align import positions

pytestmark = pytest.mark.usefixtures("here")


def attention(*words: str, text="make it night", output="out.png") -> int:
    """`minip2p attention` with the editor's weights; words come last and win."""
    given = ["--input", "in.png", "--edit", text, "--weights", "editor.safetensors"]
    if "--prompt" in words:
        given = ["--weights", "text2image.safetensors"]
    return main(["attention", *given, "--output", output, "--steps", "2", *words])


def cell(figure: np.ndarray, column: int, row: int, rows: int, size=(192, 144)):
    """Pixels of one heat map of a figure of one block, counted from its left and lower border."""
    x = contact_sheet.MARGIN + column * (size[0] + contact_sheet.GAP)
    y = figure.shape[0] - contact_sheet.MARGIN - size[1]
    y -= (rows - 1 - row) * (size[1] + contact_sheet.GAP + contact_sheet.HEAD + 20)
    return figure[y : y + size[1], x : x + size[0]]


# The figure


def test_the_figure_is_the_record_over_the_edited_picture(capsys):
    assert attention("--seed", "5", "--from", "0.5") == 0
    out, err = capsys.readouterr()
    figure, pipe, record = pixels("out.png"), minip2p.load("editor.safetensors"), Record(during=(0.5, 1))
    assert out == f"out.png: {figure.shape[1]}x{figure.shape[0]}\n" and "step/s" in err
    result = pipe.edit("in.png", "make it night", steps=2, seed=5, control=[record])
    large = contact_sheet.resized(result, (192, 144))
    for i, word in enumerate(("make", "it", "night")):
        tokens = positions(pipe.tokenizer, "make it night", word)
        for j, (shape, size) in enumerate((((24, 32), None), ((6, 8), (6, 8)), ((3, 4), (3, 4)))):
            values = record.word(tokens, shape, size)[0].numpy()
            expected = figures.overlay(large, values / values.max(), smooth=size is None)
            assert (cell(figure, i, j, 3) == np.asarray(expected)).all(), (word, size)
    left = figure[:, contact_sheet.MARGIN + 202 : contact_sheet.MARGIN + 202 + 192]
    assert sum((left[y : y + 144] == np.asarray(large)).all() for y in range(500)) == 1  # the edited picture itself


def test_words_and_phrases():
    assert attention("--words", "night", "make it") == 0
    pipe, record = minip2p.load("editor.safetensors"), Record()
    large = contact_sheet.resized(pipe.edit("in.png", "make it night", steps=2, control=[record]), (192, 144))
    maps = [
        record.word(positions(pipe.tokenizer, "make it night", word), (24, 32))[0].numpy()
        for word in ("night", "make it")
    ]
    rows = 1 + len(record.maps())
    for i, values in enumerate(maps):
        expected = np.asarray(figures.overlay(large, values / values.max()))
        assert (cell(pixels("out.png"), i, 0, rows) == expected).all()


def test_a_prompt_is_generated(capsys):
    assert attention("--prompt", "a red house, a blue house", "--resolution", "16") == 0
    assert pixels("out.png").shape[1] > 3 * 192  # a, red, house
    seen = json.loads(Image.open("out.png").info["minip2p"])
    assert seen["prompt"] == "a red house, a blue house" and seen["text_scale"] == 7.5
    assert "input" not in seen and seen["weights"]["path"] == "text2image.safetensors"
    assert attention("--prompt", "a red house", "--low-memory", "--sampler", "heun") == 0


def test_words_that_the_model_does_not_read_are_named(capsys):
    assert attention(text="make it night " * 6) == 0
    assert "is cut to 14 tokens; lost: " in capsys.readouterr().err


def test_the_figure_holds_metadata():
    assert attention("--seed", "5", output="deep/out.png") == 0
    seen = json.loads(Image.open("deep/out.png").info["minip2p"])
    assert seen["input"]["path"] == "../in.png" and len(seen["input"]["sha256"]) == 64
    assert (seen["edit"], seen["seed"]) == ("make it night", 5)
    assert seen["weights"]["fingerprint"] == minip2p.load("editor.safetensors").fingerprint
    assert attention("--seed", "5", output="again.png") == 0
    assert (pixels("again.png") == pixels("deep/out.png")).all()


# Errors


@pytest.mark.parametrize(
    "words, expected",
    [
        (["--prompt", "x", "--edit", "y"], "expected --input IMAGE --edit"),
        (["--steps", "0"], "steps 0"),
        (["--text-scale", "0"], "nothing was recorded"),
        (["--edit", "  "], "has no words"),
        (["--edit", "?!"], "'?!' has no words"),
        (["--words", "day"], "'day' is not in the prompt 'make it night'; its words are: make, it, night"),
        (["--from", "0.5", "--to", "0.5"], "no step of 2 lies in the part from 0.5 to 0.5"),
        (["--to", "2"], "during 2.0: expected a number from 0 to 1"),
        (["--sampler", "magic"], "unknown sampler 'magic'"),
        (["--input", "nope.png"], "nope.png: no such file"),
        (["--output", "in.png"], "output in.png is the input"),
        (["--output", "out.doc"], "unknown ending '.doc'"),
        (["--weights", "nope.safetensors"], "nope.safetensors"),
        (["--weights", "text2image.safetensors"], "'editor' is needed"),
        (["--prompt", "x", "--weights", "editor.safetensors"], "'text-to-image' is needed"),
    ],
)
def test_mistakes_are_one_line(capsys, words, expected):
    before = files()
    assert attention(*words) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("minip2p: error: ") and expected in error and files() == before


def test_a_text_is_needed(capsys):
    assert main(["attention", "--output", "x.png"]) == 2
    assert "expected --input IMAGE --edit" in capsys.readouterr().err
