"""`minip2p edit` with masks and turns: files, folders and tables, what is recorded, and `show --again`."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from helpers_cli import edit, files, pixels
from PIL import Image

import minip2p
from minip2p.cli import main, metadata

pytestmark = pytest.mark.usefixtures("here")

AGAIN = ["--weights", "editor.safetensors"]


@pytest.fixture
def mask(here) -> str:
    """Black on the left, of the input's size."""
    white = np.arange(48)[None].repeat(32, 0) >= 24
    Image.fromarray(white).save("mask.png")
    return "mask.png"


def recorded(path: str) -> dict:
    return metadata.read(Path(path))


def test_a_mask_keeps_the_rest_and_is_recorded(mask, capsys):
    assert edit("--mask", mask, "--keep-size") == 0
    kept = pixels("out.png")
    assert (kept[:, :24] == pixels("in.png")[:, :24]).all() and (kept[:, 24:] != pixels("in.png")[:, 24:]).any()
    pipe = minip2p.load("editor.safetensors")
    assert (kept == np.asarray(pipe.edit("in.png", "make it night", mask=mask, keep_size=True, steps=2))).all()
    assert recorded("out.png")["mask"]["path"] == "mask.png"
    assert edit(output="plain.png") == 0 and "mask" not in recorded("plain.png")
    assert main(["show", "out.png", "--again"]) == 0
    assert "the pixels are equal" in capsys.readouterr().out


def test_again_says_which_mask_it_needs(mask, capsys):
    assert edit("--mask", mask) == 0
    os.rename(mask, "moved.png")
    assert main(["show", "out.png", "--again"]) == 2
    assert "mask mask.png: no such file; give its new place by --mask" in capsys.readouterr().err
    assert main(["show", "out.png", "--again", "--mask", "moved.png"]) == 0
    assert recorded("out-again.png")["mask"]["path"] == "moved.png"
    assert main(["show", "out.png", "--again", "--mask", "in.png"]) == 2
    assert "mask in.png has changed since" in capsys.readouterr().err


def test_turns_are_commands_by_hand(mask, capsys):
    words = ["--mask", mask, "--keep-size", "--seed", "3"]
    assert edit(*words, "--edit", "make it day") == 0
    assert "out.png: 48x32; 2 turns" in capsys.readouterr().out
    assert recorded("out.png")["instruction"] == ["make it night", "make it day"]
    assert edit(*words, output="first.png") == 0
    assert edit(*words, given="first.png", text="make it day", output="second.png") == 0
    assert (pixels("out.png") == pixels("second.png")).all() and (pixels("out.png") != pixels("first.png")).any()
    assert main(["show", "out.png", "--again"]) == 0


def test_a_sheet_varies_the_settings_of_all_turns(mask):
    assert edit("--edit", "make it day", "--mask", mask, "--grid", "seed=0,1", output="sheet.png", steps="1") == 0
    for seed in ("0", "1"):
        assert edit("--edit", "make it day", "--mask", mask, "--seed", seed, steps="1") == 0
        cell = np.asarray(pixels("out.png").repeat(6, 0).repeat(6, 1))
        sheet = pixels("sheet.png")
        corners = np.argwhere((sheet[: -cell.shape[0], : -cell.shape[1]] == cell[0, 0]).all(-1))
        found = [(sheet[y : y + cell.shape[0], x : x + cell.shape[1]] == cell).all() for y, x in corners]
        assert any(found)
    assert main(["show", "sheet.png", "--again"]) == 0


def test_a_folder_has_one_mask_or_a_folder_of_masks(mask, capsys):
    for place in ("photos", "masks"):
        Path(place).mkdir()
    for name in ("a.png", "b.jpg"):
        Image.open("in.png").save(f"photos/{name}")
        Image.fromarray(np.full((16, 24), name == "a.png")).save(f"masks/{name[0]}.png")
    assert edit("--mask", "masks", "--batch-size", "2", "--fit", "stretch", given="photos", output="made") == 0
    assert [recorded(f"made/{name}")["mask"]["path"] for name in ("a.png", "b.jpg.png")] == [
        "../masks/a.png",
        "../masks/b.png",
    ]
    fitted = minip2p.load("editor.safetensors").fitted("photos/b.jpg", how="stretch").image
    assert (pixels("made/b.jpg.png") == np.asarray(fitted)).all()
    assert edit("--mask", "masks", "--fit", "stretch", given="photos", output="made") == 0
    assert "2 of 2 are finished" in capsys.readouterr().err
    assert edit("--mask", mask, "--fit", "stretch", given="photos", output="made") == 0
    assert recorded("made/a.png")["mask"]["path"] == "../mask.png"
    Path("masks/b.png").unlink()
    before = files()
    assert edit("--mask", "masks", given="photos", output="more") == 2 and files() == before
    assert "masks/b.png: no such file" in capsys.readouterr().err
    assert edit("--mask", "masks", "--skip-broken", given="photos", output="more") == 0
    assert os.listdir("more") == ["a.png"]


def test_a_table_has_masks_and_turns_of_its_own(mask, capsys):
    rows = [
        {"input": "in.png", "edit": ["make it day", "make it night"], "output": "a.png", "mask": "mask.png"},
        {"input": "in.png", "edit": ["make it day", "x"], "output": "b.png"},
        {"input": "in.png", "output": "c.png"},
    ]
    Path("t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert edit("--batch-size", "2", given="t.jsonl", output="made") == 0
    m = [recorded(f"made/{name}.png") for name in "abc"]
    assert [each["instruction"] for each in m] == [*(row["edit"] for row in rows[:2]), "make it night"]
    assert [each.get("mask", {}).get("path") for each in m] == ["../mask.png", None, None]
    assert [each["made_with"].get("batch size") for each in m] == ["2", "2", None]
    pipe = minip2p.load("editor.safetensors")
    alone = pipe.edit_turns("in.png", rows[0]["edit"], mask=mask, steps=2)[-1]
    assert np.abs(pixels("made/a.png").astype(int) - np.asarray(alone)).max() <= 1
    Path("t.jsonl").write_text(json.dumps({"input": "in.png", "edit": ["x", 5]}))
    assert edit(given="t.jsonl", text=None, output="made") == 2
    assert "line 1: 'edit' is 5; expected a text" in capsys.readouterr().err


def test_mistakes_are_found_before_sampling(mask, monkeypatch, capsys):
    monkeypatch.setattr(minip2p.Pipeline, "sample", lambda *_, **__: pytest.fail("sampled"))
    Image.new("RGBA", (4, 4)).save("clear.png")
    before = files()
    for words, said in (
        (["--mask", "no.png"], "no.png: no such file"),
        (["--mask", ""], "--mask is empty"),
        (["--mask", "editor.safetensors"], "is not a picture"),
        (["--mask", "clear.png"], "mask clear.png is transparent in places"),
        (["--mask", mask, "--output", mask], f"output {mask} is an input"),
    ):
        assert edit(*words) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("minip2p: error: ") and said in error and files() == before


def test_a_mask_of_another_shape_is_stretched_and_said(capsys):
    Image.new("L", (10, 10), 255).save("square.png")
    assert edit("--mask", "square.png") == 0
    assert "the mask, 10x10, was stretched over the input" in capsys.readouterr().out
