"""Instructions at scale: rules, seeds, and files that survive a kill at any moment."""

import errno
import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections import Counter
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from conftest import randomise
from hypothesis import given, settings
from hypothesis import strategies as st
from tqdm import tqdm

from minip2p import files
from minip2p.config import LlamaConfig
from minip2p.data.captions import bare, prompt_text
from minip2p.data.pair_files import json_lines
from minip2p.datagen import instruction_files
from minip2p.datagen.instruction_files import InstructionMaker, Paths, make, read_summary, write
from minip2p.datagen.instructions import Settings, attempt_seed, blocks, complete_block, instructions, longest_prompt
from minip2p.text.generate import Completion

pytestmark = pytest.mark.slow

COLOURS = ("red", "green", "blue", "yellow")
CAPTIONS = [f"a {colour} {kind}" for colour in COLOURS for kind in ("cat", "boat", "bloody sword", "hut", "être ☃")]
SMALL = Settings(batch_size=3, block=4, threads=1, retries=2)
processes = multiprocessing.get_context("fork")


class Fake:
    """A language model whose completions are made of their seeds: some are good, the others break one rule each."""

    fingerprint, device, dtype, config = "0123456789abcdef", torch.device("cpu"), torch.float32, LlamaConfig()

    def __init__(self, pause: float = 0.0):
        self.pause, self.asked = pause, []

    def tokens(self, text: str) -> int:
        return 1 + len(text) // 4

    def completions(self, prompts, sampling, *, seeds, batch_size):
        assert sampling.stop == ("\nEND",) and len(seeds) == len(prompts)
        for i in reversed(range(len(prompts))):  # as they get finished, which is in any order
            time.sleep(self.pause)
            self.asked.append((prompts[i], seeds[i]))
            yield i, self.complete(prompts[i].removesuffix("\n##\n"), random.Random(seeds[i]))

    def complete(self, caption: str, rng: random.Random) -> Completion:
        edit, output = f"make it {rng.choice(COLOURS)}", f"{caption}, {rng.choice(COLOURS)}"
        good = f"{edit}\n%%\n{output}"
        same = f"{edit}\n%%\n{caption.upper()}!"
        bad = [edit, f"{good}\n%%\nmore", same, f"{edit}\n%%\n", f"{good}\nand", f"{good} snow  man"]
        return Completion(rng.choice([good] * 8 + bad), (), rng.choice(["stop"] * 9 + ["length"]))


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def everything(folder: Path) -> dict[str, bytes]:
    """All files below, by name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="session")
def whole(tmp_path_factory) -> dict[str, bytes]:
    """The files of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    write(Fake(), CAPTIONS, folder / "prompts.jsonl", SMALL)
    return everything(folder)


# Lines


def test_seeds_never_change():
    assert [attempt_seed(0, "a cat", 0), attempt_seed(7, "être ☃", 3)] == [7217610294141892, 6694616376916284]


@given(st.lists(st.tuples(st.integers(0, 2**64), st.text(), st.integers(0, 99)), unique=True, max_size=20))
def test_seeds_differ_and_every_json_reader_keeps_them(drawn):
    seeds = [attempt_seed(*each) for each in drawn]
    assert len(set(seeds)) == len(drawn) and all(0 <= seed < 2**53 for seed in seeds)


def test_a_line_has_the_texts_and_how_they_were_sampled():
    language_model = Fake()
    made = list(instructions(language_model, CAPTIONS, SMALL))
    assert [each.input for each in made] == CAPTIONS
    asked = dict.fromkeys(language_model.asked)
    assert len(asked) == len(language_model.asked) == sum(each.attempts for each in made)
    accepted = [line for each in made for line in each.lines]
    assert len(accepted) > len(CAPTIONS) // 2 and any(line["attempt"] for line in accepted)
    for line in accepted:
        assert list(line) == ["input", "edit", "output", "language_model", "seed", "attempt"]
        assert (
            line["seed"] == attempt_seed(0, line["input"], line["attempt"])
            and line["language_model"] == language_model.fingerprint
        )
        assert (prompt_text(line["input"]), line["seed"]) in asked
        drawn = language_model.complete(line["input"], random.Random(line["seed"]))
        assert drawn.text == f"{line['edit']}\n%%\n{line['output']}" and drawn.reason == "stop"


