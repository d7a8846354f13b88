"""The command line: what it makes and records. Errors are in test_cli_mistakes.py."""

import inspect
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_cli import edit, files, pixels
from PIL import Image
from tqdm import tqdm

import minip2p
from minip2p import cores
from minip2p.cli import main, metadata
from minip2p.cli.arguments import limit_threads, progress_bar
from minip2p.data import contact_sheet

ROOT = Path(__file__).parent.parent


pytestmark = pytest.mark.usefixtures("here")


# Editing


def test_edit_is_what_the_pipeline_gives(capsys):
    assert edit("--seed", "5", "--text-scale", "3") == 0
    expected = minip2p.load("editor.safetensors").edit("in.png", "make it night", steps=2, seed=5, text_scale=3.0)
    assert (pixels("out.png") == np.asarray(expected)).all()
    out, err = capsys.readouterr()
    assert out.startswith("out.png: 32x24; input 48x32") and "step/s" in err


def test_options_reach_the_pipeline():
    assert edit("--keep-size", output="kept.png") == 0
    assert pixels("kept.png").shape == (32, 48, 3)
    assert edit("--resolution", "16", "--fit", "stretch", "--low-memory", "--sampler", "ddim", output="small.webp") == 0
    expected = minip2p.load("editor.safetensors").edit(
        "in.png", "make it night", steps=2, resolution=16, fit="stretch", sampler="ddim", low_memory=True
    )
    assert (pixels("small.webp") == np.asarray(expected)).all()
    assert edit("--config", "sampling.resolution=16", output="changed.png") == 0
    assert pixels("changed.png").shape == pixels("small.webp").shape == (16, 24, 3)


def test_empty_instruction_gives_the_fitted_input(capsys):
    assert edit(text=" ") == 0
    assert "the instruction is empty" in capsys.readouterr().out
    assert (pixels("out.png") == np.asarray(minip2p.load("editor.safetensors").edit("in.png", ""))).all()


def test_output_folder_is_made():
    assert edit(output="new/deep/out.png") == 0
    assert Path("new/deep/out.png").is_file()
    Path("old").mkdir()
    assert edit(output="old") == 0
    assert Path("old/in.png").is_file()


@pytest.mark.parametrize("ending", ["jpg", "webp", "tif"])
def test_every_format_holds_the_metadata(ending):
    assert edit(output=f"out.{ending}") == 0
    assert metadata.read(Path(f"out.{ending}"))["instruction"] == "make it night"


def test_grid_cells_are_the_single_edits():
    assert edit("--grid", "text-scale=2,4,8", "image-scale=1,1.5", output="sheet.png") == 0
    big = pixels("sheet.png")
    for text_scale in ("2", "8"):
        assert edit("--text-scale", text_scale, "--image-scale", "1.5", output="one.png") == 0
        cell = pixels("one.png").repeat(6, 0).repeat(6, 1)  # 32 pixels enlarged to 192
        top = big.shape[0] - contact_sheet.MARGIN - cell.shape[0]
        right = big.shape[1] - contact_sheet.MARGIN - (202 * 2 if text_scale == "2" else 0)
        assert (big[top : top + cell.shape[0], right - cell.shape[1] : right] == cell).all()


def test_grid_with_one_axis_is_broken_into_rows():
    assert edit("--grid", "seed=0,1,2,3,4,5", output="sheet.png", steps="1") == 0
    assert edit("--grid", "seed=0,1", output="short.png", steps="1") == 0
    assert pixels("sheet.png").shape[0] > pixels("short.png").shape[0]


def test_small_networks_run_on_one_cpu_thread(monkeypatch):
    """Unless the user chooses: a small network waits for a second thread more than it gains."""
    before, threads = torch.get_num_threads(), {}
    commands = {"usual": [], "chosen": ["--threads", "2"]}
    try:
        for name, words in commands.items():
            torch.set_num_threads(3)
            monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
            assert edit(*words, output=f"{name}.png") == 0
            threads[name] = torch.get_num_threads()
        monkeypatch.setenv("OMP_NUM_THREADS", "3")
        torch.set_num_threads(3)
        assert edit() == 0
        threads["environment"] = torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
    assert threads == {"usual": 1, "chosen": 2, "environment": 3}
    assert np.abs(pixels("usual.png").astype(int) - pixels("chosen.png")).max() <= 1, "they change only the rounding"
    assert edit("--threads", "0") == 2
    assert main(["show", "usual.png", "--again", "--weights", "editor.safetensors", "--threads", "0"]) == 2


