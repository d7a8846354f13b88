"""A user's mistake is one line and status 2, and nothing is written; a bug keeps its traceback."""

import errno
import json
import os
import re
from pathlib import Path

import pytest
from helpers_cli import edit, files

from minip2p.cli import LESS_MEMORY, in_words, main
from minip2p.cli import edit as edit_verb

pytestmark = pytest.mark.usefixtures("here")


def mistakes() -> dict[str, tuple[list[str], str]]:
    """Name -> words of the command, and a part of the error."""
    Path("empty").mkdir()
    Path("text").write_text("no picture")
    Path("short").write_bytes(Path("in.png").read_bytes()[:60])
    Path("foreign.safetensors").write_bytes(os.urandom(200))
    return {
        "missing file": (["--input", "nope.png"], "nope.png: no such file"),
        "folder without pictures": (["--input", "empty"], "no images in this folder"),
        "glob that matches nothing": (["--input", "nope*.png"], "no file matches"),
        "no picture": (["--input", "text"], "text is not a picture"),
        "truncated": (["--input", "short"], "short is damaged"),
        "steps": (["--steps", "0"], "steps 0"),
        "steps in a grid": (["--grid", "steps=1,0"], "steps 0"),
        "seed": (["--seed", "-1"], "seed -1"),
        "huge seed": (["--seed", "9" * 30], "seed"),
        "resolution": (["--resolution", "0"], "resolution 0"),
        "NaN": (["--text-scale", "nan"], "text scale nan"),
        "negative": (["--image-scale", "-1"], "image scale -1"),
        "infinite in a grid": (["--grid", "text-scale=1,inf"], "text scale inf"),
        "three axes": (["--grid", "seed=1", "steps=1", "text-scale=1"], "one or two"),
        "unknown axis": (["--grid", "colour=1"], "expected NAME=VALUE"),
        "words in a grid": (["--grid", "seed=a"], "expected numbers"),
        "sampler": (["--sampler", "magic"], "unknown sampler 'magic'"),
        "spacing": (["--spacing", "wide"], "unknown spacing 'wide'"),
        "no weights": (["--weights", "nope.safetensors"], "nope.safetensors"),
        "foreign weights": (["--weights", "foreign.safetensors"], "foreign.safetensors"),
        "picture as weights": (["--weights", "in.png"], "in.png"),
        "four inputs": (["--weights", "text2image.safetensors"], "channels"),
        "config": (["--config", "unet.colour=red"], "unet.colour"),
        "device": (["--device", "abacus"], "abacus"),
        "ending": (["--output", "out.doc"], "unknown ending '.doc'"),
        "no ending": (["--output", "out"], "unknown ending"),
        "below a file": (["--output", "in.png/out.png"], "not a directory"),
        "over the input": (["--output", "in.png"], "is an input"),
        "folder into a file": (["--input", ".", "--output", "x.png"], "need a folder"),
        "unknown option": (["--setps", "3"], "unknown option --setps 3; did you mean --steps"),
        "not a number": (["--steps", "many"], "--steps 'many': expected a number"),
        "choice": (["--fit", "bend"], "'bend'"),
        "unquoted": (["--edit", "make", "it", "night"], "in quotes"),
    }


def test_mistakes_are_one_line(capsys):
    cases = mistakes()
    good = {"--input": "in.png", "--edit": "x", "--output": "out.png", "--weights": "editor.safetensors"}
    before = files()
    for name, (words, expected) in cases.items():
        given = [word for word in words if word.startswith("--")]
        rest = [word for option, value in good.items() if option not in given for word in (option, value)]
        status = main(["edit", *rest, *words])
        lines = capsys.readouterr().err.splitlines()  # a progress bar may come first
        assert status == 2, name
        assert lines[-1].startswith("minip2p: error: ") and expected in lines[-1], f"{name}: {lines}"
        assert not any("Traceback" in line for line in lines), name
        assert files() == before, name


@pytest.mark.parametrize(
    "words, expected",
    [
        (["paint"], "unknown verb 'paint'"),
        (["tiny", "paint"], "unknown verb 'paint'; there are scene"),
        (["edit"], "missing --input PATH, --output PATH"),
        (["edit", "--input", "in.png", "--output", "x.png"], "missing --edit"),
        (["tiny", "scene", "--output", "x.png", "--size", "1"], "size 1"),
        (["convert", "--weights", "editor.safetensors", "--output", "in.png"], "exists already"),
        (
            ["convert", "--weights", "editor.safetensors", "--output", "x.safetensors", "--widen"],
            "'text-to-image' is needed",
        ),
        (["train"], "missing {editor,text2image"),
        (["train", "editor", "--steps", "0"], "train.steps = 0"),
        (["tiny", "evaluate", "--weights", "editor.safetensors", "--number", "0"], "number 0"),
    ],
)
def test_mistakes_of_other_verbs(capsys, words, expected):
    before = files()
    assert main(words) == 2
    error = capsys.readouterr().err
    assert expected in error and error.count("\n") == 1 and files() == before


def test_a_full_disk_leaves_no_partial_file(capsys, monkeypatch):
    def full(path, data):
        with open(path, "wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = files()
    monkeypatch.setattr(Path, "write_bytes", full)
    assert edit() == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == "minip2p: error: out.png: cannot be written: no space left on device" and files() == before


def test_a_bug_keeps_its_traceback(monkeypatch):
    def broken(*_, **__):
        return json.loads("{")  # a ValueError, but out of a library

    monkeypatch.setattr(edit_verb, "make", broken)
    with pytest.raises(json.JSONDecodeError):
        edit()
    monkeypatch.setenv("MINIP2P_DEBUG", "1")
    with pytest.raises(ValueError, match="nope.png"):
        edit(given="nope.png")


def test_too_little_memory_is_one_line():
    torchs = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ...")
    for error in (MemoryError(), torchs, OSError(12, "Cannot allocate memory"), RuntimeError("MPS out of memory")):
        assert "--low-memory" in in_words(error, "edit") and "train.micro_batch" in in_words(error, "train")
        assert in_words(error, "convert") == "out of memory; try a machine with more"
    assert in_words(RuntimeError("mat1 and mat2")) is None


@pytest.mark.parametrize("verb", LESS_MEMORY)
def test_advice_on_memory_names_options_that_the_verb_has(verb, capsys):
    assert main([verb, "--help"]) == 0
    known = capsys.readouterr().out
    assert all(word in known for word in re.findall(r"--[\w-]+", LESS_MEMORY[verb]))


@pytest.mark.parametrize("length", [10, 2000, 2001, 100_000])
def test_an_error_is_printed_up_to_a_length(length, capsys):
    """A name or a word of a file may be of any length."""
    for words in (
        ["info", "--weights", "x" * length],
        ["edit", "--input", "x" * length, "--edit", "a", "--output", "b"],
    ):
        assert main(words) == 2
        printed = capsys.readouterr().err
        assert "x" * 10 in printed and len(printed) < 4500 and "Traceback" not in printed
