"""Evaluation of a language model's instructions: the prompts, and the counts of valid and consistent completions."""

from types import SimpleNamespace

import numpy as np
import pytest

import minip2p.loading
from minip2p.cli import main
from minip2p.data.captions import completion_text, prompt_text
from minip2p.text.generate import Completion
from minip2p.tinyworld import grammar
from minip2p.tinyworld.evaluation.instructions import (
    NO_SINGLE_CHANGE,
    check,
    evaluate_instructions,
    held_out_triplets,
    report,
    retry,
)
from minip2p.tinyworld.grammar import REASONS, mismatch
from minip2p.tinyworld.scenes import EDIT_KINDS

N = 60
TRIPLETS = held_out_triplets(N)
PROMPTS = [prompt_text(t.input) for t in TRIPLETS]


class Fake:
    """A language model that completes the i-th held-out prompt with `answer(i, triplet)`; it records its prompts."""

    config = SimpleNamespace(max_length=200)
    parts: dict = {}
    """no networks"""

    def __init__(self, answer=lambda i, triplet: completion_text(triplet.edit, triplet.output)):
        self.answer = answer

    def tokens(self, text):
        return len(text.split())

    def completions(self, prompts, sampling, *, seeds, batch_size):
        self.prompts, self.sampling, self.seeds, self.batch_size = list(prompts), sampling, list(seeds), batch_size
        for i in reversed(range(len(prompts))):  # completions come in any order
            number = PROMPTS.index(prompts[i])
            text = self.answer(number, TRIPLETS[number]).split("\nEND")[0]
            yield i, Completion(text, (), "stop")


def counts(results, retried=()) -> dict[str, list[str]]:
    """The rows of all tables: first cell -> the others."""
    rows = [row.strip("| ").split("|") for row in report(results, retried).splitlines() if row.startswith("|")]
    cells = [[cell.strip() for cell in row] for row in rows]
    return {first: rest for first, *rest in cells}


def test_the_true_completions_are_valid_and_consistent():
    results = evaluate_instructions(Fake(), N)
    assert [r.caption for r in results] == [t.input for t in TRIPLETS]
    assert all(r.valid and r.consistent and r.reason is None for r in results)
    assert [r.parts for r in results] == [(t.edit, t.output) for t in TRIPLETS]
    found = counts(results)
    assert found["first"] == [str(N), *["100.0%"] * 3]
    assert set(found) & set(EDIT_KINDS) and NO_SINGLE_CHANGE not in found
    assert sum(int(found[kind][0]) for kind in EDIT_KINDS if kind in found) == N
    assert "valid but inconsistent" not in found and "invalid" not in found


def test_prompts_and_sampling_are_those_of_the_paper():
    model, calls = Fake(), []
    how = {"seed": 5, "temperature": 0.2, "batch_size": 3}
    evaluate_instructions(model, 9, **how, on_done=lambda *progress: calls.append(progress))
    assert model.prompts == [prompt_text(t.input) for t in TRIPLETS[:9]] and model.seeds == list(range(5, 14))
    assert calls == [(i, 9) for i in range(1, 10)] and model.batch_size == 3
    sampling = model.sampling
    assert (sampling.temperature, sampling.frequency_penalty, sampling.top_p) == (0.2, 0.1, 1.0)
    assert sampling.stop == ("\nEND",)
    longest = max(len(prompt.split()) for prompt in model.prompts)
    assert sampling.max_tokens == 200 - longest, "the remaining context"


def test_only_invalid_completions_are_sampled_again():
    results = evaluate_instructions(Fake(answer), N)
    model = Fake()
    retried = retry(model, results, retries=1, seed=5)
    assert model.prompts == [prompt_text(r.caption) for r in results if not r.valid]
    assert model.seeds == [5 + N + i for i, r in enumerate(results) if not r.valid]
    assert all(b.consistent if not a.valid else b == a for a, b in zip(results, retried, strict=True))
    assert counts(results, retried)["with retries"] == [str(N), "100.0%", "66.7%", "66.7%"]
    never = Fake(lambda i, triplet: "")
    assert not any(r.valid for r in retry(never, evaluate_instructions(never, 4), retries=3))


def test_held_out_triplets_do_not_depend_on_their_number():
    assert held_out_triplets(7) == TRIPLETS[:7]


def answer(i: int, triplet) -> str:
    """In turn: correct, another instruction, unchanged, three parts, no edited caption, no known caption."""
    return (
        completion_text(triplet.edit, triplet.output),
        completion_text("dance", triplet.output),
        completion_text(triplet.edit, triplet.input + "."),
        completion_text(triplet.edit, f"{triplet.output}\n%%\n{triplet.output}"),
        completion_text(triplet.edit, " "),
        completion_text(triplet.edit, "a dog on the moon"),
    )[i % 6]


