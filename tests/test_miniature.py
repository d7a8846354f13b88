"""The miniature of the paper's data: what it makes, that it goes on after a stop, and that its report tells the truth."""

import json
from dataclasses import replace

import numpy as np
import pytest

import minip2p
from minip2p.cli import main
from minip2p.data.captions import distinct
from minip2p.data.edits import open_edits
from minip2p.data.grammar import parse_caption
from minip2p.data.scenes import loose_captions, render, sample_edit
from minip2p.datagen import miniature
from minip2p.datagen.units import read_scores
from minip2p.evaluation.metrics import Thresholds

SMALL = ["--captions", "5", "--samples", "2", "--steps", "8", "--compared", "2", "--threads", "1"]


def tree(folder) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A miniature by the command, and what it printed nothing of: its folder."""
    folder = tmp_path_factory.mktemp("miniature") / "data"
    assert main(["make-data", "--recipe", "tiny", "--output", str(folder), *SMALL]) == 0
    return folder


def test_a_stopped_run_goes_on_to_the_same_bytes(made):
    before = tree(made)
    for name in ("report.md", "report.json", "report.png", "pairs/seeds.json", "prompts.jsonl"):
        (made / name).unlink()
    unit = next(p for p in sorted((made / "pairs").iterdir()) if p.is_dir())
    for file in unit.iterdir():
        file.unlink()
    unit.rmdir()
    assert main(["make-data", "--output", str(made), *SMALL]) == 0
    assert tree(made) == before


def test_another_recipe_in_the_same_folder_is_refused(made, capsys):
    before = tree(made)
    assert main(["make-data", "--output", str(made), "--seed", "1", *SMALL]) == 2
    said = capsys.readouterr().err
    assert "captions.txt holds other captions" in said and "--output" in said
    assert main(["make-data", "--output", str(made), *SMALL, "--steps", "3"]) == 2
    assert "steps 8, this one has 3" in capsys.readouterr().err
    assert tree(made) == before


def test_numbers_that_mean_nothing_are_refused(tmp_path, capsys):
    for name, value in (("captions", "0"), ("samples", "-1"), ("threads", "0"), ("compared", "-1")):
        assert main(["make-data", "--output", str(tmp_path / "x"), f"--{name}", value]) == 2
        assert f"--{name} {value}: expected at least" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_the_report_counts_what_was_made(made):
    report = json.loads((made / "report.json").read_text())
    units = list(read_scores(made / "pairs"))
    rows = [row for _, _, rows in units for row in rows]
    limit = Thresholds(**report["recipe"]["painting"]["thresholds"])
    passed = [row for row in rows if not limit.refuses(row)]
    assert report["writing"]["accepted"] == len(units) and report["filter"]["samples"] == len(rows) == 2 * len(units)
    assert report["filter"]["passed"] == len(passed) and report["filter"]["kept"] <= len(passed)
    assert {way: len(some) for way, some in report["pairs"].items() if way in miniature.WAYS} == dict.fromkeys(
        miniature.WAYS, 2 * min(2, len(units))
    )
    seeds = dict(json.loads((made / "pairs" / "seeds.json").read_text()))
    kept = sum(map(len, seeds.values()))
    assert 0 < kept == report["filter"]["kept"] == len(report["pairs"]["training set"]) == len(open_edits(made / "pairs"))
    text = (made / "report.md").read_text()
    assert f"{report['writing']['captions']} captions gave" in text and "report.png" in text


def test_ways_to_tie_two_pictures_differ_in_what_they_say(made):
    runs = {p.name: json.loads((p / "run.json").read_text()) for p in (made / "compared").iterdir()}
    assert {(run["apart"], tuple(run["share"])) for run in runs.values()} == {
        (False, (0.1, 0.5)), (False, (0.0, 0.0)), (True, (0.0, 0.0))
    }  # fmt: skip


def test_captions_are_different_and_follow_from_the_seed():
    captions = miniature.own_captions(300, 3)
    assert len(distinct(captions)) == 300 and captions == miniature.own_captions(300, 3) != miniature.own_captions(300, 4)
    for caption in captions:
        parse_caption(caption)


def test_a_drawn_pair_is_seen_as_what_it_is():
    reader, rng, right = minip2p.load_reader(), np.random.default_rng(8), []
    while len(right) < 6:
        edit, other = sample_edit(rng), sample_edit(rng)
        captions = loose_captions(edit.source, edit.target, rng=rng, details=("size", "place", "weather"))
        prompt = {"input": captions[0], "edit": edit.instruction, "output": captions[1], "id": 0}
        pictures = render(edit.source, 64), render(edit.target, 64)
        shown = miniature.look(reader, "0000000", prompt, {}, True, pictures)
        assert shown.kind == edit.kind
        right.append((shown.as_read, shown.exact))
        wrong = miniature.look(reader, "0000000", prompt | {"edit": other.instruction}, {}, True, pictures)
        same = miniature.look(reader, "0000000", prompt, {}, True, pictures[:1] * 2)
        assert not wrong.exact and not same.exact and not (same.as_read and edit.kind != "weather")
    assert np.mean(right) > 0.9


def test_the_filter_may_keep_all_that_the_painter_keeps():
    recipe = replace(miniature.RECIPES["tiny"], seed=7).seeded()
    assert recipe.painting.seed == recipe.writing.seed == 7
    assert recipe.painting.thresholds == recipe.thresholds and recipe.painting.most == recipe.keep
