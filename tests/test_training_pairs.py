"""The editor's training on pairs: where it begins, what it draws, how it stops and goes on, what it says."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import randomise
from PIL import Image

import minip2p
from minip2p.cli import main
from minip2p.cli.train import parse_mixture
from minip2p.config import PRESETS as MODELS
from minip2p.config import override, words_of
from minip2p.data.scenes import render, sample_edit
from minip2p.pipeline import Pipeline
from minip2p.training import state
from minip2p.training.presets import PAPER, PRESETS
from minip2p.training.recipe import make_stage, settled, start
from minip2p.training.starts import make_networks
from minip2p.training.words import tokenizer_for
from minip2p.models.vae import AutoencoderKL

ROOT = Path(__file__).parent.parent
FEW = (
    "train.steps=6", "train.batch_size=4", "train.warmup=0", "train.log_every=2", "train.save_every=2",
    "train.preview_every=100", "train.decay=constant", "train_text=False",
)  # fmt: skip
KILLS = 6


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """60 pairs in the authors' layout, of pictures that are not square."""
    folder, rng = tmp_path_factory.mktemp("pairs") / "pairs", np.random.default_rng(3)
    for i in range(60):
        edit = sample_edit(rng)
        (folder / f"{i:07d}").mkdir(parents=True)
        told = {"input": edit.source.caption, "edit": edit.instruction, "output": edit.target.caption}
        (folder / f"{i:07d}/prompt.json").write_text(json.dumps(told))
        for side, scene in enumerate((edit.source, edit.target)):
            render(scene, 80).crop((0, 4, 80, 76)).save(folder / f"{i:07d}/7_{side}.jpg", quality=95)
        (folder / f"{i:07d}/metadata.jsonl").write_text('{"seed": 7}\n')
    return folder


def weights(path, channels):
    """A thin model of random weights, with `channels` inputs."""
    tiny = MODELS["tiny"]
    tokenizer, text = tokenizer_for(replace(tiny.text, layers=1))
    config = replace(
        tiny, unet=replace(tiny.unet, widths=(16, 16), in_channels=channels), text=text,
        vae=replace(tiny.vae, widths=(8, 8, 8, 8)),
    )  # fmt: skip
    torch.manual_seed(channels)
    unet, encoder = make_networks(config)
    pipe = Pipeline(unet, AutoencoderKL(config.vae), encoder, tokenizer, config)
    for network in pipe.parts.values():
        randomise(network)
    minip2p.save(pipe, path)
    return path


@pytest.fixture(scope="module")
def painter(tmp_path_factory):
    return weights(tmp_path_factory.mktemp("weights") / "painter.safetensors", 8)


@pytest.fixture(scope="module")
def editor(tmp_path_factory):
    return weights(tmp_path_factory.mktemp("weights") / "editor.safetensors", 16)


def config_of(pairs, file, *words):
    config = replace(PRESETS["editor"]["tiny"], data=(str(pairs),))
    return override(settled("editor", config, [file]), *FEW, *words)


def finish(config, out, file, **options):
    return list(start("editor", config, out, init_from=[] if options.get("resume") else [file], **options))


def states(*runs):
    return [torch.load(state.newest(run), weights_only=True) for run in runs]


def equal(a, b):
    return all(torch.equal(a[part][name], b[part][name]) for part in ("model", "ema") for name in a[part])


def test_at_first_a_widened_editor_is_the_painter_whatever_the_picture(pairs, painter, tmp_path):
    stage = make_stage("editor", config_of(pairs, painter), tmp_path, [painter])
    before = minip2p.load(painter, inference=False)
    assert stage.pipe.config.unet.in_channels == 16 and stage.pipe.config.schedule == before.config.schedule
    z, image, text = torch.randn(2, 8, 8, 8), 9 * torch.randn(2, 8, 8, 8), torch.randn(2, 24, 128)
    with torch.no_grad():
        theirs = before.unet(z, 300.5, text)
        assert torch.allclose(stage.module["unet"](torch.cat([z, image], dim=1), 300.5, text), theirs, atol=1e-5)
    assert torch.equal(stage.pipe.tokenizer(["make it night"]), before.tokenizer(["make it night"]))