def test_a_rejected_completion_is_retried_so_often_and_no_more():
    for retries in (0, 1, 30):
        for each in instructions(Fake(), CAPTIONS, replace(SMALL, retries=retries)):
            assert each.attempts == len(each.reasons) + len(each.lines) <= 1 + retries
            assert each.lines or each.attempts == 1 + retries
            assert all(line["attempt"] == each.attempts - 1 for line in each.lines)
    many = instructions(Fake(), CAPTIONS, replace(SMALL, retries=30))
    assert {reason for each in many for reason in each.reasons} == {
        "1 parts in place of 2",
        "3 parts in place of 2",
        "nothing changes",
        "an empty part",
        "a part of several lines",
        "cut off at the most tokens",
    }


@given(st.lists(st.sampled_from(CAPTIONS), max_size=12), st.integers(1, 5), st.integers(1, 5), st.integers(0, 3))
def test_a_line_does_not_depend_on_the_other_captions(captions, batch_size, block, seed):
    """Nor on how the work is cut, as far as the language model's arithmetic does not."""
    chosen = replace(SMALL, batch_size=batch_size, block=block, seed=seed)
    alone = {caption: next(instructions(Fake(), [caption], replace(SMALL, seed=seed))) for caption in set(captions)}
    assert list(instructions(Fake(), captions, chosen)) == [alone[caption] for caption in dict.fromkeys(captions)]


def test_the_instructions_of_a_caption_differ():
    made = list(instructions(Fake(), CAPTIONS, replace(SMALL, per_caption=3, retries=1)))
    reasons = Counter(reason for each in made for reason in each.reasons)
    assert reasons["the same instruction again"] and max(len(each.lines) for each in made) == 3
    for each in made:
        assert len({bare(line["edit"]) for line in each.lines}) == len(each.lines) <= 3
        assert len({line["attempt"] for line in each.lines}) == len(each.lines)
        assert each.attempts == len(each.lines) + len(each.reasons) <= 6 or not each.attempts


def test_duplicates_are_left_out():
    captions = ["a cat", "A cat.", "a dog", "a cat", " a DOG!? "]
    assert [each.input for each in instructions(Fake(), captions, SMALL)] == ["a cat", "a dog"]


def test_captions_that_are_too_long_are_refused_and_the_others_are_not():
    class Narrow(Fake):
        config = LlamaConfig(max_length=64)

    captions = ["x" * 10_000, "a cat", "two\nlines", " ", "a dog"]
    for language_model, tokens in ((Fake(), 256), (Narrow(), 32)):
        assert longest_prompt(language_model, SMALL) == tokens
        made = list(instructions(language_model, captions, replace(SMALL, retries=30)))
        long, *rest = (each.reasons[:1] for each in made if not each.attempts)
        assert long == [f"too long: the language model answers captions of {tokens} tokens at most"]
        assert rest == [["a caption that is not one line"]] * 2
        assert [each.input for each in made if each.lines] == ["a cat", "a dog"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_p": 0},
        {"top_p": 1.5},
        {"frequency_penalty": 3},
        {"max_tokens": 0},
        {"retries": -1},
        {"retries": 1.5},
        {"per_caption": 0},
        {"batch_size": 0},
        {"block": 0},
        {"seed": -1},
        {"threads": 0},
    ],
)
def test_impossible_settings_are_refused(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"{name} = .*expected"):
        Settings(**wrong)


