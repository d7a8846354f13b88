"""`minip2p evaluate` by CLIP: the authors' script restated, items and seeds, curves, the summary, the command."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import contents, randomise, small_pipeline, tokenize
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.nn.functional import cosine_similarity, interpolate

from minip2p import checkpoints, engines
from minip2p.cli import main
from minip2p.config import CLIPConfig, TextConfig, VisionConfig
from minip2p.data.edits import open_edits
from minip2p.data.split import split
from minip2p.evaluation import summary
from minip2p.evaluation.curves import IMAGE_SCALES, STRENGTHS, Curve, Settings, find_picture, item_seed, parse_unit
from minip2p.evaluation.metrics import KEYS
from minip2p.evaluation.protocols import AuthorsNoise, choose
from minip2p.evaluation.summary import estimate, read_points, summarize, table
from minip2p.evaluation.sweep import sweep
from minip2p.models.clip import CLIP
from minip2p.text.learn import learn_bpe

SIDE = 32


def small_clip() -> CLIP:
    text = TextConfig(
        vocab_size=400, max_length=16, width=32, layers=1, heads=2, feed_forward=48, bos=398, eos=399, pad=399
    )
    vision = VisionConfig(image_size=16, patch_size=8, width=32, layers=1, heads=2, feed_forward=48, projection=24)
    return randomise(CLIP(CLIPConfig(text=replace(text, projection=24), vision=vision), tokenize), 5)


def picture(seed: int, size=(40, 36)) -> Image.Image:
    x = torch.rand(3, 5, 7, generator=torch.Generator().manual_seed(seed))
    x = interpolate(x[None], size[::-1], mode="bicubic").clamp(0, 1)[0]
    return Image.fromarray((255 * x).byte().movedim(0, -1).numpy())


def write_set(folder: Path, prompts: int, least: int = 1) -> Path:
    """The authors' folders: `prompts` of 1 to 3 pairs each, whose pictures are no squares."""
    seeds = []
    for i in range(prompts):
        at, names = folder / f"{i:07d}", [str(100 * i + k) for k in range(least + i % 3)]
        at.mkdir(parents=True)
        row = {"input": f"cat {i}", "edit": "" if i == 3 else f"night {i}", "output": f"by night {i}"}
        (at / "prompt.json").write_text(json.dumps(row))
        for name in names:
            for side in (0, 1):
                picture(2 * int(name) + side).save(at / f"{name}_{side}.jpg", quality=95)
        seeds.append([f"{i:07d}", names])
    (folder / "seeds.json").write_text(json.dumps(seeds))
    return folder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return open_edits(write_set(tmp_path_factory.mktemp("pairs"), 10))


@pytest.fixture(scope="module")
def models():
    return small_pipeline(8), small_pipeline(4, seed=7), small_clip()


def run_all(work) -> Path:
    for _ in engines.run(work):
        pass
    return work.folder


def rows_of(folder: Path) -> list[dict]:
    return [json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.read_text().splitlines()]


# The authors' script


@torch.inference_mode()
def authors_metrics(pipe, clip, folder: Path, scales, text_scale, n, steps, seed, first, last):
    """Their loop, restated in plain torch: every sample's prompt, pair and similarities, for each scale.

    Where theirs draws on the GPU, an own generator is seeded, as `torch.manual_seed` seeds all of them.
    """
    entries = json.loads((folder / "seeds.json").read_text())
    entries = entries[int(first * len(entries)) : int(last * len(entries))]
    schedule, found = pipe.denoiser.schedule, {}
    null = pipe.text_encoder(pipe.tokenizer([""]))
    sigmas = schedule.sigmas_for(steps).tolist()
    for scale in scales:
        torch.manual_seed(seed)
        gpu = torch.Generator().manual_seed(seed)
        order, samples = torch.randperm(len(entries)), []
        for i in range(n):
            name, seeds = entries[order[i].item()]
            chosen = seeds[torch.randint(0, len(seeds), ()).item()]
            prompt = json.loads((folder / name / "prompt.json").read_text())
            side = torch.randint(SIDE, SIDE + 1, ()).item()
            image = Image.open(folder / name / f"{chosen}_0.jpg").resize((side, side), Image.Resampling.LANCZOS)
            x0 = 2 * torch.tensor(np.array(image)).float().permute(2, 0, 1)[None] / 255 - 1
            text, condition = pipe.text_encoder(pipe.tokenizer([prompt["edit"]])), pipe.vae.encode(x0).mean
            z = torch.randn(condition.shape, generator=gpu) * sigmas[0]
            for sigma, after in zip(sigmas, sigmas[1:]):
                c, t = 1 / (sigma**2 + 1) ** 0.5, torch.full((3,), timestep(schedule, sigma))
                inputs = torch.cat([(c * z).repeat(3, 1, 1, 1), torch.cat([condition, condition, 0 * condition])], 1)
                eps = pipe.unet(inputs, t, torch.cat([text, null, null]))
                full, image_only, none = (z.repeat(3, 1, 1, 1) - sigma * eps).chunk(3)
                denoised = none + text_scale * (full - image_only) + scale * (image_only - none)
                up = min(after, (after**2 * (sigma**2 - after**2) / sigma**2) ** 0.5)
                z = z + (z - denoised) / sigma * ((after**2 - up**2) ** 0.5 - sigma)
                if after > 0:
                    z = z + torch.randn(z.shape, generator=gpu) * up
            x1 = pipe.vae.decode(z / pipe.config.vae.scaling_factor)
            samples.append((f"{name}/{chosen}", *authors_similarities(clip, x0, x1, prompt["input"], prompt["output"])))
        found[scale] = samples
    return found


