"""`minip2p tiny reproduce`: the rules on numbers, the report, and the whole command on thin random networks."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import contents, randomise
from hypothesis import given, settings
from hypothesis import strategies as st

import minip2p
from minip2p import checkpoints
from minip2p.cli import main
from minip2p.config import PRESETS, CLIPConfig, VisionConfig, kind_of, override
from minip2p.evaluation import ablation
from minip2p.evaluation.summary import ACROSS, UP, Point
from minip2p.models.clip import CLIP
from minip2p.models.denoisers import build_denoiser
from minip2p.pipeline import Pipeline
from minip2p.tinyworld.classifier import AttributeClassifier
from minip2p.tinyworld.evaluation import mechanisms
from minip2p.tinyworld.grammar import mismatch
from minip2p.tinyworld.reproduce import ablations, ceiling, figure3, figure8, figure10, made
from minip2p.tinyworld.reproduce.claims import AGREES, DISAGREES, UNDECIDED, Claim, Estimate, ratio, slope
from minip2p.tinyworld.reproduce.parts import Setup
from minip2p.tinyworld.reproduce.report import to_html, to_markdown
from minip2p.tinyworld.reproduce.run import REPORT
from minip2p.tinyworld.reproduce.sets import edit_of
from minip2p.tinyworld.scenes import loose_captions, sample_edit
from minip2p.tinyworld.training.config import ClassifierTraining
from minip2p.tinyworld.training.presets import EDITOR
from minip2p.tinyworld.training.vocab import tokenizer_for
from minip2p.training import loop
from minip2p.training.build import build


def noisy(value: float, *shape: int, spread: float = 0.1) -> np.ndarray:
    return value + spread * np.random.default_rng(len(shape)).standard_normal(shape)


# ---- claims


def verdict(low: float, high: float, above: float = 0.0) -> str:
    number = Estimate((low + high) / 2, low, high)
    return Claim(paper="", words="", measured="", number=number, above=above).verdict


def test_a_claim_is_decided_by_its_interval_and_bound():
    assert [verdict(0.1, 0.2), verdict(-0.2, -0.1), verdict(-0.1, 0.1)] == [AGREES, DISAGREES, UNDECIDED]
    assert [verdict(0.1, 0.2, 0.3), verdict(0.1, 0.2, 0.15), verdict(-0.04, 0.1, -0.05)] == [
        DISAGREES,
        UNDECIDED,
        AGREES,
    ]
    assert Claim(paper="", words="", measured="", number=None).verdict == UNDECIDED


def test_a_ratio_counts_and_its_interval_is_that_of_the_items():
    part, whole = np.array([1, 0, 2, 3] * 50), np.array([2, 2, 2, 4] * 50)
    found = ratio(part, whole)
    assert found.value == pytest.approx(0.6) and 0.5 < found.low < 0.6 < found.high < 0.7
    assert ratio(part, whole, (part, whole)) == Estimate(0, 0, 0), "paired with itself"
    assert ratio(part, 0 * whole) is None and ratio(part, whole, (part, 0 * whole)) is None


def test_a_slope_is_that_of_a_line():
    start = noisy(1, 40)
    found = slope([start + 3 * x for x in (1.0, 1.5, 2.5)], (1.0, 1.5, 2.5))
    assert (found.value, found.low, found.high) == pytest.approx((3, 3, 3))


# ---- each figure's shapes, on constructed numbers


def pairs_of(other: float, common: float, shared: float, right: tuple[float, float]) -> dict:
    """Figure 3's lines: pixels changed with other noise, at share 0 and above; correct targets of both noises."""
    n = 200

    def lines(changed: float, target: float) -> list[dict]:
        hits = np.arange(n) < target * n
        return [{"changed": float(x), "source": True, "target": bool(hit)} for x, hit in zip(noisy(changed, n), hits)]

    ways = {str(share): lines(common if share == 0 else shared, right[1]) for share in figure3.SHARES}
    ways |= {name: lines(common - 0.1, right[1]) for name in mechanisms.WAYS}
    return ways | {"other noise": lines(other, right[0]), "as drawn": lines(0.05, 1.0)}


