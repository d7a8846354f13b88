"""Pairing the tokens of two prompts, for Prompt-to-Prompt (Hertz et al. 2022, section 3.2).

Positions are those in the padded row that the text encoder reads: 0 is bos, the first token of the text is 1. A text is
cut off after m - 2 tokens, and nothing maps to or from what is cut off.

    Replace, "word swap":         target_map[..., j] = sum_i source_map[..., i] mapper[i, j]
    Refine, "a new phrase added": target_map[..., j] = alphas[j] source_map[..., mapper[j]]
                                                       + (1 - alphas[j]) target_map[..., j]

Replace pairs words, found in the text itself. Published code splits at spaces, so "cat," is another word than "cat",
and after a word that changes its number of tokens it pairs by position; here words stay paired.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

import regex
import torch
from torch import Tensor

from .bpe import clean

LETTERS = r"[\p{L}\p{N}][\p{L}\p{M}\p{N}\u200c\u200d]*"
INSIDE = r"[\p{L}\p{M}\p{N}\u200c\u200d]"
WORD = regex.compile(rf"{LETTERS}(?:['\u2019\-\u2010\u2011]{LETTERS})*")

Span = tuple[int, int]


class Tokenizer(Protocol):
    """What an alignment needs of a tokenizer (`BPE`). offsets: (start, end) in the text of each id of `encode`."""

    @property
    def max_length(self) -> int: ...

    def encode(self, text: str) -> list[int]: ...

    def offsets(self, text: str) -> list[Span]: ...


def words(prompt: str) -> list[tuple[str, int, int]]:
    """(word as written, its start, its end): runs of letters and digits with their accents.

    A single apostrophe or hyphen between letters or digits belongs to the word: "cat's", "blue-green". All other signs,
    such as emoji, are between words.
    """
    return [(found.group(), found.start(), found.end()) for found in WORD.finditer(prompt)]


def positions(tokenizer: Tokenizer, prompt: str, word: str) -> list[int]:
    """The token positions of all occurrences of a word or phrase, in order.

    Case, the encoding of accents and white space inside a phrase do not matter. Words match whole: "cat" in "a cat,
    asleep" and in "Cat's", not in "category". Occurrences that are cut off are left out. Raises ValueError for a word
    that is absent or always cut off.
    """
    spans = list(_occurrences(prompt, word))
    if not spans:
        there = ", ".join(dict.fromkeys(name for name, *_ in words(prompt)))
        raise ValueError(f"{word!r} is not in the prompt {prompt!r}" + (f"; its words are: {there}" if there else ""))
    offsets = tokenizer.offsets(prompt)
    found = [[t for t, (a, b) in enumerate(offsets, 1) if a < end and start < b] for start, end in spans]
    kept = {t for tokens in found if _fits(tokenizer, tokens) for t in tokens}
    if not kept:
        raise _cut(tokenizer, prompt, word)
    return sorted(kept)


def replacement(tokenizer: Tokenizer, prompt: str, edited: str) -> Tensor:
    """Replace's mapper (m, m), float32: how much of source token i's map goes to edited token j's.

    Words are paired in order, and so are the signs between them. k tokens that become k map one to one; k that become
    l != k each give 1 / l to each of the l. bos, eos and padding map in order. So

    - a row sums to 1, so a map over the source's tokens keeps its sum; less where the edited row has no place for it: a
      sign that was dropped, text that is cut off, the last padding of a prompt that grew (0);
    - a word's column sums to k / l; that of a new sign, or of the last padding of a prompt that shrank, to 0;
    - equal prompts give the identity.

    Raises ValueError for prompts with different numbers of words, and for a changed word that is cut off.
    """
    m = tokenizer.max_length
    mapper = torch.zeros(m, m)
    mapper[0, 0] = 1
    for source, target in _segment_pairs(tokenizer, prompt, edited):
        if len(source) == len(target):
            weights = [(i, j, 1.0) for i, j in zip(source, target)]
        else:
            weights = [(i, j, 1 / len(target)) for i in source for j in target]
        for i, j, weight in weights:
            if max(i, j) <= m - 2:
                mapper[i, j] = weight
    ends = [len(_kept_ids(tokenizer, text)) + 1 for text in (prompt, edited)]
    for i, j in zip(*(range(end, m) for end in ends)):
        mapper[i, j] = 1
    return mapper


def refinement(tokenizer: Tokenizer, prompt: str, edited: str) -> tuple[Tensor, Tensor]:
    """Refine's mapper (m,), int64, and alphas (m,), float32: 1 where edited token j takes the map of source token
    mapper[j]; 0 where it keeps its own (mapper[j] is then j).

    Tokens are paired by `align`, bos with bos, eos with eos; padding takes the map of the same place if the source has
    padding there. So a map is taken from an equal token, in order, and never twice. (In published code all padding
    takes the map of the same place, even from a longer source's words and eos.)
    """
    mapper, alphas = torch.arange(tokenizer.max_length), torch.ones(tokenizer.max_length)
    source, target = _kept_ids(tokenizer, prompt), _kept_ids(tokenizer, edited)
    for j, i in enumerate(align(source, target), 1):
        mapper[j], alphas[j] = (j, 0) if i is None else (i + 1, 1)
    mapper[len(target) + 1] = len(source) + 1
    alphas[len(target) + 2 : len(source) + 2] = 0
    return mapper, alphas


def align(source: Sequence[int], target: Sequence[int]) -> list[int | None]:
    """For each item of target, the index of its partner in source; None if it is inserted.

    Needleman & Wunsch (1970) as in Prompt-to-Prompt's code: a match scores 1, a mismatch -1, a gap 0. Two gaps beat a
    mismatch, so only equal items are paired, and the best score is the length of the longest common subsequence. Among
    equally good alignments: the one that inserts latest in the target, then drops latest in the source.
    """
    best = [[0] * (len(target) + 1) for _ in range(len(source) + 1)]  # best[i][j]: of the first i and the first j
    for i, x in enumerate(source, 1):
        for j, y in enumerate(target, 1):
            best[i][j] = max(best[i][j - 1], best[i - 1][j], best[i - 1][j - 1] + (1 if x == y else -1))
    pairs: list[int | None] = [None] * len(target)
    i, j = len(source), len(target)
    while i and j:
        if best[i][j] == best[i][j - 1]:
            j -= 1
        elif best[i][j] == best[i - 1][j]:
            i -= 1
        else:
            i, j = i - 1, j - 1
            pairs[j] = i
    return pairs


def _occurrences(prompt: str, word: str) -> Iterator[Span]:
    """The spans of the word in the prompt as given."""
    parts = clean(word)[0].split()
    if not parts:
        raise ValueError(f"an empty word {word!r} was looked for in the prompt {prompt!r}; name one of its words")
    pattern = r"\s+".join(map(regex.escape, parts))
    if regex.match(INSIDE, parts[0]):
        pattern = f"(?<!{INSIDE}){pattern}"
    if regex.match(INSIDE, parts[-1][-1]):
        pattern = f"{pattern}(?!{INSIDE})"
    cleaned, starts, ends = clean(prompt)
    for found in regex.finditer(pattern, cleaned, regex.IGNORECASE | regex.FULLCASE):
        yield starts[found.start()], ends[found.end() - 1]


def _segments(tokenizer: Tokenizer, prompt: str) -> list[list[int]]:
    """The token positions before, in, between, in, ... and after the n words: 2 n + 1 lists, cut-off ones included."""
    spans = [(start, end) for _, start, end in words(prompt)]
    segments: list[list[int]] = [[] for _ in range(2 * len(spans) + 1)]
    n = 0
    for t, (start, end) in enumerate(tokenizer.offsets(prompt), 1):
        while n < len(spans) and spans[n][1] <= start:
            n += 1
        inside = n < len(spans) and spans[n][0] < end
        segments[2 * n + inside].append(t)
    return segments


def _segment_pairs(tokenizer: Tokenizer, prompt: str, edited: str) -> list[tuple[list[int], list[int]]]:
    """The paired segments of two prompts. Raises ValueError if the words cannot be paired."""
    source, target = words(prompt), words(edited)
    if len(source) != len(target):
        raise ValueError(
            f"replace swaps word for word, but {prompt!r} has {len(source)} words and {edited!r} has {len(target)}; "
            "use refine for prompts of different lengths"
        )
    pairs = list(zip(_segments(tokenizer, prompt), _segments(tokenizer, edited)))
    for (before, *_), (after, *_), sides in zip(source, target, pairs[1::2]):
        if clean(before)[0] != clean(after)[0]:
            for text, word, tokens in zip((prompt, edited), (before, after), sides):
                if not _fits(tokenizer, tokens):
                    raise _cut(tokenizer, text, word)
    return pairs


def _kept_ids(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """The ids between bos and eos in the row."""
    return tokenizer.encode(prompt)[: tokenizer.max_length - 2]


def _fits(tokenizer: Tokenizer, tokens: Sequence[int]) -> bool:
    """Whether none of these positions is cut off; the last of the row is eos."""
    return max(tokens, default=0) <= tokenizer.max_length - 2


def _cut(tokenizer: Tokenizer, prompt: str, word: str) -> ValueError:
    return ValueError(
        f"{word!r} is cut off: only the first {tokenizer.max_length - 2} tokens of a prompt are read, and "
        f"{prompt!r} has {len(tokenizer.encode(prompt))}; shorten it"
    )
