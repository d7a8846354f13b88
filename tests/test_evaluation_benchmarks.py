"""MagicBrush's metrics against torchvision's and transformers' parts of its script, on random weights; its turns."""

import json
from pathlib import Path

import pytest
import torch
from conftest import randomise, small_pipeline
from helpers_corpus import make_models
from PIL import Image
from test_evaluation_sweep import picture, run_all, small_clip, write_picture, write_set
from torchvision import transforms

from minip2p import checkpoints
from minip2p.cli import main
from minip2p.config import VisionConfig
from minip2p.data.edits import open_edits
from minip2p.evaluation.benchmarks import MagicBrushMetrics, benchmark, clip_view, dino_view, sessions
from minip2p.evaluation.curves import Curve, Settings, item_seed
from minip2p.evaluation.protocols import choose
from minip2p.evaluation.summary import read_points, summarize, table
from minip2p.models.dino import DINO

DINO_CONFIG = VisionConfig(
    image_size=28, patch_size=7, width=64, layers=2, heads=1, feed_forward=96, activation="gelu", projection=64
)
TURNS = {"139": 3, "30": 1, "7": 2}
"""of MagicBrush: picture -> how many edits it has"""


def small_dino() -> DINO:
    return randomise(DINO(DINO_CONFIG), 8)


def write_magicbrush(folder: Path) -> Path:
    """Pictures of TURNS, in sizes that differ and are no squares; the turns are listed in another order."""
    turns, captions = [], {}
    for seed, (name, n) in enumerate(TURNS.items()):
        files = [f"{name}-input.png", *(f"{name}-output{k}.png" for k in range(1, n + 1))]
        for k, file in enumerate(files):
            write_picture(folder / "images" / name / file, picture(10 * seed + k, (40 + 9 * seed, 36)))
        for k in range(n):
            row = {"input": files[k], "mask": f"{name}-mask{k}.png", "output": files[k + 1]}
            turns.append(row | {"instruction": f"edit {k} of {name}"})
        captions[name] = {file: f"thing {k}" for k, file in enumerate(files)}
    (folder / "edit_turns.json").write_text(json.dumps(turns[::-1]))
    (folder / "local_descriptions.json").write_text(json.dumps(captions))
    (folder / "global_descriptions.json").write_text(json.dumps({"139": {"139-input.png": "all of it"}}))
    return folder


@pytest.fixture(scope="module")
def brush(tmp_path_factory):
    return open_edits(write_magicbrush(tmp_path_factory.mktemp("brush")))


@pytest.fixture(scope="module")
def metrics():
    return MagicBrushMetrics(small_clip(), small_dino())


# Against the parts of their script


SIZES = [(40, 36), (36, 61), (300, 211), (16, 90), (17, 17), (33, 32), (28, 32), (1024, 683)]


