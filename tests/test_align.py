"""Which tokens of two prompts answer to each other, against the definitions of Prompt-to-Prompt written out again."""

from functools import cache
from itertools import pairwise
from unicodedata import normalize

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from minip2p.text.align import align, positions, refinement, replacement, words
from minip2p.text.bpe import BPE
from minip2p.text.learn import learn_bpe
from minip2p.text.vocabulary import EOS

CAPTIONS = [
    f"a {colour} {thing} in the {place}"
    for colour in ("red", "green", "white")
    for thing in ("house", "boat", "sheep", "cat")
    for place in ("meadow", "snow")
]
CLIP = BPE.clip()
TINY = learn_bpe(CAPTIONS, vocab_size=400, max_length=16)
SHORT = learn_bpe(CAPTIONS, vocab_size=400, max_length=5)
"""Most prompts are cut."""

few = settings(deadline=None, max_examples=60)
IDS = st.lists(st.integers(0, 4), max_size=9)
ODD = ["\u0926\u094b", "e\u0323\u0300"]  # a vowel sign and an accent that join no letter
WORDS = st.sampled_from(["a", "red", "cat", "zebra", "Cat's", "blue-green", "été", "1984", *ODD])
SIGNS = st.sampled_from([" ", "  ", ", ", "! ", " \U0001f984 ", " -- ", ". "])
PROMPTS = st.lists(st.tuples(WORDS, SIGNS), max_size=6).map(lambda parts: "".join(a + b for a, b in parts))
ANY_TEXT = PROMPTS | st.text(max_size=12)
TOKENIZERS = st.sampled_from([TINY, SHORT, CLIP])


def spelt(tokenizer, prompt, tokens):
    """What tokens stand for, each once."""
    offsets = tokenizer.offsets(prompt)
    return [prompt[slice(*span)] for span in dict.fromkeys(offsets[t - 1] for t in tokens)]


# --- words -----------------------------------------------------------------------------------------------------------


def test_words_are_runs_of_letters_and_digits_with_inner_apostrophes_and_hyphens():
    def names(prompt):
        return [word for word, _, _ in words(prompt)]

    assert names("A cat, asleep -- on 'the' sofa!") == ["A", "cat", "asleep", "on", "the", "sofa"]
    assert names("Cat's blue-green rock-'n'-roll, 1984") == ["Cat's", "blue-green", "rock", "n", "roll", "1984"]
    for word in ("cafe\u0301", "été", "\u0926\u094b", "\u732b\u3068\u72ac"):
        assert names(f"({word} {word}.") == [word, word]
    assert names("a_b \U0001f984 ...") == ["a", "b"] and names("") == []


@few
@given(ANY_TEXT)
def test_words_stand_in_the_prompt_in_order_and_are_the_same_in_either_normal_form(prompt):
    found = words(prompt)
    assert all(prompt[start:end] == word and word for word, start, end in found)
    assert all(a[2] <= b[1] for a, b in pairwise(found))
    outside = [c for i, c in enumerate(prompt) if not any(start <= i < end for _, start, end in found)]
    assert not any(c.isalpha() or c.isdecimal() for c in outside)
    forms = [[normalize("NFC", word) for word, _, _ in words(normalize(form, prompt))] for form in ("NFC", "NFD")]
    assert forms[0] == forms[1]


# --- positions -------------------------------------------------------------------------------------------------------


def test_a_word_is_found_by_its_letters_whatever_its_case_and_what_stands_around_it():
    prompts = {"a cat, asleep": 2, "Cat": 1, "(CAT)": 2, "the cat's hat": 2, "a 'cat'": 3, "category cat": 2}
    for prompt, place in prompts.items():
        assert positions(CLIP, prompt, "cat") == [place] == positions(CLIP, prompt, "Cat"), prompt
        assert CLIP([prompt])[0, place] == 2368
    assert positions(CLIP, "a red  house, a Red\nHouse", "red house") == [2, 3, 6, 7]
    assert spelt(CLIP, "a cat's hat", positions(CLIP, "a cat's hat", "cat's")) == ["cat", "'s"]
    assert len(positions(CLIP, "a photorealistically fine house", "photorealistically")) == 3


def test_every_occurrence_is_found():
    assert positions(CLIP, "a cat and a cat and a category", "cat") == [2, 5]