def test_a_random_language_model_gives_the_same_each_time():
    from minip2p.models.llama import Llama
    from minip2p.pipeline.language import LanguageModel
    from minip2p.text.pieces import Pieces

    pieces = Pieces.learn(CAPTIONS * 2, 300)
    config = LlamaConfig(
        vocab_size=len(pieces),
        max_length=64,
        width=16,
        layers=2,
        heads=2,
        kv_heads=1,
        feed_forward=32,
        bos=pieces.bos,
        eos=pieces.eos,
    )
    language_model = LanguageModel(randomise(Llama(config)), pieces, config)
    captions, chosen = [*CAPTIONS[:5], "long " * 50], replace(SMALL, max_tokens=16, retries=1)
    made = list(instructions(language_model, captions, chosen))
    assert [each.attempts for each in made] == [2, 2, 2, 2, 2, 0]
    assert made[-1].reasons == ["too long: the language model answers captions of 16 tokens at most"]
    assert made == list(instructions(language_model, captions, chosen))
    with TemporaryDirectory() as folder:
        summary = write(language_model, captions, Path(folder, "prompts.jsonl"), chosen)
        assert (summary.captions, summary.attempts, summary.without) == (6, 10, 6)


# Files


def test_the_files_of_a_finished_run(tmp_path, whole):
    summary = write(Fake(), [*CAPTIONS, "A red cat!"], tmp_path / "prompts.jsonl", SMALL)
    made = list(instructions(Fake(), CAPTIONS, SMALL))
    assert {str(path.name) for path in tmp_path.iterdir()} == whole.keys()
    assert whole.keys() == {"prompts.jsonl", "prompts.refused.jsonl", "prompts.run.json"}
    assert rows(tmp_path / "prompts.jsonl") == [line for each in made for line in each.lines]
    refused = rows(tmp_path / "prompts.refused.jsonl")
    assert refused == [
        {"input": each.input, "accepted": 0, "attempts": each.attempts, "reasons": each.reasons}
        for each in made
        if not each.lines
    ]
    assert (summary.captions, summary.duplicates, summary.without) == (len(CAPTIONS), 1, len(refused))
    assert summary.accepted == sum(len(each.lines) for each in made)
    assert summary.attempts == sum(each.attempts for each in made)
    assert summary.rate == summary.accepted / summary.attempts
    assert Counter(summary.refused) == Counter(reason for each in made for reason in each.reasons)
    assert "être ☃" in (tmp_path / "prompts.jsonl").read_text(encoding="utf-8")


def test_a_finished_run_is_not_made_again(tmp_path):
    first, again = (write(Fake(), CAPTIONS, tmp_path / "prompts.jsonl", SMALL) for _ in range(2))
    before, language_model = everything(tmp_path), Fake()
    assert write(language_model, CAPTIONS, tmp_path / "prompts.jsonl", replace(SMALL, threads=None)) == first == again
    assert not language_model.asked and everything(tmp_path) == before


@settings(max_examples=15)
@given(st.sets(st.integers(0, 4)), st.integers(1, 3))
def test_a_run_resumed_from_any_blocks_ends_the_same(whole, done, shards):
    """Of the shards, the one that finishes last joins the blocks."""
    language_model, todo = Fake(), blocks(CAPTIONS, SMALL)
    with TemporaryDirectory() as folder:
        paths = Paths(Path(folder, "prompts.jsonl"))
        start(paths.output)
        for block in done:
            results = complete_block(Fake(), todo[block], SMALL)
            (paths.parts / f"{block:06d}.jsonl").write_bytes(json_lines(map(asdict, results)))
        for i in range(shards):
            list(make(CAPTIONS, SMALL, paths.output, load(language_model), shard=(i, shards)))
        assert everything(Path(folder)) == whole and read_summary(paths.output).captions == len(CAPTIONS)
    left = {caption for block in set(range(5)) - done for caption in todo[block]}
    assert {prompt for prompt, _ in language_model.asked} == set(map(prompt_text, left))


def load(language_model: Fake, captions=CAPTIONS):
    return partial(InstructionMaker, language_model=language_model, captions=captions, settings=SMALL)


def start(output: Path) -> None:
    """A run that has been interrupted before its first block."""
    make(CAPTIONS, SMALL, output, load(Fake())).units.close()


