"""Many pictures, and where results go: names, own and foreign files, what cannot be written; what is printed."""

import errno
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import write_pairs
from helpers_cli import edit, files, pixels
from PIL import Image

from minip2p.cli import TINY_VERBS, VERBS, main, metadata
from minip2p.cli import edit as edit_verb
from minip2p.cli.jobs import output_name, plan
from minip2p.cli.printing import plain, say
from minip2p.data.pair_files import AUTHORS
from minip2p.tinyworld.scenes import sample_edit

pytestmark = pytest.mark.usefixtures("here")


def pictures(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        kind = {".jfif": "JPEG", ".jpe": "JPEG"}.get(Path(name).suffix)
        Image.open("in.png").save(name, kind)


def planned(given: str, output: str = "out", **options) -> dict[str, str]:
    """Input -> output."""
    return {str(job.input): str(job.output) for job in plan(given, ["x"], output, **options)}


def table(*rows: dict) -> str:
    Path("t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return "t.jsonl"


# Inputs


def test_every_format_of_a_folder_is_read_and_what_is_skipped_is_said(capsys):
    names = [f"a.{ending}" for ending in "jfif avif JPG jpe webp gif tiff bmp ppm png pgm".split()]
    pictures(*(f"p/{name}" for name in names))
    for name in ("._a.jpg", "notes.txt", ".DS_Store", "b.svg"):
        Path(f"p/{name}").write_bytes(b"\0\5\x16\7")
    Path("p/inner.png").mkdir()
    assert sorted(planned("p")) == sorted(f"p/{name}" for name in names)
    err = capsys.readouterr().err
    assert (
        err == "minip2p: note: skipped 5 that are no picture files: .DS_Store, ._a.jpg, b.svg, inner.png/, notes.txt\n"
    )


def test_broken_pictures_stop_a_batch_before_it_starts_or_are_named(capsys):
    pictures("p/a.png", "p/b.png", "p/late.png")
    Path("p/cut.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    Path("p/no.png").write_text("words")
    Path("p/phone.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(20))
    whole = Path("p/a.png").read_bytes()
    Path("p/late.png").write_bytes(whole[: len(whole) // 2])  # behind a good header
    assert edit(given="p", output="out", steps="1") == 2
    assert "3 of 6 are broken; mend them, or leave out what is broken by --skip-broken" in capsys.readouterr().err
    assert not Path("out").exists()
    assert edit("--skip-broken", given="p", output="out", steps="1") == 0
    err = capsys.readouterr().err
    assert re.findall(r"minip2p: skipped: (\S+)", err) == ["p/cut.jpg", "p/no.png", "p/phone.heic", "p/late.png"]
    assert "HEIC" in err and sorted(os.listdir("out")) == ["a.png", "b.png"]
    assert edit("--skip-broken", given="p/cut.jpg", output="x.png") == 2, "a single picture is not left out"


def test_brackets_are_a_pattern_only_where_there_is_no_such_file():
    pictures("a[1].png", "d[1]/b.png", "d[1]/c.jpg", "x1.png", "deep/er/e.png")
    assert planned("a[1].png", "out.png") == {"a[1].png": "out.png"}
    assert planned("d[1]") == planned("d[1]/*") == {"d[1]/b.png": "out/b.png", "d[1]/c.jpg": "out/c.jpg.png"}
    assert planned("x[0-9].png") == {"x1.png": "out/x1.png"}
    assert planned("deep/**/*.png") == {"deep/er/e.png": "out/er/e.png"}, "folders below stay apart"
    for pattern in ("y[1].png", "d[1]/*.gif"):
        with pytest.raises(ValueError, match="no file matches"):
            plan(pattern, ["x"], "out")


@pytest.mark.parametrize("words", [("", "out.png"), ("in.png", "")])
def test_an_unset_variable_is_not_the_working_directory(words, capsys):
    assert edit(given=words[0], output=words[1]) == 2
    assert "is empty; expected a path" in capsys.readouterr().err


# Names


def test_names_depend_on_the_input_alone():
    names = ["a.png", "a.jpg", "a.PNG", "a.jpg.png", "a.png.png", "a.jpeg", "a.b.png", "a.jpg.webp", "A.png"]
    outputs = [str(output_name(Path(name))) for name in names]
    assert outputs[:4] == ["a.png", "a.jpg.png", "a.PNG", "a.jpg.png.png"]
    assert len(set(outputs)) == len(names)
    pictures("p/a.png", "p/b.jpg")
    before = planned("p")
    pictures("p/a.jpg", "p/a.gif", "p/b.png")
    assert before.items() <= planned("p").items()


def test_lines_of_a_table_have_names_of_their_own():
    rows = [{"input": "in.png", "edit": "x"}, {"input": "in.png", "edit": "y"}, {"input": "in.png", "seed": 1}]
    pictures("p/in.png")
    one = [job.output for job in plan(table(*rows), ["x"], "out")]
    two = [job.output for job in plan(table({"input": "p/in.png"}, *rows[::-1]), ["x"], "out")]
    assert one == two[:0:-1] and len({*one, *two}) == 4
    with pytest.raises(ValueError, match="named for several images"):
        plan(table(rows[0], rows[0]), "x", "out")


@pytest.mark.parametrize(
    "name",
    [
        "../x.png",
        "a/../../x.png",
        "/tmp/x.png",
        "C:\\x.png",
        "c:x.png",
        "\\\\host\\x.png",
        "a\\x.png",
        "con.png",
        "a/NUL",
    ]
    + ["com1.tar.png", "x.png.", "a//x.png", "a\nx.png", "a?.png", "link/x.png", "\0.png"],
)
def test_a_tables_outputs_stay_in_the_output_folder(name):
    Path("out").mkdir()
    os.symlink("..", "out/link")
    with pytest.raises(ValueError, match=r"t.jsonl, line 1: (output|'output')|inside of the output folder"):
        plan(table({"input": "in.png", "output": name}), "x", "out")
    [job] = plan(table({"input": "in.png", "output": "./night/x.png"}), "x", "out")
    assert job.output == Path("out/night/x.png")


# Own files, foreign files


def test_results_are_no_inputs(capsys):
    pictures("p/a.jpg", "p/b.webp")
    for _ in range(3):
        assert edit(given="p", output="p", steps="1") == 0
        assert sorted(os.listdir("p")) == ["a.jpg", "a.jpg.png", "b.webp", "b.webp.png"]
    err = capsys.readouterr().err
    assert "skipped 2 that lie in the output folder and were made by minip2p: a.jpg.png, b.webp.png" in err
    assert planned("**/*.*", "p") == {"in.png": "p/in.png", "p/a.jpg": "p/p/a.jpg.png", "p/b.webp": "p/p/b.webp.png"}
    assert sorted(planned("p", "next")) == ["p/a.jpg", "p/a.jpg.png", "p/b.webp", "p/b.webp.png"], "edited once more"
    pictures("p/c.png")
    with pytest.raises(ValueError, match="output p/c.png is an input"):
        plan("p", "x", "p")


OUTPUTS = {
    "edit": ("--output", "foreign.png", "--overwrite"),
    "generate": ("--output", "foreign.png", "--overwrite"),
    "sdedit": ("--output", "foreign.png", "--overwrite"),
    "pair": ("--output", "foreign.png", "--overwrite"),
    "invert": ("--output", "foreign.png", "--overwrite"),
    "attention": ("--output", "foreign.png", "--overwrite"),
    "show": ("--output", "foreign.png", "--overwrite"),
    "check": ("--output", "foreign.png", "--overwrite"),
    "tiny scene": ("--output", "foreign.png", "--overwrite"),
    "filter": ("", "units/seeds.json", "--overwrite"),
    "convert": ("--output", "foreign.png", None),
    "instructions": ("--output", "words.jsonl", None),
    "instructions ": ("--output words.jsonl", "words.run.json", None),
    "instructions  ": ("--output words.jsonl", "words.refused.jsonl", None),
    "import": ("--output out", "out/seeds.json", None),
    "pairs": ("--output out", "out/run.json", None),
    "evaluate": ("--output out", "out/summary.md", None),
    "evaluate ": ("--output out", "out/figure.png", None),
    "ablate": ("--output out", "out/table.md", None),
    "ablate ": ("--output out", "out/figure.png", None),
    "precompute": ("--output out", "out/precomputed.json", None),
    "precompute ": ("--output out", "out/00000000.tar", None),
    "train vae": ("--out out", "out/model.safetensors", None),
    "train vae ": ("--out out", "out/config.json", None),
    "train vae  ": ("--out out", "out/log.jsonl", None),
    "tiny make-data": ("--output out", "out/report.md", None),
    "tiny make-data ": ("--output out", "out/captions.txt", None),
    "tiny rebuild": ("--output out", "out/editor.safetensors", None),
    "tiny reproduce": ("--output out", "out/report.md", None),
}
"""verb -> its output option, a foreign file that it would write over, and the option that allows it"""
NEEDS = {
    "edit": "--input in.png --edit x --weights editor.safetensors",
    "sdedit": "--input in.png --prompt x",
    "pair": "--prompt x --edited-prompt x",
    "invert": "--input in.png --prompt x",
    "show": "made.png --again",
    "check": "units",
    "filter": "units",
    "convert": "--weights editor.safetensors",
    "instructions": "--captions captions.txt",
    "import": "--data units",
    "pairs": "--prompts prompts.jsonl",
    "precompute": "--data units",
    "evaluate": "--data units --split all",
    "ablate": "--variant x:dropout=0",
}


@pytest.mark.parametrize("verb", OUTPUTS)
def test_no_verb_writes_over_a_foreign_file(verb, capsys):
    """Neither before nor after its work: the file is as it was, and the line names it."""
    option, name, allowed = OUTPUTS[verb]
    write_pairs(Path("units"), [sample_edit(np.random.default_rng(0))], lambda scene: Image.open("in.png"))
    Path("captions.txt").write_text("a red boat\n")
    Path("prompts.jsonl").write_text('{"input": "a red boat", "edit": "make it blue", "output": "a blue boat"}\n')
    assert edit(output="made.png", steps="1") == 0
    foreign = Path(name)
    foreign.parent.mkdir(exist_ok=True)
    foreign.write_text('[["0000000", [7]]]')
    option = option if " " in option or not option else f"{option} {name}"
    command = f"{verb} {NEEDS.get(verb.strip(), '' if ' ' in verb.strip() else '--prompt x')} {option}".split()
    before = files()
    capsys.readouterr()
    assert main(command) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert foreign.name in error and ("--overwrite" in error) == (allowed is not None), error
    assert foreign.read_text() == '[["0000000", [7]]]' and files() == before


def test_the_table_of_outputs_has_all_verbs():
    without = {"info", "attention", "app", "tiny", "tiny evaluate"}
    verbs = {*VERBS, *(f"tiny {verb}" for verb in TINY_VERBS)} - without
    assert verbs <= {verb.strip().removesuffix(" vae") for verb in OUTPUTS}


@pytest.mark.parametrize("words", ["check units --output sheet.png", "filter units"])
def test_what_is_ours_is_written_again(words):
    write_pairs(Path("units"), [sample_edit(np.random.default_rng(0))], lambda scene: Image.open("in.png"))
    Path("units/0000000/metadata.jsonl").write_text(json.dumps({"seed": 7} | dict.fromkeys(AUTHORS[1:], 0.5)))
    foreign = Path("units/seeds.json" if "filter" in words else "sheet.png")
    foreign.write_text("[]")
    assert main(words.split()) == 2 and foreign.read_text() == "[]"
    assert main([*words.split(), "--overwrite"]) == main(words.split()) == 0 and foreign.read_bytes() != b"[]"


def test_foreign_files_are_replaced_where_asked_and_own_ones_always():
    Image.open("in.png").save("out.png")
    assert edit("--overwrite", steps="1") == edit("--seed", "1", steps="1") == 0
    assert metadata.read(Path("out.png"))["seed"] == 1
    assert edit(given=".", output=".", steps="1") == 2
    Path("out").mkdir()
    Path("out/in.png").write_bytes(Path("in.png").read_bytes())
    with pytest.raises(ValueError, match="out/in.png is a file that minip2p did not make"):
        plan(table({"input": "in.png", "output": "in.png"}), "x", "out")
    assert planned("i*.png", overwrite=True) == {"in.png": "out/in.png"}


def test_what_a_killed_run_left_is_removed_and_nothing_else():
    left = [".out.png.a1b2c3d4.part", ".out.png.zzzzzzzz.part"]
    others = [".other.png.a1b2c3d4.part", ".out.png.part.txt", "out.png.part", ".out.jpg.12345678.part"]
    for name in left + others:
        Path(name).write_text("x")
    assert edit(steps="1") == 0
    assert not set(left) & files() and set(others) <= files()
    for verb in (
        ["tiny", "scene"],
        ["generate", "--prompt", "x", "--weights", "text2image.safetensors", "--steps", "1"],
    ):
        Path(left[0]).write_text("x")
        assert main([*verb, "--output", "out.png"]) == 0 and left[0] not in files()


# What cannot be written is found before anything is sampled


@pytest.fixture
def no_sampling(monkeypatch):
    def make(*_):
        raise AssertionError("sampled")

    monkeypatch.setattr(edit_verb, "make", make)


@pytest.mark.parametrize(
    "output, text, said",
    [
        ("n" * 245 + ".png", "x", "file name too long"),
        ("n" * 300 + ".png", "x", "file name too long"),
        ("d" * 300 + "/x.png", "x", "file name too long"),
        ("in.png/x.png", "x", "in.png is a file, not a directory"),
        ("in.png/deep/x.png", "x", "in.png is a file, not a directory"),
        ("pipe.png", "x", "is no file"),
        ("folder.png/x.gif", "x", "unknown ending '.gif'"),
        ("out.jpg", "night " * 12_000, "cannot be written as JPEG: EXIF data is too long"),
        ("out.png", "night " * 40_000, "letters of metadata"),
        ("out.png", "night \ud800", "half a character"),
        ("out.jpg", "night \udcff", "half a character"),
        ("out.webp", "\udfff", "half a character"),
    ],
)
def test_what_cannot_be_written_is_found_before_sampling(no_sampling, capsys, output, text, said):
    os.mkfifo("pipe.png")
    before = files()
    assert edit(text=text, output=output) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and files() == before


def test_what_a_format_cannot_hold_is_found_before_sampling(no_sampling, capsys):
    Image.new("RGB", (17_000, 2)).save("wide.png")
    assert edit("--keep-size", given="wide.png", output="out.webp") == 2
    assert "output out.webp cannot be written as WEBP: encoding error 5" in capsys.readouterr().err


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_a_disk_that_takes_nothing_is_found_before_sampling(no_sampling, capsys, monkeypatch, code):
    def refuse(*_, **__):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    monkeypatch.setattr("tempfile._mkstemp_inner", refuse)
    assert edit() == 2
    assert f"output out.png cannot be written: {os.strerror(code).lower()}" in capsys.readouterr().err


# Names and texts on the terminal


def test_control_characters_never_reach_the_terminal(capsys):
    hostile = "a\x1b[2J\x07\n\r\t\x9b31m\u202egnp\u2066\u2028\ufeff\x7f\ud800"
    shown = plain(hostile)
    assert shown.isprintable() and "\\u001b[2J" in shown and "\\u202e" in shown
    assert plain("мир 世界 é ☃ 👩‍🚀 'x'") == "мир 世界 é ☃ 👩‍🚀 'x'"
    say(hostile, hostile, error=True)
    assert capsys.readouterr().err == f"{shown}\n{shown}\n"
    name = "b\x1b[31m\u202e\n.png"
    Path(name).write_text("x")
    assert edit(given=name) == edit(output=name + "\x1b.doc") == main(["show", name]) == main([name]) == 2
    err = capsys.readouterr().err
    assert not set(err) & set("\x1b\u202e\x07\r") and err.count("\n") == 4
    pictures(name)
    assert edit(given=name, output="c" + name, steps="1") == 0 and main(["show", "c" + name]) == 0
    out, err = capsys.readouterr()
    assert not set(out + err) & set("\x1b\u202e\x07")


def test_names_that_are_no_text_are_read_written_and_recorded():
    given, output = (os.fsdecode(name) for name in (b"i\xffn.png", b"o\xff.png"))
    pictures(given)
    assert edit(given=given, output=output, steps="1") == edit(given=given, output="out.jpg", steps="1") == 0
    assert metadata.read(Path(output))["input"]["path"] == metadata.read(Path("out.jpg"))["input"]["path"] == "i?n.png"
    assert abs(pixels(output) - pixels("out.jpg").astype(float)).mean() < 20
    assert main(["show", output, "--again", "--input", given]) == 0


def test_notes_of_the_library_are_lines(capsys):
    Image.open("in.png").save("odd.png", icc_profile=b"junk")
    assert edit(given="odd.png", steps="1") == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if "colour profile" in line]
    assert len(notes) == 1 and notes[0].startswith("minip2p: note: odd.png: its colour profile was ignored")


@pytest.mark.parametrize("verb", ["convert", "convert --layout diffusers", "train", "info"])
def test_weights_need_a_path_in_utf8(verb, capsys):
    """The library writes safetensors to any path, and reads none that is not UTF-8."""
    name = os.fsdecode(b"w\xff")
    if verb == "info":
        Path(name).write_bytes(Path("editor.safetensors").read_bytes())
    commands = {"train": ["train", "vae", "--preset", "tiny", "--out", name], "info": ["info", "--weights", name]}
    before = files()
    assert main(commands.get(verb, [*verb.split(), "--weights", "editor.safetensors", "--output", name])) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "\\udcff" in error and "weights need a path in UTF-8" in error and files() == before
