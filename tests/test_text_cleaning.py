"""Texts that are not read as they stand: cut ones are said to be, and ftfy's repairs are a word of the tokenizer."""

import importlib.util
import json
import sys
import types
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import small_pipeline
from helpers_cli import edit
from PIL import Image

import minip2p
from minip2p.cli import main
from minip2p.evaluation.metrics import similarities
from minip2p.text.bpe import BPE
from minip2p.text.cleaning import TextWarning, ftfy, note_of_cut, repaired
from minip2p.text.learn import learn_bpe

CURLY, FULL_WIDTH, MOJIBAKE = "a “red” cat’s house", "ｒｅｄ cat", "the cafÃ© at night"
STRAIGHT = {CURLY: 'a "red" cat\'s house', FULL_WIDTH: "red cat", MOJIBAKE: "the café at night"}


@pytest.fixture
def stub(monkeypatch):
    """A module `ftfy` that repairs these texts as ftfy does."""
    monkeypatch.setitem(sys.modules, "ftfy", types.SimpleNamespace(fix_text=lambda text: STRAIGHT.get(text, text)))


@pytest.fixture
def no_ftfy(monkeypatch):
    monkeypatch.setitem(sys.modules, "ftfy", None)


@pytest.fixture(scope="module")
def bpe():
    return BPE.clip(max_length=8)


@pytest.fixture(scope="module")
def whole():
    return BPE.clip()


def said(call) -> list[str]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always", TextWarning)
        call()
    return [str(each.message) for each in found if issubclass(each.category, TextWarning)]


@pytest.mark.parametrize(
    "text, lost",
    [
        ("one two three four five six", None),
        ("one two three four five six seven eight", "seven eight"),
        ("  ONE, two,  three; four five!", "four five!"),
        ("é é é é é é \u0065\u0301 night", "\u0065\u0301 night"),
    ],
)
def test_a_text_that_is_cut_is_said_to_be_with_the_part_that_is_lost(bpe, text, lost):
    """A letter may be several characters; the part is that of the text as given."""
    notes = said(lambda: bpe.warn([text]))
    assert len(notes) == (lost is not None) and all(repr(lost) in note and "6 tokens" in note for note in notes)


@pytest.fixture(scope="module")
def cuts():
    """Models whose tokenizer has room for 14 tokens."""
    words = learn_bpe(["make it a very dark night"], vocab_size=400, max_length=16)
    kinds = {"editor": 8, "text-to-image": 4}
    return {kind: replace(small_pipeline(channels), tokenizer=words) for kind, channels in kinds.items()}


LONG = "make it a very dark night by the sea with seven boats and a lighthouse far away"
GREY = Image.new("RGB", (32, 32), "grey")
VERBS = {
    "edit": lambda pipes, text: pipes["editor"].edit(GREY, text, steps=1),
    "generate": lambda pipes, text: pipes["text-to-image"].generate(text, steps=1),
    "negative": lambda pipes, text: pipes["text-to-image"].generate("a", negative=text, steps=1),
    "sdedit": lambda pipes, text: pipes["text-to-image"].sdedit(GREY, text, steps=2),
    "pair": lambda pipes, text: pipes["text-to-image"].generate_pair("a", text, steps=1),
    "invert": lambda pipes, text: pipes["text-to-image"].invert(GREY, text, steps=1, method="ddim"),
}


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_that_takes_a_text_says_what_is_cut(cuts, verb):
    (note,) = set(said(lambda: VERBS[verb](cuts, LONG)))
    assert "cut to 14 tokens" in note and "far away" in note
    assert said(lambda: VERBS[verb](cuts, "night")) == []


def test_scoring_says_which_captions_are_cut():
    clip = minip2p.load_clip()
    long = "a red boat " * 60
    notes = said(lambda: similarities(clip, [GREY], [GREY], ["a red boat"], [long]))
    assert len(notes) == 1 and "a red boat" in notes[0].partition("lost: ")[2]


@pytest.mark.parametrize("text", STRAIGHT)
def test_ftfy_is_a_word_and_ids_are_those_of_the_repaired_text(stub, whole, text):
    ours = replace(whole, cleaning="ftfy")
    assert ours.encode(text) == whole.encode(STRAIGHT[text]) != whole.encode(text)
    assert BPE.from_dict(ours.to_dict()) == ours and "cleaning" not in whole.to_dict()
    assert said(lambda: ours.warn([text])) == [] and "ftfy" in said(lambda: whole.warn([text]))[0]


def test_offsets_of_a_repaired_text_are_those_of_the_text_as_given(stub, whole):
    ours = replace(whole, cleaning="ftfy")
    for text, words in {CURLY: ["red", "cat", "house"], MOJIBAKE: ["café", "night"], FULL_WIDTH: ["cat"]}.items():
        spans = [text[i:j] for i, j in ours.offsets(text)]
        assert all(word in spans or "cafÃ©" in "".join(spans) for word in words)
    assert repaired("plain", "none") == ("plain", list(range(5)), list(range(1, 6)))
    result, starts, ends = repaired(MOJIBAKE, "ftfy")
    at = result.index("é")
    assert MOJIBAKE[starts[at] : ends[at]] == "Ã©"


