"""Evaluation of a language model's instructions: the prompts, and the counts of valid and consistent completions."""

from types import SimpleNamespace

import pytest

import minip2p.loading
from minip2p.cli import main
from minip2p.data.captions import completion_text, prompt_text
from minip2p.text.generate import Completion
from minip2p.tinyworld import grammar
from minip2p.tinyworld.evaluation.common import held_out
from minip2p.tinyworld.evaluation.instructions import evaluate_instructions, table

N = 60
TRIPLETS = held_out("instructions", N, grammar.sample_triplet)[0]
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


def counts(results) -> dict[str, list[str]]:
    """The rows of all tables: first cell -> the others."""
    rows = [row.strip("| ").split("|") for row in table(results).splitlines() if row.startswith("|")]
    cells = [[cell.strip() for cell in row] for row in rows]
    return {first: rest for first, *rest in cells}


def test_the_true_completions_are_valid_and_consistent():
    results = evaluate_instructions(Fake(), N)
    assert [r.caption for r in results] == [t.input for t in TRIPLETS]
    assert all(r.valid and r.consistent and r.reason is None for r in results)
    assert [r.parts for r in results] == [(t.edit, t.output) for t in TRIPLETS]
    assert counts(results)[str(N)] == ["100.0%"] * 3 and "what is wrong" not in table(results)


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
    found = counts(results)
    assert found["60"] == ["50.0%", "16.7%", "33.3%"]
    assert {name: found[name] for name in reasons[1:]} == {name: ["10"] for name in reasons[1:]}
    assert found["no single change"] == ["10", "33.3%", "0.0%"], "of the 30 valid ones: the unknown captions"


def test_completions_are_counted_by_the_change_they_make():
    results = evaluate_instructions(Fake(), N)
    kinds = [grammar.change(grammar.parse_caption(t.input), grammar.parse_caption(t.output)) for t in TRIPLETS]
    assert [r.kind for r in results] == kinds and None not in kinds
    found = counts(results)
    for kind in set(kinds):
        assert found[kind] == [str(kinds.count(kind)), f"{kinds.count(kind) / N:.1%}", "100.0%"]


def test_a_language_model_without_valid_completions_has_a_table():
    results = evaluate_instructions(Fake(lambda i, triplet: "\n"), 5)
    found = counts(results)
    assert {each.kind for each in results} == {None} and "no single change" not in found
    assert found["5"] == ["0.0%", "0.0%", "-"] and found["1 parts in place of 2"] == ["5"]


def test_nothing_to_evaluate_is_refused():
    with pytest.raises(ValueError, match="number 0"):
        evaluate_instructions(Fake(), 0)


def test_the_command_prints_the_table(monkeypatch, capsys):
    loaded, model = [], Fake(answer)
    monkeypatch.setattr(
        minip2p.loading, "load_language_model", lambda *path, **how: loaded.append((path, how)) or model
    )
    words = ["--of", "instructions", "--number", str(N), "--weights", "x", "--device", "cpu", "--seed", "3"]
    assert main(["tiny", "evaluate", *words, "--temperature", "0"]) == 0
    assert loaded == [(("x",), {"device": "cpu", "dtype": "auto"})]
    assert model.sampling.temperature == 0
    assert model.seeds == list(range(3, 3 + N))
    assert capsys.readouterr().out == table(evaluate_instructions(Fake(answer), N, seed=3)) + "\n"


@pytest.mark.parametrize(
    "words, message",
    [
        (["--temperature", "-1"], "temperature = -1"),
        (["--temperature", "nan"], "temperature = nan"),
        (["--number", "0"], "number 0"),
        (["--config", "width=3"], "--config: a language model is loaded as it is; leave it out"),
        (["--lora", "a.safetensors"], "--lora: a language model is loaded as it is; leave it out"),
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
