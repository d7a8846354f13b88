"""Pairs at scale: what a unit holds, its files, and that it depends on the settings and the prompt alone."""

import json
import pickle
from dataclasses import replace
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import contents, randomise, small_config, small_pipeline, tokenize
from helpers_pairs import write_pair_unit
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from minip2p.config import CLIPConfig, VisionConfig
from minip2p.data import pair_files
from minip2p.data.images import to_tensor
from minip2p.datagen import pairs
from minip2p.datagen.pairs import Settings, make, make_unit, read_prompts, sample_plan
from minip2p.evaluation.metrics import RELEASED, Thresholds
from minip2p.models.clip import CLIP

ALL = Thresholds(image=-1, caption=-1, direction=-1)
FEW = Settings(samples=3, batch_pairs=2, steps=1, thresholds=ALL, most=2, threads=1)
FIVE = Settings(samples=5, batch_pairs=2, steps=2, thresholds=ALL, most=2, threads=1)
ROWS = [
    {"input": "a red house", "edit": "make it blue", "output": "a blue house"},
    {"input": "ein Häuschen 🏠", "edit": "make it night", "output": "ein Häuschen bei Nacht", "by": "hand"},
    {"input": "a red house", "edit": "make it blue", "output": "a blue house"},
    {"input": "x" * 10_000, "edit": "y", "output": "z"},
]
PROMPTS = [row | {"id": i} for i, row in enumerate(ROWS)]


def small_clip() -> CLIP:
    text = replace(small_config().text, projection=16)
    vision = VisionConfig(image_size=16, patch_size=8, width=32, layers=2, heads=2, feed_forward=64, projection=16)
    return randomise(CLIP(CLIPConfig(text=text, vision=vision), tokenize), 7)


def models():
    return small_pipeline(in_channels=4), small_clip()


@pytest.fixture(scope="module")
def both():
    return models()


def loading(*both):
    """What gives these networks to a run; it pickles."""
    return partial(tuple, both)


def made(both, out: Path, given=FEW, prompts=PROMPTS, **how) -> list[str]:
    return [unit.name for unit in make(loading(*both), prompts, given, out, **how)]


@pytest.fixture(scope="module")
def whole(both, tmp_path_factory) -> dict[str, bytes]:
    """What an uninterrupted run writes."""
    out = tmp_path_factory.mktemp("whole")
    assert made(both, out) == ["0000000", "0000001", "0000002", "0000003"]
    return contents(out)


# seeds, shares, scales


def test_the_plan_of_a_sample_never_changes():
    assert sample_plan(Settings(), 12, 3) == (1180192168, 0.5702509954628546, 11.531047957657838)
    assert sample_plan(Settings(seed=1), 0, 0).seed == 912073349


@settings(max_examples=200)
@given(st.integers(0, 2**40), st.integers(0, 2**40), st.integers(0, 2**20), st.data())
def test_a_plan_depends_only_on_seed_prompt_and_sample_and_lies_in_its_range(seed, prompt, sample, data):
    ends = [sorted(data.draw(st.tuples(st.floats(0, top), st.floats(0, top)))) for top in (1, 100)]
    one = Settings(seed=seed, share=tuple(ends[0]), scale=tuple(ends[1]))
    plan = sample_plan(one, prompt, sample)
    assert 0 <= plan.seed < 2**31
    assert ends[0][0] <= plan.share <= ends[0][1] and ends[1][0] <= plan.scale <= ends[1][1]
    other = replace(one, steps=7, samples=3, batch_pairs=1, thresholds=ALL, sampler="ddim", most=9, threads=3)
    assert sample_plan(other, prompt, sample) == plan
    assert sample_plan(replace(one, share=0.25), prompt, sample)[::2] == plan[::2], "of a number nothing else changes"
    assert sample_plan(replace(one, share=0.25), prompt, sample).share == 0.25


@given(st.lists(st.tuples(*[st.integers(0, 10**6)] * 3), min_size=2, max_size=2, unique=True))
def test_different_arguments_give_different_plans(two):
    one, other = (sample_plan(Settings(seed=seed), prompt, sample) for seed, prompt, sample in two)
    assert one.share != other.share and one.scale != other.scale and (one.seed != other.seed or one != other)


def test_draws_are_uniform_and_independent():
    """Of 20,000: deciles within 5 standard deviations, correlations below 0.03, seeds over the whole range."""
    plans = [sample_plan(Settings(), prompt, sample) for prompt in range(200) for sample in range(100)]
    columns = np.array(plans, dtype=np.float64).T
    for values, (low, high) in zip(columns, ((0, 2**31), (0.1, 0.9), (7.5, 15.0)), strict=True):
        counts = np.histogram(values, 10, (low, high))[0]
        assert counts.sum() == 20_000 and abs(counts - 2000).max() < 5 * (20_000 * 0.1 * 0.9) ** 0.5
    assert abs(np.corrcoef(columns) - np.eye(3)).max() < 0.03
    assert abs(np.corrcoef(columns[1, :-1], columns[1, 1:])[0, 1]) < 0.03, "neighbours"
    assert len({plan.seed for plan in plans}) >= 20_000 - 5


