"""Instructions at scale: what a completion comes to, seeds, and files that a stop at any moment leaves whole."""

import errno
import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from conftest import randomise
from hypothesis import given, settings
from hypothesis import strategies as st

from minip2p.config import LlamaConfig
from minip2p.data.captions import bare, prompt_text
from minip2p.datagen import blocks
from minip2p.datagen.blocks import Places, write
from minip2p.datagen.write import Settings, attempt_seed, cut, forbidden, instructions, room, write_block
from minip2p.text.generate import Completion

COLOURS = ("red", "green", "blue", "yellow")
CAPTIONS = [f"a {colour} {kind}" for colour in COLOURS for kind in ("cat", "boat", "bloody sword", "hut", "être ☃")]
SMALL = Settings(batch_size=3, block=4, refuse=("bloody", "Snow Man"), threads=1, retries=2)
processes = multiprocessing.get_context("fork")


class Fake:
    """A writer whose completions are made of their seeds: some are good, the others break one rule each."""

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


# ------------------------------------------------------------------------------------------------------------ the lines


def test_seeds_are_the_same_for_ever():
    assert [attempt_seed(0, "a cat", 0), attempt_seed(7, "être ☃", 3)] == [7217610294141892, 6694616376916284]


@given(st.lists(st.tuples(st.integers(0, 2**64), st.text(), st.integers(0, 99)), unique=True, max_size=20))
def test_seeds_differ_and_fit_any_reader(drawn):
    seeds = [attempt_seed(*each) for each in drawn]
    assert len(set(seeds)) == len(drawn) and all(0 <= seed < 2**53 for seed in seeds)


def test_a_line_says_what_was_made_and_how():
    writer = Fake()
    made = list(instructions(writer, CAPTIONS, SMALL))
    assert [each.input for each in made] == CAPTIONS
    asked = dict.fromkeys(writer.asked)
    assert len(asked) == len(writer.asked) == sum(each.attempts for each in made)
    accepted = [line for each in made for line in each.lines]
    assert len(accepted) > len(CAPTIONS) // 2 and any(line["attempt"] for line in accepted)
    for line in accepted:
        assert list(line) == ["input", "edit", "output", "writer", "seed", "attempt"]
        assert line["seed"] == attempt_seed(0, line["input"], line["attempt"]) and line["writer"] == writer.fingerprint
        assert (prompt_text(line["input"]), line["seed"]) in asked
        drawn = writer.complete(line["input"], random.Random(line["seed"]))
        assert drawn.text == f"{line['edit']}\n%%\n{line['output']}" and drawn.reason == "stop"


def test_what_breaks_a_rule_is_asked_again_so_often_and_no_more():
    for retries in (0, 1, 30):
        for each in instructions(Fake(), CAPTIONS, replace(SMALL, retries=retries)):
            if "bloody" in each.input:
                assert (each.attempts, each.lines, each.reasons) == (0, [], ['"bloody" is a word to refuse'])
            else:
                assert each.attempts == len(each.reasons) + len(each.lines) <= 1 + retries
                assert each.lines or each.attempts == 1 + retries
                assert all(line["attempt"] == each.attempts - 1 for line in each.lines)
    many = instructions(Fake(), CAPTIONS, replace(SMALL, retries=30))
    assert {reason for each in many for reason in each.reasons} == {
        "1 parts in place of 2", "3 parts in place of 2", "nothing changes", "an empty part", "a part of several lines",
        "cut off at the most tokens", '"bloody" is a word to refuse', '"snow man" is a word to refuse',
    }  # fmt: skip


@given(st.lists(st.sampled_from(CAPTIONS), max_size=12), st.integers(1, 5), st.integers(1, 5), st.integers(0, 3))
def test_a_line_does_not_depend_on_what_is_around_it(captions, batch_size, block, seed):
    """Nor on how the work is cut, as far as the writer's arithmetic does not."""
    chosen = replace(SMALL, batch_size=batch_size, block=block, seed=seed)
    alone = {caption: next(instructions(Fake(), [caption], replace(SMALL, seed=seed))) for caption in set(captions)}
    assert list(instructions(Fake(), captions, chosen)) == [alone[caption] for caption in dict.fromkeys(captions)]


def test_several_instructions_of_a_caption_are_each_another():
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


