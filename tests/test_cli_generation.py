"""generate, sdedit, pair, invert: they give what the pipeline gives, and the result can be made again."""

from pathlib import Path

import numpy as np
import pytest
from helpers_cli import files, pixels
from PIL import Image

import minip2p
from minip2p.cli import main, metadata
from minip2p.control import LocalBlend, Refine, Replace, Reweight
from minip2p.data import contact_sheet

pytestmark = pytest.mark.usefixtures("here")

NIGHT, DAY = "make it night", "make it day"
FEW = ["--weights", "text2image.safetensors", "--steps", "2"]


@pytest.fixture
def text2image():
    return minip2p.load("text2image.safetensors")


def again(path: str) -> int:
    return main(["show", path, "--again"])


def test_generate_is_what_the_pipeline_gives(text2image, capsys):
    words = [
        "--prompt",
        NIGHT,
        "--seed",
        "5",
        "--scale",
        "3",
        "--negative",
        "day",
        "--size",
        "48",
        "32",
        "--output",
        "a.png",
    ]
    assert main(["generate", *FEW, *words]) == 0
    expected = text2image.generate(NIGHT, seed=5, scale=3.0, negative="day", size=(48, 32), steps=2)
    assert (pixels("a.png") == np.asarray(expected)).all()
    assert capsys.readouterr().out == "a.png: 48x32\n"
    assert again("a.png") == 0
    assert "the pixels are equal" in capsys.readouterr().out


def test_sheets_of_prompts_and_grids(text2image, capsys):
    assert main(["generate", *FEW, "--prompt", NIGHT, DAY, "x", "--grid", "seed=0,1", "--output", "a.png"]) == 0
    assert "a sheet of 6 images" in capsys.readouterr().out
    assert main(["generate", *FEW, "--prompt", NIGHT, "--grid", "seed=0,1", "scale=1,2,3", "--output", "b.png"]) == 0
    assert main(["generate", *FEW, "--prompt", NIGHT, DAY, "--output", "c.png"]) == 0
    cell = np.asarray(text2image.generate("x", seed=1, steps=2)).repeat(6, 0).repeat(6, 1)
    big = pixels("a.png")
    y, x = big.shape[0] - contact_sheet.MARGIN - cell.shape[0], big.shape[1] - contact_sheet.MARGIN - cell.shape[1]
    assert (big[y : y + cell.shape[0], x : x + cell.shape[1]] == cell).all(), "the last cell"
    for name in ("a.png", "b.png", "c.png"):
        assert again(name) == 0


def test_sdedit_is_what_the_pipeline_gives(text2image, capsys):
    words = ["--input", "in.png", "--prompt", NIGHT, "--strength", "0.5", "--keep-size", "--output", "a.png"]
    assert main(["sdedit", *FEW, *words]) == 0
    assert (pixels("a.png") == np.asarray(text2image.sdedit("in.png", NIGHT, 0.5, steps=2, keep_size=True))).all()
    assert main(["sdedit", *FEW, *words, "--grid", "strength=0,0.5,1", "--output", "b.png"]) == 0
    assert again("a.png") == again("b.png") == 0
    Image.new("RGB", (48, 32)).save("in.png")
    assert again("a.png") == 2 and "in.png has changed" in capsys.readouterr().err


def test_a_pair_is_what_the_pipeline_gives(text2image):
    words = ["--prompt", NIGHT, "--edited-prompt", DAY, "--share", "0.7", "--output", "a.png"]
    assert main(["pair", *FEW, *words]) == 0
    source, edited = map(np.asarray, text2image.generate_pair(NIGHT, DAY, share=0.7, steps=2))
    both = pixels("a.png")
    assert both.shape == (32, 66, 3) and (both[:, :32] == source).all() and (both[:, -32:] == edited).all()
    assert again("a.png") == 0


@pytest.mark.parametrize(
    "words, control",
    [
        (["--control", "replace"], [Replace()]),
        (
            ["--control", "refine", "--cross", "0.2,0.6", "day=0.4", "--self", "0"],
            [Refine(cross=(0.2, 0.6), words={"day": 0.4}, self=0.0)],
        ),
        (["--control", "replace", "--reweight", "day=-2"], [Replace(), Reweight({"day": -2.0})]),
        (
            ["--control", "refine", "--blend", "night", "day", "--subtract", "it", "--threshold", "0.5"],
            [Refine(), LocalBlend(["night", "day"], subtract=["it"], threshold=0.5)],
        ),
    ],
)
def test_controls_are_those_of_the_pipeline(text2image, words, control):
    command = ["pair", *FEW, "--steps", "4", "--prompt", NIGHT, "--edited-prompt", DAY, "--output", "a.png"]
    assert main([*command, *words]) == 0
    _, edited = text2image.generate_pair(NIGHT, DAY, share=0.0, steps=4, control=control)
    assert (pixels("a.png")[:, -32:] == np.asarray(edited)).all()
    assert again("a.png") == 0