def test_an_editor_is_taken_as_it_is_and_frozen_networks_stay(pairs, editor, tmp_path):
    before = minip2p.load(editor, inference=False)
    stage = make_stage("editor", config_of(pairs, editor), tmp_path / "a", [editor])
    assert all(torch.equal(a, b) for a, b in zip(stage.pipe.unet.parameters(), before.unet.parameters(), strict=True))
    finish(config_of(pairs, editor), tmp_path / "b", editor)
    after = minip2p.load(tmp_path / "b/model.safetensors", inference=False)
    for name in ("vae", "text"):
        mine, theirs = after.parts[name].state_dict(), before.parts[name].state_dict()
        assert all(torch.equal(mine[key], theirs[key]) for key in theirs), "bit for bit, though they are no halves"
    assert any(not torch.equal(a, b) for a, b in zip(after.unet.parameters(), before.unet.parameters(), strict=True))
    done = after.provenance["done"]
    assert (done["steps"], done["pictures"]) == (6, 24) and "60 pairs" in done["data"]


@pytest.mark.parametrize(
    "words", [(), ("train.micro_batch=3", "train.ema_on_cpu=True"), ("lora_rank=2",), ("train.checkpointing=True",)],
    ids=["plain", "accumulated", "LoRA", "checkpointing"],
)  # fmt: skip
def test_a_stopped_run_continues_to_the_same_bits(words, pairs, editor, tmp_path):
    config = config_of(pairs, editor, "dropout=0.2", *words)
    finish(config, tmp_path / "whole", editor)
    for log in start("editor", config, tmp_path / "halves", init_from=[editor]):
        if log.step == 4 and "loss" in log.figures:  # the state of step 2 is on disk; steps 3 and 4 are lost
            break
    finish(config, tmp_path / "halves", editor, resume=True)
    whole, halves = states(tmp_path / "whole", tmp_path / "halves")
    assert whole["step"] == halves["step"] == 6 and whole["pictures"] == 24 and equal(whole, halves)
    assert (tmp_path / "whole/model.safetensors").read_bytes() == (tmp_path / "halves/model.safetensors").read_bytes()


def test_parts_of_a_batch_and_workers_change_nothing(pairs, editor, tmp_path):
    for name, words in {"plain": (), "parts": ("train.micro_batch=1",), "workers": ("train.workers=2",)}.items():
        finish(config_of(pairs, editor, "dropout=0.2", *words), tmp_path / name, editor)
    plain, parts, workers = states(*(tmp_path / name for name in ("plain", "parts", "workers")))
    assert equal(plain, workers)
    for name, tensor in plain["model"].items():
        assert (tensor - parts["model"][name]).norm() <= 1e-4 * tensor.norm().clamp(min=1e-3), name


def command(pairs, editor, out, *more):
    words = [w for w in FEW if not w.startswith("train_text")]
    return [
        sys.executable, str(ROOT / "train.py"), "editor", "--device", "cpu", *more,
        *(() if "--resume" in more else ("--init-from", str(editor), "--data", str(pairs), "--out", str(out))),
        *(() if "--resume" in more else ("--set", *words, "train_text=False", "train.steps=40", "train.save_every=3")),
    ]  # fmt: skip