def timestep(schedule, sigma: float) -> float:
    """By interpolation of log sigma, as k-diffusion does."""
    levels = ((1 - schedule.alphas_cumprod) / schedule.alphas_cumprod).sqrt().log().double()
    return float(np.interp(np.log(sigma), levels.numpy(), np.arange(len(levels))))


def authors_similarities(clip, x0, x1, text_0, text_1) -> list[float]:
    """Pictures in [-1, 1], not clipped, through the normalisation that expects [0, 1]."""
    mean = torch.tensor((0.48145466, 0.4578275, 0.40821073))[:, None, None]
    std = torch.tensor((0.26862954, 0.26130258, 0.27577711))[:, None, None]
    size = clip.config.vision.image_size
    i0, i1 = (
        clip.vision((interpolate(x.float(), size, mode="bicubic", align_corners=False) - mean) / std) for x in (x0, x1)
    )
    t0, t1 = (clip.encode_texts([text]) for text in (text_0, text_1))
    i0, i1, t0, t1 = (x / x.norm(dim=1, keepdim=True) for x in (i0, i1, t0, t1))
    pairs = (i0, t0), (i1, t1), (i1 - i0, t1 - t0), (i0, i1)
    return [cosine_similarity(a, b).item() for a, b in pairs]


@pytest.mark.parametrize("split, ends, n", [("test", (0.9 + 0.05, 1), 1), ("all", (0, 1), 7)])
def test_the_authors_protocol_is_their_script(pairs, models, split, ends, n, tmp_path):
    """Items, pairs of prompts, noise and pixels; two scales; units of 3, made in any order; an empty instruction."""
    pipe, _, clip = models
    scales, seed, steps, text_scale = (1.0, 2.2), 3, 4, 2.5
    wanted = authors_metrics(pipe, clip, Path(pairs.path), scales, text_scale, n, steps, seed, *ends)
    how = dict(protocol="authors", split=split, n=n, steps=steps, seed=seed, text_scale=text_scale, unit=3)
    curve = Curve(name="editor", method="editor", source="x", points=scales)
    work = sweep(lambda: (pipe, clip), curve, pairs, Settings(**how, resolution=SIDE, threads=1), tmp_path)
    run_all(replace(work, names=[name for name in work.names[::-1]]))
    points = read_points(tmp_path / "editor")
    assert [point.point for point in points] == list(scales)
    for point in points:
        keys, *columns = zip(*wanted[point.point])
        assert point.keys == list(keys) and len(keys) == n
        for key, column in zip(("clip_sim_0", "clip_sim_1", "clip_sim_dir", "clip_sim_image"), columns):
            assert np.abs(point.values[key] - np.array(column)).max() < 1e-4
    if n > 1:  # the items differ from each other, and the scales
        images = np.array([[row[-1] for row in wanted[scale]] for scale in scales])
        assert images.std(axis=1).min() > 1e-2 and abs(images[0] - images[1]).max() > 1e-2