def test_killed_at_random_moments_a_run_ends_the_same(tmp_path, whole):
    rng, output, kills = random.Random(0), tmp_path / "prompts.jsonl", 0
    for _ in range(200):
        process = processes.Process(target=write, args=(Fake(0.004), CAPTIONS, output, SMALL))
        process.start()
        time.sleep(rng.uniform(0.0, 0.06))
        process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
        if kills >= 20:
            break
        if output.exists():  # finished before its kill: it must be right, and another run starts
            write(Fake(), CAPTIONS, output, SMALL)
            assert everything(tmp_path) == whole
            shutil.rmtree(tmp_path)
            tmp_path.mkdir()
    assert kills == 20
    write(Fake(), CAPTIONS, output, SMALL)
    assert everything(tmp_path) == whole


def test_a_process_killed_while_it_draws_a_bar_stops_no_other():
    """The hook in conftest: all forked processes would share tqdm's lock, and the killed one would keep it."""

    def killed_in_a_bar():
        tqdm.get_lock().acquire()
        os.kill(os.getpid(), signal.SIGKILL)

    locks = tqdm.get_lock().locks
    process = processes.Process(target=killed_in_a_bar)
    process.start()
    process.join()
    for lock in locks:
        assert lock.acquire(timeout=5)
        lock.release()


def test_killed_between_any_two_renames_a_run_ends_the_same(tmp_path, whole):
    """Of run.json, 5 blocks, and the 3 files that they are joined to."""
    renames = 1 + 5 + 3

    def fatal(count: int, output: Path):
        rename, calls = os.replace, iter(range(10**6))

        def replacing(*paths):
            if next(calls) == count:
                os.kill(os.getpid(), signal.SIGKILL)
            rename(*paths)

        os.replace = replacing
        shutil.rmtree = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
        write(Fake(), CAPTIONS, output, SMALL)

    for count in range(renames + 1):
        output = tmp_path / str(count) / "prompts.jsonl"
        process = processes.Process(target=fatal, args=(count, output))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL and output.exists() == (count == renames)
        write(Fake(), CAPTIONS, output, SMALL)
        assert everything(output.parent) == whole


def test_shards_at_the_same_time_write_what_one_process_does(tmp_path, whole):
    """Ten times, so that two of them sometimes join at once."""

    def shard(i: int, output: Path):
        list(make(CAPTIONS, SMALL, output, load(Fake(0.001)), shard=(i, 3)))

    for run in range(10):
        output = tmp_path / str(run) / "prompts.jsonl"
        three = [processes.Process(target=shard, args=(i, output)) for i in range(3)]
        for process in three:
            process.start()
        for process in three:
            process.join()
        assert [process.exitcode for process in three] == [0, 0, 0] and everything(output.parent) == whole


def test_parts_that_another_process_joins_meanwhile_are_left_alone(tmp_path, whole, monkeypatch):
    """Where folders cannot be locked."""
    monkeypatch.setattr(files, "fcntl", None)
    output, read = tmp_path / "prompts.jsonl", instruction_files._read_part

    def other_joins(path, size):
        if path.name == "000002.jsonl":
            monkeypatch.setattr(instruction_files, "_read_part", read)
            write(Fake(), CAPTIONS, output, SMALL)
        return read(path, size)

    monkeypatch.setattr(instruction_files, "_read_part", other_joins)
    write(Fake(), CAPTIONS, output, SMALL)
    assert everything(tmp_path) == whole


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize(
    "change, message",
    [
        ({"captions": CAPTIONS[1:]}, "with captions "),
        ({"language_model": "f" * 16}, "with language_model "),
        ({"temperature": 0.5}, "with temperature 0.7, this one has 0.5"),
        ({"per_caption": 2}, "with per_caption 1, this one has 2"),
        ({"threads": 2}, "with threads 1, this one has 2"),
    ],
)
def test_another_runs_files_are_left_alone(tmp_path, finished, change, message):
    output, language_model, change = tmp_path / "prompts.jsonl", Fake(), dict(change)
    if finished:
        write(Fake(), CAPTIONS, output, SMALL)
    else:
        write_part(output)
    before = everything(tmp_path)
    captions = change.pop("captions", CAPTIONS)
    language_model.fingerprint = change.pop("language_model", language_model.fingerprint)
    with pytest.raises(ValueError) as error:
        write(language_model, captions, output, replace(SMALL, **change))
    assert message in str(error.value) and "choose another --output" in str(error.value)
    assert everything(tmp_path) == before and not language_model.asked