def test_sheets_of_pairs(text2image, capsys):
    words = ["--prompt", NIGHT, "--edited-prompt", DAY, "--output", "a.png"]
    assert main(["pair", *FEW, *words, "--grid", "share=0,0.5", "seed=0,1"]) == 0
    assert main(["pair", *FEW, *words[:-1], "b.png", "--reweight", "day=1", "--grid", "weight=-1,1,3"]) == 0
    assert "a sheet of 4 pairs" in capsys.readouterr().out
    assert again("a.png") == again("b.png") == 0


@pytest.mark.parametrize("method", ["ddim", "negative_prompt", "null_text"])
def test_inversion_reconstructs_and_edits(text2image, capsys, method):
    words = ["--input", "in.png", "--prompt", NIGHT, "--edited-prompt", DAY, "--method", method, "--inner", "1"]
    assert main(["invert", *FEW, *words, "--state", "state.safetensors", "--output", "a.png"]) == 0
    assert "PSNR of the reconstruction" in capsys.readouterr().out
    assert Path("state.safetensors").exists() and again("a.png") == 0
    assert main(["invert", *FEW, *words[:4], "--method", method, "--inner", "1", "--output", "b.png"]) == 0
    assert pixels("b.png").shape[1] < pixels("a.png").shape[1], "without an edit there is one picture less"


def test_an_image_holds_its_metadata(text2image):
    words = ["--prompt", NIGHT, "--edited-prompt", DAY, "--output", "a.webp", "--control", "replace"]
    assert main(["pair", *FEW, *words]) == 0
    r = metadata.read(Path("a.webp"))
    assert (r["verb"], r["control"], r["share"], r["scale"]) == ("pair", ["replace"], 0.0, 7.5)
    assert r["weights"]["fingerprint"] == text2image.fingerprint and "output" not in r


GENERATE = ["generate", *FEW, "--prompt", NIGHT, "--output", "a.png"]
SDEDIT = ["sdedit", *FEW, "--input", "in.png", "--prompt", NIGHT, "--output", "a.png"]
PAIR = ["pair", *FEW, "--prompt", NIGHT, "--edited-prompt", DAY, "--output", "a.png"]
INVERT = ["invert", *FEW, "--input", "in.png", "--prompt", NIGHT, "--output", "a.png"]


@pytest.mark.parametrize(
    "words, said",
    [
        ([*GENERATE, "--steps", "0"], "steps 0"),
        ([*GENERATE, "--scale", "nan"], "scale nan"),
        ([*GENERATE, "--size", "30"], "multiples of 8 pixels"),
        ([*GENERATE, "--size", "wide"], "--size 'wide'"),
        ([*GENERATE, "--sampler", "magic"], "unknown sampler"),
        ([*GENERATE, "--output", "a.doc"], "unknown ending"),
        ([*GENERATE, "--grid", "share=1"], "with a name of scale, seed, steps"),
        ([*GENERATE, "--weights", "editor.safetensors"], "'text-to-image' is needed"),
        ([*SDEDIT, "--strength", "1.5"], "strength 1.5: expected a number from 0 to 1"),
        ([*SDEDIT, "--grid", "strength=0,2"], "strength 2"),
        ([*SDEDIT, "--input", "no.png"], "no such file"),
        ([*SDEDIT, "--output", "in.png"], "is the input"),
        ([*PAIR, "--share", "2"], "share 2"),
        ([*PAIR, "--grid", "share=0,2"], "share 2"),
        ([*PAIR, "--cross", "0.5"], "go with --control replace"),
        ([*PAIR, "--control", "replace", "refine"], "choose one"),
        ([*PAIR, "--control", "replace", "--cross", "1.5"], "1.5: expected a number from 0 to 1"),
        ([*PAIR, "--control", "replace", "--cross", "0.8,0.2"], "ends before it starts"),
        ([*PAIR, "--control", "replace", "--self", "all"], "--self 'all': expected a fraction of the steps"),
        ([*PAIR, "--control", "replace", "--edited-prompt", "make it a day"], "refine"),
        ([*PAIR, "--control", "replace", "--grid", "share=0,1"], "needs --control share"),
        ([*PAIR, "--reweight", "day"], "expected WORD=FACTOR"),
        ([*PAIR, "--reweight", "day=much"], "expected WORD=FACTOR"),
        ([*PAIR, "--reweight", "cat=2"], "'cat'"),
        ([*PAIR, "--grid", "weight=1,2"], "name the word by --reweight"),
        ([*PAIR, "--subtract", "it"], "--subtract goes with --blend"),
        ([*PAIR, "--blend", "a", "b", "c"], "expected one word, or two"),
        ([*PAIR, "--blend", "cat"], "'cat'"),
        ([*INVERT, "--negative", "x"], "leave it out"),
        ([*INVERT, "--inner", "0"], "inner 0"),
        ([*INVERT, "--learning-rate", "0"], "learning rate 0"),
        ([*INVERT, "--sampler", "euler"], "'euler'"),
    ],
)
def test_errors_are_one_line_and_nothing_is_written(capsys, words, said):
    before = files()
    assert main(words) == 2
    out, err = capsys.readouterr()
    line = err.splitlines()[-1]
    assert line.startswith("minip2p: error: ") and said in line, err
    assert files() == before
