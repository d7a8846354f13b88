"""CLIP's tokenizer: byte-level byte-pair encoding (Radford et al. 2021; BPE: Sennrich et al. 2016).

    text -> special tokens out -> NFC, lower case -> words -> bytes -> the best-ranked pair joined, until none is left

Each byte is written as one visible character, and the last of a word ends in "</w>". Ids equal those of transformers'
CLIPTokenizer. The authors' environment first repairs broken encodings and quotes (ftfy), as `cleaning` can. OpenAI's
own code also un-escapes HTML twice: "&amp;" is one ampersand there and three words here. A character newer than
Python's Unicode tables may give other ids than there.
"""

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property, lru_cache

import regex
import torch

from . import vocabulary
from .cleaning import clean_repaired, warn_of_cut, warn_of_repair
from .unicode import clean_unicode
from .vocabulary import BOS, END, EOS, SYMBOL, Pair

WORDS = regex.compile(r"(<\|)(startoftext|endoftext)(\|>)|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+")
"""The name of a special token that appears only by lower-casing stays text: three words."""


@dataclass(frozen=True)
class BPE:
    """A vocabulary and its merges. It compares, pickles and goes to JSON as the value it is.

    >>> BPE.clip()(["a photo of a cat"])[0, :7]
    tensor([49406,   320,  1125,   539,   320,  2368, 49407])
    """

    vocab: dict[str, int] = field(repr=False)
    merges: tuple[Pair, ...] = field(repr=False)
    """the best first; both symbols and what they make are in the vocabulary"""
    bos: int
    eos: int
    """also the id of a symbol that the vocabulary lacks"""
    pad: int
    max_length: int = 77
    lifted: dict[str, bool] = field(default_factory=lambda: {BOS: False, EOS: False}, repr=False)
    """special tokens, taken out of a text whole; True: looked for in the cleaned text, False: in the text as given"""
    cleaning: str = "none"
    """what is done to a text first: a word of `cleaning.CLEANINGS`"""

    __post_init__ = vocabulary.check
    clip = classmethod(vocabulary.clip)
    from_dict = classmethod(vocabulary.from_dict)
    from_folder = classmethod(vocabulary.read_folder)
    to_dict = vocabulary.to_dict
    save = vocabulary.write_folder
    decode = vocabulary.decode

    def __call__(self, texts: str | Sequence[str]) -> torch.Tensor:
        """(b, max_length) int64: bos, the text, eos, padding. A text too long is cut; eos stays last."""
        texts = [texts] if isinstance(texts, str) else list(texts)
        tokens = torch.full((len(texts), self.max_length), self.pad, dtype=torch.long)
        for row, text in zip(tokens, texts):
            ids = [self.bos, *self.encode(text)[: self.max_length - 2], self.eos]
            row[: len(ids)] = torch.tensor(ids)
        return tokens

    def encode(self, text: str) -> list[int]:
        """Ids of a text of any length, without bos and eos around it."""
        if not isinstance(text, str):
            raise TypeError(f"a text was expected, not {text!r:.80} ({type(text).__name__})")
        return [token for token, _, _ in self._tokens(text)]

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """For each id of `encode(text)`, the (start, end) of what it stands for in the text as given.

        Ids that share a character (the bytes of an emoji) share its span.
        """
        return [(start, end) for _, start, end in self._tokens(text)]

    def warn(self, texts: Iterable[str]) -> None:
        """A `TextWarning` for each text whose end has no room in a row, or that the authors' environment repairs."""
        for text in texts:
            if beyond := self.offsets(text)[self.max_length - 2 :]:
                warn_of_cut(text, self.max_length - 2, text[beyond[0][0] :])
            if self.cleaning == "none" and not text.isascii():
                warn_of_repair(text)

    def _tokens(self, text: str, cleaned: bool = False) -> Iterator[tuple[int, int, int]]:
        """(id, start, end): special tokens of the text as given, then of the cleaned text, then words."""
        for part, at, special in split_at(text, *self._special[cleaned]):
            if special is not None:
                yield special, at, at + len(part)
            elif not cleaned:
                part, starts, ends = clean(part, self.cleaning)
                for token, i, j in self._tokens(part, cleaned=True):
                    yield token, at + starts[i], at + ends[j - 1]
            else:
                for word, first in words(part):
                    for token, i, j in self._remembered(word) if len(word) < 100 else self._tokens_of_word(word):
                        yield token, at + first + i, at + first + j

    def _tokens_of_word(self, word: str) -> list[tuple[int, int, int]]:
        owner = [i for i, character in enumerate(word) for _ in character.encode()]
        tokens, at = [], 0
        for name in join(symbols_of(word), self._ranks):
            end = min(at + len(name), len(owner))  # a symbol a byte; the last name is longer by "</w>"
            tokens.append((self.vocab.get(name, self.eos), owner[at], owner[end - 1] + 1))
            at = end
        return tokens

    @cached_property
    def _remembered(self):
        return lru_cache(maxsize=1 << 16)(self._tokens_of_word)

    @cached_property
    def _ranks(self) -> dict[Pair, int]:
        return {pair: rank for rank, pair in enumerate(self.merges)}

    @cached_property
    def _special(self) -> dict[bool, tuple[regex.Pattern, dict[str, int]]]:
        """What to look for in a text as given (False) and in a cleaned one (True): first letters, and ids by name."""
        tables = {}
        for after in (False, True):
            names = [name for name, cleaned in self.lifted.items() if cleaned == after]
            ids = {clean(name)[0] if after else name: self.vocab[name] for name in names}
            first = "".join(sorted({name[0] for name in ids}))
            tables[after] = regex.compile(f"[{regex.escape(first)}]" if ids else "(?!)"), ids
        return tables

    def __reduce__(self):
        return BPE, tuple(getattr(self, each.name) for each in fields(self))


