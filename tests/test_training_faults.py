"""What goes wrong in training: numbers that are not finite, changed data, damaged files, new weights, two at once."""

import itertools
import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers_training import ROOT, begin, config_of, env, equal, finish, log_of, make_stage, states, write_weights

import minip2p
from minip2p import checkpoints
from minip2p.cli import main
from minip2p.config import override
from minip2p.data.edits import open_edits
from minip2p.data.split import split
from minip2p.datagen.precompute import Settings, precompute
from minip2p.pipeline import Pipeline
from minip2p.tinyworld.training.stages import STAGES
from minip2p.training import state
from minip2p.training.build import resolve_config
from minip2p.training.checkpoint_parts import _half
from minip2p.training.diffusion import DiffusionStage
from minip2p.training.loop import train
from minip2p.training.pairs import read_texts
from minip2p.training.presets import departures_table
from minip2p.training.stages import STAGES as LIBRARY
from minip2p.training.stages import saved_config

QUICK = ("train.log_every=1", "train.save_every=2")

pytestmark = pytest.mark.slow


def files_of(run: Path) -> dict[str, bytes]:
    """Everything in a run's folder, but TensorBoard's events, the log, and the content of states, which `equal` has."""
    found = {str(path.relative_to(run)): path for path in run.rglob("*") if path.is_file()}
    found = {name: path for name, path in found.items() if "events" not in name and name != "log.jsonl"}
    return {name: b"" if name.startswith("state") else path.read_bytes() for name, path in found.items()}


# ---- numbers that are not finite


def wrong_loss(value, stage, module, batch):
    """A loss of this value, whose gradient is finite."""
    loss, figures = DiffusionStage.loss(stage, module, batch)
    return loss + value, figures


def wrong_gradient(value, stage, module, batch):
    loss, figures = DiffusionStage.loss(stage, module, batch)
    return loss + value * (next(module.parameters()).sum() - next(module.parameters()).sum().detach()), figures


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("how", [wrong_loss, wrong_gradient])
def test_a_loss_or_gradient_that_is_not_finite_ends_the_run_at_once(how, value, pairs, editor, tmp_path):
    """At the second step, in the second of its micro-batches, though the log is written every 50 steps."""
    stage = make_stage(config_of(pairs, editor, "train.log_every=50", "train.micro_batch=2"), tmp_path, editor)
    calls = itertools.count()

    def loss(module, batch):
        return how(value if next(calls) == 7 else 0.0, stage, module, batch)

    stage.loss = loss
    with pytest.raises(ValueError, match=f"step 4; the last good state is {tmp_path}/state/00000002.pt"):
        list(train(stage, tmp_path))
    (found,) = states(tmp_path)
    assert found["step"] == 2 and all(x.isfinite().all() for part in ("model", "ema") for x in found[part].values())


