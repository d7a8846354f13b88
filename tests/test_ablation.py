"""`minip2p ablate`: intervals, runs as units, parts of a set, an editor without the image, the command, Figure 10."""

import json
import pickle
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import contents
from helpers_pairs import write_pair_unit
from helpers_training import FEW, config_of, finish, make_stage
from torch.utils.flop_counter import FlopCounterMode

import minip2p
from minip2p.cli import main
from minip2p.cli.ablate import Options, variants_of
from minip2p.cli.ablation_runs import train
from minip2p.config import PRESETS, override
from minip2p.data.edits import open_edits
from minip2p.data.pair_files import PairUnit, json_lines
from minip2p.evaluation.ablation import Ablation, Variant, parse_variant, read_variants, run
from minip2p.evaluation.ablation_table import rows, table
from minip2p.evaluation.cost import denoiser_cost
from minip2p.evaluation.summary import estimate
from minip2p.models.denoisers import build_denoiser
from minip2p.training.pairs import part_of

# Intervals


def test_an_interval_is_over_seeds_and_items():
    """Of (seeds, n) numbers: the spread of the seeds' means is in it, that of the items too, and one seed adds none."""
    rng = np.random.default_rng(0)
    seeds, items = rng.normal(size=(5, 1)), rng.normal(size=(1, 40))
    alone = estimate(items[0])
    for same in (items, np.repeat(items, 5, axis=0)):
        assert estimate(same) == pytest.approx(alone, abs=1e-6)
    of_seeds = estimate(np.repeat(seeds, 40, axis=1))
    assert of_seeds == pytest.approx(estimate_by_hand(seeds[:, 0]), abs=0.1)
    both = estimate(seeds + items)
    variances = [(each["high"] - each["low"]) ** 2 for each in (alone, of_seeds, both)]
    assert variances[2] == pytest.approx(variances[0] + variances[1], rel=0.15)
    assert both["mean"] == pytest.approx(float((seeds + items).mean()))


def estimate_by_hand(values: np.ndarray) -> dict[str, float]:
    """The percentile bootstrap in a loop."""
    rng = np.random.default_rng(1)
    means = sorted(float(rng.choice(values, len(values)).mean()) for _ in range(4000))
    return {"mean": float(values.mean()), "low": means[100], "high": means[3900]}


# Runs as units


@dataclass(frozen=True)
class Fake:
    """Trains by writing the words, evaluates by them: 20 items of the same difficulty for all; stops where asked."""

    stop_at: str = ""

    def train(self, variant: Variant, seed: int, folder: Path) -> None:
        folder.joinpath("state").mkdir(parents=True, exist_ok=True)
        (folder / "state" / "1.pt").write_text("state")
        if folder.name == self.stop_at:
            raise KeyboardInterrupt
        (folder / "words.json").write_text(json.dumps([len(variant.words), seed]))

    def evaluate(self, weights: Path) -> list[dict]:
        words, seed = json.loads(weights.with_name("words.json").read_text())
        hard, luck = np.random.default_rng(7).normal(size=20), np.random.default_rng(seed).normal(size=20)
        psnr = 20 + 3 * hard + luck + 0.25 * words
        return [{"key": str(i), "kind": "ab"[i % 2], "psnr": x, "correct": x > 20} for i, x in enumerate(psnr)]


def made(folder: Path, *texts: str, seeds=(0, 1), fake=Fake(), **more) -> Ablation:
    variants = [parse_variant(text) for text in texts or ("baseline:", "rms: model.unet.norm=rms")]
    return Ablation(folder=folder, variants=variants, seeds=seeds, train=fake.train, evaluate=fake.evaluate, **more)


def test_differences_are_paired_by_seed_and_item(tmp_path):
    """Items and seeds differ by decibels, the variant by a quarter of one everywhere: its interval has no width."""
    [run.name for run in run(made(tmp_path))]
    baseline, rms = rows(made(tmp_path))
    assert baseline.estimates["psnr"]["high"] - baseline.estimates["psnr"]["low"] > 1 and baseline.differences == {}
    assert [rms.differences["psnr"][end] for end in ("low", "mean", "high")] == pytest.approx([0.25] * 3, abs=1e-5)
    assert (rms.seeds, rms.estimates["psnr"]["n"], rms.words) == (2, 20, ("model.unet.norm=rms",))
    kind = rows(made(tmp_path), kind="b")[1]
    assert kind.estimates["psnr"]["n"] == 10 and kind.estimates["psnr"]["mean"] != rms.estimates["psnr"]["mean"]
    text = table([baseline, rms])
    assert (
        "| - baseline |" in text
        and "| rms | 2 | 20 |" in text
        and "+0.2500 [+0.2500, +0.2500]" in text
        and "rms: model.unet.norm=rms" in text
    )
    with pytest.raises(ValueError, match="no item has kind c"):
        rows(made(tmp_path), kind="c")