def write_part(output: Path) -> None:
    """A run that has been interrupted after its first block."""
    made = make(CAPTIONS, SMALL, output, load(Fake()))
    next(made.units)
    made.units.close()
    assert sorted(path.name for path in Paths(output).parts.iterdir()) == ["000000.jsonl", "run.json"]
    assert read_summary(output) is None


def test_an_unknown_file_is_not_overwritten(tmp_path):
    (tmp_path / "prompts.jsonl").write_text("mine")
    with pytest.raises(ValueError, match="exists without prompts.run.json"):
        write(Fake(), CAPTIONS, tmp_path / "prompts.jsonl", SMALL)
    with pytest.raises(ValueError, match="ends in .jsonl"):
        write(Fake(), CAPTIONS, tmp_path / "prompts.txt", SMALL)
    assert everything(tmp_path) == {"prompts.jsonl": b"mine"}


def test_a_damaged_block_is_named(tmp_path, whole):
    output = tmp_path / "prompts.jsonl"
    write_part(output)
    block = Paths(output).parts / "000003.jsonl"
    block.write_text('{"input"')
    with pytest.raises(ValueError, match="000003.jsonl is damaged; remove it"):
        write(Fake(), CAPTIONS, output, SMALL)
    block.unlink()
    write(Fake(), CAPTIONS, output, SMALL)
    assert everything(tmp_path) == whole


def test_a_full_disk_loses_nothing(tmp_path, whole, monkeypatch):
    """At any of the 9 files: one line that names it, nothing half written, and the same call resumes."""
    real, output = Path.write_bytes, tmp_path / "prompts.jsonl"
    for count in range(9):
        calls = iter(range(10**6))

        def full(path, data, count=count, calls=calls):
            if next(calls) == count:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(path, data)

        monkeypatch.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError) as error:
            write(Fake(), CAPTIONS, output, SMALL)
        assert error.value.errno == errno.ENOSPC and Path(error.value.filename).name[:1] in "0rp"
        assert not output.exists() and not [name for name in everything(tmp_path) if name.endswith(".part")]
        shutil.rmtree(tmp_path / "prompts.jsonl.parts", ignore_errors=True)
    monkeypatch.setattr(Path, "write_bytes", real)
    write(Fake(), CAPTIONS, output, SMALL)
    assert everything(tmp_path) == whole


@pytest.mark.parametrize(
    "content",
    ["[]", "{", "{}", '{"settings": 3}', '{"settings": {"threads": 1000000000}}', '{"summary": {"captions": []}}'],
)
def test_a_damaged_record_of_a_finished_run_is_one_line(tmp_path, content):
    output = tmp_path / "prompts.jsonl"
    write(Fake(), CAPTIONS, output, SMALL)
    record = tmp_path / "prompts.run.json"
    good = json.loads(record.read_text())
    record.write_text(content)
    with pytest.raises(ValueError, match="prompts.run.json") as error:
        write(Fake(), CAPTIONS, output, SMALL)
    assert "\n" not in str(error.value)
    for summary in (None, [], {"captions": "many"}, {}):
        record.write_text(json.dumps(good | {"summary": summary}))
        with pytest.raises(ValueError, match="prompts.run.json, summary"):
            instruction_files.read_summary(output)


@pytest.mark.parametrize(
    "row", ['{"input": "a", "lines": 5}', '{"input": "a", "attempts": "x"}', '{"x": 1}', "[]", "[" * 9000]
)
def test_a_block_with_rows_of_another_kind_is_named(tmp_path, row):
    output = tmp_path / "prompts.jsonl"
    write_part(output)
    block = next((tmp_path / "prompts.jsonl.parts").glob("0*.jsonl"))
    block.write_text(f"{row}\n" * len(block.read_text().splitlines()))
    with pytest.raises(ValueError, match=f"{block.name} is damaged; remove it, and the same call makes it again"):
        write(Fake(), CAPTIONS, output, SMALL)
    block.unlink()
    write(Fake(), CAPTIONS, output, SMALL)
    assert not block.exists() and output.exists()