def test_the_baseline_is_measured_as_the_authors_measure(pairs, models, tmp_path):
    """SDEdit of the squashed picture, decoded without clipping, against that picture."""
    _, pipe, clip = models
    settings = Settings(protocol="authors", split="all", n=3, steps=2, resolution=SIDE, threads=1)
    curve = Curve(name="sdedit", method="sdedit", source="x", points=(0.5,))
    run_all(sweep(lambda: (pipe, clip), curve, pairs, settings, tmp_path))
    by_key = {pairs.key(i): pairs[i] for i in range(len(pairs))}
    for row in rows_of(tmp_path / "sdedit"):
        pair = by_key[row["key"]]
        image = pair.source.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        z = pipe.sdedit(image, pair.output, 0.5, steps=2, seed=row["seed"], output="latent")
        with torch.inference_mode():
            x0 = 2 * torch.tensor(np.array(image)).float().permute(2, 0, 1)[None] / 255 - 1
            x1 = pipe.vae.decode(z[None] / pipe.config.vae.scaling_factor)
            wanted = authors_similarities(clip, x0, x1, pair.input, pair.output)
        assert [row[key] for key in ("clip_sim_0", "clip_sim_1", "clip_sim_dir", "clip_sim_image")] == pytest.approx(
            wanted, abs=1e-4
        )


def test_the_authors_pixels_change_the_numbers(pairs, models, tmp_path):
    """Same pictures and items, seen in [-1, 1] or [0, 1]: the quirk is what the protocols differ in."""
    _, _, clip = models
    shown = tmp_path / "shown"
    for text in pairs.texts():
        write_picture(shown / f"{text.key}.png", picture(len(text.key)))
    found = []
    for protocol in ("paired", "authors"):
        curve = Curve(name=protocol, method="results", source=str(shown))
        settings = Settings(protocol=protocol, split="all", resolution=SIDE, threads=1)
        point = read_points(run_all(sweep(lambda: (None, clip), curve, pairs, settings, tmp_path)))[0]
        found.append(dict(zip(point.keys, point.values["clip_sim_image"])))
    common = found[0].keys() & found[1].keys()
    assert len(common) >= 5 and all(abs(found[0][key] - found[1][key]) > 1e-4 for key in common)