def test_a_stopped_ablation_continues_to_the_same_files(tmp_path):
    """Seed by seed; by shards in any order; only the run that was interrupted has a state."""
    whole = [unit.name for unit in run(made(tmp_path / "a"))]
    assert whole == ["baseline-0", "rms-0", "baseline-1", "rms-1"]
    with pytest.raises(KeyboardInterrupt):
        list(run(made(tmp_path / "b", fake=Fake(stop_at="baseline-1")), shard=(0, 2)))
    assert [path.parent.name for path in (tmp_path / "b").rglob("state")] == ["baseline-1"]
    with pytest.raises(ValueError, match="baseline-1: this run is not finished"):
        rows(made(tmp_path / "b"))
    assert [unit.name for unit in run(made(tmp_path / "b"), shard=(1, 2))] == ["rms-0", "rms-1"]
    assert [unit.name for unit in run(made(tmp_path / "b"))] == ["baseline-1"]
    assert contents(tmp_path / "a") == contents(tmp_path / "b") and not [*tmp_path.rglob("state")]


def test_variants_and_seeds_may_be_added_and_words_may_not_change(tmp_path):
    list(run(made(tmp_path)))
    more = made(tmp_path, "baseline:", "rms: model.unet.norm=rms", "wide: a=(1, 2) b=c", seeds=(0, 1, 2))
    assert [unit.name for unit in run(more)] == ["wide-0", "wide-1", "baseline-2", "rms-2", "wide-2"]
    assert more.variants[2].words == ("a=(1, 2)", "b=c") and rows(more)[2].differences["psnr"]["mean"] > 0.4
    with pytest.raises(ValueError, match=r"rms-0/about.json: it was trained with \['model.unet.norm=rms'\]"):
        run(made(tmp_path, "baseline:", "rms: model.unet.norm=layer"))
    with pytest.raises(ValueError, match="belongs to a run with steps"):
        run(made(tmp_path, "baseline:", "other:", header={"steps": 5}))


def test_mistakes_of_an_evaluation_are_named(tmp_path):
    @dataclass(frozen=True)
    class Evaluated(Fake):
        found: tuple = ()

        def evaluate(self, weights):
            return self.found

    for found, message in (((), "no items"), (({"key": "a", "x": float("nan")},), "x of item a"), (({"x": 1},), "key")):
        with pytest.raises(ValueError, match=f"baseline-0: .*{message}"):
            list(run(made(tmp_path, fake=Evaluated(found=found))))


def test_wrong_lists_of_variants_are_refused(tmp_path):
    for texts, message in ((("a:", "A: b=c"), "variant a is given twice"), (("a b:",), "letters, digits")):
        with pytest.raises(ValueError, match=message):
            made(tmp_path, *texts)
    with pytest.raises(ValueError, match="without a seed"):
        made(tmp_path, seeds=())
    with pytest.raises(ValueError, match="NAME: WORD=VALUE"):
        parse_variant("model.unet.norm=rms")
    (file := tmp_path / "variants.json").write_text('{"a": "x=1 y=(2, 3)", "b": ["z=4"], "c": ""}')
    assert [each.words for each in read_variants(file)] == [("x=1", "y=(2, 3)"), ("z=4",), ()]
    file.write_text('{"a": 3}')
    with pytest.raises(ValueError, match="variants.json: words = 3: expected a list"):
        read_variants(file)


@pytest.mark.parametrize(
    "denoiser, transformers",
    [("unet", [(3, 256, 64), (3, 64, 128), (1, 16, 128)]), ("dit", [(6, 64, 192)])],
    ids=["unet", "dit"],
)
def test_the_cost_is_that_of_a_call(denoiser, transformers):
    """In memory PyTorch counts the same, but for fused attention: two products over n queries and as many keys, or 24
    tokens. transformers: how many there are of n queries and this width."""
    config = override(PRESETS["tiny"], f"denoiser={denoiser}")
    network, c = build_denoiser(config), config.denoiser_config
    with FlopCounterMode(display=False) as counter:
        network(torch.randn(1, c.in_channels, 16, 16), torch.zeros(1), torch.randn(1, 24, 128))
    cost = denoiser_cost(config)
    assert cost["parameters"] == sum(x.numel() for x in network.parameters())
    attention = sum(k * 4 * width * (n * n + n * 24) for k, n, width in transformers)
    assert cost["flop"] == counter.get_total_flops() + attention


# Words that variants are made of


