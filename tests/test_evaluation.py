"""Judging editors, and the command lines of judging and training."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minip2p.cli import main
from minip2p.data.scenes import render, sample_edit, sample_scene
from minip2p.evaluation import paintings
from minip2p.evaluation.edits import HELD_OUT, judge_editor, table
from minip2p.evaluation.reader import Reading

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


def read_by_name(monkeypatch, scenes):
    """The reader in the place of the shipped one: picture i, all of whose pixels are i / 100, shows scenes[i]."""
    monkeypatch.setattr(
        paintings, "read", lambda reader, x: [Reading.of(scenes[round(100 * float(each.mean()))]) for each in x]
    )


@pytest.mark.parametrize("loose", [False, True])
def test_paintings_are_read_against_the_captions_scene(monkeypatch, loose):
    rng = np.random.default_rng(paintings.HELD_OUT)
    scenes = [sample_scene(rng) for _ in range(8)]
    other = next(s for s in (sample_scene(rng) for _ in range(99)) if s.setting != scenes[3].setting)
    read_by_name(monkeypatch, [*scenes[:3], other, *scenes[4:]])
    told = []

    def generate(captions, **how):
        told.extend(captions)
        return [torch.full((3, 4, 4), i / 100) for i in range(len(captions))]

    judged = paintings.judge_painter(SimpleNamespace(generate=generate), None, 8, loose=loose)
    assert [j.score.whole for j in judged] == [i != 3 for i in range(8)] and [j.caption for j in judged] == told
    assert told == [s.caption for s in scenes] or loose
    assert any("big" in text for text in told) == any("middle" in text for text in told) == (not loose)


@pytest.mark.parametrize("change", paintings.CHANGES)
def test_pairs_are_read_and_their_changed_pixels_counted(monkeypatch, change):
    edits, captions = paintings.held_out_pairs(6, change)
    assert all(e.kind in paintings.CHANGES[change] for e in edits) and all(a != b for a, b in captions)
    scenes = [e.source for e in edits] + [e.target for e in edits]
    read_by_name(monkeypatch, scenes)
    pictures = [torch.full((3, 64, 64), i / 100) for i in range(12)]
    monkeypatch.setattr(paintings, "render", lambda scene, size: pictures[scenes.index(scene)])
    monkeypatch.setattr(paintings, "to_tensor", lambda picture: picture)

    def generate_pair(sources, targets, share, **how):
        assert (sources, targets) == tuple(map(list, zip(*captions)))
        return list(zip(pictures[:6], pictures[6:] if share < 0.5 else pictures[:6]))  # all shared: the source again

    def generate(texts, seed, **how):
        return pictures[:6] if seed == 0 else pictures[6:9] + pictures[:3]

    pipe = SimpleNamespace(generate_pair=generate_pair, generate=generate, config=editor(None).config)
    figures = paintings.judge_pairs(pipe, None, 6, change=change, shares=(0.2, 0.8))
    assert [(f.share, f.source, f.target) for f in figures] == [
        (0.2, 1.0, 1.0), (0.8, 1.0, 0.0), ("other noise", 1.0, 0.5), ("as drawn", 1.0, 1.0)
    ]  # fmt: skip
    assert [f.changed for f in figures] == [0.0] * 4, "six hundredths are no change"
    assert paintings.best_share(figures).share == 0.2, "the other reads no target right"
    assert [line.split("|")[1].strip() for line in paintings.table(figures).splitlines()[2:]] == [
        "0.2", "0.8", "other noise", "as drawn"
    ]  # fmt: skip


@settings(max_examples=50)
@given(st.integers(0, 16), st.floats(0.11, 0.9), st.integers(0, 2))
def test_changed_pixels_are_those_of_which_a_channel_differs_by_more_than_a_tenth(n, by, channel):
    one = torch.zeros(1, 3, 4, 4)
    other = one.clone()
    other[0, channel].flatten()[:n] = by
    other[0, (channel + 1) % 3] += 0.09
    assert float(paintings.changed(one, other)) == pytest.approx(n / 16)


@pytest.mark.parametrize(
    "words, said",
    [
        ([], "expected a stage"),
        (["vae", "--recipe", "tiny"], "expected a stage"),
        (["editor", "--resume", "{tmp}/no"], "--init-from"),
        (["editor", "--resume", "{tmp}", "--init-from", "x"], "--resume goes on"),
        (["vae", "--steps", "0"], "at least 1"),
        (["vae", "--out", "{tmp}/run", "--set", "train.lr=1"], "train.lr"),
        (["editor", "--out", "{tmp}/run", "--set", "train.seed=-1"], "train.seed = -1: expected at least 0"),
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
    lines = out.splitlines()
    assert sum(line.startswith("model.unet.norm='rms'") for line in lines) == 1 and "\ntrain.batch_size=3 " in out


def test_judging_nothing_is_refused(capsys):
    assert main(["judge", "--number", "0"]) == 2
    assert "number 0" in capsys.readouterr().err
