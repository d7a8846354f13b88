"""Training of an editor on pairs: its start, its batches, stopping and resuming, its log and its errors."""

import json
import multiprocessing
import pickle
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import write_pairs
from helpers_pairs import split_of
from helpers_training import FEW, ROOT, begin, config_of, env, equal, finish, make_stage, states
from PIL import Image

import minip2p
from minip2p import checkpoints
from minip2p.cli import main
from minip2p.cli.train import parse_mixture
from minip2p.config import override, words_of
from minip2p.data.edits import Edits, open_edits
from minip2p.data.images import to_tensor
from minip2p.data.split import split
from minip2p.loading import shipped
from minip2p.models.vae import AutoencoderKL
from minip2p.tinyworld.scenes import render, sample_edit
from minip2p.tinyworld.training.config import TinyDiffusionTraining
from minip2p.tinyworld.training.presets import EDITOR
from minip2p.tinyworld.training.stages import STAGES
from minip2p.training import previews, state
from minip2p.training.build import resolve_config
from minip2p.training.data import Example
from minip2p.training.loop import train
from minip2p.training.presets import DEPARTURES, SD15, UNMARKED
from minip2p.training.previews import vary_texts

pytestmark = pytest.mark.slow


def test_at_first_a_widened_editor_is_the_text2image_model_whatever_the_source(pairs, text2image, tmp_path):
    stage = make_stage(config_of(pairs, text2image), tmp_path, text2image)
    before = minip2p.load(text2image, inference=False)
    assert stage.pipe.config.unet.in_channels == 16 and stage.pipe.config.schedule == before.config.schedule
    z, image, text = torch.randn(2, 8, 8, 8), 9 * torch.randn(2, 8, 8, 8), torch.randn(2, 24, 128)
    with torch.no_grad():
        theirs = before.unet(z, 300.5, text)
        assert torch.allclose(stage.module["unet"](torch.cat([z, image], dim=1), 300.5, text), theirs, atol=1e-5)
    assert torch.equal(stage.pipe.tokenizer(["make it night"]), before.tokenizer(["make it night"]))


def test_an_editor_starts_from_its_weights_and_frozen_networks_stay(pairs, editor, tmp_path):
    before = minip2p.load(editor, inference=False)
    stage = make_stage(config_of(pairs, editor), tmp_path / "a", editor)
    assert all(torch.equal(a, b) for a, b in zip(stage.pipe.unet.parameters(), before.unet.parameters(), strict=True))
    finish(config_of(pairs, editor), tmp_path / "b", editor)
    after = minip2p.load(tmp_path / "b/model.safetensors", inference=False)
    for name in ("vae", "text"):
        mine, theirs = after.parts[name].state_dict(), before.parts[name].state_dict()
        assert all(torch.equal(mine[key], theirs[key]) for key in theirs), "bit for bit, though they are no halves"
    assert any(not torch.equal(a, b) for a, b in zip(after.unet.parameters(), before.unet.parameters(), strict=True))
    done = after.provenance["done"]
    assert (done["steps"], done["items"]) == (6, 24) and "60 pairs" in done["data"]


def test_training_starts_from_the_averages_of_a_published_file(pairs, editor, tmp_path):
    pipe, file = minip2p.load(editor, inference=False), tmp_path / "both.safetensors"
    plain = {part: network.state_dict() for part, network in pipe.parts.items()}
    averages = {name: x + 0.25 for name, x in plain["unet"].items()}
    checkpoints.write(file, "original", pipe.config, plain, ema_parts={"unet": averages}, tokenizer=pipe.tokenizer)
    stage = make_stage(config_of(pairs, file), tmp_path / "run", file)
    assert all(torch.equal(x, averages[name]) for name, x in stage.pipe.unet.state_dict().items())
    assert all(torch.equal(x, plain["text"][name]) for name, x in stage.pipe.text_encoder.state_dict().items())


def test_shapes_and_schedule_are_those_of_the_first_file_that_has_a_part(text2image, editor, tmp_path):
    config = EDITOR
    theirs = minip2p.load(text2image).config
    other = replace(theirs, vae=replace(theirs.vae, widths=(8, 8, 16)), schedule=replace(theirs.schedule, steps=500))
    checkpoints.write(tmp_path / "vae.safetensors", "minip2p", other, {"vae": AutoencoderKL(other.vae).state_dict()})
    model = resolve_config(config, [tmp_path / "vae.safetensors", text2image], edits=True).model
    assert model.vae == other.vae and model.text == theirs.text and model.schedule == theirs.schedule
    assert model.unet == replace(theirs.unet, in_channels=16) != config.model.unet
    assert resolve_config(config, [text2image], edits=False).model.unet == theirs.unet
    found, model = resolve_config(config, [editor, text2image], edits=True).model, minip2p.load(editor).config
    assert found == replace(model, sampling=found.sampling) and found.sampling.resolution == config.size