def verdicts(found) -> list[str]:
    return [claim.verdict for claim in found]


def test_figure_3_tells_the_three_shapes_apart():
    paper = figure3.claims_of(pairs_of(0.5, 0.3, 0.15, (0.5, 0.5)))
    assert verdicts(paper) == [AGREES, AGREES, AGREES]
    noise_alone = pairs_of(0.5, 0.25, 0.25, (0.5, 0.5))
    found = figure3.claims_of(noise_alone)
    assert verdicts(found) == [AGREES, DISAGREES, AGREES] and not figure3.explained(noise_alone, paper)
    text = "the common noise does 56% of what can be done before anything is shared"  # (0.5 - 0.25) / (0.5 - 0.05)
    assert text in figure3.explained(noise_alone, found).replace("\n", " ")
    text = "With the first caption for half of the steps the changed pixels move by -10.0%"
    assert text in figure3.explained(noise_alone, found).replace("\n", " ")
    assert "What sharing costs" not in figure3.explained(noise_alone, found)
    broken = pairs_of(0.3, 0.3, 0.3, (0.8, 0.5))
    assert verdicts(figure3.claims_of(broken)) == [DISAGREES, DISAGREES, DISAGREES]
    assert "What sharing costs" in figure3.explained(broken, figure3.claims_of(broken))


def curve(points: list[tuple[float, float]], at: list[float], n: int = 60) -> list[Point]:
    """A curve through these (direction, image) similarities, at these scales."""
    one, other = noisy(0, n), noisy(0, n, 1)[:, 0]
    about = {"curve": "x", "method": "editor"}
    return [
        Point(
            header=about, point=scale, turns=None, keys=[*map(str, range(n))], values={ACROSS: x + one, UP: y + other}
        )
        for (x, y), scale in zip(points, at, strict=True)
    ]


def test_the_gap_of_two_curves_is_their_distance_at_equal_direction():
    below = curve([(0.1, 0.9), (0.5, 0.5)], [0.3, 0.9])
    above = curve([(0.2, 1.0), (0.6, 0.6)], [2.0, 1.0])  # the line y = 1.2 - x, over y = 1 - x
    assert figure8.gap(above, below).value == pytest.approx(0.2)
    assert figure8.gap(below, above).value == pytest.approx(-0.2)
    assert figure8.gap(above, curve([(0.7, 0.9), (0.8, 0.5)], [0.3, 0.9])) is None, "no direction in common"
    folded = curve([(0.2, 0.6), (0.6, 0.6), (0.2, 1.0)], [1, 2, 3])  # dominated points do not count
    assert figure8.gap(folded, below).value == pytest.approx(0.2)


def test_figure_8_tells_made_pairs_from_the_method():
    sdedit = curve([(0.2, 0.9), (0.6, 0.7)], [0.3, 0.9])
    true = curve([(0.8, 0.85), (0.8, 0.75)], [2, 1])
    assert figure8.gap(true, sdedit) is None
    lead = figure8.gap(true, sdedit, along=UP)
    assert lead.value == pytest.approx(0.8 - 0.4), "SDEdit's direction similarity is 0.3 at 0.85, 0.5 at 0.75"

    def told(lead: Estimate | None, *verdicts: tuple[float, float]) -> str:
        claims = [Claim(paper="", words="", measured="", number=Estimate(low, low, high)) for low, high in verdicts]
        return " ".join(figure8.unlike_the_paper(claims, lead, 60).split())

    assert told(lead, (0.1, 0.2), (0.1, 0.2), (0.1, 0.2)) == ""
    assert "its direction similarity is higher by +0.400" in told(lead, (-0.1, 0.1), (0.1, 0.2), (0.1, 0.2))
    assert "does not lead SDEdit either" in told(None, (-0.2, -0.1), (0.1, 0.2), (0.1, 0.2))
    assert told(lead, (0.1, 0.2), (0.1, 0.2), (-0.1, 0.2)).endswith("is one that 60 edits cannot tell from zero.")


