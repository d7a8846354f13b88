"""`minip2p filter`: its words, its table, its picture, its mistakes."""

import json
import sys
from dataclasses import fields

import numpy as np
import pytest
from PIL import Image

from minip2p.cli import filter as verb
from minip2p.cli.arguments import parse
from minip2p.datagen import filter as sieve
from minip2p.datagen import units
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
        unit = units.Unit(name=units.unit_name(prompt), prompt=prompt_row, scores=rows, pictures=pictures)
        units.write_unit(folder, unit)
    return folder


def test_the_defaults_are_the_papers():
    given = options("DIR")
    assert all(getattr(given, each.name) == each.default for each in fields(Thresholds))
    assert (given.directory, given.keep, given.output) == ("DIR", 4, None)


def test_what_is_kept_is_written_told_and_drawn(tmp_path, capsys):
    write_pairs(tmp_path)
    words = tmp_path, "--image", "0.7", "--caption", "0.22", "--direction", "0.1", "--keep", "2"
    verb.run(options(*words))
    out = capsys.readouterr().out
    thresholds = Thresholds(image=0.7, caption=0.22, direction=0.1)
    all_scores = {name: rows for name, _, rows in units.read_scores(tmp_path)}
    kept = sieve.keep(all_scores, thresholds, 2)
    assert json.loads((tmp_path / "seeds.json").read_text()) == [[name, seeds] for name, seeds in kept.items()]
    assert "| rule | fell to it | to it alone |" in out and "| image >= 0.7 |" in out and "caption 0 >= 0.22" in out
    assert "| passed, but 2 of their prompt are better |" in out and "of 6 prompts have at least one" in out
    assert f"| kept | {sum(map(len, kept.values()))} (" in out
    with Image.open(tmp_path / "histogram.png") as image:
        assert image.format == "PNG" and image.width > 800 and len(image.convert("RGB").getcolors(1 << 20)) > 10
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.*") if path.is_file()}
    verb.run(options(*words))
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.*") if path.is_file()} == before
    assert {"seeds.json", "filter.json", "histogram.png"} == set(before)


def test_keep_0_is_all_that_pass(tmp_path, capsys):
    write_pairs(tmp_path, prompts=2)
    verb.run(options(tmp_path, "--keep", "0", "--output", tmp_path / "sub" / "seen.png"))
    about = json.loads((tmp_path / "filter.json").read_text())
    assert about["keep"] is None and about["over"] == 0 and about["kept"] == about["passed"] - about["lost"] > 4
    assert "better" not in capsys.readouterr().out
    assert (tmp_path / "sub" / "seen.png").is_file() and not (tmp_path / "histogram.png").exists()


def test_a_histogram_can_be_drawn_of_no_samples_and_of_one():
    for rows in ([], [dict.fromkeys(KEYS.values(), 1.0) | {"sample": 0, "seed": 1, "candidate": True}]):
        seen = sieve.Seen(Thresholds(), 4)
        seen.add("0000001", rows)
        assert verb.histogram(sieve.filtered(seen)).startswith(b"\x89PNG")


def test_an_axis_shows_its_threshold_and_all_but_the_rarest():
    edges = np.linspace(-1, 1, 201)
    counts = np.histogram([-0.9] + 1500 * [0.255] + 1500 * [0.505], edges)[0].tolist()
    low, high = verb._range(counts, edges, 0.75)
    assert low == pytest.approx(0.25 - 0.03) and high == pytest.approx(0.75 + 0.03)


def test_without_matplotlib_the_filter_works_and_says_so(tmp_path, capsys, monkeypatch):
    write_pairs(tmp_path, prompts=1)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ValueError, match="--output: the histogram needs matplotlib, which is missing"):
        verb.run(options(tmp_path, "--output", tmp_path / "seen.png"))
    assert not (tmp_path / "seeds.json").exists()
    verb.run(options(tmp_path))
    said = capsys.readouterr()
    assert said.err.count("needs matplotlib, which is missing") == 1 and "| kept |" in said.out
    assert (tmp_path / "seeds.json").is_file() and not (tmp_path / "histogram.png").exists()


@pytest.mark.parametrize("words, told", [
    (["--image", "75"], "image 75.0: expected a cosine"),
    (["--direction", "nan"], "direction nan: expected a cosine"),
    (["--keep", "-1"], "keep -1: expected how many of a prompt, or 0 for all"),
    (["--output", "seen.jpg"], "seen.jpg: expected a file that ends in .png"),
    ([], "no finished unit is in it"),
])  # fmt: skip
def test_mistakes_are_one_line(tmp_path, words, told):
    with pytest.raises(ValueError, match=told) as error:
        verb.run(options(tmp_path, *words))
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="nowhere: no such folder"):
        verb.run(options(tmp_path / "nowhere"))
    assert not list(tmp_path.iterdir())
