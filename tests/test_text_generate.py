"""Sampling tokens: laws of the distribution and of the draw, texts that grow in batches, the language model."""

from dataclasses import replace

import pytest
import torch
from helpers_language import small_language_model
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from minip2p.text.generate import Completion, Sampling, draw, generate, left_padded, next_distribution, nucleus

LOGITS = arrays("float32", array_shapes(min_dims=1, max_dims=2, max_side=20), elements=st.floats(-40, 40, width=32))
GREEDY = Sampling(temperature=0, max_tokens=8)


@given(LOGITS, st.floats(0, 3), st.floats(0.01, 1), st.floats(-2, 2))
def test_probabilities_are_some_and_sum_to_one(logits, temperature, top_p, penalty):
    x = torch.from_numpy(logits)
    p = next_distribution(x, torch.ones_like(x), temperature, top_p, penalty)
    assert p.dtype == torch.float64 and (p >= 0).all()
    torch.testing.assert_close(p.sum(-1), torch.ones_like(p.sum(-1)), rtol=1e-12, atol=1e-12)


@given(LOGITS, st.floats(0.01, 1))
def test_the_nucleus_is_the_smallest_set_that_reaches_top_p(logits, top_p):
    p = torch.from_numpy(logits).double().softmax(-1).reshape(-1, logits.shape[-1])
    for before, after in zip(p, nucleus(p, top_p), strict=True):
        kept = after > 0
        assert before[kept].sum() >= top_p - 1e-12
        assert before[kept].sum() - before[kept].min() < top_p + 1e-12, "one fewer would have done"
        if (~kept).any():
            assert before[kept].min() >= before[~kept].max()
        torch.testing.assert_close(after[kept] * before[kept].sum(), before[kept])


def test_a_nucleus_of_equal_tokens_takes_the_first_of_them():
    assert nucleus(torch.full((4,), 0.25).double(), 0.5).tolist() == [0.5, 0.5, 0, 0]


@given(LOGITS)
def test_no_temperature_takes_the_likeliest_and_a_low_one_nearly(logits):
    x = torch.from_numpy(logits)
    greedy = next_distribution(x, torch.zeros_like(x), 0, 0.5, 0)
    assert (greedy.argmax(-1) == x.argmax(-1)).all() and set(greedy.flatten().tolist()) <= {0.0, 1.0}
    cold = next_distribution(x, torch.zeros_like(x), 1e-300, 1.0, 0)
    assert (cold[x < x.amax(-1, keepdim=True)] == 0).all()


def test_penalty_temperature_and_nucleus_come_in_this_order():
    logits, counts = torch.tensor([2.0, 1.0, 0.5]).double(), torch.tensor([3, 0, 1])
    expected = ((logits - 0.4 * counts) / 0.5).softmax(-1)  # 0.8, 1.0, 0.1: the first is no longer the likeliest
    torch.testing.assert_close(next_distribution(logits, counts, 0.5, 1.0, 0.4), expected)
    assert next_distribution(logits, counts, 0.5, 0.5, 0.4).tolist() == [0, 1, 0]
    assert next_distribution(logits, counts, 0, 1.0, 0.4).tolist() == [0, 1, 0]


def test_logits_that_are_no_numbers_are_an_error():
    with pytest.raises(ValueError, match="not finite"):
        next_distribution(torch.tensor([0.0, torch.nan]), torch.zeros(2), 1, 1, 0)
    assert next_distribution(torch.tensor([0.0, -torch.inf]), torch.zeros(2), 1, 1, 0).tolist() == [1, 0]


@given(arrays("float64", 6, elements=st.sampled_from([0.0, 0.1, 0.5])).filter(any), st.floats(0, 1, exclude_max=True))
def test_only_possible_tokens_are_drawn(weights, u):
    p = torch.from_numpy(weights) / weights.sum()
    i = draw(p, u)
    assert p[i] > 0
    assert p[:i].sum() <= u + 1e-12 and u <= p[: i + 1].sum() + 1e-12