def write_picture(path: Path, image: Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def test_their_noise_is_the_same_in_any_order():
    shape, one, other = (1, 4, 3, 3), *(AuthorsNoise(5, torch.device("cpu")) for _ in range(2))
    generator = torch.Generator().manual_seed(5)
    wanted = [[torch.randn(shape, generator=generator) for _ in range(3)] for _ in range(6)]
    for noise, order in ((one, range(6)), (other, (4, 1, 5, 0, 0, 2, 3))):
        for item in order:
            assert all(map(torch.equal, noise.of(item, 3, shape), wanted[item]))


def test_a_prompt_without_pairs_and_another_layout_have_no_authors_protocol(tmp_path, pairs):
    write_set(tmp_path / "a", 4, least=0)
    with pytest.raises(ValueError, match="prompt 000000[03] has no pairs"):
        choose(open_edits(tmp_path / "a"), Settings(protocol="authors", split="all"))
    table = tmp_path / "edits.jsonl"
    picture(1).save(tmp_path / "a.png"), picture(2).save(tmp_path / "b.png")
    table.write_text('{"source": "a.png", "target": "b.png", "edit": "night"}')
    with pytest.raises(ValueError, match="edits.jsonl: --protocol authors needs the authors' folders"):
        choose(open_edits(table), Settings(protocol="authors"))


# Our protocol


def test_items_are_of_the_split_and_their_seeds_their_own(pairs):
    items = choose(pairs, Settings(split="all", seed=4))
    assert sorted(item.index for item in items) == list(range(len(pairs)))
    assert [item.index for item in items] != list(range(len(pairs)))
    few = choose(pairs, Settings(split="all", seed=4, n=5))
    assert few == items[:5]  # more items are added behind
    assert len({item.seed for item in items}) == len(items)
    assert all(item.seed == item_seed(4, item.text.key) < 2**31 for item in items)
    assert {item.seed for item in items}.isdisjoint(item.seed for item in choose(pairs, Settings(split="all")))
    parts = split(pairs)
    for name, part in zip(("train", "val", "test"), parts):
        if part:
            assert sorted(item.index for item in choose(pairs, Settings(split=name))) == part
        else:
            with pytest.raises(ValueError, match=f"no pair is in the split '{name}'; --split all"):
                choose(pairs, Settings(split=name))


@pytest.fixture(scope="module")
def made(pairs, models, tmp_path_factory) -> Path:
    """An editor at two scales and SDEdit at two strengths."""
    editor, text2image, clip = models
    out = tmp_path_factory.mktemp("out")
    settings = Settings(split="all", n=6, steps=2, unit=4, batch_size=2, threads=1, seed=1)
    for name, pipe, points in (("editor", editor, (1.0, 2.2)), ("sdedit", text2image, (0.5, 1.0))):
        curve = Curve(name=name, method=name, source=f"{name}.safetensors", points=points)
        run_all(sweep(lambda pipe=pipe: (pipe, clip), curve, pairs, settings, out))
    return out


def test_samples_are_the_edits_of_the_pipeline(pairs, models, made):
    """Computed again one by one, with the seeds in the samples."""
    editor, text2image, clip = models
    assert {path.name for path in (made / "editor").iterdir()} == {
        "run.json",
        "1_0000000.jsonl",
        "1_0000004.jsonl",
        "2.2_0000000.jsonl",
        "2.2_0000004.jsonl",
    }
    by_key = {pairs.text(i).key: i for i in range(len(pairs))}
    for name in ("editor", "sdedit"):
        for row in rows_of(made / name)[::3]:
            pair = pairs[by_key[row["key"]]]
            if name == "editor":
                scales = {"image_scale": row["point"], "seed": row["seed"], "steps": 2}
                result, source = editor.edit(pair.source, pair.instruction, output="tensor", **scales), editor
            else:
                how = {"seed": row["seed"], "steps": 2, "output": "tensor"}
                result, source = text2image.sdedit(pair.source, pair.output, row["point"], **how), text2image
            before = torch.from_numpy(np.array(source.fitted(pair.source).image)).permute(2, 0, 1) / 255
            found = clip.similarities(before[None], result[None], [pair.input], [pair.output])
            assert [row[KEYS[each]] for each in ("caption_0", "caption_1", "direction", "image")] == pytest.approx(
                [float(each) for each in found], abs=2e-4
            )


def test_all_curves_have_the_same_items_and_seeds(made):
    found = [(row["item"], row["key"], row["seed"]) for row in rows_of(made / "editor")]
    assert sorted(found) == sorted((row["item"], row["key"], row["seed"]) for row in rows_of(made / "sdedit"))
    assert [point.keys for point in read_points(made / "editor")] == [[key for _, key, _ in sorted(set(found))]] * 2


def test_a_set_without_captions_and_missing_pictures_are_named(tmp_path, models, pairs):
    (tmp_path / "a.png").write_bytes((Path(pairs.path) / "0000000" / "0_0.jpg").read_bytes())
    (tmp_path / "b.png").write_bytes((Path(pairs.path) / "0000001" / "100_0.jpg").read_bytes())
    (tmp_path / "e.jsonl").write_text('{"source": "a.png", "target": "b.png", "edit": "night", "input": "a cat"}')
    curve = Curve(name="other", method="results", source=str(tmp_path))
    with pytest.raises(ValueError, match="no edited caption; CLIP's similarities need both"):
        sweep(None, curve, open_edits(tmp_path / "e.jsonl"), Settings(split="all"), tmp_path)
    with pytest.raises(ValueError, match=r"no picture 000000\d/\d+.png \(or .jpg ...\), which item"):
        sweep(None, curve, pairs, Settings(split="all"), tmp_path)
    with pytest.raises(ValueError, match="cannot be the name of a file"):
        find_picture(tmp_path, "../a")


def test_the_wrong_model_is_refused(pairs, models, tmp_path):
    editor, text2image, clip = models
    for method, pipe in (("editor", text2image), ("sdedit", editor)):
        curve = Curve(name="x", method=method, source="x", points=(1.0,))
        with pytest.raises(ValueError, match="is needed"):
            run_all(sweep(lambda pipe=pipe: (pipe, clip), curve, pairs, Settings(split="all"), tmp_path))


@given(st.floats(0, 1000), st.integers(0, 10**6))
def test_a_units_name_says_its_point_and_items(point, start):
    point = float(f"{point:g}")
    assert parse_unit(Curve(name="a", method="editor", source="").unit(point, start)) == (point, start)
    assert parse_unit(Curve(name="a", method="editor", source="").unit(None, start)) == (None, start)


def test_the_defaults_are_the_authors():
    s = Settings()
    assert (s.n, s.steps, s.seed, s.split) == (5000, 100, 0, "test")
    assert IMAGE_SCALES == tuple(np.arange(10, 24, 2) / 10) and STRENGTHS == tuple(np.arange(3, 10) / 10)
    for wrong, words in (
        ({"protocol": "ours"}, "unknown protocol 'ours'; there are paired, authors"),
        ({"split": "dev"}, "unknown split"),
        ({"image_scales": (1.0, 1.0)}, "expected different numbers"),
        ({"strengths": (1.5,)}, "expected at most 1"),
    ):
        with pytest.raises(ValueError, match=words):
            Settings(**wrong)


# The summary


def point_of(values: np.ndarray, **header) -> summary.Point:
    h = {
        "curve": "editor",
        "method": "editor",
        "model": "m",
        "clip_model": "ViT-L/14",
        "pixels": "[0, 1]",
        "filter": "f",
    }
    keys = [str(i) for i in range(len(values))]
    metrics = {key: values + i for i, key in enumerate(KEYS.values())}
    return summary.Point(header=h | header, point=1.2, turns=None, keys=keys, values=metrics)


def test_an_interval_holds_the_mean_as_often_as_it_says():
    """Of 200 draws of 40 normal numbers with mean 0.3, about 95 % of the intervals hold it; they shrink as n^-1/2."""
    rng, hits = np.random.default_rng(0), 0
    for _ in range(200):
        e = estimate(rng.normal(0.3, 1, 40))
        assert e["low"] < e["mean"] < e["high"]
        hits += e["low"] <= 0.3 <= e["high"]
    assert 0.90 < hits / 200 < 0.98
    e = estimate(rng.normal(0, 1, 4000))
    assert e["high"] - e["low"] == pytest.approx(2 * 1.96 / 4000**0.5, rel=0.1)


def test_paired_differences_are_sharper_than_their_parts():
    rng = np.random.default_rng(1)
    common = rng.normal(0, 1, 200)
    ours, other = point_of(common + 0.05 + rng.normal(0, 0.01, 200)), point_of(common)
    [row] = summarize([ours], {"before": [other]})
    found, alone = row["differences"]["before"]["clip_sim_image"], row["clip_sim_image"]
    assert found["mean"] == pytest.approx(0.05, abs=0.005) and 0 < found["low"] < found["high"] < 0.06
    assert alone["high"] - alone["low"] > 20 * (found["high"] - found["low"])
    moved = replace(other, keys=other.keys[::-1])
    assert "differences" not in summarize([ours], {"before": [moved]})[0]  # other items
    assert "differences" not in summarize([ours], {"before": [replace(other, point=1.4)]})[0]
    assert "| editor | image scale 1.2 | before | 200 | +0.0" in table(summarize([ours], {"before": [other]}))


def test_every_row_names_models_preprocessing_and_filter(made):
    rows = summarize([point for name in ("editor", "sdedit") for point in read_points(made / name)])
    assert [(row["curve"], row["point"]) for row in rows] == [
        ("editor", 1.0),
        ("editor", 2.2),
        ("sdedit", 0.5),
        ("sdedit", 1.0),
    ]
    lines = table(rows).splitlines()
    for row, line in zip(rows, lines[2:6], strict=True):
        for word in ("model", "clip_model", "pixels", "filter", "protocol"):
            assert row[word] and row[word] in line
        assert row["clip_model"].startswith("ViT-1x32/8 at 16 px (")
        assert row["model"].startswith(f"{row['curve']}.safetensors (")
        direction = row["clip_sim_dir"]
        assert row["n"] == 6 and direction["low"] <= direction["mean"] <= direction["high"]
    assert summarize(read_points(made / "editor")) == rows[:2]


def test_the_figure_has_a_line_for_each_curve(made):
    rows = summarize([point for name in ("editor", "sdedit") for point in read_points(made / name)])
    [axes] = summary.figure(rows).axes
    drawn = {line.get_label(): line.get_xydata() for line in axes.lines if not line.get_label().startswith("_")}
    assert list(drawn) == ["editor (image scale)", "sdedit (strength)"]
    wanted = [[row["clip_sim_dir"]["mean"], row["clip_sim_image"]["mean"]] for row in rows]
    assert np.allclose(np.concatenate(list(drawn.values())), wanted)
    assert (
        "direction" in axes.get_xlabel() and "image" in axes.get_ylabel() and rows[0]["clip_model"] in axes.get_title()
    )


def test_a_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no run.json; expected the folder of a curve"):
        read_points(tmp_path)
    (tmp_path / "run.json").write_text('{"prompts": 3}')
    with pytest.raises(ValueError, match="not that of minip2p evaluate"):
        read_points(tmp_path)


# The command


FEW = "evaluate --data pairs --split all --n 3 --steps 1 --unit 2 --threads 1 --device cpu --image-scales 1 2"
FEW += " --strengths 1 --weights editor.safetensors --text2image text2image.safetensors --clip clip.safetensors"


@pytest.fixture
def ready(here):
    clip, words = small_clip(), learn_bpe(["make it night"], vocab_size=400, max_length=16)
    parts = {name: getattr(clip, name).state_dict() for name in ("text", "vision")}
    parts["logit_scale"] = {"": clip.logit_scale.detach()}
    checkpoints.write(here / "clip.safetensors", "minip2p", clip.config, parts, tokenizer=words)
    write_set(here / "pairs", 4)
    return here


@pytest.mark.slow
def test_the_command(ready, capsys, monkeypatch):
    """Two shards, then a rerun that adds another editor's pictures and compares; bytes as of one process."""
    assert main([*FEW.split(), "--output", "whole"]) == 0
    printed = capsys.readouterr().out
    assert "| sdedit | strength 1 | 3 |" in printed and "figure: whole/figure.png, whole/figure.svg" in printed
    assert main([*FEW.split(), "--output", "out", "--shard", "2/2"]) == 0
    assert "units are left to other shards" in capsys.readouterr().out and not Path("out/summary.md").exists()
    assert main([*FEW.split(), "--output", "out", "--shard", "1/2"]) == 0
    assert contents(Path("out")) == contents(Path("whole"))
    samples = [json.loads(line) for line in Path("out/samples.jsonl").read_text().splitlines()]
    assert len(samples) == 9 and {row["curve"] for row in samples} == {"editor", "sdedit"}
    for row in samples:
        write_picture(Path("mine") / f"{row['key']}.png", picture(int(row["seed"]) % 99))
    more = ["--results", "mine=mine", "--against", "before=whole/editor"]
    assert main([*FEW.split(), "--output", "out", *more]) == 0
    printed = capsys.readouterr().out
    assert "| mine |  | 3 |" in printed
    assert "| editor | image scale 2 | before | 3 | +0.0000 [+0.0000, +0.0000]" in printed
    rows = json.loads(Path("out/summary.json").read_text())
    assert [row["curve"] for row in rows] == ["editor", "editor", "sdedit", "mine"]
    assert Image.open("out/figure.png").size > (600, 300) and b"<svg" in Path("out/figure.svg").read_bytes()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    Path("out/figure.png").unlink()
    assert main([*FEW.split(), "--output", "out"]) == 0 and not Path("out/figure.png").exists()
    assert "needs matplotlib, which is missing: pip install 'minip2p[plot]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, said",
    [
        ("--results mine", "--results 'mine': expected NAME=FOLDER"),
        ("--results a/b=pairs", "expected NAME=FOLDER"),
        ("--results mine=nowhere", "nowhere is no folder"),
        ("--results editor=pairs", "two curves are named 'editor'"),
        ("--against x=pairs", "pairs: no run.json; expected the folder of a curve"),
        ("--dino x.pth", "--dino: it is one of MagicBrush's metrics"),
        ("--metrics magicbrush --protocol authors", "--protocol authors: it is of CLIP's similarities"),
        ("--protocol theirs", "unknown protocol 'theirs'; there are paired, authors"),
        ("--image-scales 1 much", "--image-scales"),
        ("--strengths 2", "strengths"),
        ("--n 0", "expected at least 1"),
        ("--data nowhere", "nowhere"),
        ("--shard 3/2", "--shard '3/2': expected I/N"),
    ],
)
def test_mistakes_are_one_line(ready, capsys, words, said):
    assert main([*FEW.split(), "--output", "out", *words.split()]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1 and not Path("out").exists()


def test_sdedit_with_own_weights_needs_a_model(ready, capsys):
    words = FEW.replace(" --text2image text2image.safetensors", "").split()
    assert main([*words, "--output", "out"]) == 2
    assert "SDEdit needs --text2image PATH" in capsys.readouterr().err
