"""Judging a writer: what is asked, and that right, wrong and malformed answers are counted for what they are."""

from types import SimpleNamespace

import numpy as np
import pytest

import minip2p.loading
from minip2p.cli import main
from minip2p.data import grammar
from minip2p.data.captions import completion_text, prompt_text
from minip2p.data.grammar import REASONS, why_not
from minip2p.data.scenes import EDIT_KINDS
from minip2p.evaluation import instructions
from minip2p.evaluation.instructions import MANY, held_out_triplets, ask_again, judge, judge_writer, table
from minip2p.text.generate import Completion

N = 60
TRIPLETS = held_out_triplets(N)
ASKED = [prompt_text(t.input) for t in TRIPLETS]


class Fake:
    """A writer that answers the i-th held-out caption as it is told to; it keeps what it was asked."""

    config = SimpleNamespace(max_length=200)

    def __init__(self, answer=lambda i, triplet: completion_text(triplet.edit, triplet.output)):
        self.answer = answer

    def tokens(self, text):
        return len(text.split())

    def completions(self, prompts, sampling, *, seeds, batch_size):
        self.prompts, self.sampling, self.seeds, self.batch_size = list(prompts), sampling, list(seeds), batch_size
        for i in reversed(range(len(prompts))):  # they come as they get finished
            number = ASKED.index(prompts[i])
            text = self.answer(number, TRIPLETS[number]).split("\nEND")[0]
            yield i, Completion(text, (), "stop")


def counts(judged, again=()) -> dict[str, list[str]]:
    """The table's cells by their first."""
    rows = [row.strip("| ").split("|") for row in table(judged, again).splitlines() if row.startswith("|")]
    cells = [[cell.strip() for cell in row] for row in rows]
    return {first: rest for first, *rest in cells}


def test_the_truth_is_valid_and_agrees():
    judged = judge_writer(Fake(), N)
    assert [j.caption for j in judged] == [t.input for t in TRIPLETS]
    assert all(j.valid and j.agrees and j.reason is None for j in judged)
    assert [j.parts for j in judged] == [(t.edit, t.output) for t in TRIPLETS]
    found = counts(judged)
    assert found["first"] == [str(N), *["100.0%"] * 3] and set(found) & set(EDIT_KINDS) and MANY not in found
    assert sum(int(found[kind][0]) for kind in EDIT_KINDS if kind in found) == N
    assert "valid, does not agree" not in found and "not valid" not in found


def test_the_writer_is_asked_as_it_was_trained_and_as_often_as_said():
    writer, told = Fake(), []
    judge_writer(writer, 9, seed=5, temperature=0.2, batch_size=3, on_done=told.append)
    assert writer.prompts == [prompt_text(t.input) for t in TRIPLETS[:9]] and writer.seeds == list(range(5, 14))
    assert (writer.sampling.temperature, writer.sampling.frequency_penalty, writer.sampling.top_p) == (0.2, 0.1, 1.0)
    assert writer.sampling.stop == ("\nEND",) and writer.batch_size == 3 and told == list(range(1, 10))
    longest = max(len(prompt.split()) for prompt in writer.prompts)
    assert writer.sampling.max_tokens == 200 - longest, "what the model has room for"


def test_what_is_not_valid_is_asked_for_again_and_nothing_else():
    judged = judge_writer(Fake(answer), N)
    writer = Fake()
    again = ask_again(writer, judged, retries=1, seed=5)
    assert writer.prompts == [prompt_text(j.caption) for j in judged if not j.valid]
    assert writer.seeds == [5 + N + i for i, j in enumerate(judged) if not j.valid]
    assert all(b.agrees if not a.valid else b == a for a, b in zip(judged, again, strict=True))
    assert counts(judged, again)["as minip2p write asks"] == [str(N), "100.0%", "66.7%", "66.7%"]
    never = Fake(lambda i, triplet: "")
    assert not any(j.valid for j in ask_again(never, judge_writer(never, 4), retries=3))


def test_held_out_captions_are_the_same_for_any_number():
    assert held_out_triplets(7) == TRIPLETS[:7]
    rng = np.random.default_rng(instructions.HELD_OUT)
    assert TRIPLETS[0] == grammar.sample_triplet(rng)
    others = {2**32 - 1, 2**32 - 2, 2**32 - 3, 2**32 - 4, 2**32 - 5}
    assert instructions.HELD_OUT not in others, "the draws of other figures, and of previews"


def answer(i: int, triplet) -> str:
    """By sixths: right, other words, unchanged, three parts, no edited caption, an edited caption of no world."""
    return (
        completion_text(triplet.edit, triplet.output),
        completion_text("dance", triplet.output),
        completion_text(triplet.edit, triplet.input + "."),
        completion_text(triplet.edit, f"{triplet.output}\n%%\n{triplet.output}"),
        completion_text(triplet.edit, " "),
        completion_text(triplet.edit, "a dog on the moon"),
    )[i % 6]