def test_draws_are_as_frequent_as_they_are_likely():
    p = torch.tensor([0.1, 0.0, 0.6, 0.3]).double()
    drawn = [draw(p, (i + 0.5) / 1000) for i in range(1000)]
    assert [drawn.count(i) for i in range(4)] == [100, 0, 600, 300]


@pytest.mark.parametrize(
    "words, message",
    [
        ({"temperature": -1}, "temperature = -1: expected at least 0"),
        ({"temperature": float("nan")}, "temperature = nan: expected a finite number"),
        ({"top_p": 0}, "top_p = 0: expected more than 0"),
        ({"top_p": 1.5}, "top_p = 1.5: expected at most 1"),
        ({"frequency_penalty": "much"}, "frequency_penalty = 'much': expected a number"),
        ({"max_tokens": 0}, "max_tokens = 0: expected at least 1"),
        ({"stop": ("",)}, r"stop\[0\] = '': expected at least 1 letter"),
        ({"stop": "END"}, "stop = 'END': expected a list"),
    ],
)
def test_settings_that_make_no_sense_are_refused(words, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**words)


class Counting:
    """Says letters: after letter i comes i + 1. Remembers what it was asked."""

    def __init__(self):
        self.seen, self.kept = [], []

    def __call__(self, tokens):
        self.seen.append(tokens.tolist())
        return torch.nn.functional.one_hot((tokens[:, -1] + 1) % 26, 26).float()

    def keep(self, rows):
        self.kept.append(list(rows))


def letters(ids):
    return "".join(chr(ord("a") + i) for i in ids)


def run(prompts, sampling=GREEDY, eos=25):
    read = Counting()
    found = dict(generate(read, prompts, sampling, seeds=range(len(prompts)), eos=eos, decode=letters))
    return [found[i] for i in range(len(prompts))], read


def test_a_text_ends_at_a_stop_the_end_token_or_its_length():
    found, read = run([[0], [0, 21], [3, 4]], replace(GREEDY, stop=("ij", "fgh", "gh")))
    assert found == [
        Completion("bcde", (1, 2, 3, 4, 5, 6, 7), "stop"),  # of the stops that came, the first in the text
        Completion("wxyz", (22, 23, 24, 25), "stop"),
        Completion("", (5, 6, 7), "stop"),
    ]
    assert read.seen[0] == [[25, 0], [0, 21], [3, 4]], "padded on the left"
    assert read.kept == [[0, 1], [0], []]
    assert run([[0]])[0] == [Completion("bcdefghi", tuple(range(1, 9)), "length")]


def test_penalties_count_what_was_drawn_and_not_the_prompt():
    class Flat(Counting):
        def __call__(self, tokens):
            return torch.tensor([0.3, 0.2, 0.1, 0.0]).expand(len(tokens), 4)

    sampling = replace(GREEDY, frequency_penalty=0.25, max_tokens=5)
    ((_, found),) = generate(Flat(), [[0, 0, 0]], sampling, seeds=[0], eos=3, decode=letters)
    assert found.ids == (0, 1, 2, 0, 3)


def test_left_padding_is_counted():
    tokens, padding = left_padded([[1], [1, 2, 3]], 9)
    assert tokens.tolist() == [[9, 9, 1], [1, 2, 3]] and padding.tolist() == [2, 0]


WRITER = small_language_model()
PROMPTS = ["a red cat\n##\n", "", "make it night " * 3, "日本 é", "a"]


class Uncached:
    """Reads all tokens of every row again for each new one."""

    def __init__(self, language_model, padding):
        self.language_model, self.padding = language_model, padding
        self.tokens = torch.empty((len(padding), 0), dtype=torch.long)

    @torch.inference_mode()
    def __call__(self, tokens):
        self.tokens = torch.cat([self.tokens, tokens], dim=1)
        model = self.language_model.model
        states = model.states(self.tokens, None, self.padding if self.padding.any() else None)
        return model.logits(states[:, -1])[:, : len(self.language_model.pieces)]

    def keep(self, rows):
        self.tokens, self.padding = self.tokens[list(rows)], self.padding[list(rows)]