def test_captions_that_a_writer_cannot_take_are_refused_and_the_others_written():
    class Narrow(Fake):
        config = LlamaConfig(max_length=64)

    captions = ["x" * 10_000, "a cat", "two\nlines", " ", "a dog"]
    for writer, tokens in ((Fake(), 256), (Narrow(), 32)):
        assert room(writer, SMALL) == tokens
        made = list(instructions(writer, captions, replace(SMALL, retries=30)))
        long, *rest = (each.reasons[:1] for each in made if not each.attempts)
        assert long == [f"too long: the writer answers captions of {tokens} tokens at most"]
        assert rest == [["a caption that is not one line"]] * 2
        assert [each.input for each in made if each.lines] == ["a cat", "a dog"]


@pytest.mark.parametrize("word", ["blood", "dead  Body", "c++", "☃", "(x)"])
def test_words_are_refused_whole_and_in_any_letters(word):
    chosen = replace(SMALL, refuse=("zzz", word))
    spaced = "   ".join(word.upper().split())
    for text in (word, f"a {spaced}", f"{spaced}, and", f"-{word}-"):
        assert forbidden(text, chosen) == " ".join(word.lower().split())
    for text in (f"a{word}", f"{word}y", word[:-1], ""):
        assert forbidden(text, chosen) is None
    assert forbidden(word, replace(SMALL, refuse=())) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1}, {"temperature": float("nan")}, {"temperature": float("inf")}, {"top_p": 0}, {"top_p": 1.5},
        {"frequency_penalty": 3}, {"max_tokens": 0}, {"retries": -1}, {"retries": 1.5}, {"per_caption": 0},
        {"batch_size": 0}, {"block": 0}, {"seed": -1}, {"threads": 0},
    ],
)  # fmt: skip
def test_settings_that_mean_nothing_are_refused(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"{name.replace('_', ' ')} .*expected"):
        Settings(**wrong)


def test_a_random_language_model_writes_nothing_of_use_but_the_same_each_time():
    from minip2p.models.llama import Llama
    from minip2p.pipeline.writer import Writer
    from minip2p.text.pieces import Pieces

    pieces = Pieces.learn(CAPTIONS * 2, 300)
    config = LlamaConfig(
        vocab_size=len(pieces), max_length=64, width=16, layers=2, heads=2, kv_heads=1, feed_forward=32, bos=pieces.bos,
        eos=pieces.eos,
    )  # fmt: skip
    writer = Writer(randomise(Llama(config)), pieces, config)
    captions, chosen = [*CAPTIONS[:5], "long " * 50], replace(SMALL, max_tokens=16, retries=1)
    made = list(instructions(writer, captions, chosen))
    assert [each.attempts for each in made] == [2, 2, 0, 2, 2, 0]
    assert made[-1].reasons == ["too long: the writer answers captions of 16 tokens at most"]
    assert made == list(instructions(writer, captions, chosen))
    with TemporaryDirectory() as folder:
        summary = write(writer, captions, Path(folder, "prompts.jsonl"), chosen)
        assert (summary.captions, summary.attempts, summary.without) == (6, 8, 6)


# ------------------------------------------------------------------------------------------------------------ the files


def test_a_finished_run_is_its_lines_and_what_was_refused(tmp_path, whole):
    summary = write(Fake(), [*CAPTIONS, "A red cat!"], tmp_path / "prompts.jsonl", SMALL)
    made = list(instructions(Fake(), CAPTIONS, SMALL))
    assert {str(path.name) for path in tmp_path.iterdir()} == whole.keys()
    assert whole.keys() == {"prompts.jsonl", "prompts.refused.jsonl", "prompts.run.json"}
    assert rows(tmp_path / "prompts.jsonl") == [line for each in made for line in each.lines]
    refused = rows(tmp_path / "prompts.refused.jsonl")
    assert refused == [
        {"input": each.input, "accepted": 0, "attempts": each.attempts, "reasons": each.reasons}
        for each in made if not each.lines
    ]  # fmt: skip
    assert (summary.captions, summary.duplicates, summary.without) == (len(CAPTIONS), 1, len(refused))
    assert summary.accepted == sum(len(each.lines) for each in made)
    assert summary.attempts == sum(each.attempts for each in made)
    assert summary.rate == summary.accepted / summary.attempts
    assert Counter(summary.refused) == Counter(reason for each in made for reason in each.reasons)
    assert "être ☃" in (tmp_path / "prompts.jsonl").read_text(encoding="utf-8")