def test_right_wrong_and_malformed_answers_are_counted():
    judged = judge_writer(Fake(answer), N)
    reasons = [None, grammar.OTHER_WORDS, "nothing changes", "3 parts in place of 2", "an empty part"]
    reasons.append(grammar.UNREAD_EDITED)
    assert [j.reason for j in judged] == reasons * 10
    assert [j.valid for j in judged] == [True, True, False, False, False, True] * 10
    assert [j.agrees for j in judged] == [True, False, False, False, False, False] * 10
    assert all((j.kind is None) == (not j.valid) for j in judged)
    found = counts(judged)
    assert found["first"] == ["60", "50.0%", "16.7%", "33.3%"]
    assert {name: found[name] for name in reasons[1:]} == {name: ["10"] for name in reasons[1:]}
    assert found[MANY] == ["10", "0.0%"] and found["not valid"] == found["valid, does not agree"] == ["number"]
    for kind in EDIT_KINDS:
        of = [j for j in judged if j.kind == kind]
        if of:
            assert found[kind] == [str(len(of)), f"{np.mean([j.agrees for j in of]):.1%}"]


def test_reasons_are_the_grammars():
    """Another change than the one asked for is of its own kind, and does not agree."""
    first, second = "a red cat in a meadow by day", "a blue cat in a meadow by day"
    edit = next(t.edit for t in held_out_triplets(400) if t.edit.startswith("make it") and "night" in t.edit)
    wrong = judge(first, completion_text(edit, second))
    assert (wrong.kind, wrong.reason) == ("recolour", grammar.OTHER_WORDS) and wrong.reason in REASONS
    both = judge(first, completion_text(edit, "a blue cat in a meadow at night"))
    assert (both.kind, both.reason) == (MANY, why_not(first, edit, "a blue cat in a meadow at night"))
    assert both.reason == grammar.TOO_MUCH


def test_the_table_shows_examples_with_what_is_wrong():
    text = table(judge_writer(Fake(answer), N))
    first, wrong, malformed = TRIPLETS[0], TRIPLETS[1], TRIPLETS[4]
    assert f"- {first.input} -> **{first.edit}** -> {first.output}\n" in text
    assert f"- {wrong.input} -> **dance** -> {wrong.output} ({grammar.OTHER_WORDS})" in text
    assert f"- {malformed.input} -> {completion_text(malformed.edit, ' ').removesuffix(chr(10) + 'END')!r}" in text
    assert text.count("\n- ") == 12


def test_a_writer_that_never_answers_well_has_a_table_too():
    judged = judge_writer(Fake(lambda i, triplet: "\n"), 5)
    found = counts(judged)
    assert found["first"] == ["5", "0.0%", "0.0%", "-"] and found["1 parts in place of 2"] == ["5"]
    assert "kind of change" not in found


def test_nothing_is_judged_of_none():
    with pytest.raises(ValueError, match="n 0"):
        judge_writer(Fake(), 0)
    with pytest.raises(ValueError, match="no answer was judged"):
        table([])


def test_the_command_prints_the_table(monkeypatch, capsys):
    loaded, writer = [], Fake(answer)
    monkeypatch.setattr(minip2p.loading, "load_writer", lambda *path, **how: loaded.append((path, how)) or writer)
    words = ["--of", "instructions", "--number", str(N), "--weights", "x", "--device", "cpu", "--seed", "3"]
    assert main(["judge", *words, "--temperature", "0"]) == 0
    assert loaded == [(("x",), {"device": "cpu", "dtype": "float32"})]
    assert writer.seeds[0] == 3 + 3 * N + 2 and writer.sampling.temperature == 0, 'the third time, of the first not valid'
    writer = Fake(answer)
    judged = judge_writer(writer, N, seed=3)
    assert capsys.readouterr().out == table(judged, ask_again(writer, judged, seed=3)) + "\n"


@pytest.mark.parametrize(
    "words, said",
    [
        (["--output", "x.png"], "--output: of instructions there is a table only"),
        (["--temperature", "-1"], "temperature -1"),
        (["--temperature", "nan"], "temperature nan"),
        (["--number", "0"], "number 0"),
        (["--config", "width=3"], "--config: a writer's is as it is"),
        (["--weights", "{reader}"], "load_reader reads it"),
        (["--weights", "none.safetensors"], "none.safetensors"),
    ],
)
def test_a_mistake_is_one_line(words, said, capsys):
    words = [word.format(reader=minip2p.shipped("reader")) for word in words]
    assert main(["judge", "--of", "instructions", "--device", "cpu", *words]) == 2
    out, err = capsys.readouterr()
    err = err.rpartition("\r")[2]  # a bar may have been there before
    assert not out and err.startswith("minip2p: error: ") and said in err and err.count("\n") == 1
