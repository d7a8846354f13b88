"""The command line: what it makes, what it records; its mistakes are in test_cli_mistakes.py."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import small_pipeline
from PIL import Image

import minip2p
from minip2p.cli import main, recipe, sheet
from minip2p.text.bpe import BPE

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    """Small random models, saved: editor.safetensors, and painter.safetensors with 4 inputs."""
    folder = tmp_path_factory.mktemp("weights")
    words = BPE.learn(["make it night"], vocab_size=400, max_length=16)
    for channels, name in ((8, "editor"), (4, "painter")):
        minip2p.save(replace(small_pipeline(channels), tokenizer=words), folder / f"{name}.safetensors")
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch, weights) -> Path:
    """An empty working directory with in.png (48x32), the editor's and the painter's weights."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MINIP2P_DEBUG", raising=False)
    y, x = np.mgrid[:32, :48]
    Image.fromarray(np.stack([5 * x, 7 * y, 2 * (x + y)], -1).astype(np.uint8)).save("in.png")
    for name in ("editor", "painter"):
        os.symlink(weights / f"{name}.safetensors", f"{name}.safetensors")
    return tmp_path


def edit(*words: str, given="in.png", text="make it night", output="out.png", steps="2") -> int:
    """`minip2p edit` with the editor's weights; words come last and win."""
    command = ["edit", "--input", given, "--output", output, "--weights", "editor.safetensors", "--steps", steps]
    return main([*command, *(["--edit", text] if text is not None else []), *words])