def test_completions_are_counted_by_what_is_wrong():
    results = evaluate_instructions(Fake(answer), N)
    reasons = [None, grammar.OTHER_INSTRUCTION, "nothing changes", "3 parts in place of 2", "an empty part"]
    reasons.append(grammar.UNPARSED_EDITED)
    assert [r.reason for r in results] == reasons * 10
    assert [r.valid for r in results] == [True, True, False, False, False, True] * 10
    assert [r.consistent for r in results] == [True, False, False, False, False, False] * 10
    assert all((r.kind is None) == (not r.valid) for r in results)
    found = counts(results)
    assert found["first"] == ["60", "50.0%", "16.7%", "33.3%"]
    assert {name: found[name] for name in reasons[1:]} == {name: ["10"] for name in reasons[1:]}
    assert found[NO_SINGLE_CHANGE] == ["10", "0.0%"]
    assert found["invalid"] == found["valid but inconsistent"] == ["number"]
    for kind in EDIT_KINDS:
        of = [r for r in results if r.kind == kind]
        if of:
            assert found[kind] == [str(len(of)), f"{np.mean([r.consistent for r in of]):.1%}"]


def test_the_reasons_are_those_of_the_grammar():
    """A change that was not instructed counts by its own kind, and is inconsistent."""
    first, second = "a red cat in a meadow by day", "a blue cat in a meadow by day"
    edit = next(t.edit for t in held_out_triplets(400) if t.edit.startswith("make it") and "night" in t.edit)
    wrong = check(first, completion_text(edit, second))
    assert (wrong.kind, wrong.reason) == ("recolour", grammar.OTHER_INSTRUCTION) and wrong.reason in REASONS
    both = check(first, completion_text(edit, "a blue cat in a meadow at night"))
    assert (both.kind, both.reason) == (NO_SINGLE_CHANGE, mismatch(first, edit, "a blue cat in a meadow at night"))
    assert both.reason == grammar.TOO_MUCH


def test_a_language_model_without_valid_completions_has_a_report():
    results = evaluate_instructions(Fake(lambda i, triplet: "\n"), 5)
    found = counts(results)
    assert found["first"] == ["5", "0.0%", "0.0%", "-"] and found["1 parts in place of 2"] == ["5"]
    assert "kind of change" not in found


def test_nothing_to_evaluate_is_refused():
    with pytest.raises(ValueError, match="number 0"):
        evaluate_instructions(Fake(), 0)
    with pytest.raises(ValueError, match="no completions"):
        report([])


def test_the_command_prints_the_report(monkeypatch, capsys):
    loaded, model = [], Fake(answer)
    monkeypatch.setattr(
        minip2p.loading, "load_language_model", lambda *path, **how: loaded.append((path, how)) or model
    )
    words = ["--of", "instructions", "--number", str(N), "--weights", "x", "--device", "cpu", "--seed", "3"]
    assert main(["tiny", "evaluate", *words, "--temperature", "0"]) == 0
    assert loaded == [(("x",), {"device": "cpu", "dtype": "float32"})]
    assert model.sampling.temperature == 0
    assert model.seeds[0] == 3 + 3 * N + 2, "the third retry begins with caption 2, the first invalid one"
    model = Fake(answer)
    results = evaluate_instructions(model, N, seed=3)
    assert capsys.readouterr().out == report(results, retry(model, results, seed=3)) + "\n"


@pytest.mark.parametrize(
    "words, message",
    [
        (["--output", "x.png"], "only --of pairs draws a plot"),
        (["--temperature", "-1"], "temperature -1"),
        (["--temperature", "nan"], "temperature nan"),
        (["--number", "0"], "number 0"),
        (["--config", "width=3"], "--config: a language model's config cannot be changed"),
        (["--weights", "{classifier}"], "holds a classifier"),
        (["--weights", "none.safetensors"], "none.safetensors"),
    ],
)
def test_a_mistake_is_one_line(words, message, capsys):
    words = [word.format(classifier=minip2p.shipped("classifier")) for word in words]
    assert main(["tiny", "evaluate", "--of", "instructions", "--device", "cpu", *words]) == 2
    out, err = capsys.readouterr()
    err = err.rpartition("\r")[2]  # a bar may have been there before
    assert not out and err.startswith("minip2p: error: ") and message in err and err.count("\n") == 1