def test_a_part_of_a_set_is_a_function_of_seed_and_fraction():
    """1 % lies within 10 %, which lies within all, in the order of all; another seed takes another part."""
    groups = [(f"caption {i // 2}", f"{i}") for i in range(600)]
    prompts = [[2 * i, 2 * i + 1] for i in range(300)]
    parts = {(f, seed): part_of(prompts, groups, f, seed) for f in (1, 0.1, 0.01) for seed in (0, 1)}
    assert {key: len(part) for key, part in parts.items() if key[1] == 0} == {(1, 0): 300, (0.1, 0): 30, (0.01, 0): 3}
    for seed in (0, 1):
        small, middle, whole = (parts[f, seed] for f in (0.01, 0.1, 1))
        assert whole == prompts and small == [p for p in middle if p in small] and middle == sorted(middle)
        assert all(each in middle for each in small)
    assert parts[0.1, 0] != parts[0.1, 1] and part_of(prompts, groups, 0.1, 0) == parts[0.1, 0]
    with pytest.raises(ValueError, match="fraction = 0.001: nothing is left of 300 prompts"):
        part_of(prompts, groups, 0.001, 0)


def test_a_fraction_is_trained_on_and_the_held_out_pairs_stay(pairs, editor, tmp_path):
    whole, part = (
        make_stage(config_of(pairs, editor, "held_out=4", f"fraction={f}"), tmp_path, editor) for f in (1.0, 0.1)
    )
    all_of, some = (stage.data.examples.sets[0].prompts for stage in (whole, part))
    assert len(some) == round(0.1 * len(all_of)) and all(prompt in all_of for prompt in some)
    assert [each.text for each in part.held_out] == [each.text for each in whole.held_out]


@pytest.fixture(scope="module")
def scored(tmp_path_factory, pairs) -> Path:
    """The 60 pairs as a folder of made pairs: a second sample of each prompt, which the filter refuses."""
    folder = tmp_path_factory.mktemp("scored")
    for i in range(60):
        at = pairs / f"{i:07d}"
        files = tuple((at / f"7_{side}.jpg").read_bytes() for side in (0, 1))
        row = dict.fromkeys(("clip_sim_0", "clip_sim_1", "clip_sim_dir", "clip_sim_image"), 0.5)
        row |= {"p2p_threshold": 0.5, "cfg_scale": 7.5, "candidate": True}
        scores = [row | {"sample": k, "seed": 7 + k} for k in (0, 1)]
        prompt = json.loads((at / "prompt.json").read_text()) | {"id": i}
        write_pair_unit(folder, PairUnit(name=at.name, prompt=prompt, scores=scores, images={7: files, 8: files[::-1]}))
    (folder / "seeds.json").write_text(json.dumps([[f"{i:07d}", [7]] for i in range(60)]))
    return folder


def test_the_filter_can_be_undone_where_all_samples_were_kept(scored, pairs, editor, tmp_path):
    assert (len(open_edits(scored)), len(open_edits(scored, filtered=False))) == (60, 120)
    texts = [edit.key for edit in open_edits(scored, filtered=False).texts()]
    assert texts[:3] == ["0000000/7", "0000000/8", "0000001/7"]
    kept, everything = (
        make_stage(config_of(scored, editor, f"filtered={word}"), tmp_path, editor).data.examples.sets[0].prompts
        for word in (True, False)
    )
    assert sum(map(len, everything)) == 2 * sum(map(len, kept))
    with pytest.raises(ValueError, match="unit 0000000 has no scores.jsonl"):
        open_edits(pairs, filtered=False)
    unit = tmp_path / "pairs" / "0000003"
    unit.mkdir(parents=True)
    (unit / "prompt.json").write_bytes((scored / "0000003" / "prompt.json").read_bytes())
    (unit / "scores.jsonl").write_bytes(json_lines([{"seed": 1, "candidate": False}, {"seed": 2, "candidate": True}]))
    with pytest.raises(ValueError, match="1 samples have no images; make the pairs with --image -1"):
        open_edits(unit.parent, filtered=False)


def test_an_editor_without_image_condition_never_sees_the_image(pairs, editor, tmp_path):
    """Whatever picture it is given, the result is the same; with the condition it is not."""
    edits = {}
    for word in ("channels", "none"):
        config = config_of(pairs, editor, f"image_condition={word}", "train.steps=2")
        finish(config, out := tmp_path / word, editor)
        pipe = minip2p.load(out / "model.safetensors")
        pictures = [open_edits(pairs)[i].source for i in (0, 1)]
        how = {"steps": 2, "seed": [0, 0], "output": "latent", "text_scale": 2.0, "image_scale": 1.5}
        edits[word] = pipe.edit(pictures, ["make it night"] * 2, **how)
    assert torch.equal(*edits["none"]) and not torch.equal(*edits["channels"])


# The command


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """The estimate of a training's memory, which it prints, takes longer than these trainings."""
    monkeypatch.setattr("minip2p.training.loop.describe_memory", lambda *_: "")