# a unit


def test_a_unit_has_the_images_of_the_pipeline_and_their_clip_scores(both):
    pipe, clip = both
    given = replace(FIVE, picture="png", most=5)
    unit = make_unit(pipe, clip, PROMPTS[0], given)
    assert [row["sample"] for row in unit.scores] == [0, 1, 2, 3, 4] and len(unit.images) == 5
    plans = [sample_plan(given, 0, i) for i in range(5)]
    for row, plan in zip(unit.scores, plans, strict=True):
        assert (row["seed"], row["p2p_threshold"], row["cfg_scale"]) == plan
        expected = pipe.generate_pair(
            "a red house", "a blue house", seed=plan.seed, share=plan.share, scale=plan.scale, steps=2
        )
        pictures = [Image.open(BytesIO(data)).convert("RGB") for data in unit.images[plan.seed]]
        for ours, theirs in zip(pictures, expected, strict=True):
            assert np.abs(np.asarray(ours).astype(int) - np.asarray(theirs)).max() <= 1, "the batch rounds"
        tensors = (to_tensor(picture)[None] for picture in pictures)
        again = clip.similarities(*tensors, ["a red house"], ["a blue house"])
        for key, value in zip(("clip_sim_0", "clip_sim_1", "clip_sim_dir", "clip_sim_image"), again, strict=True):
            assert row[key] == pytest.approx(float(value), abs=1e-4)


def test_a_unit_does_not_depend_on_earlier_work_and_pickles(both):
    pipe, clip = both
    one = make_unit(pipe, clip, PROMPTS[1], FEW)
    make_unit(pipe, clip, PROMPTS[0], replace(FEW, batch_pairs=4, steps=2))
    threads = torch.get_num_threads()
    again = make_unit(*models(), *pickle.loads(pickle.dumps((PROMPTS[1], FEW))))
    assert again == one == pickle.loads(pickle.dumps(one)) and torch.get_num_threads() == threads


rows = st.lists(st.tuples(*[st.floats(-1, 1, width=32)] * 4, st.integers(0, 6)), max_size=20)


@given(rows, st.tuples(*[st.floats(-1, 1)] * 3), st.integers(1, 6))
def test_candidates_are_the_best_by_direction_of_those_that_pass(values, thresholds, most):
    keys = ("clip_sim_0", "clip_sim_1", "clip_sim_dir", "clip_sim_image", "seed")
    rows = [dict(zip(keys, each), sample=i) for i, each in enumerate(values)]
    given = replace(FIVE, thresholds=Thresholds(**dict(zip(("image", "caption", "direction"), thresholds))), most=most)
    found = pairs.candidates(rows, given)
    chosen, others = ([row for row in rows if (row["sample"] in found) == which] for which in (True, False))
    assert len(chosen) <= most and len({row["seed"] for row in chosen}) == len(chosen)
    assert all(not given.thresholds.refuses(row) for row in chosen)
    for row in others:
        better = [c for c in chosen if c["clip_sim_dir"] >= row["clip_sim_dir"]]
        assert given.thresholds.refuses(row) or len(better) == most or row["seed"] in {c["seed"] for c in better}