def test_a_finished_run_is_not_made_again(tmp_path):
    first, again = (write(Fake(), CAPTIONS, tmp_path / "prompts.jsonl", SMALL) for _ in range(2))
    before, writer = everything(tmp_path), Fake()
    assert write(writer, CAPTIONS, tmp_path / "prompts.jsonl", replace(SMALL, threads=None)) == first == again
    assert not writer.asked and everything(tmp_path) == before


@settings(max_examples=15)
@given(st.sets(st.integers(0, 4)), st.integers(1, 3), st.data())
def test_from_any_blocks_that_are_done_the_end_is_the_same(whole, done, n, data):
    writer, todo = Fake(), cut(CAPTIONS, SMALL)
    with TemporaryDirectory() as folder:
        at = Places(Path(folder, "prompts.jsonl"))
        for block in done:
            blocks._put(at.part(block), map(blocks.asdict, write_block(Fake(), todo[block], SMALL)))
        write(writer, CAPTIONS, at.output, SMALL, shard=(data.draw(st.integers(0, n - 1)), n))
        assert everything(Path(folder)) == whole
    left = {caption for block in set(range(5)) - done for caption in todo[block] if "bloody" not in caption}
    assert {prompt for prompt, _ in writer.asked} == set(map(prompt_text, left))


def started(output: Path, *, pause: float = 0.0, **how) -> multiprocessing.Process:
    """A run in a process of its own."""
    process = processes.Process(target=write, args=(Fake(pause), CAPTIONS, output, SMALL), kwargs=how)
    process.start()
    return process


def test_killed_at_random_moments_a_run_ends_the_same(tmp_path, whole):
    rng, output, kills = random.Random(0), tmp_path / "prompts.jsonl", 0
    for _ in range(200):
        process = started(output, pause=0.004, patience=1.0)
        time.sleep(rng.uniform(0.0, 0.06))
        process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
        if kills >= 20:
            break
        if output.exists():  # done before its kill: it must be right, and another run begins
            write(Fake(), CAPTIONS, output, SMALL, patience=1.0)
            assert everything(tmp_path) == whole
            shutil.rmtree(tmp_path)
            tmp_path.mkdir()
    assert kills == 20
    write(Fake(), CAPTIONS, output, SMALL, patience=1.0)
    assert everything(tmp_path) == whole


def test_killed_between_any_two_renames_a_run_ends_the_same(tmp_path, whole):
    """Of run.json, 5 blocks, and 3 files that are written among the parts and then put into their places."""
    renames = 1 + 5 + 3 + 3

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


def test_two_processes_write_what_one_does_and_no_block_twice(tmp_path, whole, monkeypatch):
    made, real = tmp_path / "made", blocks._one
    made.touch()

    def noted(writer, captions, chosen, at, block, claims):
        found = real(writer, captions, chosen, at, block, claims)
        if found:
            with open(made, "a") as file:
                file.write(f"{block} {os.getpid()}\n")
        return found

    monkeypatch.setattr(blocks, "_one", noted)
    output = tmp_path / "out" / "prompts.jsonl"
    pair = [started(output, pause=0.01, shard=(i, 2)) for i in range(2)]
    for process in pair:
        process.join()
    assert [process.exitcode for process in pair] == [0, 0] and everything(output.parent) == whole
    names, pids = zip(*map(str.split, made.read_text().splitlines()), strict=True)
    assert sorted(names) == list("01234") and len(set(pids)) == 2


def test_who_comes_late_makes_nothing_again(tmp_path, whole):
    """A process that is still at a block when others have finished, joined and tidied all of it."""
    output = tmp_path / "prompts.jsonl"

    class Late(Fake):
        def completions(self, *args, **how):
            if not self.asked:
                shutil.rmtree(output.parent / "prompts.jsonl.parts/.claims")  # as if its claims had grown stale
                write(Fake(), CAPTIONS, output, SMALL)
            return super().completions(*args, **how)

    writer = Late()
    write(writer, CAPTIONS, output, SMALL)
    assert {prompt for prompt, _ in writer.asked} <= set(map(prompt_text, CAPTIONS[:4]))
    assert everything(tmp_path) == whole