def ablate(out: Path, *words: str, data=None, weights=None) -> int:
    """`minip2p ablate` with thin networks and few steps."""
    few = ["--steps", "2", "--number", "2", "--sampling-steps", "1", "--threads", "1", "--device", "cpu"]
    more = ["--data", str(data), "--init-from", str(weights)] if data else []
    return main(["ablate", "--output", str(out), *few, *more, *words, "--set", *FEW[1:]])


def test_wrong_words_are_refused_before_anything_starts(tmp_path, capsys, pairs, editor):
    """Of the last variant, too; nothing is written."""
    good, of_pairs = ["--variant", "undropped: dropout=0"], {"data": pairs, "weights": editor}
    for words, message in (
        ("model.unet.nrm=rms", "unknown key 'model.unet.nrm'"),
        ("model.unet.norm=batch", "norm = 'batch': expected one of"),
        ("model.denoiser=dit model.unet.norm=rms", "--set model.unet.norm=rms would have no effect"),
        ("model.unet.widths=(64,)", "expected a word for each of 1 widths"),
        ("model.schedule.prediction=noise", "unknown prediction 'noise'"),
        ("train.seed=1", "--seeds says how many"),
        ("data=missing", "missing: no such file"),
        ("fraction=0.001", "fraction = 0.001: nothing is left"),
    ):
        assert ablate(tmp_path / "out", "--variant", f"bad: {words}", **of_pairs) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("minip2p: error: variant bad: ") and message in error
    for words, message in (
        ([*good, "--metrics", "clip"], "--metrics clip: it is of editors, and needs --data"),
        ([*good, "--number", "0"], "n = 0: expected at least 1"),
        ([*good, "--figure", "10"], "--figure 10 has variants of its own"),
        ([*good, "--image-scales", "1", "1.5"], "--image-scales: they are of --metrics clip"),
        ([], "nothing to compare"),
    ):
        assert ablate(tmp_path / "out", *words) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_command_trains_evaluates_and_compares(tmp_path, capsys, pairs, editor):
    """Two shards; a variant without changes differs from the baseline in nothing, to the last bit."""
    out, words = tmp_path / "out", ["--variant", "same: flip=0.0", "--seeds", "1", "--metrics", "truth"]
    for i, left in ((1, "1 runs are left to other shards"), (2, "| same | 1 | 2 |")):
        assert ablate(out, *words, "--shard", f"{i}/2", data=pairs, weights=editor) == 0
        assert left in capsys.readouterr().out
    baseline, same = json.loads((out / "table.json").read_text())
    assert all(same["differences"]["psnr"][key] == 0 for key in ("mean", "low", "high"))
    assert same["estimates"] == baseline["estimates"] and same["cost"]["pictures_per_s"] > 0
    items = {
        name: [json.loads(x) for x in (out / name / "items.jsonl").read_text().splitlines()]
        for name in ("same-0", "baseline-0")
    }
    assert [item["key"] for item in items["same-0"]] == ["edit 0", "edit 1"] and "kind" in items["same-0"][0]
    assert items["same-0"] == items["baseline-0"]
    assert (out / "differences.png").read_bytes()[1:4] == b"PNG" and not (out / "figure.png").exists()
    before = contents(out)
    assert ablate(out, *words, data=pairs, weights=editor) == 0
    assert contents(out) == before, "what is finished is not made again"


@pytest.mark.slow
def test_figure_10_has_a_curve_for_each_part_of_the_data(tmp_path, capsys, scored, editor):
    out = tmp_path / "out"
    words = ["--figure", "10", "--unshared", str(scored), "--metrics", "clip", "--image-scales", "1", "1.5"]
    assert ablate(out, *words, "--split", "all", "--number", "1", data=scored, weights=editor) == 0
    found = json.loads((out / "table.json").read_text())
    names = ["all", "10-percent", "1-percent", "unfiltered", "unshared"]
    assert [(row["variant"], row["point"]) for row in found] == [(name, x) for name in names for x in (1.0, 1.5)]
    assert {row["variant"] for row in found if row["differences"]} == set(names[1:])
    assert found[-1]["differences"]["clip_sim_dir"]["mean"] == 0, "the same set under another name"
    svg = (out / "figure.svg").read_text()
    assert svg.count("image scale") >= len(names) and not (out / "differences.png").exists()


def test_figure_10_leaves_out_what_a_set_cannot_have(pairs, capsys):
    names = [each.name for each in variants_of(Options(output="out", figure=10, data=str(pairs)))]
    assert names == ["all", "10-percent", "1-percent"]
    options = Options(output="out", figure=10, data=str(pairs))
    assert pickle.loads(pickle.dumps(partial(train, options))).args == (options,), "for Ray"
    assert "no curve without the CLIP filter" in capsys.readouterr().err