@pytest.mark.parametrize("size", SIZES)
def test_pictures_enter_the_networks_as_torchvision_has_them(size):
    """OpenAI's transform for CLIP, MagicBrush's for DINO (256, then 224, and both smaller in ratio), bit for bit."""
    image, bicubic = picture(sum(size), size), transforms.InterpolationMode.BICUBIC
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    end = transforms.ToTensor(), transforms.Normalize(mean, std)
    for side in (16, 28, 224):
        theirs = transforms.Compose([transforms.Resize(side, bicubic), transforms.CenterCrop(side), *end])
        ours = clip_view(image, VisionConfig(image_size=side, patch_size=side // 4))
        assert torch.equal(ours, theirs(image))
    end = transforms.ToTensor(), transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    for side, crop in ((256, 224), (32, 28)):
        theirs = transforms.Compose([transforms.Resize(side, bicubic), transforms.CenterCrop(crop), *end])
        assert torch.equal(dino_view(image, VisionConfig(image_size=crop, patch_size=7)), theirs(image))


@torch.inference_mode()
def expected(metrics: MagicBrushMetrics, result: Image.Image, truth: Image.Image, caption: str) -> dict[str, float]:
    """Each metric in the words of the script, on the same random networks."""
    to_tensor, size = transforms.ToTensor(), truth.size
    a, b = to_tensor(result.resize(size)), to_tensor(truth)
    clip, dino = metrics.clip, metrics.dino
    bicubic = transforms.InterpolationMode.BICUBIC
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

    def features(network, image, side, crop, *norm):
        steps = transforms.Resize(side, bicubic), transforms.CenterCrop(crop), to_tensor, transforms.Normalize(*norm)
        return network(transforms.Compose(steps)(image)[None])[0]

    def cosine(x, y):
        return float((x.double() @ y.double()) / (x.double().norm() * y.double().norm()))

    seen = [features(clip.vision, image, 16, 16, mean, std) for image in (result, truth)]
    norm = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    known = [features(dino, image, 32, 28, *norm) for image in (result, truth)]
    return {
        "l1": float(torch.nn.L1Loss()(a, b)),
        "l2": float(torch.nn.MSELoss()(a, b)),
        "clip_i": cosine(*seen),
        "dino": cosine(*known),
        "clip_t": cosine(seen[0], clip.encode_texts([caption])[0]),
    }


@pytest.mark.parametrize("size", [(40, 36), (64, 64), (97, 30), (20, 50)])
def test_metrics_are_those_of_the_script(metrics, size):
    """Of results larger and smaller than the truth and of another shape, within 1e-5 of each value."""
    result, truth = picture(3, size), picture(4, (64, 48))
    found, wanted = metrics.measure(result, truth, "a cat"), expected(metrics, result, truth, "a cat")
    assert found == pytest.approx(wanted, rel=1e-5)
    assert list(MagicBrushMetrics(metrics.clip).measure(result, truth, None)) == ["l1", "l2", "clip_i"]


def test_a_picture_is_equal_to_itself(metrics):
    found = metrics.measure(picture(3), picture(3), None)
    assert found["l1"] == found["l2"] == 0 and found["clip_i"] == pytest.approx(1) == found["dino"]


# Turns


def test_sessions_follow_the_turns(brush):
    found = [[brush.text(i).key for i in turns] for turns in sessions(brush, Settings())]
    assert sorted(found) == sorted([f"{name}-output{k}.png" for k in range(1, n + 1)] for name, n in TURNS.items())


def test_other_sets_have_single_turns_of_their_split_and_captions_of_targets(metrics, tmp_path):
    """What is left out of a training is measured; there are no chains."""
    pairs = open_edits(write_set(tmp_path / "pairs", 10))
    settings = Settings(split="train", steps=1, threads=1, n=4, unit=3)
    curve = Curve(name="editor", method="editor", source="x")
    load = lambda: (small_pipeline(8), metrics.clip, None)  # noqa: E731
    [point] = read_points(run_all(benchmark(load, curve, pairs, settings, tmp_path / "out")))
    assert point.turns == "single" and point.keys == [item.text.key for item in choose(pairs, settings)]
    assert list(point.values) == ["l1", "l2", "clip_i", "clip_t"]
    i = choose(pairs, settings)[2].index
    result = small_pipeline(8).edit(pairs[i].source, pairs[i].instruction, steps=1, seed=item_seed(0, pairs.key(i)))
    wanted = expected(metrics, result, pairs[i].target, pairs[i].output)
    assert point.values["clip_t"][2] == pytest.approx(wanted["clip_t"], rel=1e-5)


@pytest.fixture(scope="module")
def rows(brush, metrics, tmp_path_factory) -> list[dict]:
    out, pipe = tmp_path_factory.mktemp("out"), small_pipeline(8)
    curve = Curve(name="editor", method="editor", source="x")
    settings = Settings(steps=2, unit=2, seed=3, threads=1)
    folder = run_all(benchmark(lambda: (pipe, metrics.clip, metrics.dino), curve, brush, settings, out))
    return [json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.read_text().splitlines()]


def test_single_turns_begin_at_true_inputs_and_chains_at_results(rows, brush, metrics):
    pipe, by_key = small_pipeline(8), {brush.text(i).key: i for i in range(len(brush))}
    assert sorted((row["key"], row["turns"]) for row in rows) == sorted(
        [(f"{name}-output{k}.png", "single") for name, n in TURNS.items() for k in range(1, n + 1)]
        + [(f"{name}-output{n}.png", "multi") for name, n in TURNS.items()]
    )
    for row in rows:
        name, k = row["key"].split("-")[0], row["turn"]
        pairs = [brush[by_key[f"{name}-output{j}.png"]] for j in range(1, k + 1)]
        image = pairs[0].source if row["turns"] == "multi" else pairs[-1].source
        for pair in pairs if row["turns"] == "multi" else pairs[-1:]:
            image = pipe.edit(image, pair.instruction, steps=2, seed=item_seed(3, pair.name))
        wanted = expected(metrics, image, pairs[-1].target, f"thing {k}")
        assert {metric: row[metric] for metric in wanted} == pytest.approx(wanted, rel=1e-5)


def test_pictures_of_others_by_magicbrushs_names(brush, metrics, tmp_path):
    """Given the true pictures, every distance is 0; without chains only single turns are measured."""
    for name, n in TURNS.items():
        for k in range(1, n + 1):
            truth = Path(brush.path) / "images" / name / f"{name}-output{k}.png"
            for word in ("1",) if k == 1 else (f"inde_{k}", f"iter_{k}"):
                write_picture(tmp_path / "mine" / name / f"{name}_{word}.png", Image.open(truth))
    settings = Settings(threads=1, unit=2)

    def points(name: str) -> list:
        curve = Curve(name=name, method="results", source=str(tmp_path / "mine"))
        load = lambda: (None, metrics.clip, metrics.dino)  # noqa: E731
        return read_points(run_all(benchmark(load, curve, brush, settings, tmp_path / "out")))

    multi, single = points("a")
    assert (single.turns, len(single.keys), multi.turns, len(multi.keys)) == ("single", 6, "multi", 3)
    for point in (single, multi):
        assert point.values["l1"].max() == 0 and point.values["dino"].min() > 0.99999
    for path in (tmp_path / "mine").rglob("*_iter_*"):
        path.unlink()
    [single] = points("b")
    assert (single.turns, len(single.keys)) == ("single", 6)
    (tmp_path / "mine" / "7" / "7_inde_2.png").unlink()
    with pytest.raises(ValueError, match="no picture 7/7_inde_2.png"):
        points("c")


def test_rows_name_the_networks(brush, metrics, tmp_path):
    curve = Curve(name="editor", method="editor", source="my.safetensors", points=(1.0, 1.5))
    load = lambda: (small_pipeline(8), metrics.clip, metrics.dino)  # noqa: E731
    settings = Settings(steps=1, n=1, threads=1)
    found = summarize(read_points(run_all(benchmark(load, curve, brush, settings, tmp_path))))
    assert [(row["turns"], row["point"]) for row in found] == [(t, s) for t in ("multi", "single") for s in (1.0, 1.5)]
    text = table(found)
    for row in found:
        assert row["dino_model"].startswith("ViT-2x64/7 at 28 px (") and "Pillow's bicubic" in row["filter"]
        assert row["dino_model"] in text and f"| image scale {row['point']:g}, {row['turns']} turn |" in text


# The command


@pytest.mark.slow
def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_models(tmp_path)
    write_magicbrush(tmp_path / "brush")
    checkpoints.write(
        tmp_path / "dino.safetensors", "minip2p", DINO_CONFIG, {"dino": small_dino().state_dict()}, tokenizer=None
    )
    words = (
        "evaluate --metrics magicbrush --data brush --output out --weights editor.safetensors --clip clip.safetensors"
    )
    words += " --dino dino.safetensors --steps 1 --threads 1 --device cpu"
    assert main(words.split()) == 0
    printed = capsys.readouterr().out
    assert "L1 | L2 | CLIP-I | DINO | CLIP-T |" in printed
    assert "| editor | single turn | 6 |" in printed and "| editor | multi turn | 3 |" in printed
    picture(1).save("a.png")
    assert main(["edit", "--input", "a.png", "--edit", "x", "--output", "x.png", "--weights", "dino.safetensors"]) == 2
    assert "holds a DINO, expected an editor or text-to-image model" in capsys.readouterr().err