def test_neither_held_out_nor_test_pairs_are_trained_on(pairs, editor, tmp_path, monkeypatch):
    config, edits, read = config_of(pairs, editor, "held_out=64"), open_edits(pairs), []
    stage = make_stage(config, tmp_path, editor)
    trained, kept, tested = split(edits)
    assert min(len(trained), len(kept), len(tested)) > 0
    assert [each.text for each in stage.held_out] == [edits[i].instruction for i in kept]
    pictures = Edits.pictures
    monkeypatch.setattr(Edits, "pictures", lambda self, i: read.append(i) or pictures(self, i))
    for step in range(-(-len(trained) // 4)):  # an epoch, or a little more
        stage.data.batch(step)
    assert sorted(set(read)) == trained and sorted(read[: len(trained)]) == trained


def test_sets_of_a_mixture_have_their_weights_in_every_batch(pairs, editor, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(pairs, other)
    for path in other.glob("*/prompt.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"edit": "other"}))
    mixed = replace(config_of(pairs, editor, "dropout=0.0"), data=(str(pairs), str(other)), weights=(3.0, 1.0))
    stage = make_stage(mixed, tmp_path / "run", editor)
    assert [stage.data.batch(step).texts.count("other") for step in range(12)] == [1] * 12


def test_gradients_of_micro_batches_add_up_to_the_batchs(pairs, editor, tmp_path):
    stage = make_stage(config_of(pairs, editor, "dropout=0.2", "train.batch_size=7"), tmp_path, editor)

    def gradients(parts):
        stage.module.zero_grad()
        for rows in parts:
            (stage.loss(stage.module, stage.inputs(stage.data.batch(3, rows)))[0] * len(rows) / 7).backward()
        return torch.cat([p.grad.flatten() for p in stage.module.parameters()])

    whole = gradients([range(7)])
    for parts in ([range(0, 3), range(3, 6), range(6, 7)], [range(i, i + 1) for i in range(7)]):
        assert (gradients(parts) - whole).norm() < 1e-5 * whole.norm()


@pytest.mark.parametrize(
    "words",
    [(), ("train.micro_batch=3", "train.ema_on_cpu=True"), ("lora_rank=2",), ("train.checkpointing=True",)],
    ids=["plain", "accumulated", "LoRA", "checkpointing"],
)
def test_a_stopped_run_continues_to_the_same_bits(words, pairs, editor, tmp_path):
    config = config_of(pairs, editor, "dropout=0.2", *words)
    finish(config, tmp_path / "whole", editor)
    for log in begin(config, tmp_path / "halves", editor):
        if log.step == 4 and "loss" in log.figures:  # the state of step 2 is on disk; steps 3 and 4 are lost
            break
    finish(config, tmp_path / "halves", editor, resume=True)
    whole, halves = states(tmp_path / "whole", tmp_path / "halves")
    assert whole["step"] == halves["step"] == 6 and whole["pictures"] == 24 and equal(whole, halves)
    assert (tmp_path / "whole/model.safetensors").read_bytes() == (tmp_path / "halves/model.safetensors").read_bytes()


def test_micro_batches_and_workers_change_nothing(pairs, editor, tmp_path):
    for name, words in {"plain": (), "parts": ("train.micro_batch=1",), "workers": ("train.workers=2",)}.items():
        finish(config_of(pairs, editor, "dropout=0.2", *words), tmp_path / name, editor)
    plain, parts, workers = states(*(tmp_path / name for name in ("plain", "parts", "workers")))
    assert equal(plain, workers)
    for name, tensor in plain["model"].items():
        assert (tensor - parts["model"][name]).norm() <= 1e-4 * tensor.norm().clamp(min=1e-3), name


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_workers_of_any_start_method_prepare_the_same_batches(method, pairs, editor, tmp_path, monkeypatch):
    config = config_of(pairs, editor, "train.workers=2", "train.steps=3", "dropout=0.2")
    stage, seen, before = make_stage(config, tmp_path, editor), [], multiprocessing.get_start_method()
    inputs = stage.inputs
    monkeypatch.setattr(stage, "inputs", lambda batch: seen.append(batch) or inputs(batch))
    multiprocessing.set_start_method(method, force=True)
    try:
        steps = [log.step for log in train(stage, tmp_path)]
    finally:
        multiprocessing.set_start_method(before, force=True)
    assert steps[-1] == len(seen) == 3
    for step, batch in enumerate(seen):
        expected = stage.data.batch(step)
        for name, value in vars(expected).items():
            found = getattr(batch, name)
            assert torch.equal(found, value) if torch.is_tensor(value) else found == value, name


@pytest.mark.parametrize("name", list(STAGES))
def test_the_data_of_every_stage_pickle_without_networks(name, text2image, tmp_path):
    """So that worker processes can be started in any way."""
    few = {"editor": ("sources=2",), "text2image": ("sources=2",), "classifier": ("decoded=0",)}.get(name, ())
    init_from = [text2image] if name in ("editor", "text2image") else []
    config = override(STAGES[name].presets["tiny"], "train.batch_size=4", *few)
    config = STAGES[name].resolve(config, init_from)
    data = STAGES[name].make(config, tmp_path, init_from, torch.device("cpu")).data
    again = pickle.loads(pickle.dumps(data))
    assert str(again.batch(3)) == str(data.batch(3))
    assert b"Linear" not in pickle.dumps(data) and b"Conv2d" not in pickle.dumps(data)


def words_for(pairs, editor, out):
    """Of a training from the command line."""
    settings = (*FEW, "train.steps=14", "train.save_every=3")
    options = ("--init-from", editor, "--data", pairs, "--out", out, "--device", "cpu")
    return ["editor", *map(str, options), "--set", *settings]


def test_sigterm_saves_the_current_step_and_resuming_continues_it(pairs, editor, tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, str(ROOT / "train.py"), *words_for(pairs, editor, out)]
    process = subprocess.Popen(command, env=env(), stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not ((out / "log.jsonl").exists() and (out / "log.jsonl").stat().st_size):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    printed = process.communicate()[1]
    assert process.returncode == 128 + signal.SIGTERM and "--resume" in printed and "Traceback" not in printed
    assert 1 <= torch.load(state.newest(out), weights_only=True)["step"] < 14
    assert main(["train", "editor", "--device", "cpu", "--resume", str(out)]) == 0
    assert main(["train", *words_for(pairs, editor, tmp_path / "whole")]) == 0
    assert equal(*states(tmp_path / "whole", out))
    steps = [json.loads(line)["step"] for line in (out / "log.jsonl").read_text().splitlines()]
    assert steps == sorted(steps) and steps[-1] == 14


def test_the_newest_states_are_kept_and_unfinished_files_removed(pairs, editor, tmp_path):
    config = config_of(pairs, editor, "train.save_every=1", "train.keep=3")
    for log in begin(config, tmp_path, editor):
        if log.step == 4 and "loss" in log.figures:
            break
    halves = [tmp_path / "state/.00000009.pt.abc.part", tmp_path / ".model.safetensors.abc.part"]
    for half in halves:
        half.write_bytes(b"half")
    assert state.newest(tmp_path).stem == "00000003"
    finish(config, tmp_path, editor, resume=True)
    assert sorted(path.stem for path in (tmp_path / "state").iterdir()) == ["00000004", "00000005", "00000006"]
    assert not any(half.exists() for half in halves)


def test_a_full_disk_leaves_the_previous_state(pairs, editor, tmp_path, monkeypatch):
    save = torch.save

    def full(value, file):
        if value["step"] > 2:
            file.write(b"half")
            raise OSError(28, "No space left on device")
        save(value, file)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="00000004.pt"):
        finish(config_of(pairs, editor), tmp_path, editor)
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["00000002.pt"]
    assert states(tmp_path)[0]["step"] == 2


def test_a_broken_picture_is_named_and_may_be_skipped(pairs, editor, tmp_path):
    broken = tmp_path / "pairs"
    shutil.copytree(pairs, broken)
    for folder in sorted(broken.iterdir())[:50]:
        (folder / "7_1.jpg").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match="7_1.jpg.*--skip-broken"):
        finish(config_of(broken, editor, "train.batch_size=8"), tmp_path / "a", editor)
    logs = finish(config_of(broken, editor, "skip_broken=True", "train.batch_size=8"), tmp_path / "b", editor)
    lines = [json.loads(line) for line in (tmp_path / "b/log.jsonl").read_text().splitlines()]
    replaced = [name for line in lines for name in line.get("broken", [])]
    assert max(line["step"] for line in lines) == 6, "it went on"
    assert replaced and all("7_1.jpg" in name for name in replaced) and any(log.messages for log in logs)


def test_a_run_logs_loss_by_noise_level_and_memory_and_draws_held_out_pairs(pairs, editor, tmp_path):
    logs = finish(
        config_of(pairs, editor, "train.batch_size=16", "timestep_power=1.0", "held_out=64"), tmp_path, editor
    )
    assert "memory: about" in logs[0].messages[0]
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert {"loss_low", "loss_mid", "loss_high", "peak_memory_gib", "items_per_s", "grad_norm"} <= set(lines[0])
    assert lines[1]["items"] == 64 and "held_out_loss" in lines[-1]
    sheet = Image.open(tmp_path / "samples/000006.png")
    assert sheet.width > 5 * 192


def test_a_preview_shows_different_instructions():
    examples = [Example(text=text, latents=torch.tensor(float(i))) for i, text in enumerate("aaabbc")]
    assert [int(each.latents) for each in vary_texts(examples)] == [0, 3, 5, 1, 4, 2]


def test_where_no_pair_is_held_out_trained_pairs_are_shown(pairs, editor, tmp_path, monkeypatch):
    few = tmp_path / "pairs"
    trained = [name for name in sorted(pairs.iterdir()) if split_of(open_edits(pairs).text(int(name.name)).group) == 0]
    for folder in trained[:3]:
        shutil.copytree(folder, few / folder.name)
    titles, lay_out = [], previews.lay_out
    monkeypatch.setattr(
        previews, "lay_out", lambda title, *rest: titles.append((title, len(rest[1]))) or lay_out(title, *rest)
    )
    finish(config_of(few, editor, "held_out=64"), tmp_path / "run", editor)
    assert (
        titles == [("Pairs that are trained on: none is held out", 3)]
        and (tmp_path / "run/samples/000006.png").exists()
    )
    assert "held_out_loss" not in (tmp_path / "run/log.jsonl").read_text(), "a loss on trained pairs is no measure"


def test_the_printed_config_is_words_for_set_and_has_the_papers_values(capsys):
    assert main(["train", "editor", "--print-config"]) == 0
    lines = capsys.readouterr().out.splitlines()
    words = [line.split("  # ")[0].strip() for line in lines]
    assert override(TinyDiffusionTraining(), *words) == EDITOR
    marked = {line.split("=")[0] for line in lines if "# the paper: " in line}
    paper, tiny = words_of(SD15), words_of(EDITOR)
    assert marked == {name for name in paper if paper[name] != tiny[name]} - UNMARKED | set(DEPARTURES)
    assert "train.batch_size=64" in lines[[w.startswith("train.batch_size") for w in words].index(True)]


def test_a_mixture_is_paths_and_weights():
    assert parse_mixture("a:0.7,b/c:2") == (("a", "b/c"), (0.7, 2.0))


def test_a_dry_run_prints_speed_and_memory_and_writes_nothing(pairs, editor, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("minip2p.training.memory.SECONDS", 0.2)
    words = ["--init-from", str(editor), "--data", str(pairs), "--out", str(tmp_path / "run"), "--dry-run"]
    assert main(["train", "editor", *words, "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "memory: about" in printed and "items/s" in printed and not (tmp_path / "run").exists()


def test_a_run_is_neither_overwritten_nor_resumed_with_another_shape(pairs, editor, tmp_path):
    finish(config_of(pairs, editor), tmp_path, editor)
    with pytest.raises(ValueError, match="holds a run already; --resume .* continues it, another --out"):
        finish(config_of(pairs, editor), tmp_path, editor)
    with pytest.raises(ValueError, match="batch_size=4, not 8: use --init-from"):
        finish(config_of(pairs, editor, "train.batch_size=8", "train.steps=9"), tmp_path, editor, resume=True)
    with pytest.raises(ValueError, match="is of another model"):
        finish(config_of(pairs, editor, "lora_rank=2", "train.steps=9"), tmp_path, editor, resume=True)


def test_bfloat16_is_refused_where_it_is_slow(pairs, editor, tmp_path, monkeypatch):
    monkeypatch.setattr("minip2p.loading.cpu_flags", lambda: set())
    with pytest.raises(ValueError, match="bfloat16 is 8 times slower"):
        finish(config_of(pairs, editor, "train.precision=bf16"), tmp_path, editor)
    assert not any(tmp_path.iterdir())


def quick_edits(pipe, pairs):
    """Edits by one branch and few steps."""
    options = {
        "text_scale": 1.0,
        "image_scale": 1.0,
        "steps": 10,
        "sampler": "ddim",
        "output": "tensor",
        "resolution": 64,
    }
    return torch.stack(pipe.edit([p.source for p in pairs], [p.instruction for p in pairs], **options))


def psnr(images, targets):
    return float(-10 * (images - targets).square().mean(dim=(1, 2, 3)).log10().mean())


def test_training_overfits_four_pairs(tmp_path):
    """With targets unrelated to their instructions, almost as near as the autoencoder gets."""
    folder, rng, edits = tmp_path / "pairs", np.random.default_rng(0), []
    while len(edits) < 4:
        edit = sample_edit(rng)
        if split_of(edit.source.caption) == 0:
            edits.append(edit)
    turned = [replace(edit, target=edits[i - 1].target) for i, edit in enumerate(edits)]
    write_pairs(folder, turned, lambda scene: render(scene, 64))
    read, shipped_editor = open_edits(folder), shipped("editor")
    targets = torch.stack([to_tensor(pair.target) for pair in read])
    words = (
        "train.steps=70",
        "train.batch_size=8",
        "train.learning_rate=2e-3",
        "train.ema=0.9",
        "dropout=0.0",
        "size=64",
        "held_out=0",
        "train.save_every=1000",
    )
    finish(config_of(folder, shipped_editor, *words), tmp_path / "run", shipped_editor)
    pipe = minip2p.load(tmp_path / "run/model.safetensors")
    limit = psnr(pipe.decode(pipe.config.vae.scaling_factor * pipe.encode_image(targets)), targets)
    before, after = (psnr(quick_edits(p, list(read)), targets) for p in (minip2p.load(shipped("editor")), pipe))
    assert before < 15 and after > limit - 1.5


def test_the_estimate_of_memory_is_near_the_peak(pairs, tmp_path):
    """With the tiny preset's batch of 64, where activations take most."""
    more = ("train.steps=1", "train.log_every=1", "train.preview_every=100", "held_out=0", "train.warmup=0")
    words = ("--init-from", shipped("editor"), "--data", pairs, "--out", tmp_path / "run", "--set", *more)
    run = [sys.executable, str(ROOT / "train.py"), "editor", "--device", "cpu", *map(str, words)]
    printed = subprocess.run(run, env=env(), check=True, capture_output=True, text=True)
    estimate = float((printed.stderr + printed.stdout).split("memory: about ")[1].split()[0])
    peak = json.loads((tmp_path / "run/log.jsonl").read_text().splitlines()[0])["peak_memory_gib"]
    assert peak > 1 and abs(estimate - peak) < 0.2 * peak


@pytest.mark.parametrize(
    "words, said",
    [
        (["--mixture", "a:x"], "a:0.7,b:0.3"),
        (["--mixture", "a:1", "--data", "b"], "give one of them"),
        (["--preset", "sd15"], "--init-from"),
        (["--preset", "sd15", "--init-from", "x"], "--data"),
        (["--preset", "tinyllama"], "there are sd15, tiny"),
        (["--data", "nowhere", "--init-from", "EDITOR"], "nowhere: no such file"),
        (["--resume", "nowhere"], "--init-from"),
        (["--shard"], "torchrun"),
        (["--set", "resize=(32, 64)"], "from size = 128 on"),
        (["--set", "train.keep=0"], "expected at least 1"),
        (
            ["--init-from", "EDITOR", "--data", "x", "--set", "size=36", "resize=(36, 40)"],
            "size = 36: expected a multiple",
        ),
        (["--init-from", "EDITOR", "--data", "x", "--set", "model.unet.norm_groups=5"], "model.unet.norm_groups = 5"),
    ],
)
def test_a_mistake_is_one_line(words, said, editor, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [str(editor) if word == "EDITOR" else word for word in words]
    assert main(["train", "editor", *words, "--device", "cpu"]) == 2
    printed = capsys.readouterr().err.strip().splitlines()[-1]
    assert said in printed and printed.startswith("minip2p: error:")