def pixels(path: str | Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def files() -> set[str]:
    return {str(path) for path in Path().rglob("*")}


# What it makes


def test_edit_is_what_the_pipeline_gives(here, capsys):
    assert edit("--seed", "5", "--text-scale", "3") == 0
    expected = minip2p.load("editor.safetensors").edit("in.png", "make it night", steps=2, seed=5, text_scale=3.0)
    assert (pixels("out.png") == np.asarray(expected)).all()
    out, err = capsys.readouterr()
    assert out.startswith("out.png: 32x24; input 48x32") and "step/s" in err


def test_options_reach_the_pipeline(here):
    assert edit("--keep-size", output="kept.png") == 0
    assert pixels("kept.png").shape == (32, 48, 3)
    assert edit("--resolution", "16", "--fit", "stretch", "--low-memory", "--sampler", "ddim", output="small.webp") == 0
    expected = minip2p.load("editor.safetensors").edit(
        "in.png", "make it night", steps=2, resolution=16, fit="stretch", sampler="ddim", low_memory=True
    )
    assert (pixels("small.webp") == np.asarray(expected)).all()
    assert edit("--config", "sampling.resolution=16", output="changed.png") == 0
    assert pixels("changed.png").shape == pixels("small.webp").shape == (16, 24, 3)


def test_empty_instruction_gives_the_fitted_input(here, capsys):
    assert edit(text=" ") == 0
    assert "the instruction is empty" in capsys.readouterr().out
    assert (pixels("out.png") == np.asarray(minip2p.load("editor.safetensors").edit("in.png", ""))).all()


def test_output_folder_is_made(here):
    assert edit(output="new/deep/out.png") == 0
    assert Path("new/deep/out.png").is_file()
    Path("old").mkdir()
    assert edit(output="old") == 0
    assert Path("old/in.png").is_file()


@pytest.mark.parametrize("ending", ["jpg", "webp", "tif", "bmp"])
def test_formats_carry_the_recipe_or_say_so(here, capsys, ending):
    assert edit(output=f"out.{ending}") == 0
    said = capsys.readouterr().out
    if ending == "bmp":
        assert "no place for the recipe" in said
    else:
        assert recipe.read(Path(f"out.{ending}"))["instruction"] == "make it night"


def test_grid_cells_are_the_single_edits(here):
    assert edit("--grid", "text-scale=2,4,8", "image-scale=1,1.5", output="sheet.png") == 0
    big = pixels("sheet.png")
    for text_scale in ("2", "8"):
        assert edit("--text-scale", text_scale, "--image-scale", "1.5", output="one.png") == 0
        cell = pixels("one.png").repeat(6, 0).repeat(6, 1)  # 32 pixels enlarged to 192
        top = big.shape[0] - sheet.MARGIN - cell.shape[0]
        right = big.shape[1] - sheet.MARGIN - (202 * 2 if text_scale == "2" else 0)
        assert (big[top : top + cell.shape[0], right - cell.shape[1] : right] == cell).all()


def test_grid_with_one_axis_is_broken_into_rows(here):
    assert edit("--grid", "seed=0,1,2,3,4,5", output="sheet.png", steps="1") == 0
    assert edit("--grid", "seed=0,1", output="short.png", steps="1") == 0
    assert pixels("sheet.png").shape[0] > pixels("short.png").shape[0]


# Many pictures


def test_folder_and_glob_are_resumed(here, capsys):
    Path("photos").mkdir()
    for name in ("a.png", "b.jpg", "b.png"):
        Image.open("in.png").save(f"photos/{name}")
    Path("photos/notes.txt").write_text("not a picture")
    assert edit(given="photos", output="made") == 0
    assert sorted(p.name for p in Path("made").iterdir()) == ["a.png", "b-1.png", "b-2.png"]
    Path("made/a.png").unlink()
    before = {p: p.stat().st_mtime_ns for p in Path("made").iterdir()}
    capsys.readouterr()
    assert edit(given="photos", output="made") == 0
    assert "2 of 3 are finished" in capsys.readouterr().err
    assert Path("made/a.png").is_file() and all(p.stat().st_mtime_ns == t for p, t in before.items())
    assert edit("--seed", "1", given="photos/b.*", output="made") == 0
    assert recipe.read(Path("made/b-1.png"))["seed"] == 1


def test_table(here, capsys):
    rows = [
        {"input": "in.png", "edit": "make it day", "seed": 3},
        {"input": "in.png", "output": "named.webp", "text_scale": 2},
    ]
    Path("sub").mkdir()
    Image.open("in.png").save("sub/in.png")
    Path("sub/table.jsonl").write_text("\n\n".join(map(json.dumps, rows)))
    assert edit(given="sub/table.jsonl", output="made") == 0
    one, two = recipe.read(Path("made/in.png")), recipe.read(Path("made/named.webp"))
    assert (one["instruction"], one["seed"], one["text_scale"]) == ("make it day", 3, 7.5)
    assert (two["instruction"], two["seed"], two["text_scale"]) == ("make it night", 0, 2)
    assert one["input"]["path"] == "../sub/in.png"
    assert edit(given="sub/table.jsonl", output="made") == 0
    assert "2 of 2 are finished" in capsys.readouterr().err


@pytest.mark.parametrize(
    "line, words",
    [
        ("{", "not JSON"),
        ("[1]", "expected an object"),
        ('{"input": "in.png", "edits": "x"}', "'edits'"),
        ('{"edit": "x"}', "'input' is missing"),
        ('{"input": "in.png", "edit": 5}', "expected a text"),
        ('{"input": "in.png", "edit": "x", "seed": 1.5}', "expected a whole number"),
        ('{"input": "in.png", "edit": "x", "text_scale": NaN}', "text scale nan"),
        ('{"input": "nope.png", "edit": "x"}', "nope.png: no such file"),
        ('{"input": "in.png", "edit": "x", "output": "x.doc"}', "unknown ending"),
    ],
)
def test_a_table_is_checked_before_anything_is_made(here, capsys, line, words):
    Path("table.jsonl").write_text('{"input": "in.png", "edit": "make it day"}\n' + line + "\n")
    before = files()
    assert edit(given="table.jsonl", text=None, output="made") == 2
    error = capsys.readouterr().err
    assert "table.jsonl, line 2: " in error and words in error and files() == before


# Recipes


def test_again_gives_the_same_pixels(here, capsys):
    assert edit("--keep-size") == 0
    assert main(["show", "out.png"]) == 0
    shown = json.loads(capsys.readouterr().out[len("out.png: 48x32\n") :])
    assert shown["instruction"] == "make it night" and shown["text_scale"] == 7.5 and shown["made_with"]["minip2p"]
    assert main(["show", "out.png", "--again", "--output", "sub/again.png"]) == 0
    assert "the pixels are equal" in capsys.readouterr().out
    assert (pixels("sub/again.png") == pixels("out.png")).all()
    assert main(["show", "sub/again.png", "--again"]) == 0  # its paths are its own
    assert edit("--grid", "seed=1,2", output="sheet.jpg", steps="1") == 0
    assert main(["show", "sheet.jpg", "--again"]) == 0


def test_again_tells_what_has_changed(here, capsys):
    assert edit() == 0
    touched = pixels("out.png").copy()
    touched[0, 0, 0] ^= 1
    r = recipe.read(Path("out.png"))
    Path("touched.png").write_bytes(recipe.encode(Image.fromarray(touched), Path("touched.png"), r))
    assert main(["show", "touched.png", "--again"]) == 1
    assert "differ from those of touched.png by up to 1 of 255" in capsys.readouterr().out
    assert main(["show", "out.png", "--again", "--weights", "painter.safetensors"]) == 2
    assert "weights painter.safetensors have changed" in capsys.readouterr().err
    os.rename("in.png", "moved.png")
    assert main(["show", "out.png", "--again"]) == 2
    assert "input in.png is not there" in capsys.readouterr().err
    assert main(["show", "out.png", "--again", "--input", "moved.png"]) == 0
    Image.new("RGB", (48, 32)).save("in.png")
    assert main(["show", "out.png", "--again"]) == 2
    assert "input in.png has changed" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name, words",
    [("in.png", "no recipe"), ("scene.png", "made again"), ("no.png", "no such file"), ("bad.png", "cannot be")],
)
def test_show_needs_a_recipe(here, capsys, name, words):
    Path("bad.png").write_bytes(b"no picture")
    assert main(["scene", "--output", "scene.png"]) == 0
    assert main(["show", name, "--again"]) == 2
    assert words in capsys.readouterr().err