def test_without_a_state_the_error_says_so(pairs, editor, tmp_path):
    stage = make_stage(config_of(pairs, editor, "train.learning_rate=1.0"), tmp_path, editor)
    stage.loss = lambda module, batch: wrong_loss(float("nan"), stage, module, batch)
    with pytest.raises(ValueError, match="at step 1; there is no state yet: start again, e.g. with a lower"):
        list(train(stage, tmp_path))
    assert not state.saved(tmp_path) and not (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize("part", ["weight", "average", "optimiser"])
def test_what_is_not_finite_is_never_saved(part, pairs, editor, tmp_path, monkeypatch):
    """Though the loss and its gradient are: the average first, or a square of the gradient in the optimiser."""
    stage = make_stage(config_of(pairs, editor), tmp_path, editor)
    update = state.EMA.update

    def spoiled(self):
        update(self)
        if self.updates == 4:
            run = next(each for each in found if each.ema is self)
            weight = run.ema.weights[3]
            tensors = {"weight": weight.data, "average": self.averages[3]}
            tensors["optimiser"] = run.optimizer.state[weight]["exp_avg_sq"]
            tensors[part].view(-1)[0] = float("inf")

    found, init = [], state.State.__init__
    monkeypatch.setattr(state.State, "__init__", lambda self, **how: found.append(self) or init(self, **how))
    monkeypatch.setattr(state.EMA, "update", spoiled)
    with pytest.raises(ValueError, match="is not finite after step 4; the last good state is .*00000002.pt"):
        list(train(stage, tmp_path))
    assert [path.stem for path in state.saved(tmp_path)] == ["00000002"]
    assert minip2p.load(tmp_path / "model.safetensors").provenance["done"]["steps"] == 2


def test_a_weight_that_float16_cannot_hold_is_exported_as_it_is():
    for x, dtype in ((torch.tensor([1.0, 2.5]), torch.float16), (torch.tensor([1.0, 1e6]), torch.float32)):
        assert torch.equal(_half(x, exact=False).float(), x) and _half(x, exact=False).dtype == dtype


def precomputed(data, editor, out):
    pipe = minip2p.load(editor, inference=False)
    edits = open_edits(data)
    mark = read_texts(edits, False).mark
    settings = Settings(size=64, resize=(64, 72), crops=1, flips=False)
    list(precompute(lambda: pipe, edits, settings, out, data=mark))
    return out


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_latents_that_are_not_finite_are_a_broken_pair(value, pairs, editor, tmp_path):
    set_, config = precomputed(pairs, editor, tmp_path / "set"), config_of(tmp_path / "set", editor)
    stage = make_stage(config, tmp_path, editor)
    (latents,) = stage.data.examples.sets
    tar, offset = latents.latents.tars[0], int(latents.latents.where[latents.prompts[0][0], 1])
    raw = bytearray(tar.read_bytes())
    raw[offset : offset + 2] = torch.tensor(value).half().numpy().tobytes()
    tar.write_bytes(raw)
    assert set_.is_dir()
    with pytest.raises(ValueError, match="latents of pair .* are not finite.*--skip-broken"):
        [stage.data.batch(step) for step in range(20)]
    skipping = make_stage(override(config, "skip_broken=True"), tmp_path, editor)
    broken = [each for step in range(20) for each in skipping.data.batch(step).broken]
    assert broken and all("not finite" in each for each in broken)


# ---- what is new must be trained


def lora_start(file, *words, stage="editor", **more):
    spec = STAGES[stage]
    config = override(spec.presets["tiny"], "lora_rank=2", "train_text=False", "sources=2", "edits=1", *words)
    return spec, replace(spec.resolve(config, [file]), **more)


@pytest.mark.parametrize("name", ["text2image", "widened", "dit"])
def test_lora_trains_the_inputs_for_the_source_image_where_they_are_new(name, text2image, tmp_path):
    file = text2image
    if name == "widened":  # by `minip2p convert --widen`
        file = tmp_path / "wide.safetensors"
        assert main(["convert", "--weights", str(text2image), "--output", str(file), "--widen"]) == 0
    if name == "dit":
        file = dit_weights(tmp_path / "dit.safetensors")
    spec, config = lora_start(file)
    stage = spec.make(config, tmp_path, [file], torch.device("cpu"))
    trained = {name for name, weight in stage.module.named_parameters() if weight.requires_grad}
    assert config.lora_also == ("conv_in",) and {"unet.conv_in.weight", "unet.conv_in.bias"} < trained
    assert all(".up" in name or ".down" in name for name in trained - {"unet.conv_in.weight", "unet.conv_in.bias"})
    with pytest.raises(ValueError, match="inputs for the source image are new, .*add conv_in to lora_also"):
        spec.make(replace(config, lora_also=()), tmp_path, [file], torch.device("cpu"))


def dit_weights(path: Path) -> Path:
    from minip2p.tinyworld.training.vocab import tokenizer_for
    from minip2p.training.build import build

    config = override(minip2p.config.PRESETS["tiny_text2image"], "denoiser=dit", "dit.depth=1", "text.layers=1")
    tokenizer, text = tokenizer_for(config.text)
    config = replace(config, text=text)
    networks = build({"dit": config.dit, "vae": config.vae, "text": config.text}, seed=1)
    minip2p.save(Pipeline(*networks.values(), tokenizer, config), path)
    return path


def test_an_editor_keeps_its_inputs_frozen_and_a_resumed_lora_trains_what_it_trained(
    text2image, editor, pairs, tmp_path
):
    assert lora_start(editor)[1].lora_also == ()
    config = resolve_config(replace(config_of(pairs, text2image), lora_rank=2), [text2image], edits=True)
    finish(override(config, "train.steps=4"), tmp_path, text2image)
    spec, saved = saved_config([STAGES["editor"]], tmp_path)
    assert saved.lora_also == ("conv_in",) and spec is STAGES["editor"]
    finish(override(saved, "train.steps=6"), tmp_path, text2image, resume=True)
    image = minip2p.load(tmp_path / "model.safetensors").unet.conv_in.weight[:, 8:]
    assert image.abs().max() > 0


@pytest.mark.parametrize(
    "words, said",
    [
        (("lora_rank=2",), "--lora-rank keeps the unet frozen, but has no weights for it"),
        (("lora_rank=2", "train_text=True"), "--lora-rank keeps the unet frozen"),
        (("train_text=False",), "train_text=False keeps the text encoder frozen, but has no weights"),
        (("lora_rank=2", "lora_also=('conv_on',)", "train_text=False"), "no layer 'conv_on'"),
    ],
)
def test_random_weights_are_not_kept_frozen(words, said, tmp_path, text2image):
    file = tmp_path / "vae.safetensors"
    pipe = minip2p.load(text2image, inference=False)
    parts = {"vae": pipe.vae.state_dict()}
    if "lora_also" in str(words):
        file = text2image
    else:
        checkpoints.write(file, "minip2p", pipe.config, parts)
    spec = STAGES["editor"]
    with pytest.raises(ValueError, match=said):
        config = spec.resolve(override(spec.presets["tiny"], "sources=2", "edits=1", *words), [file])
        spec.make(config, tmp_path, [file], torch.device("cpu"))


def test_a_file_without_an_autoencoder_does_not_get_one_that_does_not_fit(tmp_path, text2image, pairs):
    pipe = minip2p.load(text2image, inference=False)
    config = override(
        pipe.config,
        "unet.in_channels=4",
        "unet.out_channels=4",
        "dit.in_channels=4",
        "dit.out_channels=4",
        "vae.latent_channels=4",
    )
    from minip2p.models.unet import UNet

    parts = {"unet": UNet(config.unet).state_dict(), "text": pipe.text_encoder.state_dict()}
    file = tmp_path / "half.safetensors"
    checkpoints.write(file, "minip2p", config, parts, tokenizer=pipe.tokenizer)
    spec = LIBRARY["editor"]
    config = spec.resolve(replace(spec.presets["sd15"], data=(str(pairs),)), [file])
    with pytest.raises(ValueError, match="the autoencoder has latents of 8, the denoiser wants 4: give --init-from"):
        spec.make(config, tmp_path, [file], torch.device("cpu"))


@pytest.mark.parametrize("channels", [9, 17, 10])
def test_a_denoiser_with_other_inputs_is_refused_by_name(channels, tmp_path):
    file = write_weights(tmp_path / "other.safetensors", channels)
    with pytest.raises(ValueError, match="the denoiser to start from is of kind .*; expected text-to-image or editor"):
        resolve_config(STAGES["editor"].presets["tiny"], [file], edits=True)


def test_an_editor_is_no_text_to_image_model(editor):
    with pytest.raises(ValueError, match="of kind editor .*; expected text-to-image"):
        STAGES["text2image"].resolve(STAGES["text2image"].presets["tiny"], [editor])


# ---- one caption for all


@pytest.mark.parametrize("texts", [{"input": "a photo"}, {"edit": "remove the noise"}, {"input": "a", "edit": "b"}])
@pytest.mark.parametrize("latent", [False, True])
def test_a_set_of_one_task_is_trained_on_and_held_out(texts, latent, pairs, editor, tmp_path):
    data = tmp_path / "pairs"
    shutil.copytree(pairs, data)
    for path in data.glob("*/prompt.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"output": "b"} | texts))
    train_, val, test = split(open_edits(data))
    assert len(train_) > 40 and val and test
    chosen = precomputed(data, editor, tmp_path / "latents") if latent else data
    stage = make_stage(config_of(chosen, editor, "held_out=64"), tmp_path, editor)
    (set_,) = stage.data.examples.sets
    assert sorted(i for each in set_.prompts for i in each) == train_ and len(stage.held_out) == len(val)
    papers = make_stage(config_of(chosen, editor, "draw=prompts"), tmp_path, editor)
    different = {(text.input, text.instruction) for text in map(open_edits(data).text, train_)}
    assert len(papers.data.examples.sets[0].prompts) == len(different)


def test_a_prompt_is_drawn_as_often_as_another_whatever_its_pairs(pairs, editor, tmp_path):
    data = tmp_path / "pairs"
    shutil.copytree(pairs, data)
    train_, _, _ = split(open_edits(data))
    folder = sorted(data.iterdir())[train_[0]]
    for seed in range(10, 19):  # ten pairs of one prompt
        for side in (0, 1):
            shutil.copy(folder / f"7_{side}.jpg", folder / f"{seed}_{side}.jpg")
    text = json.loads((folder / "prompt.json").read_text())["edit"]
    counts = {}
    for draw in ("prompts", "pairs"):
        stage = make_stage(config_of(data, editor, f"draw={draw}", "dropout=0.0", "train.seed=1"), tmp_path, editor)
        prompts = stage.data.examples.sets[0].prompts
        items = [stage.data.batch(step).texts for step in range(-(-len(prompts) // 4))]
        counts[draw] = sum(each == text for batch in items for each in batch[: len(prompts)])
    assert counts["prompts"] <= 2 and counts["pairs"] >= 9


# ---- resuming


@pytest.fixture(scope="module")
def run(pairs, editor, tmp_path_factory):
    """Four steps of a run on a copy of the pairs: (its folder, the pairs)."""
    folder = tmp_path_factory.mktemp("run")
    shutil.copytree(pairs, folder / "pairs")
    finish(config_of(folder / "pairs", editor, *QUICK, "train.steps=4", "train.batch_size=2"), folder / "run", editor)
    return folder


@pytest.fixture
def stopped(run, tmp_path):
    """A copy of it."""
    shutil.copytree(run, tmp_path / "copy")
    return tmp_path / "copy"


def prompt_files(folder):
    return sorted((folder / "pairs").glob("*/prompt.json"))


def fewer(folder):
    shutil.rmtree(prompt_files(folder)[0].parent)


def more(folder):
    shutil.copytree(prompt_files(folder)[0].parent, folder / "pairs/another")


def reworded(folder):
    path = prompt_files(folder)[5]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"edit": "make it another"}))


def reordered(folder):
    names = [path.parent.name for path in prompt_files(folder)]
    (folder / "pairs/seeds.json").write_text(json.dumps([[name, [7]] for name in names[::-1]]))


def other_images(folder):
    for path in (folder / "pairs").glob("*/7_1.jpg"):
        shutil.copy(path.parent / "7_0.jpg", path)


@pytest.mark.parametrize("change", [fewer, more, reworded, reordered, other_images])
def test_changed_data_are_noticed_and_accepted_by_a_word(change, stopped, capsys):
    change(stopped)
    words = ["train", "editor", "--device", "cpu", "--resume", str(stopped / "run"), "--steps", "6"]
    before = files_of(stopped / "run")
    assert main([*words, "--data", str(stopped / "pairs")]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "00000004.pt: the data was 60 pairs" in error and "--accept-changes" in error
    assert files_of(stopped / "run") == before, "nothing is written"
    assert main([*words, "--data", str(stopped / "pairs"), "--accept-changes"]) == 0
    assert states(stopped / "run")[0]["step"] == 6


def test_the_same_data_elsewhere_are_the_same(stopped):
    shutil.move(stopped / "pairs", stopped / "moved")
    words = ["train", "editor", "--device", "cpu", "--resume", str(stopped / "run"), "--steps", "6"]
    assert main([*words, "--data", str(stopped / "moved")]) == 0


@pytest.mark.parametrize("part", ["tokenizer", "autoencoder", "text encoder"])
def test_other_frozen_networks_are_noticed(part, stopped, editor, capsys):
    pipe = minip2p.load(stopped / "run/model.safetensors", inference=False)
    if part == "tokenizer":
        merges = pipe.tokenizer.to_dict()
        pipe = replace(pipe, tokenizer=type(pipe.tokenizer).from_dict(merges | {"merges": merges["merges"][:-1]}))
    else:
        network = pipe.vae if part == "autoencoder" else pipe.text_encoder
        with torch.no_grad():
            next(network.parameters()).view(-1)[0] += 0.25
    minip2p.save(pipe, stopped / "run/model.safetensors")
    words = ["--resume", str(stopped / "run"), "--data", str(stopped / "pairs"), "--steps", "6"]
    assert main(["train", "editor", "--device", "cpu", *words]) == 2
    assert f"the {part} was" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, said",
    [
        (["--out", "x"], "--out starts another"),
        (["--init-from", "x"], "--init-from starts another"),
        (["--preset", "tiny"], "--preset starts another"),
        (["--data", "nowhere"], "nowhere: no such file"),
        (["--batch-size", "3"], "train.batch_size=2, not 3"),
        (["--lora-rank", "2"], "is of another model"),
        (["--steps", "3"], "has 4 steps already"),
        (["--set", "model.unet.widths=(16, 32, 32)"], "shapes of its unet weights"),
        (["--set", "model.text.layers=2"], "model.text.layers"),
        (["--set", "model.vae.scaling_factor=2.0"], "model.vae.scaling_factor"),
        (["--set", "size=32", "resize=(32, 32)"], None),
    ],
)
def test_nothing_beside_resume_is_ignored(words, said, stopped, capsys):
    config = stopped / "run/config.json"
    if "--data" not in words:
        words = ["--data", str(stopped / "pairs"), *words]
    if "--steps" not in words:
        words = ["--steps", "6", *words]
    status = main(["train", "editor", "--device", "cpu", "--resume", str(stopped / "run"), *words])
    if said is None:
        assert status == 0 and json.loads(config.read_text())["size"] == 32
        return
    assert status == 2 and said in capsys.readouterr().err.strip().splitlines()[-1]
    assert json.loads(config.read_text())["train"]["steps"] == 4, "the run is as it was"


@pytest.mark.parametrize("option", ["--resume", "--out", "--init-from", "--data", "--mixture"])
@pytest.mark.parametrize("value", ["", " "])
def test_an_empty_path_is_a_mistake(option, value, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "editor", option, value]) == 2
    assert f"{option} is empty: expected a path; is a variable not set?" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


# ---- interrupted, damaged, two at once


@pytest.mark.parametrize(
    "damage",
    ["cut", "not a state", *(pytest.param(each, marks=pytest.mark.slow) for each in ("empty", "another file"))],
)
def test_a_damaged_state_falls_back_to_the_one_before(damage, stopped, editor, capsys):
    last = stopped / "run/state/00000004.pt"
    whole = stopped / "whole"
    shutil.copytree(stopped / "run", whole)
    if damage == "not a state":
        torch.save({"weights": [1]}, last)
    else:
        last.write_bytes({"cut": last.read_bytes()[:-2000], "empty": b"", "another file": b"half"}[damage])
    assert resumed(stopped / "run", stopped, "--set", "train.keep=1") == 0
    assert "00000004.pt is damaged" in capsys.readouterr().err
    assert resumed(whole, stopped) == 0
    assert [path.stem for path in state.saved(stopped / "run")] == ["00000006"], "nor is the damaged one kept"
    lines = [[line for line in log_of(run) if "loss" in line] for run in (stopped / "run", whole)]
    assert equal(*states(stopped / "run", whole)) and lines[0] == lines[1]


def resumed(run, folder, *words):
    options = ["--resume", str(run), "--data", str(folder / "pairs"), "--steps", "6", *words]
    return main(["train", "editor", "--device", "cpu", *options])


def test_without_one_good_state_the_error_says_what_to_do(stopped, capsys):
    for path in state.saved(stopped / "run"):
        path.write_bytes(b"half")
    assert resumed(stopped / "run", stopped) == 2
    assert "none of its 2 states can be read; --init-from starts from its weights" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b"\xff\xfe"])
