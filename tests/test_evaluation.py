"""Judging editors, and the command lines of judging and training."""

from types import SimpleNamespace

import numpy as np
import pytest

from minip2p.cli import main
from minip2p.data.scenes import render, sample_edit
from minip2p.evaluation.edits import HELD_OUT, judge_editor, table

N = 24


def editor(answer):
    """A pipeline whose every edit is `answer(edit)`; it knows the held-out edits."""
    rng = np.random.default_rng(HELD_OUT)
    edits = [sample_edit(rng) for _ in range(N)]

    def edit(pictures, instructions, **_):
        assert instructions == [e.instruction for e in edits]
        assert all(np.array_equal(p, render(e.source, 64)) for p, e in zip(pictures, edits, strict=True))
        return [answer(e) for e in edits]

    return SimpleNamespace(edit=edit, config=SimpleNamespace(sampling=SimpleNamespace(resolution=64)))


def test_the_truth_is_right_and_the_source_is_wrong():
    truth = judge_editor(editor(lambda e: render(e.target, 64)), N)
    assert all(j.right and j.psnr == float("inf") for j in truth)
    same = judge_editor(editor(lambda e: render(e.source, 64)), N)
    assert not any(j.right for j in same) and all(j.psnr < 40 for j in same)


def test_the_table_counts_by_kind():
    half = judge_editor(editor(lambda e: render(e.target if e.kind in ("time", "setting") else e.source, 64)), N)
    lines = table(half).splitlines()
    by_kind = {line.split("|")[1].strip(): line.split("|")[2:4] for line in lines[2:]}
    assert sum(int(n) for kind, (n, _) in by_kind.items() if kind != "**all**") == N == int(by_kind["**all**"][0])
    for kind, (_, right) in by_kind.items():
        if kind != "**all**":
            assert right.strip() == ("100%" if kind in ("time", "setting") else "0%")


@pytest.mark.parametrize(
    "words, said",
    [
        ([], "expected a stage"),
        (["vae", "--recipe", "tiny"], "expected a stage"),
        (["editor", "--resume", "{tmp}/no"], "--init-from"),
        (["editor", "--resume", "{tmp}", "--init-from", "x"], "--resume goes on"),
        (["vae", "--steps", "0"], "at least 1"),
        (["vae", "--out", "{tmp}/run", "--set", "train.lr=1"], "train.lr"),
        (["editor", "--out", "{tmp}/run", "--init-from", "{tmp}/absent.safetensors"], "absent.safetensors"),
        (["vae", "--device", "tpu"], "unknown device"),
        (["painting"], "invalid choice"),
    ],
)
def test_a_mistake_in_train_is_one_line(words, said, tmp_path, capsys):
    assert main(["train", *(word.format(tmp=tmp_path) for word in words)]) == 2
    out, err = capsys.readouterr()
    assert not out and err.startswith("minip2p: error: ") and said in err and err.count("\n") == 1


def test_the_config_is_printed(capsys):
    assert main(["train", "editor", "--print-config", "--set", "model.unet.norm=rms", "--batch-size", "3"]) == 0
    out = capsys.readouterr().out
    assert '"norm": "rms"' in out and '"batch_size": 3' in out


def test_judging_nothing_is_refused(capsys):
    assert main(["judge", "--edits", "0"]) == 2
    assert "edits 0" in capsys.readouterr().err