def env():
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def test_killed_at_any_moment_a_run_ends_with_the_same_bits(pairs, editor, tmp_path):
    whole = tmp_path / "whole"
    subprocess.run(command(pairs, editor, whole), env=env(), check=True, capture_output=True)
    out, rng, hits = tmp_path / "killed", np.random.default_rng(5), 0
    for _ in range(KILLS):
        again = ("--resume", str(out)) if state.newest(out) else ()
        process = subprocess.Popen(
            command(pairs, editor, out, *again), env=env(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        log = out / "log.jsonl"
        before = log.stat().st_size if log.exists() else 0
        while process.poll() is None and not (log.exists() and log.stat().st_size != before):
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.3))
        if process.poll() is None:
            process.kill()
            hits += 1
        process.wait()
        if state.newest(out) and torch.load(state.newest(out), weights_only=True)["step"] == 40:
            break
    assert hits >= 2
    if state.newest(out).stem != "00000040":
        subprocess.run(command(pairs, editor, out, "--resume", str(out)), env=env(), check=True, capture_output=True)
    assert equal(*states(whole, out)) and not list(out.rglob("*.part"))
    assert (whole / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()
    assert len(list((out / "state").iterdir())) == 2, "the last two"


def test_sigterm_leaves_a_state_of_the_step_in_work(pairs, editor, tmp_path):
    out = tmp_path / "run"
    process = subprocess.Popen(command(pairs, editor, out), env=env(), stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not ((out / "log.jsonl").exists() and (out / "log.jsonl").stat().st_size):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    told = process.communicate()[1]
    assert process.returncode == 128 + signal.SIGTERM and "--resume" in told and "Traceback" not in told
    assert 1 <= torch.load(state.newest(out), weights_only=True)["step"] < 40


def test_a_full_disk_leaves_the_state_before(pairs, editor, tmp_path, monkeypatch):
    save = torch.save

    def full(value, path):
        if value["step"] > 2:
            Path(path).write_bytes(b"half")
            raise OSError(28, "No space left on device")
        save(value, path)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="00000004.pt"):
        finish(config_of(pairs, editor), tmp_path, editor)
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["00000002.pt"]
    assert states(tmp_path)[0]["step"] == 2


def test_a_broken_picture_is_named_and_may_be_skipped(pairs, editor, tmp_path):
    import shutil

    broken = tmp_path / "pairs"
    shutil.copytree(pairs, broken)
    for folder in sorted(broken.iterdir())[:50]:
        (folder / "7_1.jpg").write_bytes(b"not a picture")
    words = "train.batch_size=8", "held_out=0"
    with pytest.raises(ValueError, match="7_1.jpg.*--skip-broken"):
        finish(config_of(broken, editor, *words), tmp_path / "a", editor)
    logs = finish(config_of(broken, editor, "skip_broken=True", *words), tmp_path / "b", editor)
    told = [name for line in (tmp_path / "b/log.jsonl").read_text().splitlines() for name in json.loads(line).get("broken", [])]
    assert told and all("7_1.jpg" in name for name in told) and any(log.said for log in logs)


def test_a_run_tells_loss_by_noise_level_memory_and_shows_held_out_pairs(pairs, editor, tmp_path):
    logs = finish(config_of(pairs, editor, "train.batch_size=16", "noise_power=1.0"), tmp_path, editor)
    assert "memory: about" in logs[0].said[0]
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert {"loss_low", "loss_mid", "loss_high", "peak_memory_gib", "pictures_per_s", "grad_norm"} <= set(lines[0])
    assert lines[1]["pictures"] == 64 and "held_out_loss" in lines[-1]
    sheet = Image.open(tmp_path / "samples/000006.png")
    assert sheet.width > 5 * 192


def test_the_printed_config_is_words_for_set_and_marks_what_the_paper_has(capsys):
    assert main(["train", "editor", "--print-config"]) == 0
    lines = capsys.readouterr().out.splitlines()
    words = [line.split("  # ")[0].strip() for line in lines]
    assert override(PAPER, *words) == PRESETS["editor"]["tiny"]
    marked = {line.split("=")[0] for line in lines if "# the paper: " in line}
    paper, tiny = words_of(PAPER), words_of(PRESETS["editor"]["tiny"])
    assert marked == {name for name in paper if paper[name] != tiny[name]}
    assert "train.batch_size=64" in lines[[w.startswith("train.batch_size") for w in words].index(True)]


def test_a_mixture_is_paths_and_shares():
    assert parse_mixture("a:0.7,b/c:2") == (("a", "b/c"), (0.7, 2.0))


def test_a_dry_run_tells_speed_and_memory_and_leaves_nothing(pairs, editor, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("minip2p.training.rehearsal.SECONDS", 0.2)
    words = ["--init-from", str(editor), "--data", str(pairs), "--out", str(tmp_path / "run"), "--dry-run"]
    assert main(["train", "editor", *words, "--device", "cpu"]) == 0
    told = capsys.readouterr().out
    assert "memory: about" in told and "pictures/s" in told and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "words, said",
    [
        (["--mixture", "a:x"], "a:0.7,b:0.3"),
        (["--mixture", "a:1", "--data", "b"], "give one of them"),
        (["--preset", "sd15"], "--init-from"),
        (["--preset", "sd15", "--init-from", "x"], "--data"),
        (["--preset", "tinyllama"], "there are tiny, sd15"),
        (["--data", "nowhere", "--init-from", "EDITOR"], "nowhere: no such file"),
        (["--resume", "nowhere"], "--init-from"),
        (["--shard"], "torchrun"),
        (["--set", "resize=(32, 64)"], "from size = 64 on"),
        (["--set", "train.keep=0"], "expected at least 1"),
    ],
)
def test_a_mistake_is_one_line(words, said, editor, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [str(editor) if word == "EDITOR" else word for word in words]
    assert main(["train", "editor", *words, "--device", "cpu"]) == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert said in told and told.startswith("minip2p: error:")