def sims(**image_and_direction: tuple[float, float]) -> dict:
    n = 100
    return {
        name.replace("_", "-"): {UP: noisy(up, 2, n, spread=0.02), ACROSS: noisy(across, 2, n, spread=0.02)}
        for name, (up, across) in image_and_direction.items()
    }


def test_figure_10_tells_less_data_from_no_filter():
    paper = sims(p2p_kept=(0.8, 0.6), p2p_1=(0.9, 0.3), p2p_all=(0.7, 0.6))
    assert verdicts(figure10.claims_of(paper)) == [AGREES, AGREES, AGREES]
    other = sims(p2p_kept=(0.8, 0.6), p2p_1=(0.7, 0.7), p2p_10=(0.75, 0.6), p2p_all=(0.9, 0.6))
    assert verdicts(figure10.claims_of(other)) == [DISAGREES, DISAGREES, DISAGREES]
    text = " ".join(figure10.explained(other, figure10.claims_of(other), 500).split())
    assert "1% are 5 of 500 pairs" in text and re.search(
        r"0\.70\d with them, 0\.75\d with 10%, and 0\.80\d with all", text
    )
    assert not figure10.explained(paper, figure10.claims_of(paper), 500)


def test_the_made_pairs_claims_are_of_exact_pairs():
    def way(exact: int, kept: int) -> dict:  # of 4 pairs an instruction, 2 of which are kept
        columns = {"all": 4, "exact": exact, "attributes": 4, "kept_all": 2, "kept_exact": kept, "kept_attributes": 2}
        return {name: np.full(50, value) for name, value in columns.items()}

    found = dict(zip(made.WAYS, (way(2, 2), way(2, 2), way(1, 1))))
    assert verdicts(made.claims_of(found)) == [AGREES, UNDECIDED, AGREES]
    assert verdicts(made.claims_of(dict(zip(made.WAYS, (way(1, 0), way(2, 2), way(2, 2)))))) == [DISAGREES] * 3
    rows = [{"prompt": 1, "kept": kept, "attributes": True, "exact": exact} for kept, exact in ((1, 1), (1, 0), (0, 1))]
    counts = made.counts(rows, 3)
    assert [counts[name].tolist()[1] for name in ("all", "exact", "kept_all", "kept_exact")] == [3, 2, 2, 1]
    assert not any(each[[0, 2]].any() for each in counts.values())


def test_the_ceiling_compares_editors_on_the_same_edits():
    hits = {"p2p-kept": 0.6, "true": 0.9, "true-same": 0.7, "p2p-all": 0.3, "common-kept": 0.6, "independent-kept": 0.8}
    correct = {name: np.tile(np.arange(100) < 100 * right, (3, 1)).astype(float) for name, right in hits.items()}
    found = ceiling.claims_of(correct)
    assert verdicts(found) == [AGREES, AGREES, UNDECIDED, DISAGREES]
    assert found[0].number.value == pytest.approx(0.3)
    assert ceiling.explained(found[:2], 3, 100) == "", "nothing is undecided"
    between = replace(found[0], number=Estimate(0.01, -0.02, 0.04))
    assert "3 seeds and 100 edits cannot tell a difference of less than about 3 points" in " ".join(
        ceiling.explained([*found, between], 3, 100).split()
    )


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1))
def test_a_true_pair_of_an_instruction_shows_it(seed):
    rng = np.random.default_rng(seed)
    edit = sample_edit(rng)
    details = tuple(word for word in ("size", "place") if rng.random() < 0.5) + ("weather",) * (edit.kind == "weather")
    before, after = loose_captions(edit.source, edit.target, rng=rng, details=details)
    found = edit_of({"input": before, "edit": edit.instruction, "output": after}, rng)
    assert found.kind == edit.kind and found.instruction == edit.instruction
    assert mismatch(found.source.caption, edit.instruction, found.target.caption) is None
    for scene, truth in ((found.source, edit.source), (found.target, edit.target)):
        assert scene.attributes == truth.attributes
        assert all(
            [getattr(thing, name) for thing in scene.things] == [getattr(thing, name) for thing in truth.things]
            for name in {"size", "place"} & set(details)
            if "place" in details
        )
    assert edit_of({"input": before, "edit": "make it purple", "output": after}, rng) is None


