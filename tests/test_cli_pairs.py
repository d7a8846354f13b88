"""`minip2p pairs`: its options, what it prints, and that ranks of torchrun make what one process makes."""

import json
from pathlib import Path

import pytest
from conftest import contents

from minip2p.cli import main

ROWS = [{"input": f"a red house {i} 🏠", "edit": "night", "output": f"a red house {i} by night"} for i in range(3)]
LOOSE = ["--image", "-1", "--caption", "-1", "--direction", "-1", "--most", "1"]
FEW = ["--weights", "text2image.safetensors", "--steps", "1", "--samples", "2", "--threads", "1", *LOOSE]


@pytest.fixture(autouse=True)
def prompts(here, monkeypatch):
    """prompts.jsonl in the working directory, and no torchrun around."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    write_prompts()


def write_prompts() -> None:
    Path("prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))


def make(*words: str, output="out") -> int:
    return main(["pairs", "--prompts", "prompts.jsonl", "--output", output, *FEW, *words])


def test_missing_units_are_made_and_counted(capsys):
    assert make("--share", "0", "--scale", "3", "4", "--picture", "png") == 0
    out, err = capsys.readouterr()
    assert out.startswith("out: 6 pairs, 6 passed, 3 candidates in ") and "pairs/s)" in out
    assert "3/3" in err
    run, whole = json.loads(Path("out/run.json").read_text()), contents(Path("out"))
    assert run["share"] == [0, 0] and run["scale"] == [3, 4] and run["threads"] == 1
    scores = [json.loads(line) for line in whole["0000000/scores.jsonl"].splitlines()]
    assert all(row["p2p_threshold"] == 0 and 3 <= row["cfg_scale"] <= 4 for row in scores)
    assert sum(name.endswith(".png") for name in whole) == 6
    for path in Path("out/0000001").iterdir():
        path.unlink()
    Path("out/0000001").rmdir()
    assert make("--share", "0", "--scale", "3", "4", "--picture", "png") == 0
    assert "out: 2 pairs, " in (out := capsys.readouterr().out) and "2 of 3 units were finished before" in out
    assert contents(Path("out")) == whole
    assert make("--share", "0", "--scale", "3", "4", "--picture", "png") == 0 and contents(Path("out")) == whole
    assert "out: nothing to do" in capsys.readouterr().out
    assert make("--share", "0.5") == 2
    assert "share [0.0, 0.0], this one has [0.5, 0.5]: choose another --output" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, said",
    [
        (["--share", "much"], "--share 'much': expected a number"),
        (["--share", "0.5", "1.5"], "share 0.5,1.5: expected numbers from 0 to 1"),
        (["--scale", "9", "3"], "scale 9.0,3.0: expected the lower end first"),
        (["--shard", "0/4"], "--shard '0/4': expected I/N, from 1/N to N/N"),
        (["--samples", "0"], "samples = 0: expected at least 1"),
        (["--independent-noise"], "images from independent noise share nothing; expected share 0"),
        (["--image", "2"], "image 2.0: expected a cosine"),
        (["--workers", "0"], "workers 0: expected at least 1"),
        (["--sampler", "magic"], "unknown sampler 'magic'"),
        (["--size", "33"], "multiples of 8 pixels"),
        (["--weights", "editor.safetensors"], "'text-to-image' is needed"),
        (["--clip", "text2image.safetensors"], "expected a CLIP"),
        (["--output", "in.png"], "in.png: not a directory"),
        (["--prompts", "absent.jsonl"], "absent.jsonl: no such file"),
        (["--prompts", "empty.jsonl"], "empty.jsonl is empty"),
        (["--prompts", "bad.jsonl"], "bad.jsonl, line 2: 'output' is missing"),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_written(here, capsys, words, said):
    Path("empty.jsonl").write_text("\n")
    Path("bad.jsonl").write_text(json.dumps(ROWS[0]) + '\n{"input": "a", "edit": "b"}\n')
    before = {str(path) for path in here.rglob("*")}
    assert make(*words) == 2
    err = capsys.readouterr().err
    assert err.splitlines()[-1].startswith("minip2p: error: ") and said in err, err
    assert {str(path) for path in here.rglob("*")} == before


def test_help_says_that_the_filter_can_only_be_stricter(capsys):
    assert main(["pairs", "--help"]) == 0
    assert "stricter" in (out := capsys.readouterr().out) and "looser" in out


def test_ranks_of_torchrun_make_what_one_process_makes(monkeypatch, capsys):
    """Each rank reads its place from the environment, as torchrun sets it."""
    for rank, made in enumerate((4, 2)):
        for name, value in {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2}.items():
            monkeypatch.setenv(name, str(value))
        assert make(output="two") == 0
        assert capsys.readouterr().out.startswith(f"two: {made} pairs")
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name)
    assert make(output="one") == 0
    assert contents(Path("two")) == contents(Path("one"))