# The doors


def test_help_waits_for_nothing():
    code = "import sys, minip2p.cli as c; c.main([]); c.main(['edit', '--help']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "--text-scale" in done.stdout, done.stderr


def test_ctrl_c_is_one_line_and_130(here):
    words = "--input in.png --output out.png --edit night --weights editor.safetensors --steps 100000".split()
    command = [sys.executable, str(ROOT / "sample.py"), "edit", *words]
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # what runs in the background is born deaf to Ctrl-C
    process = subprocess.Popen(command, stderr=subprocess.PIPE, preexec_fn=heard)
    os.set_blocking(process.stderr.fileno(), False)
    said, end = b"", time.monotonic() + 120
    while b"step" not in said and time.monotonic() < end:
        said += process.stderr.read() or b""
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    os.set_blocking(process.stderr.fileno(), True)
    try:
        said += process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert process.returncode == 130
    assert b"minip2p: stopped" in said and b"Traceback" not in said
    assert not Path("out.png").exists() and not list(Path().glob("*.part"))


def test_scene_draws_what_it_tells(here, capsys):
    assert main(["scene", "--seed", "3", "--size", "64", "--output", "scene.png"]) == 0
    assert main(["scene", "--seed", "3", "--size", "64", "--edit", "--output", "pair.png"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0] == told[2] and len(told) == 6
    assert pixels("pair.png").shape == (64, 128, 3)
    assert (pixels("pair.png")[:, :64] == pixels("scene.png")).all()


def test_convert_and_info(here, capsys):
    def fingerprint(path: str) -> str:
        return minip2p.load(path).fingerprint

    assert main(["convert", "--weights", "editor.safetensors", "--output", "same.safetensors"]) == 0
    assert fingerprint("same.safetensors") == fingerprint("editor.safetensors")
    words = "--weights painter.safetensors --output wide.safetensors --widen --dtype bfloat16".split()
    assert main(["convert", *words]) == 0
    assert main(["info", "--weights", "wide.safetensors"]) == 0
    told = capsys.readouterr().out
    assert "edits pictures" in told and "bfloat16" in told and '"in_channels": 8' in told
    assert edit("--weights", "wide.safetensors") == 0