def test_odd_unicode_is_found_as_it_is_meant():
    for prompt in ("un caf\u00e9 noir", "un cafe\u0301 noir", "UN CAFE\u0301 NOIR"):
        for word in ("caf\u00e9", "cafe\u0301", "CAF\u00c9"):
            assert spelt(TINY, prompt, positions(TINY, prompt, word))[-1].lower() in ("\u00e9", "e\u0301"), prompt
            assert "".join(spelt(TINY, prompt, positions(TINY, prompt, word))) == prompt[3:-5]
        with pytest.raises(ValueError, match="'cafe' is not in"):
            positions(CLIP, prompt, "cafe")
    unicorn = "a \U0001f984cat\U0001f9ff!"
    assert set(spelt(CLIP, unicorn, positions(CLIP, unicorn, "\U0001f984"))) == {"\U0001f984"}
    assert spelt(CLIP, unicorn, positions(CLIP, unicorn, "cat")) == ["cat"]
    assert spelt(CLIP, "ΟΔΟΣ!", positions(CLIP, "ΟΔΟΣ!", "οδος"))[-1][-1] == "Σ"
    assert positions(CLIP, "Stra\u00dfe, STRASSE", "strasse") == positions(CLIP, "Stra\u00dfe, STRASSE", "stra\u00dfe")
    assert positions(CLIP, "c++ (new)", "c++") == [1, 2] and positions(CLIP, "a.b", ".") == [2]


@few
@given(TOKENIZERS, ANY_TEXT, st.data())
def test_each_word_of_a_prompt_is_found_and_only_its_letters(tokenizer, prompt, data):
    found = words(prompt)
    assume(found)
    word, start, end = data.draw(st.sampled_from(found))
    first = next(i for i, (a, b) in enumerate(tokenizer.offsets(prompt), 1) if b > start)
    try:
        places = positions(tokenizer, prompt, word)
    except ValueError as error:
        assert "cut off" in str(error) and len(tokenizer.encode(prompt)) > tokenizer.max_length - 2
        return
    assert places == sorted(set(places)) and 1 <= places[0] and places[-1] <= tokenizer.max_length - 2
    assert first in places or first > places[-1]
    assert torch.equal(tokenizer([prompt])[0, places], torch.tensor(tokenizer.encode(prompt))[torch.tensor(places) - 1])


def test_a_word_that_is_not_there_is_an_error_that_names_those_that_are():
    with pytest.raises(ValueError, match="'cat' is not in the prompt 'a category'; its words are: a, category$"):
        positions(CLIP, "a category", "cat")
    with pytest.raises(ValueError, match="'house red' is not in .* 'a red house, a'; its words are: a, red, house$"):
        positions(CLIP, "a red house, a", "house red")
    with pytest.raises(ValueError, match="'cat' is not in the prompt ''$"):
        positions(CLIP, "", "cat")
    with pytest.raises(ValueError, match="an empty word ' '"):
        positions(CLIP, "a cat", " ")


def test_a_word_that_is_cut_off_is_an_error_unless_it_also_stands_earlier():
    short = BPE.clip(max_length=5)
    assert positions(short, "a cat, dog", "cat") == [2] and positions(short, "a cat , cat", "cat") == [2]
    with pytest.raises(ValueError, match="'dog' is cut off: only the first 3 tokens.* has 4; shorten it"):
        positions(short, "a cat, dog", "dog")
    with pytest.raises(ValueError, match="cut off"):
        positions(short, "a photorealistically", "a photorealistically")


# --- Replace ---------------------------------------------------------------------------------------------------------


@few
@given(TOKENIZERS, ANY_TEXT)
@example(TINY, EOS + "a")
def test_equal_prompts_are_mapped_by_identities(tokenizer, prompt):
    m = tokenizer.max_length
    mapper, alphas = refinement(tokenizer, prompt, prompt)
    assert torch.equal(replacement(tokenizer, prompt, prompt), torch.eye(m))
    assert torch.equal(mapper, torch.arange(m)) and torch.equal(alphas, torch.ones(m))
    assert mapper.dtype == torch.int64 and alphas.dtype == torch.float32


def test_a_word_for_a_word_of_as_many_tokens_maps_one_to_one():
    assert torch.equal(replacement(CLIP, "a red house by the sea", "a blue house by the sea"), torch.eye(77))
    assert torch.equal(replacement(CLIP, "a Cat , asleep", "the dog, ASLEEP"), torch.eye(77))
    assert torch.equal(replacement(CLIP, "a cat! \U0001f984", "a dog. \U0001f984"), torch.eye(77))