def test_other_damaged_files_are_named(name, content, stopped, capsys):
    (stopped / "run" / name).write_bytes(content)
    assert resumed(stopped / "run", stopped) == 2
    error = capsys.readouterr().err
    assert name in error and "Traceback" not in error


@pytest.mark.parametrize("torn", ['{"step": 5, "lo', "\x00\x00\x00", "[]", "5", '{"loss": 1.0}\n{"step": 6'])
def test_a_torn_log_is_repaired(torn, stopped):
    log, before = stopped / "run/log.jsonl", log_of(stopped / "run")
    with open(log, "a") as file:
        file.write(torn)
    (stopped / "run/samples/000005.png").write_bytes(b"of a later step")
    assert resumed(stopped / "run", stopped) == 0
    lines = log_of(stopped / "run")
    assert lines[: len(before)] == before and [line["step"] for line in lines[len(before) :]] == [5, 6, 6]
    assert not (stopped / "run/samples/000005.png").exists()


@pytest.fixture(scope="module")
def never_stopped(pairs, editor, tmp_path_factory):
    """A config with lines of the log, states and previews at different steps, and its run."""
    words = ("train.log_every=3", "train.save_every=2", "train.preview_every=4", "held_out=1", "preview_scales=(1.0,)")
    config, whole = (
        config_of(pairs, editor, *words, "train.batch_size=2", "dropout=0.2"),
        tmp_path_factory.mktemp("whole"),
    )
    finish(config, whole, editor)
    return config, whole