@pytest.mark.parametrize("changes", [{}, {"window": 5}, {"kv_heads": 1, "tied": True}, {"kv_heads": 4}])
@pytest.mark.parametrize("words", [{"temperature": 0}, {"temperature": 1.5, "top_p": 0.9}])
def test_the_cache_changes_no_token(changes, words):
    language_model = small_language_model(**changes)
    sampling = Sampling(frequency_penalty=0.2, max_tokens=12, stop=("a",), **words)
    found = dict(language_model.completions(PROMPTS, sampling))
    ids = [[language_model.config.bos, *language_model.pieces.encode(prompt)] for prompt in PROMPTS]
    again = generate(
        Uncached(language_model, left_padded(ids, language_model.config.eos)[1]),
        ids,
        sampling,
        seeds=range(len(ids)),
        eos=language_model.config.eos,
        decode=language_model.pieces.decode,
    )
    assert found == dict(again) and len(found) == len(PROMPTS)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_what_else_is_in_the_batch_changes_no_token(size):
    words = {"temperature": 1.0, "max_tokens": 10, "stop": ("t",)}
    whole = WRITER.complete(PROMPTS, **words)
    assert WRITER.complete(PROMPTS, batch_size=size, **words) == whole
    assert WRITER.complete(PROMPTS[::-1], seeds=[4, 3, 2, 1, 0], batch_size=size, **words) == whole[::-1]


def test_each_seed_has_its_own_text():
    found = WRITER.complete(["a"] * 6, temperature=1.0, max_tokens=10, seeds=[0, 1, 2, 3, 4, 0])
    assert found[0] == found[5] and len(set(found)) == 5


def test_a_completion_goes_on_where_the_prompt_ends():
    for i, found in WRITER.completions(PROMPTS, Sampling(max_tokens=20)):
        before = WRITER.pieces.encode(PROMPTS[i])
        assert WRITER.pieces.decode(before) + found.text == WRITER.pieces.decode([*before, *found.ids])


def test_a_stop_cuts_the_text_that_would_have_been():
    words = {"max_tokens": 20, "temperature": 1.0, "frequency_penalty": 0.0}
    whole = WRITER.complete(PROMPTS, stop=(), **words)
    stop = whole[0][3:5]
    assert WRITER.complete(PROMPTS, stop=stop, **words) == [text.split(stop)[0] for text in whole]


def test_tokens_count_the_one_that_begins_a_text():
    assert WRITER.tokens("") == 1
    assert WRITER.tokens("a cat") == 1 + len(WRITER.pieces.encode("a cat"))


def test_ids_beyond_the_tokenizer_are_never_drawn():
    found = WRITER.completions([""] * 8, Sampling(temperature=50.0, max_tokens=30))
    assert WRITER.config.vocab_size > len(WRITER.pieces)
    assert all(i < len(WRITER.pieces) for _, each in found for i in each.ids)


def test_nothing_to_complete_is_no_mistake():
    assert WRITER.complete([]) == []


@pytest.mark.parametrize(
    "prompts, words, message",
    [
        (["a", "x" * 200], {"max_tokens": 8}, "the prompt 'x+' is 201 tokens long, and 8 may follow: more than the 64"),
        (["a"], {"max_tokens": 64}, "is 2 tokens long, and 64 may follow"),
        ("a text", {}, "expected a list of texts"),
        ([3], {}, "prompt 3: expected a text"),
        (["a"], {"seeds": [1, 2], "max_tokens": 8}, "2 seeds for 1 prompts"),
        (["a"], {"seeds": [-1], "max_tokens": 8}, "seed -1"),
        (["a"], {"batch_size": 0, "max_tokens": 8}, "batch size 0"),
        (["a"], {"temperature": -0.1}, "temperature = -0.1"),
    ],
)
def test_mistakes_are_told_before_anything_is_read(prompts, words, message):
    with pytest.raises(ValueError, match=message):
        WRITER.complete(prompts, **words)