def test_a_word_that_becomes_longer_or_shorter_is_spread_and_the_rest_follows_in_order():
    short, long = "a cat on top", "a photorealistically on top"  # 1 and 3 tokens
    grown = torch.zeros(77, 77)
    grown[0, 0] = grown[1, 1] = 1
    grown[2, 2:5] = 1 / 3
    grown[3:75, 5:77] = torch.eye(72)
    assert torch.equal(replacement(CLIP, short, long), grown)
    shrunk = torch.zeros(77, 77)
    shrunk[0, 0] = shrunk[1, 1] = 1
    shrunk[2:5, 2] = 1
    shrunk[5:77, 3:75] = torch.eye(72)
    assert torch.equal(replacement(CLIP, long, short), shrunk)


def test_signs_between_words_are_not_words_and_map_to_those_in_their_place():
    mapper = replacement(CLIP, "a cat, asleep", "a dog asleep")
    assert mapper[:, :5].nonzero().tolist() == [[0, 0], [1, 1], [2, 2], [4, 3], [5, 4]]
    mapper = replacement(CLIP, "a cat asleep", "a dog, asleep")
    assert mapper[:, 3].sum() == 0 and mapper[3, 4] == mapper[4, 5] == 1
    mapper = replacement(CLIP, "a cat !? b", "a cat \U0001f9ff b")
    n = len(positions(CLIP, "a cat \U0001f9ff b", "\U0001f9ff"))
    assert n > 1 and torch.equal(mapper[3, 3 : 3 + n], torch.full((n,), 1 / n))


@few
@given(TOKENIZERS, st.lists(st.tuples(WORDS, SIGNS, WORDS, SIGNS), max_size=6))
def test_a_replaced_map_keeps_its_sum_but_for_what_has_no_place(tokenizer, parts):
    prompt, edited = "".join(p[0] + p[1] for p in parts), "".join(p[2] + p[3] for p in parts)
    try:
        mapper = replacement(tokenizer, prompt, edited)
    except ValueError as error:
        assert "cut off" in str(error)
        return
    m, sums = tokenizer.max_length, mapper.sum(1)
    assert mapper.shape == (m, m) and mapper.dtype == torch.float32
    assert (mapper >= 0).all() and (sums <= 1 + 1e-6).all()
    assert mapper[0].nonzero().tolist() == [[0]] and mapper[:, 0].nonzero().tolist() == [[0]]
    here, there = (min(len(tokenizer.encode(text)), m - 2) + 1 for text in (prompt, edited))
    assert mapper[here, there] == sums[here] == 1 == mapper[:, there].sum()
    assert (sums[here : here + m - max(here, there)] == 1).all()
    assert (mapper[:here, there:] == 0).all() and (mapper[here:, :there] == 0).all()
    if max(here, there) < m - 1:  # nothing is cut: the words, written out again
        for (_, start, end), (_, begin, stop) in zip(words(prompt), words(edited), strict=True):
            i = [t for t, span in enumerate(tokenizer.offsets(prompt), 1) if span[0] < end and start < span[1]]
            j = [t for t, span in enumerate(tokenizer.offsets(edited), 1) if span[0] < stop and begin < span[1]]
            block = torch.eye(len(i)) if len(i) == len(j) else torch.full((len(i), len(j)), 1 / len(j))
            assert torch.equal(mapper[i][:, j], block)
            assert torch.allclose(sums[i], torch.ones(len(i)))
            assert torch.allclose(mapper[:, j].sum(0), torch.full((len(j),), len(i) / len(j)))


def test_replace_of_different_numbers_of_words_is_an_error_that_recommends_refine():
    with pytest.raises(ValueError, match="'a cat' has 2 words and 'a red cat!' has 3; use refine"):
        replacement(CLIP, "a cat", "a red cat!")


def test_a_changed_word_that_is_cut_off_is_an_error_and_an_unchanged_one_is_not():
    short = BPE.clip(max_length=5)  # 3 tokens of text
    for prompt, edited in [("a big cat", "a big, dog"), ("a big, dog", "a big cat"), ("a cat", "a photorealistically")]:
        with pytest.raises(ValueError, match="('dog'|'photorealistically') is cut off: only the first 3 tokens"):
            replacement(short, prompt, edited)
    mapper = replacement(short, "a cat sat", "the cat, sat")  # bos a cat sat eos -> bos the cat , eos
    assert mapper.nonzero().tolist() == [[0, 0], [1, 1], [2, 2], [4, 4]]


# --- Refine ----------------------------------------------------------------------------------------------------------