def test_large_networks_run_on_all_free_cores(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(cores, "free_cores", lambda: 7)
    chosen = []
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    small, large = torch.nn.Linear(1000, 1000), torch.nn.Linear(20_000, 20_000, bias=False, device="meta")
    for networks in ((small,), (large,), (small, large), (large, small)):
        limit_threads(*networks)
    limit_threads(large, threads=3)
    assert chosen == [1, 7, 7, 7, 3]


HEAVY = (
    *("torchvision", "torch._dynamo", "torch._inductor", "torch.utils.tensorboard", "tensorboard", "sympy", "scipy"),
    *("ray", "datasets", "pandas", "pyarrow", "matplotlib", "sentencepiece", "huggingface_hub", "ftfy"),
    *("diffusers", "transformers", "peft", "accelerate", "PIL.PdfImagePlugin"),
    *(f"minip2p.{room}" for room in ("training", "datagen", "evaluation", "tinyworld")),
)
"""modules that an edit does not need"""


@pytest.mark.slow
def test_an_edit_imports_nothing_that_it_does_not_need():
    words = ["edit", "--input", "in.png", "--edit", "night", "--steps", "1", "--output", "out.png"]
    words += ["--weights", "editor.safetensors"]
    code = f"import gc, sys; from minip2p.cli import main; assert main({words}) == 0; "
    code += "print(gc.isenabled(), gc.get_freeze_count() > 100_000, *sys.modules)"
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    collects, frozen, *modules = done.stdout.split("\n")[1].split()
    assert not set(HEAVY) & set(modules) and "torch" in modules
    assert collects == frozen == "True", "torch's objects are left out of the search for garbage"


@pytest.mark.slow
def test_networks_load_without_the_compiler():
    """torch._dynamo takes 2 seconds to import; on "meta", a network of random weights would do that."""
    code = """
import sys
from minip2p.checkpoints import on_meta
from minip2p.config import PRESETS, CLIPConfig, LlamaConfig, VisionConfig
from minip2p.models.clip import CLIP
from minip2p.models.denoisers import build_denoiser
from minip2p.models.dino import DINO
from minip2p.models.llama import Llama
from minip2p.models.text_encoder import TextEncoder
from minip2p.models.vae import AutoencoderKL
from minip2p.tinyworld.classifier import AttributeClassifier, ClassifierConfig
with on_meta():
    networks = [CLIP(CLIPConfig()), DINO(VisionConfig()), Llama(LlamaConfig()), AttributeClassifier(ClassifierConfig())]
    for config in PRESETS.values():
        networks += [build_denoiser(config), TextEncoder(config.text), AutoencoderKL(config.vae)]
assert all(w.is_meta for network in networks for w in network.parameters())
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)


# Many pictures


def test_folder_and_glob_are_resumed(capsys):
    Path("photos").mkdir()
    for name in ("a.png", "b.jpg", "b.png"):
        Image.open("in.png").save(f"photos/{name}")
    Path("photos/notes.txt").write_text("not a picture")
    assert edit(given="photos", output="made") == 0
    assert sorted(p.name for p in Path("made").iterdir()) == ["a.png", "b.jpg.png", "b.png"]
    Path("made/a.png").unlink()
    before = {p: p.stat().st_mtime_ns for p in Path("made").iterdir()}
    capsys.readouterr()
    assert edit(given="photos", output="made") == 0
    assert "2 of 3 are finished" in capsys.readouterr().err
    assert Path("made/a.png").is_file() and all(p.stat().st_mtime_ns == t for p, t in before.items())
    assert edit("--seed", "1", given="photos/b.*", output="made") == 0
    assert metadata.read(Path("made/b.jpg.png"))["seed"] == 1


def test_table(capsys):
    rows = [
        {"input": "in.png", "edit": "make it day", "seed": 3},
        {"input": "in.png", "output": "named.webp", "text_scale": 2},
    ]
    Path("sub").mkdir()
    Image.open("in.png").save("sub/in.png")
    Path("sub/table.jsonl").write_text("\n\n".join(map(json.dumps, rows)))
    assert edit(given="sub/table.jsonl", output="made") == 0
    [unnamed] = Path("made").glob("in.png-*.png")
    one, two = metadata.read(unnamed), metadata.read(Path("made/named.webp"))
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
        ('{"input": "in.png", "edit": "x", "edits": "x"}', "'edits'"),
        ('{"edit": "x"}', "'input' is missing"),
        ('{"input": "in.png", "edit": 5}', "expected a text"),
        ('{"input": "in.png", "edit": "x", "seed": 1.5}', "expected a whole number"),
        ('{"input": "in.png", "edit": "x", "text_scale": NaN}', "expected a finite number"),
    ],
)
def test_a_table_is_parsed_before_anything_is_made(capsys, line, words):
    Path("table.jsonl").write_text('{"input": "in.png", "edit": "make it day"}\n' + line + "\n")
    before = files()
    assert edit(given="table.jsonl", text=None, output="made") == 2
    error = capsys.readouterr().err
    assert "table.jsonl, line 2: " in error and words in error and files() == before


# Metadata


def test_again_gives_the_same_pixels(capsys):
    assert edit("--keep-size") == 0
    assert main(["show", "out.png"]) == 0
    shown = json.loads(capsys.readouterr().out[len("out.png: 48x32\n") :])
    assert shown["instruction"] == "make it night" and shown["text_scale"] == 7.5 and shown["made_with"]["minip2p"]
    assert main(["show", "out.png", "--again", "--output", "sub/again.png"]) == 0
    assert "the pixels are equal" in capsys.readouterr().out
    assert (pixels("sub/again.png") == pixels("out.png")).all()
    given = ["--input", "in.png", "--weights", "editor.safetensors"]
    assert main(["show", "sub/again.png", "--again"]) == 2  # its paths lead out of its folder
    assert main(["show", "sub/again.png", "--again", *given]) == 0
    assert edit("--grid", "seed=1,2", output="sheet.jpg", steps="1") == 0
    assert main(["show", "sheet.jpg", "--again"]) == 0


def test_again_names_what_has_changed(capsys):
    assert edit() == 0
    touched = pixels("out.png").copy()
    touched[0, 0, 0] ^= 1
    r = metadata.read(Path("out.png"))
    Path("touched.png").write_bytes(metadata.encode(Image.fromarray(touched), Path("touched.png"), r))
    assert main(["show", "touched.png", "--again"]) == 1
    assert "differ from those of touched.png by up to 1 of 255" in capsys.readouterr().out
    assert main(["show", "out.png", "--again", "--weights", "text2image.safetensors"]) == 2
    assert "weights text2image.safetensors have changed" in capsys.readouterr().err
    os.rename("in.png", "moved.png")
    assert main(["show", "out.png", "--again"]) == 2
    assert "input in.png: no such file" in capsys.readouterr().err
    assert main(["show", "out.png", "--again", "--input", "moved.png"]) == 0
    Image.new("RGB", (48, 32)).save("in.png")
    assert main(["show", "out.png", "--again"]) == 2
    assert "input in.png has changed" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name, words",
    [("in.png", "no metadata"), ("scene.png", "made again"), ("no.png", "no such file"), ("bad.png", "not a picture")],
)
def test_show_needs_metadata(capsys, name, words):
    Path("bad.png").write_bytes(b"no picture")
    assert main(["tiny", "scene", "--output", "scene.png"]) == 0
    assert main(["show", name, "--again"]) == 2
    assert words in capsys.readouterr().err


# Help, stops and other verbs


# As version 0.1 wrote it: an edit has no "verb"
OLD = """{"instruction": "make it night", "text_scale": 7.5, "image_scale": 1.5, "seed": 5, "steps": 2,
"sampler": "euler_ancestral", "spacing": "linspace", "resolution": 32, "fit": "crop", "keep_size": false,
"low_memory": false, "grid": {}, "input": {"path": "in.png", "sha256": "%s"}, "weights": {"path":
"editor.safetensors", "fingerprint": "%s", "ema": true, "config": [], "dtype": "float32"}, "made_with": {}}"""


def test_images_of_version_0_1_are_read_and_made_again(capsys):
    assert edit("--seed", "5") == 0
    m = metadata.read(Path("out.png"))
    old = json.loads(OLD % (m["input"]["sha256"], m["weights"]["fingerprint"]))
    Path("old.png").write_bytes(metadata.encode(Image.open("out.png"), Path("old.png"), old))
    assert Image.open("old.png").info["minip2p"] == json.dumps(old)
    assert metadata.equal(m, old)
    assert main(["show", "old.png"]) == 0 and json.loads(capsys.readouterr().out.split("\n", 1)[1]) == old
    assert main(["show", "old.png", "--again"]) == 0


def test_sampler_options_are_parsed_recorded_and_passed_on(monkeypatch):
    given = []

    def edit_(self, image, instruction, **settings):
        given.append(settings.pop("sampler_options", None))
        return real(self, image, instruction, **settings)

    real = minip2p.Pipeline.edit
    monkeypatch.setattr(minip2p.Pipeline, "edit", edit_)
    assert edit("--sampler-options", "eta=0.5", "order=3", "kind=a") == 0
    assert edit(output="without.png") == 0
    assert given == [{"eta": 0.5, "order": 3, "kind": "a"}, None]
    assert metadata.read(Path("out.png"))["sampler_options"] == given[0]
    assert "sampler_options" not in metadata.read(Path("without.png"))


@pytest.mark.skipif(
    "sampler_options" not in inspect.signature(minip2p.Pipeline.edit).parameters, reason="no sampler options yet"
)
@pytest.mark.parametrize("verb", ["edit", "generate", "sdedit", "pair", "attention"])
def test_sampler_options_reach_every_verb(verb, capsys):
    prompt = ["--prompt", "make it night", "--weights", "text2image.safetensors"]
    words = {
        "edit": ["--input", "in.png", "--edit", "make it night", "--weights", "editor.safetensors"],
        "generate": prompt,
        "sdedit": ["--input", "in.png", *prompt],
        "pair": ["--edited-prompt", "make it day", *prompt],
        "attention": prompt,
    }[verb]
    command = [verb, *words, "--steps", "3"]
    assert main([*command, "--output", "plain.png"]) == 0
    assert main([*command, "--output", "eta.png", "--sampler-options", "eta=0.5"]) == 0
    assert (pixels("plain.png") != pixels("eta.png")).any()
    assert main([*command, "--output", "no.png", "--sampler-options", "nonsense=1"]) == 2
    assert "nonsense" in capsys.readouterr().err and not Path("no.png").exists()


def test_help_lists_the_keys_of_the_dicts():
    from minip2p.cli.arguments import keys_of
    from minip2p.data.images import FITS
    from minip2p.diffusion import SAMPLERS, SPACINGS

    assert keys_of("diffusion/samplers.py", "SAMPLERS") == ", ".join(SAMPLERS)
    assert keys_of("diffusion/schedule.py", "SPACINGS") == ", ".join(SPACINGS)
    assert keys_of("data/images.py", "FITS") == ", ".join(FITS)


def test_help_of_tiny_lists_its_verbs(capsys):
    assert main(["tiny", "--help"]) == 0
    assert {"scene", "evaluate", "make-data", "rebuild"} <= set(capsys.readouterr().out.split())


def test_help_waits_for_nothing():
    code = "import sys, minip2p.cli as c; c.main([]); c.main(['edit', '--help']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "--text-scale" in done.stdout, done.stderr


def test_ctrl_c_is_one_line_and_130():
    words = "--input in.png --output out.png --edit night --weights editor.safetensors --steps 10000".split()
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


def test_a_scene_is_drawn_with_its_caption(capsys):
    assert main(["tiny", "scene", "--seed", "3", "--size", "128", "--output", "scene.png"]) == 0
    assert main(["tiny", "scene", "--seed", "3", "--size", "128", "--edit", "--output", "pair.png"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0] == told[2] and len(told) == 6
    assert pixels("pair.png").shape == (128, 264, 3)
    assert (pixels("pair.png")[:, :128] == pixels("scene.png")).all()


def test_convert_and_info(capsys):
    def fingerprint(path: str) -> str:
        return minip2p.load(path).fingerprint

    assert main(["convert", "--weights", "editor.safetensors", "--output", "same.safetensors"]) == 0
    assert fingerprint("same.safetensors") == fingerprint("editor.safetensors")
    words = "--weights text2image.safetensors --output wide.safetensors --widen --dtype bfloat16".split()
    assert main(["convert", *words]) == 0
    assert main(["info", "--weights", "wide.safetensors"]) == 0
    told = capsys.readouterr().out
    assert "editor" in told and "bfloat16" in told and '"in_channels": 8' in told
    assert edit("--weights", "wide.safetensors") == 0


def test_a_silenced_bar_shows_nothing(monkeypatch, capsys):
    """As TQDM_DISABLE=1 makes every bar."""
    monkeypatch.setattr("tqdm.tqdm", partial(tqdm, disable=True))
    with progress_bar("step", "edit") as show:
        show(1, 2, "edit, again")
    assert capsys.readouterr().err == ""
