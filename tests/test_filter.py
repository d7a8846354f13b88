"""The similarities of pairs, their thresholds, and what the filter keeps of samples whose scores are known."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import randomise
from helpers_pairs import write_pair_unit
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from minip2p.config import CLIPConfig, TextConfig, VisionConfig
from minip2p.data import pair_files
from minip2p.data.images import from_tensor
from minip2p.datagen import clip_filter
from minip2p.datagen.clip_filter import filter_units
from minip2p.evaluation.metrics import (
    KEYS,
    PAPER,
    RELEASED,
    RULES,
    Thresholds,
    compare,
    encode_pictures,
    scores,
    similarities,
)
from minip2p.models.clip import CLIP

COSINE = st.integers(-20, 20).map(lambda n: n / 20)  # few values: many ties, and many at a threshold


# Similarities


def tokenize(texts):
    rows = [[98, *(b % 96 for b in text.encode()[:14]), 99] for text in texts]
    return torch.tensor([row + [99] * (16 - len(row)) for row in rows])


@pytest.fixture(scope="module")
def clip() -> CLIP:
    config = CLIPConfig(
        text=TextConfig(
            vocab_size=100,
            max_length=16,
            width=32,
            layers=1,
            heads=2,
            feed_forward=48,
            bos=98,
            eos=99,
            pad=99,
            projection=24,
        ),
        vision=VisionConfig(image_size=16, patch_size=8, width=32, layers=1, heads=2, feed_forward=48, projection=24),
    )
    return randomise(CLIP(config, tokenize), 5)


def pictures(n: int, seed: int) -> list[torch.Tensor]:
    """Of n sizes."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(3, 9 + 5 * i, 20 - 2 * i, generator=generator) for i in range(n)]


def texts(n: int, word: str) -> list[str]:
    return [f"{word} {i} é" * (1 + i % 2) for i in range(n)]


