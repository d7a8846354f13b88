"""The miniature of the paper's data generation: its files, resuming, and the numbers of its report."""

import json

import numpy as np
import pytest

from minip2p.cli import main
from minip2p.data.captions import distinct
from minip2p.data.edits import open_edits
from minip2p.data.pair_files import read_scores
from minip2p.tinyworld import miniature
from minip2p.tinyworld.classifier import load_classifier
from minip2p.tinyworld.grammar import parse_caption
from minip2p.tinyworld.scenes import loose_captions, render, sample_edit

pytestmark = pytest.mark.slow

SMALL = ["--captions", "4", "--samples", "2", "--steps", "6", "--compared", "1", "--threads", "1"]


def tree(folder) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of a training set made by the command."""
    folder = tmp_path_factory.mktemp("miniature") / "data"
    assert main(["tiny", "make-data", "--output", str(folder), *SMALL]) == 0
    return folder


def test_a_stopped_run_continues_to_the_same_bytes(made):
    before = tree(made)
    for name in ("report.md", "report.png", "pairs/seeds.json", "prompts.jsonl"):
        (made / name).unlink()
    unit = next(p for p in sorted((made / "pairs").iterdir()) if p.is_dir())
    for file in unit.iterdir():
        file.unlink()
    unit.rmdir()
    assert main(["tiny", "make-data", "--output", str(made), *SMALL]) == 0
    assert tree(made) == before


def test_another_recipe_in_the_same_folder_is_refused(made, capsys):
    before = tree(made)
    assert main(["tiny", "make-data", "--output", str(made), "--seed", "1", *SMALL]) == 2
    error = capsys.readouterr().err
    assert "prompts.run.json belongs to a run with captions" in error and "--output" in error
    assert main(["tiny", "make-data", "--output", str(made), *SMALL, "--steps", "3"]) == 2
    assert "steps 6, this one has 3" in capsys.readouterr().err
    assert tree(made) == before


def test_numbers_out_of_range_are_refused(tmp_path, capsys):
    for name, value in (("captions", "0"), ("samples", "-1"), ("threads", "0"), ("compared", "-1")):
        assert main(["tiny", "make-data", "--output", str(tmp_path / "x"), f"--{name}", value]) == 2
        assert f"{name} = {value}: expected at least" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_the_report_counts_the_pairs(made):
    units, text = list(read_scores(made / "pairs")), (made / "report.md").read_text()
    limit = miniature.RECIPE.thresholds
    passed = [row for _, _, rows in units for row in rows if not limit.refuses(row)]
    seeds = dict(json.loads((made / "pairs" / "seeds.json").read_text()))
    kept = sum(map(len, seeds.values()))
    assert 0 < kept == len(open_edits(made / "pairs")) <= len(passed)
    assert f"4 captions gave {len(units)} instructions" in text and f"{2 * len(units)} pairs were generated" in text
    assert f"the filter kept {kept} (" in text and f"| all | {kept} |" in text and "report.png" in text
    for way in miniature.WAYS:
        assert f"| {way} | none | 2 |" in text


def test_the_compared_ways_have_different_settings(made):
    runs = {p.name: json.loads((p / "run.json").read_text()) for p in (made / "compared").iterdir()}
    assert {(run["independent_noise"], tuple(run["share"])) for run in runs.values()} == {
        (False, (0.1, 0.5)),
        (False, (0.0, 0.0)),
        (True, (0.0, 0.0)),
    }


def test_captions_are_distinct_and_depend_on_the_seed():
    captions = miniature.sample_captions(300, 3)
    assert len(distinct(captions)) == 300 and captions == miniature.sample_captions(
        300, 3
    ) != miniature.sample_captions(300, 4)
    for caption in captions:
        parse_caption(caption)


def test_a_rendered_pair_shows_its_edit():
    classifier, rng, correct = load_classifier(), np.random.default_rng(8), []
    while len(correct) < 6:
        edit, other = sample_edit(rng), sample_edit(rng)
        captions = loose_captions(edit.source, edit.target, rng=rng, details=("size", "place", "weather"))
        prompt = {"input": captions[0], "edit": edit.instruction, "output": captions[1]}
        images = render(edit.source), render(edit.target)
        pair = miniature.inspect_pair(classifier, prompt, images, kept=True)
        assert pair.kind == edit.kind
        correct.append((pair.attributes, pair.exact))
        wrong = miniature.inspect_pair(classifier, prompt | {"edit": other.instruction}, images, kept=True)
        same = miniature.inspect_pair(classifier, prompt, images[:1] * 2, kept=True)
        assert not wrong.exact and not same.exact and not (same.attributes and edit.kind != "weather")
    assert np.mean(correct) > 0.9
