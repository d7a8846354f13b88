"""From a text to words, and from words to symbols that are joined pair by pair."""

import heapq
from collections.abc import Iterator, Sequence
from unicodedata import combining, is_normalized, normalize

import regex

BOS, EOS, END = "<|startoftext|>", "<|endoftext|>", "</w>"
Pair = tuple[str, str]

VISIBLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
HIDDEN = [byte for byte in range(256) if byte not in VISIBLE]
SYMBOL = {byte: chr(byte) for byte in VISIBLE} | {byte: chr(256 + i) for i, byte in enumerate(HIDDEN)}
"""A visible character for each byte (GPT-2's alphabet), in the order of CLIP's ids."""
BYTE = {symbol: byte for byte, symbol in SYMBOL.items()}

WORDS = regex.compile(r"(<\|)(startoftext|endoftext)(\|>)|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+")
"""A name that becomes a special token's only by lower-casing stays text: three words."""
SURROGATES = regex.compile("[\ud800-\udfff]")


def clean(text: str) -> tuple[str, Sequence[int], Sequence[int]]:
    """NFC and lower case, with where each character of the result starts and ends in `text`.

    Lower case is taken without regard to neighbours: a final capital sigma becomes the ordinary small one. Half a
    surrogate pair (an undecodable byte of a command line) becomes U+FFFD.
    """
    if text.isascii():
        return text.lower(), range(len(text)), range(1, len(text) + 1)
    text = SURROGATES.sub("\ufffd", text)
    cleaned, starts, ends = [], [], []
    for start, end in clusters(text):
        part = normalize("NFC", text[start:end]).lower()
        cleaned.append(part)
        starts += [start] * len(part)
        ends += [end] * len(part)
    return "".join(cleaned), starts, ends


def clusters(text: str) -> Iterator[tuple[int, int]]:
    """(start, end) of the smallest parts that NFC changes apart: a letter and its accents, a Hangul syllable."""
    if is_normalized("NFC", text):
        yield from zip(range(len(text)), range(1, len(text) + 1))
        return
    start = 0
    for i in range(1, len(text)):
        here = text[i]
        if combining(normalize("NFD", here)[0]):
            continue  # a mark may move or melt into what precedes it
        before = text[start:i]
        if normalize("NFC", before + here) == normalize("NFC", before) + normalize("NFC", here):
            yield start, i
            start = i
    yield start, len(text)


def split_at(text: str, pattern: regex.Pattern | None, ids: dict[str, int]) -> Iterator[tuple[str, int, int | None]]:
    """(part, its start, its id or None): what the pattern finds, and what is between."""
    at = 0
    for found in pattern.finditer(text) if pattern else ():
        if at < found.start():
            yield text[at : found.start()], at, None
        yield found.group(), found.start(), ids[found.group()]
        at = found.end()
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