def near(one, other) -> bool:
    return all(torch.allclose(a, b, atol=1e-4) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("batch_size", [1, 2, 5, 64])
def test_pairs_of_any_size_in_any_batch_have_the_similarities_of_each_pair(clip, batch_size):
    values = pictures(5, 1), pictures(5, 2), texts(5, "a cat"), texts(5, "a dog")
    told = []
    found = similarities(clip, *values, batch_size=batch_size, on_batch=lambda *n: told.append(n))
    one_by_one = [clip.similarities(a[None], b[None], [t], [u]) for a, b, t, u in zip(*values)]
    assert near(found, map(torch.cat, zip(*one_by_one)))
    assert told[-1] == (5, 5) and len(told) == math.ceil(5 / batch_size)


def test_pictures_may_be_files_pil_images_or_tensors(clip, tmp_path):
    images = [from_tensor(x) for x in pictures(2, 3)]
    for i, image in enumerate(images):
        image.save(tmp_path / f"{i}.png")
    files = [tmp_path / "0.png", tmp_path / "1.png"]
    tensors = [torch.from_numpy(np.array(image)).movedim(-1, 0) / 255 for image in images]
    one, two, three = (encode_pictures(clip, each) for each in (images, files, tensors))
    assert torch.equal(one, two) and torch.equal(one, three)
    grey = Image.new("L", (7, 5), 90)
    assert torch.equal(encode_pictures(clip, [grey]), encode_pictures(clip, [grey.convert("RGB")]))


def test_released_pixels_are_between_minus_one_and_one(clip):
    x = pictures(3, 4)
    released = encode_pictures(clip, x, "released")
    assert torch.allclose(released, clip.encode_images(2 * torch.cat([clip.resize(each[None]) for each in x]) - 1))
    assert not torch.allclose(released, encode_pictures(clip, x), atol=1e-3)


def test_a_pair_in_which_nothing_changes_has_no_direction(clip):
    x, t = pictures(2, 6), texts(2, "a cat")
    same = similarities(clip, x, x, t, t)
    assert same.direction.tolist() == [0, 0]
    assert torch.allclose(same.image, torch.ones(2)) and torch.allclose(same.caption_0, same.caption_1)


def test_turning_a_pair_around_swaps_captions_and_keeps_direction(clip):
    values = pictures(3, 7), pictures(3, 8)
    captions = texts(3, "a cat"), texts(3, "a dog")
    there = similarities(clip, *values, *captions)
    back = similarities(clip, *reversed(values), *reversed(captions))
    assert near(there, (back.caption_1, back.caption_0, back.direction, back.image))


def test_no_pairs_have_no_similarities(clip):
    assert [each.shape for each in similarities(clip, [], [], [], [])] == [(0,)] * 4


def test_scores_have_the_authors_keys(clip):
    found = similarities(clip, pictures(2, 1), pictures(2, 2), texts(2, "a"), texts(2, "b"))
    rows = scores(found)
    assert set(rows[0]) == {"clip_sim_0", "clip_sim_1", "clip_sim_dir", "clip_sim_image"} < set(pair_files.AUTHORS)
    assert [row["clip_sim_dir"] for row in rows] == found.direction.tolist()
    assert [row["clip_sim_1"] for row in rows] == found.caption_1.tolist()


def test_mistakes_are_reported_before_anything_is_encoded(clip):
    x, t = pictures(2, 1), ["a", "b"]
    for change, words in (
        (dict(captions="ab"), "captions 'ab': expected a list"),
        (dict(captions=["a"]), "2 sources, 2 targets, 1 captions, 2 edited captions: expected equal numbers"),
        (dict(pixels="raw"), "unknown pixels 'raw'; expected paper or released"),
        (dict(batch_size=0), "batch size 0"),
        (dict(sources=[x[0][0], x[1]]), r"a tensor \(9, 20\)"),
        (dict(sources=[(255 * x[0]).byte(), x[1]]), "torch.uint8; expected"),
    ):
        with pytest.raises(ValueError, match=words):
            similarities(clip, **{**dict(sources=x, targets=x, captions=t, edited_captions=t), **change})


# Thresholds


def score(image=1.0, caption_0=1.0, caption_1=1.0, direction=1.0, **more) -> dict:
    values = dict(image=image, caption_0=caption_0, caption_1=caption_1, direction=direction)
    return {KEYS[name]: value for name, value in values.items()} | more


def test_the_thresholds_are_the_papers_and_the_released_scripts():
    assert PAPER == Thresholds() == Thresholds(image=0.75, caption=0.2, direction=0.2)
    assert RELEASED == replace(PAPER, image=0.7)


def test_each_rule_compares_its_own_similarity_and_accepts_the_threshold_itself():
    exact = dict(image=0.75, caption_0=0.2, caption_1=0.2, direction=0.2)
    assert PAPER.refuses(score(**exact)) == ()
    for rule in RULES:
        assert PAPER.refuses(score(**{**exact, rule: math.nextafter(exact[rule], -1)})) == (rule,)
        assert PAPER.refuses(score(**{**exact, rule: math.nan})) == (rule,)
    assert PAPER.refuses(score(0, 0, 0, 0)) == tuple(RULES)
    assert Thresholds(image=-1, caption=-1, direction=-1).refuses(score(-1, -1, -1, -1)) == ()


@pytest.mark.parametrize("value", [1.01, -2, math.nan, math.inf, "0.2", None, True])
def test_thresholds_are_cosines(value):
    with pytest.raises(ValueError, match="caption .*expected a cosine from -1"):
        Thresholds(caption=value)


# What is kept


@st.composite
def made(draw) -> dict[str, list[dict]]:
    """Units of a few prompts; samples with any scores, and seeds that tell (prompt, sample)."""
    found = {}
    for prompt in draw(st.lists(st.integers(0, 30), max_size=4, unique=True)):
        found[pair_files.unit_name(prompt)] = [
            score(*(draw(COSINE) for _ in RULES), sample=i, seed=1000 * prompt + i, candidate=draw(st.booleans()))
            for i in range(draw(st.integers(0, 8)))
        ]
    return found


def samples(made: dict) -> dict[int, dict]:
    """All of them, by seed."""
    return {each["seed"]: each for scores in made.values() for each in scores}


def keep(made: dict[str, list[dict]], thresholds=PAPER, most=4) -> dict[str, list[int]]:
    """{unit: seeds that are kept}."""
    return filter_units(sorted(made.items()), thresholds, most).seeds


THRESHOLDS = st.builds(Thresholds, image=COSINE, caption=COSINE, direction=COSINE)
MOST = st.none() | st.integers(1, 5)


@given(made(), THRESHOLDS, MOST)
def test_what_is_kept_passes_is_there_and_is_the_best_of_its_prompt(made, thresholds, most):
    kept, by_seed = keep(made, thresholds, most), samples(made)
    for unit, seeds in kept.items():
        assert seeds and set(seeds) <= {each["seed"] for each in made[unit]}
        assert all(by_seed[seed]["candidate"] and not thresholds.refuses(by_seed[seed]) for seed in seeds)
        ranks = [(-by_seed[seed][KEYS["direction"]], by_seed[seed]["sample"]) for seed in seeds]
        assert ranks == sorted(ranks)
    for prompt in range(31):
        of_prompt = [each for seed, each in by_seed.items() if seed // 1000 == prompt]
        good = [each for each in of_prompt if each["candidate"] and not thresholds.refuses(each)]
        good.sort(key=lambda each: (-each[KEYS["direction"]], each["sample"]))
        chosen = {seed for seeds in kept.values() for seed in seeds if seed // 1000 == prompt}
        assert chosen == {each["seed"] for each in good[:most]}


@given(made(), THRESHOLDS, THRESHOLDS)
def test_a_stricter_threshold_keeps_a_subset(made, one, other):
    strict = Thresholds(
        **{name: max(getattr(one, name), getattr(other, name)) for name in ("image", "caption", "direction")}
    )
    loose, few = keep(made, one, None), keep(made, strict, None)
    assert all(set(seeds) <= set(loose[unit]) for unit, seeds in few.items())


@given(made(), THRESHOLDS, MOST)
def test_every_sample_is_counted_once(made, thresholds, most):
    told, by_seed = filter_units(sorted(made.items()), thresholds, most), samples(made)
    assert told.samples == len(by_seed)
    assert told.samples == told.passed + sum(bool(thresholds.refuses(each)) for each in by_seed.values())
    assert told.passed >= told.kept
    assert told.kept == sum(map(len, told.seeds.values()))
    assert told.prompts == len(made) >= told.prompts_kept == len(told.seeds)
    for rule in RULES:
        assert 0 <= told.fell[rule] <= told.samples - told.passed
        values = [each[KEYS[rule]] for each in by_seed.values()] or [0.0]
        assert told.quantiles[rule] == pytest.approx(np.quantile(values, clip_filter.QUANTILES), abs=1e-6)
    assert str(told.kept) in clip_filter.table(told)


def test_of_equal_directions_the_earlier_sample_is_better():
    rows = [score(sample=i, seed=100 - i, candidate=True) for i in (3, 1, 2, 0)]
    assert keep({"0000001": rows}, PAPER, 2) == {"0000001": [100, 99]}


def test_a_worse_sample_takes_the_place_of_one_without_images():
    """Candidates were chosen by looser thresholds, and one that passes only those was among the best then."""
    directions, images, there = (0.9, 0.8, 0.7, 0.6, 0.5), (0.8, 0.72, 0.8, 0.8, 0.8), (True, True, False, False, True)
    rows = [
        score(image=image, direction=direction, sample=i, seed=i, candidate=candidate)
        for i, (direction, image, candidate) in enumerate(zip(directions, images, there))
    ]
    told = filter_units([("0000001", rows)], PAPER, 2)
    assert told.seeds == {"0000001": [0, 4]}
    assert (told.passed, told.kept) == (4, 2)


@pytest.mark.parametrize(
    "row, key",
    [
        ([], "sample"),
        ({"sample": 0}, "seed"),
        (score(sample=0, seed=1), "candidate"),
        (score(sample=0, seed="one", candidate=True), "seed"),
        (score(sample=0, seed=1.5, candidate=True), "seed"),
        (score(sample=0, seed=1, candidate=1), "candidate"),
        (score(sample=0, seed=1, candidate=True, clip_sim_dir=None), "clip_sim_dir"),
        (score(sample=0, seed=1, candidate=True, clip_sim_image=math.nan), "clip_sim_image"),
        (score(sample=0, seed=1, candidate=True, clip_sim_0=True), "clip_sim_0"),
    ],
)
def test_a_broken_score_is_named_by_unit_and_line(row, key):
    with pytest.raises(ValueError, match=f"unit 0000003, line 2 of its scores: expected '{key}', a number, in "):
        keep({"0000003": [score(sample=0, seed=1, candidate=True), row]})


def test_at_least_one_pair_of_a_prompt_can_be_kept():
    for most in (0, -1, 2.0, True):
        with pytest.raises(ValueError, match="keep .*at least 1"):
            keep({}, PAPER, most)


# On disk


def unit(prompt: int, directions: list[float], candidates: list[bool]) -> pair_files.PairUnit:
    rows = [
        score(
            direction=direction, sample=i, seed=100 * prompt + i, p2p_threshold=0.5, cfg_scale=7.5, candidate=candidate
        )
        for i, (direction, candidate) in enumerate(zip(directions, candidates, strict=True))
    ]
    chosen = {row["seed"]: (b"0", b"1") for row in rows if row["candidate"]}
    row = {"input": "a cat", "edit": "make it a dog", "output": "a dog", "id": prompt}
    return pair_files.PairUnit(name=pair_files.unit_name(prompt), prompt=row, scores=rows, images=chosen)


@pytest.fixture
def folder(tmp_path):
    """Two prompts; a third of which nothing passes."""
    write_pair_unit(tmp_path, unit(1, [0.3, 0.1, 0.5, 0.4, 0.9], [True, False, True, True, False]))
    write_pair_unit(tmp_path, unit(2, [0.2, 0.6], [True, True]))
    write_pair_unit(tmp_path, unit(3, [0.1], [False]))
    return tmp_path


def test_a_folder_is_filtered_again_and_again_with_the_same_bytes(folder):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    told = clip_filter.run(folder, PAPER, 2)
    assert json.loads((folder / "seeds.json").read_text()) == [["0000001", [102, 103]], ["0000002", [201, 200]]]
    assert (told.samples, told.passed, told.kept) == (8, 6, 4)
    assert (told.fell["direction"], told.fell["image"]) == (2, 0)
    assert (told.prompts, told.prompts_kept) == (3, 2)
    made = {name: (folder / name).read_bytes() for name in ("seeds.json", "filter.json")}
    assert clip_filter.run(folder, Thresholds(direction=0.5), None).seeds == {"0000001": [102], "0000002": [201]}
    assert (folder / "seeds.json").read_bytes() != made["seeds.json"]
    clip_filter.run(folder, PAPER, 2)
    assert {name: (folder / name).read_bytes() for name in made} == made
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert after == before | {folder / name: data for name, data in made.items()}


def test_filter_json_has_the_thresholds_and_the_hash_of_the_seeds(folder):
    from hashlib import sha256

    told = clip_filter.run(folder, RELEASED, None)
    about = json.loads((folder / "filter.json").read_text())
    assert Thresholds(**about["thresholds"]) == RELEASED and about["keep"] is None
    assert about["seeds_sha256"] == sha256((folder / "seeds.json").read_bytes()).hexdigest()
    assert about["kept"] == told.kept == 5


def test_nothing_kept_is_an_empty_list(folder):
    clip_filter.run(folder, Thresholds(direction=1), 4)
    assert json.loads((folder / "seeds.json").read_text()) == []


def test_a_folder_of_the_authors_with_scores_of_candidates_only_is_filtered_too(tmp_path):
    made = tmp_path / "0000005"
    made.mkdir()
    (made / "prompt.json").write_text('{"input": "a", "edit": "b", "output": "c"}')
    rows = [score(direction=d, seed=seed, p2p_threshold=0.1, cfg_scale=8.0) for d, seed in ((0.3, 7), (0.5, 8))]
    (made / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert clip_filter.run(tmp_path).seeds == {"0000005": [8, 7]}


def test_a_broken_unit_is_named_and_leaves_what_was_kept(folder):
    clip_filter.run(folder)
    before = (folder / "seeds.json").read_bytes()
    lines = (folder / "0000001/scores.jsonl").read_text().splitlines()
    for broken, words in (('{"sample": 1', "0000001.*line 2: not JSON"), ("3", "0000001.*line 2: expected an object")):
        (folder / "0000001/scores.jsonl").write_text("\n".join([lines[0], broken, lines[2]]))
        with pytest.raises(ValueError, match=words) as error:
            clip_filter.run(folder)
        assert str(folder) in str(error.value) and (folder / "seeds.json").read_bytes() == before


def test_a_folder_of_nothing_or_nowhere_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no finished unit is in it"):
        clip_filter.run(tmp_path)
    with pytest.raises(ValueError, match="no such folder"):
        clip_filter.run(tmp_path / "nowhere")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "wrong", [2 * torch.rand(3, 8, 8) - 1, 255 * torch.rand(3, 8, 8), torch.full((3, 8, 8), math.nan)]
)
def test_tensors_that_are_measured_lie_in_0_to_1(clip, wrong):
    """A decoder's overshoot passes; [-1, 1], 0..255 and NaN do not."""
    with pytest.raises(ValueError, match="expected 0 to 1"):
        encode_pictures(clip, [wrong])
    with pytest.raises(ValueError, match="truths holds values"):
        compare(torch.rand(1, 3, 8, 8), wrong[None])
    encode_pictures(clip, [torch.rand(3, 8, 8) * 1.001])