def test_what_another_has_in_work_is_waited_for_and_taken_over_when_it_dies(tmp_path, whole):
    output, said = tmp_path / "prompts.jsonl", []
    slow = started(output, pause=30)
    while not list(tmp_path.glob("prompts.jsonl.parts/.claims/0*")):
        time.sleep(0.01)

    def show(progress):
        if progress.waiting:
            said.append(progress.waiting)
            os.kill(slow.pid, signal.SIGKILL)
            slow.join()

    write(Fake(), CAPTIONS, output, SMALL, show=show)
    assert said == [f"waiting for 000000.jsonl, which process {slow.pid} on {os.uname().nodename} has in work"]
    assert everything(tmp_path) == whole


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize(
    "change, message",
    [
        ({"captions": CAPTIONS[1:]}, "of other captions"),
        ({"writer": "f" * 16}, "of another writer"),
        ({"temperature": 0.5}, "with temperature 0.7, not 0.5"),
        ({"per_caption": 2}, "with per caption 1, not 2"),
        ({"refuse": ()}, "with other words to refuse"),
        ({"threads": 2}, "with threads 1, not 2"),
    ],
)
def test_another_runs_files_are_left_alone(tmp_path, finished, change, message):
    output, writer, change = tmp_path / "prompts.jsonl", Fake(), dict(change)
    if finished:
        write(Fake(), CAPTIONS, output, SMALL)
    else:
        write_part(output)
    before = everything(tmp_path)
    captions = change.pop("captions", CAPTIONS)
    writer.fingerprint = change.pop("writer", writer.fingerprint)
    with pytest.raises(ValueError) as error:
        write(writer, captions, output, replace(SMALL, **change))
    assert message in str(error.value) and "choose another output, or remove" in str(error.value)
    assert everything(tmp_path) == before and not writer.asked


def write_part(output: Path) -> None:
    """A run that has been stopped after its first block."""

    class Stopped(Fake):
        def completions(self, prompts, *args, **how):
            if self.asked and prompt_text(CAPTIONS[4]) in prompts:
                raise KeyboardInterrupt
            return super().completions(prompts, *args, **how)

    with pytest.raises(KeyboardInterrupt):
        write(Stopped(), CAPTIONS, output, SMALL)
    assert sorted(path.name for path in Places(output).parts.iterdir()) == ["000000.jsonl", "run.json"]


def test_a_file_that_nobody_knows_is_not_written_over(tmp_path):
    (tmp_path / "prompts.jsonl").write_text("mine")
    with pytest.raises(ValueError, match="no prompts.run.json"):
        write(Fake(), CAPTIONS, tmp_path / "prompts.jsonl", SMALL)
    with pytest.raises(ValueError, match="ends in .jsonl"):
        write(Fake(), CAPTIONS, tmp_path / "prompts.txt", SMALL)
    assert everything(tmp_path) == {"prompts.jsonl": b"mine"}


def test_a_damaged_block_is_named(tmp_path, whole):
    at = Places(tmp_path / "prompts.jsonl")
    write_part(at.output)
    at.part(3).write_text('{"input"')
    with pytest.raises(ValueError, match="000003.jsonl is damaged; remove it"):
        write(Fake(), CAPTIONS, at.output, SMALL)
    at.part(3).unlink()
    write(Fake(), CAPTIONS, at.output, SMALL)
    assert everything(tmp_path) == whole


def test_a_full_disk_loses_nothing(tmp_path, whole, monkeypatch):
    """At any of the writes: one line that names the file, nothing half written, and the same call goes on."""
    real, output = blocks.to_json, tmp_path / "prompts.jsonl"
    for count in (0, 1, 7, 15, 24, 36, 40):
        calls = iter(range(10**6))

        def full(row, count=count, calls=calls):
            if next(calls) == count:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(row)

        monkeypatch.setattr(blocks, "to_json", full)
        with pytest.raises(OSError) as error:
            write(Fake(), CAPTIONS, output, SMALL)
        assert error.value.errno == errno.ENOSPC and Path(error.value.filename).name[:1] in "0rpj"
        assert not output.exists() and not [name for name in everything(tmp_path) if name.endswith(".part")]
        shutil.rmtree(tmp_path / "prompts.jsonl.parts", ignore_errors=count < 30)
    monkeypatch.setattr(blocks, "to_json", real)
    write(Fake(), CAPTIONS, output, SMALL)
    assert everything(tmp_path) == whole