def test_a_prompt_stops_after_the_batch_in_which_enough_pass(both, tmp_path):
    stop = replace(FIVE, stop_after=1, seed=3)
    assert [unit.counts["pairs"] for unit in make(loading(*both), PROMPTS[:2], stop, tmp_path / "a")] == [2, 2]
    assert json.loads((tmp_path / "a" / "run.json").read_text())["stop_after"] == 1
    whole = make_unit(*both, PROMPTS[0], replace(stop, stop_after=None))
    directions = sorted(row["clip_sim_dir"] for row in whole.scores)
    third = replace(stop, stop_after=2, thresholds=Thresholds(image=-1, caption=-1, direction=directions[-2]))
    unit = make_unit(*both, PROMPTS[0], third)
    last = max(row["sample"] for row in whole.scores if row["clip_sim_dir"] >= directions[-2])
    assert len(unit.scores) == min(5, 2 * (last // 2 + 1))
    assert not make_unit(*both, PROMPTS[0], replace(FIVE, thresholds=Thresholds(direction=1))).images


# the folder


def test_the_folder_has_the_layout_of_the_authors(both, whole):
    files = whole
    assert {name.split("/")[0] for name in files} == {"run.json", "0000000", "0000001", "0000002", "0000003"}
    assert json.loads(files["0000001/prompt.json"]) == PROMPTS[1] and "🏠" in files["0000001/prompt.json"].decode()
    scores, metadata = (
        [json.loads(line) for line in files[f"0000001/{name}.jsonl"].splitlines()] for name in ("scores", "metadata")
    )
    assert len(scores) == 3 and len(metadata) == 2
    best = sorted(scores, key=lambda row: -row["clip_sim_dir"])[:2]
    assert metadata == [{key: row[key] for key in pair_files.AUTHORS} for row in best]
    assert [row["candidate"] for row in scores] == [row in best for row in scores]
    names = {f"0000001/{row['seed']}_{side}.jpg" for row in metadata for side in (0, 1)}
    assert names == {name for name in files if name.startswith("0000001") and name.endswith("jpg")}
    for name in names:
        with Image.open(BytesIO(files[name])) as image:
            assert image.size == (32, 32) and image.format == "JPEG"


def test_scores_and_images_are_read_back_in_order(tmp_path):
    written = []
    for i, name in enumerate(("10000000", "0000001", "0000000")):
        rows = [dict.fromkeys(pair_files.AUTHORS, 0.5) | {"sample": 0, "seed": i, "candidate": True}]
        unit = pair_files.PairUnit(name=name, prompt=PROMPTS[0], scores=rows, images={i: (b"source", b"edited")})
        write_pair_unit(tmp_path, unit)
        written.insert(0, (name, PROMPTS[0], rows))
        assert [pair_files.read_image(tmp_path, name, i, side) for side in (False, True)] == [b"source", b"edited"]
    assert list(pair_files.read_scores(tmp_path)) == written
    with pytest.raises(ValueError, match="0000001: no image of seed 5;"):
        pair_files.read_image(tmp_path, "0000001", 5)


def test_a_damaged_unit_is_named_and_folders_of_the_authors_are_read(tmp_path):
    (tmp_path / "0000001").mkdir()
    with pytest.raises(ValueError, match="0000001/prompt.json: no such file"):
        list(pair_files.read_scores(tmp_path))
    (tmp_path / "0000001" / "prompt.json").write_text('{"input": "a", "edit": "b", "output": "c"}')
    (tmp_path / "0000001" / "metadata.jsonl").write_text('{"seed": 4}\n')
    assert list(pair_files.read_scores(tmp_path))[0][2] == [{"sample": 0, "seed": 4, "candidate": True}]
    (tmp_path / "0000001" / "scores.jsonl").write_text('{"seed": ')
    with pytest.raises(ValueError, match="scores.jsonl, line 1: not JSON"):
        list(pair_files.read_scores(tmp_path))
    with pytest.raises(ValueError, match="no such folder"):
        list(pair_files.read_scores(tmp_path / "x"))


# runs


def test_shards_make_the_bytes_of_one_process(both, tmp_path, whole):
    for shard in ((1, 2), (0, 2)):
        made(both, tmp_path, shard=shard)
    assert contents(tmp_path) == whole


def test_a_run_is_resumed_with_what_is_missing(both, tmp_path, whole):
    for name, data in whole.items():
        if "0000002" not in name:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(data)
    assert made(both, tmp_path) == ["0000002"] and contents(tmp_path) == whole
    assert made(both, tmp_path) == []


def test_an_image_with_nan_names_its_unit(both, tmp_path):
    pipe, clip = both
    broken = small_pipeline(in_channels=4)
    with torch.no_grad():
        next(broken.vae.decoder.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match=r"unit 0000000: the autoencoder's decoder gave numbers that are not finite"):
        made((broken, clip), tmp_path)
    assert set(contents(tmp_path)) == {"run.json"}


@pytest.mark.parametrize(
    "change, said",
    [
        ({"steps": 3}, "steps 1, this one has 3"),
        ({"seed": 1}, "seed 0, this one has 1"),
        ({"share": 0.5}, "share [0.1, 0.9], this one has [0.5, 0.5]"),
        ({"size": (32, 24)}, "size null, this one has [32, 24]"),
        ({"threads": 2}, "threads 1, this one has 2"),
        ({"thresholds": RELEASED}, 'thresholds {"image": -1'),
        ({"stop_after": 1}, "stop_after null, this one has 1"),
    ],
)
def test_another_runs_folder_is_refused_by_the_first_difference(both, tmp_path, whole, change, said):
    (tmp_path / "run.json").write_bytes(whole["run.json"])
    with pytest.raises(ValueError) as error:
        make(loading(*both), PROMPTS, replace(FEW, **change), tmp_path)
    assert said in str(error.value) and "choose another --output, or the same settings" in str(error.value)
    assert "\n" not in str(error.value)


def test_other_models_and_prompts_are_other_runs(both, tmp_path, whole):
    (tmp_path / "run.json").write_bytes(whole["run.json"])
    pipe, clip = both
    configured = replace(pipe, config=replace(pipe.config, sampling=replace(pipe.config.sampling, text_scale=3.0)))
    for said, call in {
        "with text2image ": lambda: make(loading(small_pipeline(4, seed=9), clip), PROMPTS, FEW, tmp_path),
        "with text2image_config ": lambda: make(loading(configured, clip), PROMPTS, FEW, tmp_path),
        "with clip ": lambda: make(loading(pipe, randomise(small_clip(), 1)), PROMPTS, FEW, tmp_path),
        "with prompts": lambda: make(loading(*both), PROMPTS[:3], FEW, tmp_path),
    }.items():
        with pytest.raises(ValueError, match=said):
            call()
    (tmp_path / "run.json").unlink()
    (tmp_path / "0000000").mkdir()
    with pytest.raises(ValueError, match="holds 0000000 but no run.json"):
        make(loading(*both), PROMPTS, FEW, tmp_path)


# prompts, settings


def table(tmp_path: Path, *rows, name="prompts.jsonl") -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    (tmp_path / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return tmp_path / name


def test_ids_are_row_numbers(tmp_path):
    assert read_prompts(table(tmp_path, *ROWS[:2], "", *ROWS[2:])) == PROMPTS
    more = [{"caption": "a", "edit": "b", "output": "c", "id": i, "temperature": 0.7} for i in (12, 3)]
    expected = [{"input": "a", "edit": "b", "output": "c", "temperature": 0.7, "id": i} for i in (0, 1)]
    assert read_prompts(table(tmp_path, *more)) == expected
    assert read_prompts(table(tmp_path, "input,edit,output", "a,b,c", name="p.csv")) == [
        {"input": "a", "edit": "b", "output": "c", "id": 0}
    ]


@pytest.mark.parametrize(
    "lines, said",
    [
        ([], "prompts.jsonl is empty"),
        ([ROWS[0], '{"input": '], "prompts.jsonl, line 2: not JSON"),
        ([ROWS[0], '["a"]'], "line 2: expected an object"),
        ([ROWS[0], {"input": "a", "edit": "b"}], "line 2: 'output' is missing"),
        ([{"input": "a", "edit": " ", "output": "c"}], "line 1: 'edit' is \" \"; expected a text"),
        ([{"input": 3, "edit": "b", "output": "c"}], "line 1: 'input' is 3; expected a text"),
        (['{"input": "\\ud800", "edit": "b", "output": "c"}'], "line 1: 'input' holds half a character"),
        (['{"input": "a", "edit": "b", "output": "c", "by": ["\\ud800"]}'], "line 1: contains half a character"),
    ],
)
def test_a_malformed_line_is_named(tmp_path, lines, said):
    with pytest.raises(ValueError) as error:
        read_prompts(table(tmp_path, *lines))
    assert said in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"samples": 0}, "samples = 0: expected at least 1"),
        ({"batch_pairs": 1.5}, "batch_pairs = 1.5: expected a whole number"),
        ({"seed": -1}, "seed = -1: expected at least 0"),
        ({"share": (0.1, 1.1)}, "share 0.1,1.1: expected numbers from 0 to 1"),
        ({"share": (0.9, 0.1)}, "share 0.9,0.1: expected the lower end first"),
        ({"scale": float("nan")}, "scale = nan: expected a finite number"),
        ({"scale": (1, float("inf"))}, "scale[1] = inf: expected a finite number"),
        ({"sampler": "magic"}, "unknown sampler 'magic'"),
        ({"picture": "gif"}, "unknown picture 'gif'"),
        ({"independent_noise": True}, "images from independent noise share nothing; expected share 0"),
    ],
)
def test_impossible_settings_are_refused(wrong, said):
    with pytest.raises(ValueError) as error:
        replace(FEW, **wrong)
    assert said in str(error.value)


def test_mistakes_are_reported_before_anything_is_made(both, pipe, tmp_path):
    out = tmp_path / "out"
    for said, call in {
        "'text-to-image' is needed": lambda: make(loading(pipe, both[1]), PROMPTS, FEW, out),
        "multiples of 8": lambda: make(loading(*both), PROMPTS, replace(FEW, size=33), out),
        "shard 2 of 2": lambda: make(loading(*both), PROMPTS, FEW, out, shard=(2, 2)),
    }.items():
        with pytest.raises(ValueError, match=said):
            call()
    assert not out.exists()
