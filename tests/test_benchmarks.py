"""The benchmarks measure what they say, go on after a failure, and run with thin networks."""

import json

import pytest
import torch
from benchmarks import gpu
from benchmarks.measuring import Measurement, Row, in_turn, measure, options, report


def test_calls_are_timed_in_turn_after_a_warm_up():
    made = []
    seconds = in_turn({name: lambda name=name: made.append(name) for name in "ab"}, rounds=2)
    assert "".join(made) == "abbaab" and seconds.keys() == {"a", "b"}
    assert all(0 <= value < 1 for value in seconds.values())


def quick(subject):
    yield Row(name="quick", value=subject, unit="s", at_most=2)


def broken(subject):
    yield Row(name="before", value=1)
    raise RuntimeError("no memory\nleft")


def test_what_fails_or_takes_too_long_costs_no_other_row(capsys):
    made = [
        Measurement(make=broken, seconds=1),
        Measurement(make=quick, seconds=600),
        Measurement(make=quick, seconds=1),
    ]
    before, failed, late, row = measure(made, 1.5, minutes=5)
    assert before.good and before.value == 1
    assert (failed.name, failed.note, failed.good) == ("broken", "RuntimeError: no memory left", False)
    assert late.value is None and "--minutes" in late.note and late.good
    assert row == Row(name="quick", value=1.5, unit="s", at_most=2)


@pytest.mark.parametrize(("value", "status"), [(1.5, 0), (2.5, 1), (float("nan"), 1)])
def test_a_missed_bound_is_marked_and_the_status(value, status, tmp_path, capsys):
    made = [Measurement(make=quick, seconds=1)]
    given = options("A line.", made, minutes=5).parse_args(["--json", str(tmp_path / "rows.json")])
    assert report(made, value, given) == status
    assert ("MISSED" in capsys.readouterr().out) == bool(status)
    (row,) = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert row["name"] == "quick" and row["good"] is not bool(status)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_gpu_script_runs_thin_anywhere(tmp_path, capsys, monkeypatch):
    """What it compiles is traced, and run by PyTorch: code for a CPU, which takes its time, says nothing of a GPU's."""
    compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda network, **how: compile(network, **how | {"backend": "eager"}))
    names = "graph_against_eager edit unet_call parts training_latents training_latents_compiled edit_compiled".split()
    assert gpu.main(["--thin", "--json", str(tmp_path / "rows.json"), "--only", *names]) == 0
    rows = {row["name"]: row for row in json.loads((tmp_path / "rows.json").read_text())["rows"]}
    assert rows["graph against eager, image scale 1.5"]["value"] == 0
    assert rows["training, thin, 64 px, latents"]["value"] > 0
    assert rows["VAE, decode"]["note"].endswith("of diffusers'")
