"""`minip2p filter`: its options, its table, its mistakes."""

import json
from dataclasses import fields

import numpy as np
import pytest
from helpers_pairs import write_pair_unit

from minip2p.cli import filter as verb
from minip2p.cli.arguments import parse
from minip2p.data.pair_files import PairUnit, read_scores, unit_name
from minip2p.datagen import clip_filter
from minip2p.evaluation.metrics import KEYS, RULES, Thresholds


def options(*words: str) -> verb.Options:
    return parse(verb.Options, [str(word) for word in words], "minip2p filter")


def write_pairs(folder, prompts: int = 6, n: int = 20):
    """Samples with scores about those of real ones."""
    rng = np.random.default_rng(0)
    for prompt in range(prompts):
        rows = []
        for i in range(n):
            drawn = 1 - rng.gamma(2, 0.07), rng.normal(0.25, 0.03), rng.normal(0.24, 0.03), rng.normal(0.2, 0.1)
            values = {KEYS[rule]: float(value) for rule, value in zip(RULES, drawn, strict=True)}
            more = dict(sample=i, seed=1000 * prompt + i, p2p_threshold=0.5, cfg_scale=9.0)
            rows.append(more | values | {"candidate": not Thresholds(image=0.7).refuses(values)})
        pictures = {row["seed"]: (b"0", b"1") for row in rows if row["candidate"]}
        prompt_row = {"input": "a", "edit": "b", "output": "c", "id": prompt}
        unit = PairUnit(name=unit_name(prompt), prompt=prompt_row, scores=rows, images=pictures)
        write_pair_unit(folder, unit)
    return folder


def test_the_defaults_are_the_papers():
    given = options("DIR")
    assert all(getattr(given, each.name) == each.default for each in fields(Thresholds))
    assert (given.directory, given.keep) == ("DIR", 4)


def test_what_is_kept_is_written_and_printed(tmp_path, capsys):
    write_pairs(tmp_path)
    words = tmp_path, "--image", "0.7", "--caption", "0.22", "--direction", "0.1", "--keep", "2"
    verb.run(options(*words))
    out = capsys.readouterr().out
    thresholds = Thresholds(image=0.7, caption=0.22, direction=0.1)
    scores = [(name, rows) for name, _, rows in read_scores(tmp_path)]
    kept = clip_filter.filter_units(scores, thresholds, 2).seeds
    assert json.loads((tmp_path / "seeds.json").read_text()) == [[name, seeds] for name, seeds in kept.items()]
    assert (
        "| rule | failed | 10% are below | 50% are below | 90% are below |" in out
        and "| image >= 0.7 |" in out
        and "caption 0 >= 0.22" in out
    )
    assert "of 6 prompts have at least one" in out
    assert f"| kept | {sum(map(len, kept.values()))} (" in out
    image = [row[KEYS["image"]] for _, rows in scores for row in rows]
    assert f" {np.quantile(image, 0.5):.3f} |" in out
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.*") if path.is_file()}
    verb.run(options(*words))
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.*") if path.is_file()} == before
    assert {"seeds.json", "filter.json"} == set(before)


def test_keep_0_is_all_that_pass(tmp_path):
    write_pairs(tmp_path, prompts=2)
    verb.run(options(tmp_path, "--keep", "0"))
    about = json.loads((tmp_path / "filter.json").read_text())
    assert about["keep"] is None and about["kept"] == about["passed"] > 4


@pytest.mark.parametrize(
    "words, told",
    [
        (["--image", "75"], "image 75.0: expected a cosine"),
        (["--direction", "nan"], "direction nan: expected a cosine"),
        ([], "no finished unit is in it"),
    ],
)
def test_mistakes_are_one_line(tmp_path, words, told):
    with pytest.raises(ValueError, match=told) as error:
        verb.run(options(tmp_path, *words))
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="nowhere: no such folder"):
        verb.run(options(tmp_path / "nowhere"))
    assert not list(tmp_path.iterdir())
