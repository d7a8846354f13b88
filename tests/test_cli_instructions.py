"""`minip2p instructions`: what it makes and prints, shards, and mistakes in one line."""

import errno
import json
import os
from collections import Counter
from pathlib import Path

import pytest
from test_datagen_instructions import CAPTIONS, Fake, everything, processes

import minip2p.cli.instructions
from minip2p.cli import main
from minip2p.datagen.instructions import Settings, instructions


@pytest.fixture
def loaded() -> list:
    """What `load_language_model` was called with."""
    return []


@pytest.fixture
def here(tmp_path, monkeypatch, loaded):
    """An empty working directory with captions.txt, and a fake language model for any weights."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MINIP2P_DEBUG", raising=False)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)

    def load_language_model(path, **how):
        loaded.append((path, how))
        fake = Fake()
        fake.parts = {}  # no networks
        return fake

    monkeypatch.setattr(minip2p.cli.instructions, "load_language_model", load_language_model)
    (tmp_path / "captions.txt").write_text("\n".join([*CAPTIONS, "A red cat."]), encoding="utf-8")
    return tmp_path


def run(*words: str, captions="captions.txt", output="prompts.jsonl") -> int:
    """`minip2p instructions` with small blocks; words come last and win."""
    given = ["--captions", captions, "--output", output, "--block", "4", "--batch-size", "3", "--threads", "1"]
    return main(["instructions", *given, *words])


def lines(path="prompts.jsonl") -> list[dict]:
    return [json.loads(line) for line in open(path, encoding="utf-8")]


def test_it_writes_what_the_library_does_and_prints_statistics(here, loaded, capsys):
    assert run("--retries", "1", "--seed", "3", "--device", "cpu", "--weights", "some") == 0
    chosen = Settings(batch_size=3, block=4, retries=1, seed=3)
    made = list(instructions(Fake(), CAPTIONS, chosen))
    assert lines() == [line for each in made for line in each.lines]
    assert loaded == [("some", {"device": "cpu", "dtype": "float32"})]
    out, err = capsys.readouterr()
    n, attempts = len(lines()), sum(each.attempts for each in made)
    assert out.startswith(f"prompts.jsonl: {len(CAPTIONS)} captions, {attempts} completions, {n} instructions in ")
    assert f"{n} instructions for {n} of {len(CAPTIONS)} captions; 1 duplicate captions" in out
    assert f"{attempts} completions, {n / attempts:.1%} accepted" in out
    reasons = Counter(reason for each in made for reason in each.reasons)
    assert all(f"rejected {count}: {reason}" in out for reason, count in reasons.items()) and "5/5" in err
    before = everything(here)
    assert run("--retries", "1", "--seed", "3") == 0
    out, err = capsys.readouterr()
    assert out.startswith("prompts.jsonl: nothing to do") and everything(here) == before
    assert f"{n} instructions for {n} of" in out


def test_ranks_and_shards_divide_the_work(here, monkeypatch):
    """Two ranks of torchrun, or two calls with --shard, make the one process' file."""
    assert run(output="whole/prompts.jsonl") == 0

    def rank(i: int, words: list[str], output: str):
        if not words:
            os.environ |= {"RANK": str(i), "WORLD_SIZE": "2", "LOCAL_RANK": str(i)}
        raise SystemExit(run(*words, output=output))

    for name, shards in (("ranks", [[], []]), ("shards", [["--shard", "1/2"], ["--shard", "2/2"]])):
        pair = [
            processes.Process(target=rank, args=(i, words, f"{name}/prompts.jsonl")) for i, words in enumerate(shards)
        ]
        for process in pair:
            process.start()
        for process in pair:
            process.join()
        assert [process.exitcode for process in pair] == [0, 0]
        assert everything(here / name) == everything(here / "whole")


def test_mistakes_are_one_line_before_anything_starts(here, capsys):
    (here / "bad.jsonl").write_text('{"input": "a cat"}\n{"input": 3}\n')
    (here / "empty.txt").write_text("\n")
    (here / "mine.jsonl").write_text('{"input": "a cat"}\n')
    (here / "folder.jsonl").mkdir()
    cases = [
        (["--captions", "bad.jsonl"], "bad.jsonl, line 2: 'input' is 3; expected a text"),
        (["--captions", "empty.txt"], "empty.txt is empty; expected one text"),
        (["--captions", "nope.txt"], "nope.txt: no such file"),
        (["--captions", "captions.doc"], "unknown ending '.doc'"),
        (["--output", "prompts.csv"], "expected a name that ends in .jsonl"),
        (["--output", "folder.jsonl"], "is a directory"),
        (["--output", "mine.jsonl"], "mine.jsonl exists without mine.run.json"),
        (["--captions", "mine.jsonl", "--output", "mine.jsonl"], "is the captions' file"),
        (["--output", "captions.txt/prompts.jsonl"], "not a directory"),
        (["--temperature", "-1"], "temperature = -1"),
        (["--top-p", "0"], "top_p = 0"),
        (["--retries", "-1"], "retries = -1"),
        (["--per-caption", "0"], "per_caption = 0"),
        (["--block", "0"], "block = 0"),
        (["--workers", "0"], "workers 0: expected at least 1"),
        (["--shard", "3/2"], "--shard '3/2': expected I/N"),
        (["--max-tokens", "many"], "expected a number"),
        (["--dtype", "int8"], "int8"),
    ]
    before = everything(here)
    for words, expected in cases:
        status, error = run(*words), capsys.readouterr().err.strip().split("\n")[-1]
        assert status == 2 and error.startswith("minip2p: error: ") and expected in error, (words, error)
        assert everything(here) == before, words


def test_the_output_of_another_run_is_refused_by_what_differs(here, capsys):
    assert run() == 0
    before = everything(here)
    assert run("--temperature", "0.5") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "prompts.run.json belongs to a run with temperature 0.7, this one has 0.5" in error
    assert everything(here) == before


def test_a_full_disk_is_one_line_and_the_same_command_resumes(here, capsys, monkeypatch):
    assert run(output="whole/prompts.jsonl") == 0
    real, calls = Path.write_bytes, iter(range(10**6))

    def full(path, data):
        if next(calls) == 3:  # after run.json and two blocks
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    assert run(output="out/prompts.jsonl") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == "minip2p: error: out/prompts.jsonl.parts/000002.jsonl: cannot be written: no space left on device"
    parts = sorted(path.name for path in (here / "out/prompts.jsonl.parts").glob("*.jsonl"))
    assert parts == ["000000.jsonl", "000001.jsonl"]
    assert run(output="out/prompts.jsonl") == 0
    assert everything(here / "out") == everything(here / "whole")


def test_a_caption_of_10_000_characters_is_refused_and_the_others_written(here, capsys):
    (here / "long.txt").write_text("\n".join(["x" * 10_000, "être ☃", "a cat"]), encoding="utf-8")
    assert run("--retries", "30", captions="long.txt") == 0
    assert [line["input"] for line in lines()] == ["être ☃", "a cat"]
    reason = "too long: the language model answers captions of 256 tokens at most"
    long = {"input": "x" * 10_000, "accepted": 0, "attempts": 0, "reasons": [reason]}
    assert lines("prompts.refused.jsonl") == [long]
    assert f"rejected 1: {reason}" in capsys.readouterr().out
