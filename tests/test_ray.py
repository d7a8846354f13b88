"""Units made by the workers of a local Ray: the same bytes as those of one process, also if a worker is killed."""

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import test_cli_pairs
import test_datagen_instructions
import test_precompute
from conftest import contents, small_pipeline
from helpers_units import HEADER, NAMES, work

from minip2p import engines
from minip2p.data.edits import open_edits
from minip2p.datagen import instruction_files
from minip2p.engines import import_ray, run, start_ray

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster():
    """A local Ray with two CPUs, whose workers can import this file."""
    pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        patch.delenv("RAY_ADDRESS", raising=False)
        ray = import_ray()
        start_ray(ray, 2)
        yield ray
        ray.shutdown()


def test_two_workers_one_of_which_is_killed_make_the_bytes_of_one_process(tmp_path, cluster):
    """The killed worker's unit is made again, and the units that existed before are not."""
    out, mark = tmp_path / "out", tmp_path / "killed"
    list(run(work(out, NAMES[:2])))
    (out / ".0007.abc.part").write_text("of a killed process")
    opened = run(work(out, rest=0.2, kill_once=mark), engine="ray", workers=2)
    made = list(opened)
    assert mark.exists() and (opened.total, opened.done) == (12, 2)
    assert sorted(unit.name for unit in made) == NAMES[2:]
    list(run(work(tmp_path / "whole")))
    assert contents(out) == contents(tmp_path / "whole")


def test_a_mistake_in_a_worker_keeps_its_type_and_text(tmp_path, cluster):
    list(run(work(tmp_path, NAMES[:2])))
    other = work(tmp_path, header=HEADER | {"steps": 3})
    with pytest.raises(ValueError, match="run with steps 2, this one has 3"):
        list(run(other, engine="ray", workers=1))
    assert len(contents(tmp_path)) == 4


def test_a_unit_that_kills_every_worker_ends_the_run(tmp_path, cluster, monkeypatch):
    monkeypatch.setattr(engines, "RETRIES", 0)
    with pytest.raises(ValueError, match="a Ray worker died 1 times while it made the same unit"):
        list(run(work(tmp_path, NAMES[:1], kill_once=Never()), engine="ray", workers=1))
    assert set(contents(tmp_path)) == {"run.json"}


class Never:
    """In place of a path: a worker is killed at every unit."""

    def exists(self) -> bool:
        return False

    def touch(self) -> None:
        pass


def test_pairs_are_those_of_one_process(here, cluster, capsys):
    """From the command line: a worker loads its own networks, by paths that are relative."""
    test_cli_pairs.write_prompts()
    for output, engine in (("one", ()), ("ray", ("--engine", "ray", "--workers", "1"))):
        capsys.readouterr()
        assert test_cli_pairs.make(*engine, output=output) == 0
        assert capsys.readouterr().out.startswith(f"{output}: 6 pairs, 6 passed, 3 candidates in ")
    assert contents(Path("ray")) == contents(Path("one"))


def test_instructions_are_those_of_one_process(tmp_path, cluster):
    captions, settings = test_datagen_instructions.CAPTIONS, test_datagen_instructions.SMALL
    load = test_datagen_instructions.load(test_datagen_instructions.Fake())
    for name, engine in (("one", {}), ("ray", {"engine": "ray", "workers": 1})):
        made = instruction_files.make(captions, settings, tmp_path / name / "prompts.jsonl", load, **engine)
        assert sum(unit.counts["captions"] for unit in made) == len(captions)
    assert contents(tmp_path / "ray") == contents(tmp_path / "one") and (tmp_path / "ray" / "prompts.jsonl").exists()


def test_latents_are_those_of_one_process(tmp_path, cluster):
    edits = open_edits(test_precompute.write_set(tmp_path / "data"))
    settings = replace(test_precompute.FEW, threads=1)  # the rounding depends on it, and Ray sets its own
    test_precompute.made(small_pipeline(), edits, tmp_path / "one", settings)
    test_precompute.made(small_pipeline(), edits, tmp_path / "ray", settings, engine="ray", workers=1)
    assert contents(tmp_path / "ray") == contents(tmp_path / "one")