def clean(text: str, cleaning: str = "none") -> tuple[str, Sequence[int], Sequence[int]]:
    """The text by `cleaning`, NFC and in lower case, with where each character of it starts and ends in `text`."""
    if cleaning == "none" and text.isascii():
        return text.lower(), range(len(text)), range(1, len(text) + 1)
    return clean_unicode(text) if cleaning == "none" else clean_repaired(text, cleaning)


def split_at(text: str, first: regex.Pattern, ids: dict[str, int]) -> Iterator[tuple[str, int, int | None]]:
    """(part, its start, its id or None): names in `ids`, the longest at each place, and what is between."""
    at = 0
    for i in (found.start() for found in first.finditer(text)):
        ends = range(i + vocabulary.LONGEST_SPECIAL, i, -1) if i >= at else ()
        if name := next((text[i:end] for end in ends if text[i:end] in ids), None):
            if at < i:
                yield text[at:i], at, None
            yield name, i, ids[name]
            at = i + len(name)
    if at < len(text):
        yield text[at:], at, None


def words(cleaned: str) -> Iterator[tuple[str, int]]:
    """(word, its start): runs of letters, single digits, runs of other signs, English contractions; no white space."""
    for found in WORDS.finditer(cleaned):
        for group in (1, 2, 3) if found.lastindex else (0,):
            yield found.group(group), found.start(group)


def symbols_of(word: str) -> list[str]:
    """A symbol for each byte, the last with "</w>"."""
    symbols = [SYMBOL[byte] for byte in word.encode()]
    return [*symbols[:-1], symbols[-1] + END]


def join(symbols: list[str], ranks: dict[Pair, int]) -> list[str]:
    """Join the pair of lowest rank, of equals the leftmost, until no pair has a rank: n log n, by a heap of pairs."""
    symbols, n = list(symbols), len(symbols)
    left, right = list(range(-1, n - 1)), list(range(1, n + 1))
    heap = []

    def propose(i: int, j: int) -> None:
        rank = ranks.get((symbols[i], symbols[j])) if 0 <= i and j < n else None
        if rank is not None:
            heapq.heappush(heap, (rank, i, symbols[i] + symbols[j]))

    for i in range(n - 1):
        propose(i, i + 1)
    while heap:
        _, i, both = heapq.heappop(heap)
        j = right[i]
        if j == n or symbols[i] + symbols[j] != both or (symbols[i], symbols[j]) not in ranks:
            continue  # one of the two has been joined to another since
        symbols[i], symbols[j] = both, ""
        right[i] = right[j]
        if right[i] < n:
            left[right[i]] = i
        propose(left[i], i)
        propose(i, right[i])
    return [symbol for symbol in symbols if symbol]