def best_score(source, target, match=1, mismatch=-1, gap=0):
    """Of all alignments, by trying all of them."""

    @cache
    def best(i, j):
        ways = [match if source[i] == target[j] else mismatch] if i < len(source) and j < len(target) else []
        ways = [way + best(i + 1, j + 1) for way in ways]
        ways += [gap + best(i + 1, j)] if i < len(source) else []
        ways += [gap + best(i, j + 1)] if j < len(target) else []
        return max(ways, default=0)

    return best(0, 0)


@settings(deadline=None, max_examples=300)
@given(IDS, IDS)
def test_an_alignment_pairs_equal_tokens_in_order_and_has_the_best_score(source, target):
    pairs = align(source, target)
    taken = [i for i in pairs if i is not None]
    assert len(pairs) == len(target) and taken == sorted(set(taken))
    assert all(source[i] == target[j] for j, i in enumerate(pairs) if i is not None)
    assert len(taken) == best_score(tuple(source), tuple(target))  # 1 a match, 0 a gap, and no mismatch


@settings(deadline=None, max_examples=300)
@given(IDS, IDS)
def test_of_equal_alignments_the_last_step_inserts_if_it_may_and_else_drops_if_it_may(source, target):
    def pairs(x, y):
        if not x or not y:
            return [None] * len(y)
        score = best_score(x, y)
        if best_score(x, y[:-1]) == score:
            return [*pairs(x, y[:-1]), None]
        if best_score(x[:-1], y) == score:
            return pairs(x[:-1], y)
        return [*pairs(x[:-1], y[:-1]), len(x) - 1]

    assert align(source, target) == pairs(tuple(source), tuple(target))


def test_ties_by_example():
    assert align("ab", "ba") == [1, None]  # drops a, pairs b, inserts a; not the other way about
    assert align("aa", "a") == [0] and align("a", "aa") == [0, None]
    assert align("abc", "xbz") == [None, 1, None] and align("", "a") == [None] and align("a", "") == []


@few
@given(TOKENIZERS, ANY_TEXT, ANY_TEXT)
@example(TINY, f"a {EOS} cat", "a cat")
def test_what_takes_a_map_takes_it_from_an_equal_token_in_order_and_none_is_taken_twice(tokenizer, prompt, edited):
    mapper, alphas = refinement(tokenizer, prompt, edited)
    source, target = tokenizer([prompt, edited])
    m, takes = tokenizer.max_length, alphas == 1
    here, there = (min(len(tokenizer.encode(text)), m - 2) + 1 for text in (prompt, edited))  # where eos stands
    assert mapper.shape == alphas.shape == (m,) and set(alphas.tolist()) <= {0, 1}
    assert torch.equal(source[mapper[takes]], target[takes])
    assert (mapper[takes].diff() > 0).all() and torch.equal(mapper[~takes], torch.arange(m)[~takes])
    assert (mapper[0], mapper[there], alphas[0], alphas[there]) == (0, here, 1, 1)
    assert alphas[1:there].sum() == best_score(tuple(source[1:here].tolist()), tuple(target[1:there].tolist()))
    assert alphas[there + 1 :].sum() == m - 1 - max(here, there)
    assert torch.equal(mapper[there + 1 :], torch.arange(there + 1, m))


def test_an_inserted_word_keeps_its_own_map():
    mapper, alphas = refinement(CLIP, "a house by the sea", "a red house by the sea")
    assert mapper.tolist() == [0, 1, 2, 2, 3, 4, 5, 6, *range(8, 77)]
    assert (alphas == 0).nonzero().tolist() == [[2]]
    mapper, alphas = refinement(CLIP, "a Cat", "a photo of a cat, asleep")  # of two "a" the first
    assert alphas[1:8].tolist() == [1, 0, 0, 0, 1, 0, 0] and mapper[5] == 2


def test_a_dropped_word_gives_its_map_to_nothing_and_neither_does_eos_give_it_twice():
    mapper, alphas = refinement(CLIP, "a red house", "a house")
    assert mapper[:4].tolist() == [0, 1, 3, 4] and alphas[:6].tolist() == [1, 1, 1, 1, 0, 1]
    assert mapper[4:].tolist() == [*range(4, 77)]


def test_of_a_cut_prompt_only_what_is_left_is_aligned():
    mapper, alphas = refinement(BPE.clip(max_length=5), "the red sea cat", "a cat by the red sea")
    assert mapper.tolist() == [0, 1, 2, 3, 4] and alphas.tolist() == [1, 0, 0, 0, 1]
    with pytest.raises(ValueError, match="cut off"):
        positions(BPE.clip(max_length=2), "a", "a")
    assert refinement(BPE.clip(max_length=2), "a", "b")[1].tolist() == [1, 1]