def test_a_plain_text_is_read_as_it_is_and_nothing_is_said(whole):
    assert said(lambda: whole.warn(["make it 5 o'clock"])) == []
    assert said(lambda: whole.warn(["café für Æon 夜 кот"])) == []


def test_ftfy_that_is_not_installed_is_one_line_before_anything_runs(no_ftfy):
    with pytest.raises(ValueError, match="pip install ftfy"):
        minip2p.load(text_cleaning="ftfy")
    with pytest.raises(ValueError, match="text cleaning 'FTFY': expected none or ftfy"):
        minip2p.load(text_cleaning="FTFY")
    with pytest.raises(ValueError, match="a tokenizer of your own"):
        minip2p.load(tokenizer=lambda texts: None, text_cleaning="none")


@pytest.mark.skipif(importlib.util.find_spec("ftfy") is None, reason="ftfy is not installed")
@pytest.mark.parametrize("text", STRAIGHT)
def test_the_stub_repairs_as_ftfy_does(text):
    assert ftfy(text) == STRAIGHT[text]


def test_the_command_line_prints_each_as_one_note(here, capsys):
    assert edit(text=f"{LONG} “tonight”") == 0
    cut, repair = [line for line in capsys.readouterr().err.splitlines() if "note: the text" in line]
    assert "is cut to" in cut and "tonight”'" in cut and "--text-cleaning" not in cut and "ftfy" in repair


def write_texts(folder: Path, texts: list[str]) -> Path:
    for i, text in enumerate(texts):
        (folder / f"{i:07d}").mkdir(parents=True)
        (folder / f"{i:07d}" / "prompt.json").write_text(json.dumps({"input": "a", "edit": text, "output": text}))
        for side in (0, 1):
            Image.new("RGB", (32, 32), (50 * side, 9 * i, 0)).save(folder / f"{i:07d}" / f"7_{side}.png")
    return folder


def test_what_a_set_loses_is_one_line(bpe):
    texts = ["one two three four five six"] * 5 + ["one two three four five six seven eight"] * 3 + [None, ""]
    assert note_of_cut(texts, bpe) == (f"3 of 10 texts are cut to 6 tokens, e.g. {texts[5]!r}; lost: 'seven eight'")
    assert note_of_cut(["é" * 3, "1 2 3 4 5 6 ½", "夜" * 9], bpe).startswith("2 of 3 texts")
    assert note_of_cut(texts[:5], bpe) == note_of_cut([], bpe) == note_of_cut(texts, lambda texts: None) == ""


def test_short_and_equal_texts_of_a_set_are_not_tokenized(bpe, monkeypatch):
    seen = []
    monkeypatch.setattr(BPE, "offsets", lambda self, text: seen.append(text) or [])
    note_of_cut([f"night {i % 7}" * (i % 2) for i in range(100_000)] + ["one", "a boat"] * 1000, bpe)
    assert len(seen) == 7


@pytest.mark.slow
def test_the_verbs_that_read_a_set_say_it_once(here, capsys, cuts):
    write_texts(here / "set", [LONG + " and on" * 30] * 3 + ["make it night"] * 37)
    minip2p.save(cuts["editor"], here / "cut.safetensors")
    words = ["--weights", "cut.safetensors", "--size", "32", "--resize", "32", "32", "--crops", "1", "--flip", "no"]
    train = ["--init-from", "cut.safetensors", "--set", "size=32", "resize=(32,32)", "held_out=0", "train.ema=0"]
    for command, room in {
        ("import", "--data", "set", "--output", "own"): 75,
        ("check", "set"): 75,
        ("precompute", "--data", "set", "--output", "latents", *words): 14,
        ("train", "editor", "--data", "set", *train, "--steps", "1", "--batch-size", "1", "--out", "run"): 14,
        (
            "train",
            "editor",
            "--data",
            "latents",
            *train[:3],
            "size=32",
            "held_out=0",
            "--steps",
            "1",
            "--out",
            "run2",
        ): 14,
    }.items():
        assert main(list(command)) == 0, command
        out, err = capsys.readouterr()
        if command[0] == "check":
            assert "cut by CLIP      3: " in out and "captions cut     3: " in out and "not read: " in out
            continue
        lines = [line for line in err.splitlines() if f"texts are cut to {room} tokens, e.g. 'make it a" in line]
        assert len(lines) == 1 and "lost: '" in lines[0] and "and on" in lines[0], command
        assert lines[0].split(" texts")[0].endswith("3 of 40" if command[0] != "import" else "6 of 120")


@pytest.mark.parametrize("cleaning", ["none", "ftfy"])
def test_info_says_which_cleaning_a_checkpoints_tokenizer_is_taken_for(here, capsys, cuts, stub, cleaning):
    pipe = cuts["editor"]
    pipe = replace(pipe, tokenizer=replace(pipe.tokenizer, cleaning=cleaning))
    minip2p.save(pipe, here / "a.safetensors")
    minip2p.save(replace(pipe, tokenizer=replace(pipe.tokenizer, cleaning="none")), here / "folder", "diffusers")
    for weights, word in {"a.safetensors": cleaning, "folder": "none"}.items():
        assert main(["info", "--weights", weights]) == 0
        line = next(
            line
            for line in capsys.readouterr().out.splitlines()
            if line.startswith("  text cleaning") or line.startswith("text cleaning")
        )
        assert line.split()[2].rstrip(";") == word and "ftfy" in line
