"""`minip2p pairs`: what its words mean, what it says, and that ranks under torchrun make what one process makes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_cli import here, weights  # noqa: F401 (fixtures are taken by name)
from test_pairs import contents

from minip2p.cli import VERBS, main
from minip2p.cli.pairs import Options, settings_of
from minip2p.cli.work import device_of, share_of_work
from minip2p.datagen.plan import Settings
from minip2p.evaluation.metrics import Thresholds

ROOT = Path(__file__).parent.parent
ROWS = [{"input": f"a red house {i} 🏠", "edit": "night", "output": f"a red house {i} by night"} for i in range(3)]
LOOSE = ["--image", "-1", "--caption", "-1", "--direction", "-1", "--most", "1"]
FEW = ["--weights", "painter.safetensors", "--steps", "1", "--samples", "2", "--threads", "1", *LOOSE]


@pytest.fixture(autouse=True)
def prompts(here, monkeypatch):  # noqa: F811
    """prompts.jsonl in the working directory, and no torchrun around."""
    monkeypatch.setitem(VERBS, "pairs", "paint pairs")
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    Path("prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))


def make(*words: str, output="out") -> int:
    return main(["pairs", "--prompts", "prompts.jsonl", "--output", output, *FEW, *words])


def options(**given) -> Options:
    return Options(prompts="prompts.jsonl", output="out", **given)


def test_it_makes_what_is_not_there_and_says_so(capsys):
    assert make("--share", "0", "--scale", "3,4", "--picture", "png") == 0
    out, err = capsys.readouterr()
    assert out.startswith("out: 6 pairs made in ") and "pairs/s), 6 pass, 3 are candidates" in out
    assert "3/3" in err and "100% pass" in err
    run, whole = json.loads(Path("out/run.json").read_text()), contents(Path("out"))
    assert run["share"] == [0, 0] and run["scale"] == [3, 4] and run["threads"] == 1 and run["format"] == "folder"
    scores = [json.loads(line) for line in whole["0000000/scores.jsonl"].splitlines()]
    assert all(row["p2p_threshold"] == 0 and 3 <= row["cfg_scale"] <= 4 for row in scores)
    assert sum(name.endswith(".png") for name in whole) == 6
    for path in Path("out/0000001").iterdir():
        path.unlink()
    Path("out/0000001").rmdir()
    assert make("--share", "0", "--scale", "3,4", "--picture", "png") == 0
    assert "2 pairs made" in (out := capsys.readouterr().out) and "2 of 3 units were there already" in out
    assert contents(Path("out")) == whole
    assert make("--share", "0", "--scale", "3,4", "--picture", "png") == 0 and contents(Path("out")) == whole
    assert "out: 0 pairs made" in capsys.readouterr().out
    assert make("--share", "0.5") == 2
    assert "share [0.0, 0.0], this one has [0.5, 0.5]: choose another --output" in capsys.readouterr().err


def test_the_defaults_are_the_papers():
    assert settings_of(options()) == Settings()
    given = options(share="0.5", scale="1,2", size="64x32", image=0.75, unit_samples=25)
    assert settings_of(given) == Settings(
        share=(0.5, 0.5), scale=(1, 2), size=(64, 32), unit_samples=25, thresholds=Thresholds(image=0.75)
    )


def test_shards_count_from_one_and_ranks_divide_them():
    assert share_of_work(None, {}) == (0, 1) and share_of_work("3/8", {}) == (2, 8)
    assert share_of_work(None, {"RANK": "1", "WORLD_SIZE": "2"}) == (1, 2)
    found = [share_of_work(f"{i}/3", {"RANK": str(rank), "WORLD_SIZE": "2"}) for i in (1, 2, 3) for rank in (0, 1)]
    assert found == [(i, 6) for i in range(6)]
    for wrong in ("0/3", "4/3", "1", "1/2/3", "a/b", "1/0", "-1/3"):
        with pytest.raises(ValueError, match="expected I/N, from 1/N to N/N"):
            share_of_work(wrong, {})


def test_a_rank_takes_its_own_gpu(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert device_of("auto") == "auto"
    monkeypatch.setenv("LOCAL_RANK", "6")
    assert device_of("auto") == "cuda:2" and device_of("cpu") == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of("auto") == "auto"


@pytest.mark.parametrize(
    "words, said",
    [
        (["--share", "0.1,0.2,0.3"], "--share '0.1,0.2,0.3': expected a number, or LOW,HIGH"),
        (["--share", "much"], "--share 'much'"),
        (["--share", "0.5,1.5"], "share 0.5,1.5: expected numbers from 0 to 1"),
        (["--scale", "9,3"], "scale 9.0,3.0: expected the lower end first"),
        (["--shard", "0/4"], "--shard '0/4': expected I/N, from 1/N to N/N"),
        (["--samples", "0"], "samples 0: expected a whole number, at least 1"),
        (["--stop-after", "2", "--unit-samples", "1"], "stop after 2 goes with whole prompts"),
        (["--image", "2"], "image 2.0: expected a cosine"),
        (["--patience", "0"], "patience 0: expected seconds"),
        (["--sampler", "magic"], "unknown sampler 'magic'"),
        (["--format", "zip"], "zip"),
        (["--size", "33"], "multiples of 8 pixels"),
        (["--weights", "editor.safetensors"], "cannot paint"),
        (["--clip", "painter.safetensors"], "not what was asked for"),
        (["--output", "in.png"], "output in.png is a file; expected a folder"),
        (["--prompts", "absent.jsonl"], "absent.jsonl: no such file"),
        (["--prompts", "empty.jsonl"], "empty.jsonl is empty"),
        (["--prompts", "bad.jsonl"], "bad.jsonl, line 2: 'output' is missing"),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_written(here, capsys, words, said):  # noqa: F811
    Path("empty.jsonl").write_text("\n")
    Path("bad.jsonl").write_text(json.dumps(ROWS[0]) + '\n{"input": "a", "edit": "b"}\n')
    before = {str(path) for path in here.rglob("*")}
    assert make(*words) == 2
    err = capsys.readouterr().err
    assert err.splitlines()[-1].startswith("minip2p: error: ") and said in err, err
    assert {str(path) for path in here.rglob("*")} == before


def test_help_says_what_can_be_had_again_later(capsys):
    assert main(["pairs", "--help"]) == 0
    assert "stricter" in (out := capsys.readouterr().out) and "looser" in out


RANK = """
import sys
from minip2p.cli.arguments import parse
from minip2p.cli.pairs import Options, run
run(parse(Options, sys.argv[1:], "minip2p pairs"))
"""


def test_two_ranks_under_torchrun_make_what_one_process_makes(capsys):
    """Each reads its place from the environment; they never speak."""
    words = ["--prompts", "prompts.jsonl", "--output", "two", *FEW, "--format", "webdataset"]
    env = {k: v for k, v in os.environ.items()} | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    Path("rank.py").write_text(RANK)
    command = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "rank.py", *words]
    done = subprocess.run([sys.executable, "-m", *command], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    said = sorted(done.stdout.splitlines())
    assert [line.split(":")[1] for line in said] == [" process 1 of 2", " process 2 of 2"]
    assert sum(int(line.split(": ")[2].split()[0]) for line in said) in (6, 8), "the last unit may be made twice"
    assert make("--format", "webdataset", output="one") == 0
    assert contents(Path("two")) == contents(Path("one"))