@pytest.mark.parametrize("at", range(1, 6))
def test_a_resumed_log_is_that_of_a_run_that_never_stopped(at, never_stopped, editor, tmp_path):
    config, whole = never_stopped
    stage = make_stage(config, tmp_path, editor)
    calls, loss = itertools.count(), stage.loss

    def killed(module, batch):
        if next(calls) == at:
            raise KeyboardInterrupt
        return loss(module, batch)

    stage.loss = killed
    with pytest.raises(KeyboardInterrupt):
        list(train(stage, tmp_path / "run"))
    finish(config, tmp_path / "run", editor, resume=state.newest(tmp_path / "run") is not None)
    assert log_of(tmp_path / "run") == log_of(whole) and files_of(tmp_path / "run") == files_of(whole)
    assert equal(*states(tmp_path / "run", whole))


def test_a_second_training_into_a_folder_is_refused(pairs, editor, tmp_path):
    config = config_of(pairs, editor)
    first = begin(config, tmp_path, editor)
    next(first)
    with pytest.raises(ValueError, match="another process is writing in it"):
        begin(config, tmp_path, editor)
    assert [log.step for log in first][-1] == 6
    with pytest.raises(ValueError, match="holds a run already"):
        begin(config, tmp_path, editor)


def test_a_killed_training_with_workers_leaves_no_lock(pairs, editor, tmp_path):
    words = ["--init-from", str(editor), "--data", str(pairs), "--out", str(tmp_path / "run"), "--set", "held_out=0"]
    words += ["train.workers=2", "train.steps=1000", "train.batch_size=2", "train.log_every=1", "train.save_every=1"]
    process = subprocess.Popen([sys.executable, str(ROOT / "train.py"), "editor", *words], env=env())
    while process.poll() is None and not state.saved(tmp_path / "run"):
        time.sleep(0.02)
    process.kill()
    process.wait()
    options = ["--resume", str(tmp_path / "run"), "--set", "train.workers=0"]
    steps = state.newest(tmp_path / "run").stem
    assert main(["train", "editor", "--device", "cpu", *options, f"train.steps={int(steps) + 1}"]) == 0