def test_all_variants_are_editors_that_fit_together():
    for model in (PRESETS["tiny"], minip2p.load(inference=False).config):
        base = replace(EDITOR, model=model)
        variants = ablations.variants_of(model)
        configs = {each.name: override(base, *each.words) for each in variants}
        assert len(configs) >= 9 and all(each != base for each in configs.values())
        for config in configs.values():
            config.model.check_together()
            assert kind_of(config.model) == "editor"
            with torch.device("meta"):
                build_denoiser(config.model)


# ---- the report


def test_html_has_all_of_the_markdown(tmp_path):
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "a.png").write_bytes(b"png")
    text = (
        "# A <title>\n\nSome **bold** and *thin* `x < 1`\ntext.\n\n| a | b |\n|---|---|\n| 1 | **2** |\n\n- one\n- two"
    )
    page = to_html(f"{text}\n\n![Figure](part/a.png)\n", tmp_path)
    assert "<h1>A &lt;title&gt;</h1>" in page and "<code>x &lt; 1</code>" in page
    assert "<p>Some <strong>bold</strong> and <em>thin</em>" in page
    assert "<tr><th>a</th><th>b</th></tr>\n<tr><td>1</td><td><strong>2</strong></td></tr>" in page
    assert "<li>one</li><li>two</li>" in page and "data:image/png;base64,cG5n" in page and "http" not in page


# ---- the command


@pytest.fixture(scope="module")
def thin(tmp_path_factory) -> Path:
    """All six models at 32 pixels: thin and random, but for the language model, whose answers must be valid."""
    folder, tiny = tmp_path_factory.mktemp("thin"), PRESETS["tiny"]
    tokenizer, text = tokenizer_for(replace(tiny.text, layers=1))
    for name, channels in (("editor", 16), ("editor-from-pairs", 16), ("text2image", 8)):
        config = replace(
            tiny,
            unet=replace(tiny.unet, widths=(16, 16, 16), in_channels=channels),
            dit=replace(tiny.dit, width=32, depth=1),
            text=text,
            vae=replace(tiny.vae, widths=(8, 8, 8, 8)),
            sampling=replace(tiny.sampling, resolution=32),
        )
        networks = build({part: getattr(config, part) for part in ("unet", "vae", "text")}, seed=0)
        parts = (randomise(network) for network in networks.values())
        minip2p.save(Pipeline(*parts, tokenizer, config), folder / f"{name}.safetensors")
    vision = VisionConfig(image_size=16, patch_size=8, width=32, layers=1, heads=2, feed_forward=48, projection=24)
    clip = randomise(CLIP(CLIPConfig(text=replace(text, projection=24), vision=vision), tokenizer))
    parts = {name: getattr(clip, name).state_dict() for name in ("text", "vision")}
    parts["logit_scale"] = {"": clip.logit_scale.detach()}
    checkpoints.write(folder / "clip.safetensors", "minip2p", clip.config, parts, tokenizer=tokenizer)
    config = replace(ClassifierTraining().model, size=16, widths=(8,), blocks=(0,))
    parts = {"classifier": randomise(AttributeClassifier(config)).state_dict()}
    checkpoints.write(folder / "classifier.safetensors", "minip2p", config, parts)
    shutil.copy(minip2p.shipped("instructions"), folder)
    return folder


SMALL = (
    "pairs=2 items=2 image_scales=(1.0,2.0) strengths=(0.5,1.0) captions=6 samples=2 inspected=1 rendered=30 crops=1 "
    "training_steps=2 ablation_steps=3 ablation_size=64 batch_size=2 seeds=1 edits=2 variants=('no-image',) "
    "generation_steps=1 edit_steps=2 unit=2 threads=1 "
    "thresholds.image=-1.0 thresholds.caption=-1.0 thresholds.direction=-0.2"
).split()


