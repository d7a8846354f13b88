"""Learning a vocabulary for `BPE` from texts (Sennrich et al. 2016)."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

import regex

from .bpe import BPE, clean, join, symbols_of, words
from .vocabulary import BOS, END, EOS, SYMBOL, Pair


def learn_bpe(texts: Iterable[str], vocab_size: int = 1000, max_length: int = 77) -> BPE:
    """At most `vocab_size` tokens: 361 bytes, the commonest pairs joined, bos, eos (which also pads).

    There are fewer when every word has become one token. Only how often each word occurs matters, not the order.
    """
    if isinstance(texts, str):
        raise TypeError("learn_bpe takes a list of texts, not one string")
    alphabet = smallest_alphabet()
    if vocab_size < len(alphabet) + 2:
        raise ValueError(f"vocab_size={vocab_size}, but bytes and special tokens alone need {len(alphabet) + 2}")
    vocab, merges = {symbol: i for i, symbol in enumerate(alphabet)}, []
    for pair in commonest_pairs(Counter(word for text in texts for word, _ in words(clean(text)[0]))):
        if len(vocab) + 2 == vocab_size:
            break
        merges.append(pair)
        vocab.setdefault("".join(pair), len(vocab))
    bos, eos = len(vocab), len(vocab) + 1
    return BPE(vocab | {BOS: bos, EOS: eos}, tuple(merges), bos=bos, eos=eos, pad=eos, max_length=max_length)


def smallest_alphabet() -> list[str]:
    """The 361 symbols that every cleaned word is made of: bytes within a word, then bytes at its end.

    There are no capitals and no white space, a digit is a word of its own, and UTF-8 never has 0xC0, 0xC1 and 0xF5 on.
    """
    plain = [byte for byte in range(128) if not regex.match(r"[A-Z\s]", chr(byte))]
    within = [byte for byte in plain if not chr(byte).isdigit()] + [*range(0x80, 0xC0), *range(0xC2, 0xF5)]
    at_the_end = plain + [*range(0x80, 0xC0)]
    return [SYMBOL[byte] for byte in within] + [SYMBOL[byte] + END for byte in at_the_end]


def commonest_pairs(counts: Counter[str]) -> Iterator[Pair]:
    """The pair of neighbours seen most often (of equals the smallest), joined everywhere; and again, till none is left.

    Sennrich et al. 2016, algorithm 1; only the words that hold the pair are counted anew.
    """
    parts = {word: symbols_of(word) for word in counts}
    seen, where = Counter(), defaultdict(set)

    def count_pairs(word: str, times: int) -> None:
        for pair in zip(parts[word], parts[word][1:]):
            seen[pair] += times
            where[pair].add(word)

    for word, times in counts.items():
        count_pairs(word, times)
    while seen:
        best = min(seen, key=lambda pair: (-seen[pair], pair))
        yield best
        for word in where.pop(best):
            count_pairs(word, -counts[word])
            parts[word] = join(parts[word], {best: 0})
            count_pairs(word, counts[word])
        seen = +seen  # only what is still seen