@pytest.mark.parametrize("content", [b"", b"half", b"\x08\0\0\0\0\0\0\0{}      "])
@pytest.mark.parametrize("stage, cache", [("editor", "latents"), ("classifier", "decoded")])
def test_a_damaged_cache_is_made_again(stage, cache, content, tmp_path, capsys):
    few = ("sources=2", "edits=1") if stage == "editor" else ("decoded=2",)
    spec, path = STAGES[stage], tmp_path / f"{cache}.safetensors"
    config = override(spec.presets["tiny"], "train.batch_size=2", *few)
    shipped = [minip2p.shipped("editor")] if stage == "editor" else []
    config = spec.resolve(config, shipped)
    made = spec.make(config, tmp_path, shipped, torch.device("cpu")).data.batch(0)
    good = path.read_bytes()
    path.write_bytes(content)
    again = spec.make(config, tmp_path, shipped, torch.device("cpu")).data.batch(0)
    assert path.read_bytes() == good and str(made) == str(again)
    assert "is damaged" in capsys.readouterr().err


def test_the_docs_have_the_table_of_departures():
    assert departures_table().strip() in (ROOT / "docs/differences.md").read_text(encoding="utf-8")


# ---- words without effect, new weights


@pytest.mark.parametrize(
    "stage, words, why",
    [
        ("text2image", "model.vae.widths=(8,8,8,8)", "the shipped autoencoder is used"),
        ("editor", "model.vae.scaling_factor=0.5", "the shipped autoencoder is used"),
        ("editor", "model.dit.depth=3", "the denoiser is a unet"),
        ("editor", "model.denoiser=dit model.unet.blocks=2", "the denoiser is a dit"),
        ("editor", "model.text.bos=1", "the vocabulary that is learned sets it"),
        ("editor", "model.unet.norm=rms model.unet.norm_groups=4", "the norm is rms"),
        ("editor", "model.schedule.shift=3", "the schedule is scaled_linear, not flow"),
        ("text2image", "model.schedule.kind=flow model.schedule.start=0.001", "the schedule is flow"),
        ("editor", "lora_alpha=4", "lora_rank is 0"),
        ("editor", "resize=(128,140)", "data names no sets of pairs"),
        ("editor", "skip_broken=True", "data names no sets of pairs"),
        ("editor", "full_caption_steps=9", "an editor reads instructions"),
        ("vae", "model.scaling_factor=0.5", "it is measured"),
        ("clip", "model.text.eos=1", "the vocabulary that is learned sets it"),
        ("language", "model.bos=3", "the vocabulary that is learned sets it"),
        ("instructions", "train.steps=3 epochs=2", "train.steps is given, too"),
        ("instructions", "lora_alpha=2", "lora_rank is 0"),
        ("classifier", "decoded=0 latent_noise=0.1", "decoded is 0"),
    ],
)
def test_a_word_without_effect_is_refused(stage, words, why, capsys):
    *others, last = words.split()
    assert main(["train", stage, "--print-config", "--set", *others, last]) == 2
    assert f"--set {last} would have no effect: {why}" in capsys.readouterr().err
    assert not others or main(["train", stage, "--print-config", "--set", *others]) == 0