RUNS = ("ablation/runs/baseline-0", "editors/p2p-kept-0")


def command(out: Path, weights: Path, *words: str) -> list[str]:
    return ["tiny", "reproduce", "--output", str(out), "--weights", str(weights), "--set", *SMALL, *words]


@pytest.mark.slow
def test_the_whole_command_in_one_go(thin, tmp_path, capsys, monkeypatch):
    """All parts, then again after parts of it were lost: the same files."""
    monkeypatch.setattr(loop, "describe_memory", lambda *_: "")  # half of the time of 9 trainings of 2 steps
    monkeypatch.setattr(ablation, "cost_of_run", lambda _: {})
    out = tmp_path / "report"
    assert main(command(out, thin)) == 0
    printed = capsys.readouterr().out
    assert "| **all** |" in printed and "pictures a second here" in printed
    text, page = (out / "report.md").read_text(), (out / "report.html").read_text()
    heads = ("Figure 3", "Section 3.1", "Figure 8", "Figure 10", "The ceiling", "Ablations")
    assert [line[3 : 3 + len(head)] for line, head in zip(re.findall(r"^## .*", text, re.M), heads)] == [*heads]
    linked = re.findall(r"\]\((.*\.png)\)", text)
    assert len(linked) >= 7 and all((out / name).is_file() for name in linked)
    assert page.count("data:image/png") == len(linked) and 'src="http' not in page
    claims_shown = sum(text.count(f"| **{word}** |") for word in (AGREES, DISAGREES, UNDECIDED))
    assert claims_shown == 2 * 17, "each claim at the top and in its section"
    sizes = [minip2p.load(out / f"{run}/model.safetensors").config.sampling.resolution for run in RUNS]
    assert sizes == [64, 32] and "for 3 steps of 2 on 30 rendered pairs of 64 pixels" in " ".join(text.split())

    before = contents(out)
    for name in ("report.md", "figure3/section.json", "figure8/loose/sdedit/1_0000000.jsonl", "ceiling/section.json"):
        (out / name).unlink()
    (out / "figure8" / "section.json").unlink()
    shutil.rmtree(out / "ceiling" / "true-0")
    assert main(command(out, thin)) == 0
    assert contents(out).keys() == before.keys()
    assert {name for name, data in contents(out).items() if data != before[name]} == set()
    capsys.readouterr()
    assert main(command(out, thin, "pairs=3", "--only", "figure3")) == 2
    assert "belongs to a run with pairs 2, this one has 3" in capsys.readouterr().err


@pytest.mark.slow
def test_models_in_bfloat16_make_a_part(thin, tmp_path, capsys):
    assert main(command(tmp_path / "report", thin, "--only", "made", "--dtype", "bfloat16")) == 0
    assert "pictures a second here" in capsys.readouterr().out
    assert "dtype bfloat16" in (tmp_path / "report/report.md").read_text()


def test_the_shipped_report_is_of_the_shipped_models_at_the_sizes_of_today(tmp_path):
    weights = minip2p.shipped("editor").parent
    text, page = ((weights / "report" / name).read_text() for name in REPORT)
    header = Setup(out=tmp_path, weights=weights, dtype="bfloat16").header
    run = "## What was run"
    assert text.partition(run)[2] == to_markdown({}, header).partition(run)[2]
    titles = ("Figure 3", "Section 3.1", "Figure 8", "Figure 10", "The ceiling", "Ablations")
    assert all(f"\n## {title}" in text for title in titles)
    assert page == to_html(text, weights / "report") and page.count("data:image/png") == text.count(".png)") >= 7


def test_a_mistake_is_one_line(tmp_path, capsys):
    for words, message in (
        (("--only", "figure7"), "unknown part 'figure7'; there are figure3, made"),
        (("--set", "tea=1"), "unknown key 'tea'"),
        (("--set", "seeds=0"), "seeds = 0: expected at least 1"),
        (("--rebuild", "--weights", "x"), "--rebuild trains the models"),
    ):
        assert main(["tiny", "reproduce", "--output", str(tmp_path / "x"), *words]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