def test_words_of_data_are_refused_where_the_data_has_them(pairs, editor, capsys, tmp_path):
    settings = Settings(size=64, resize=(64, 64), crops=1, flips=False)
    edits, pipe = open_edits(pairs), minip2p.load(editor, inference=False)
    list(precompute(lambda: pipe, edits, settings, tmp_path / "latents", data=read_texts(edits, False).mark))
    for data, word, why in (
        (tmp_path / "latents", "flip=0.1", "the crops are precomputed"),
        (tmp_path / "latents", "resize=(128,199)", "the crops are precomputed"),
        (pairs, "sources=5", "data names sets of pairs"),
        (pairs, "model.vae.blocks=2", "cannot be changed in training"),
    ):
        words = ["--init-from", str(editor), "--data", str(data), "--set", word]
        assert main(["train", "editor", "--print-config", *words]) == 2
        assert why in capsys.readouterr().err
    words = ["--init-from", str(editor), "--data", str(pairs), "--set", "flip=0.1", "resize=(128,199)", "draw=pairs"]
    assert main(["train", "editor", "--print-config", *words]) == 0


def test_new_weights_are_noted_at_the_start_alone(pairs, editor, text2image, tmp_path):
    def notes(file, *words):
        config = config_of(pairs, file, "train.steps=1", *words)
        first = next(iter(begin(config, tmp_path / str(len(list(tmp_path.iterdir()))), file)))
        return [line for line in first.messages if line.startswith("new, ")]

    vae = tmp_path / "vae.safetensors"
    pipe = minip2p.load(editor)
    parts = {"vae": pipe.vae.state_dict()}
    checkpoints.write(vae, "minip2p", pipe.config, parts, tokenizer=None, provenance={})
    assert notes(editor) == []
    assert notes(text2image) == ["new, with weights of zero: the inputs for the source image"]
    assert notes(vae, "train_text=True") == ["new, with random weights: unet and text; --init-from has none"]
    config = config_of(pairs, text2image, "train.steps=1")
    finish(config, tmp_path / "run", text2image)
    resumed = finish(override(config, "train.steps=2"), tmp_path / "run", text2image, resume=True)
    assert not any(line.startswith("new, ") for log in resumed for line in log.messages)
