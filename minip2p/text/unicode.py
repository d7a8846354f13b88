"""NFC and lower case for texts beyond ASCII, without losing where each character came from."""

from collections.abc import Iterator, Sequence
from unicodedata import combining, is_normalized, normalize

import regex

SURROGATES = regex.compile("[\ud800-\udfff]")
MOST_MARKS = 1000
"""characters that NFC sees at once: it takes the square of their number, and no letter has so many accents"""
MANY_MARKS = regex.compile(rf"\p{{M}}{{{MOST_MARKS}}}")


def clean_unicode(text: str) -> tuple[str, Sequence[int], Sequence[int]]:
    """NFC and lower case, with where each character of the result starts and ends in `text`.

    Lower case ignores neighbours: a final capital sigma becomes the ordinary small one. Half a surrogate pair (an
    undecodable byte of a command line) becomes U+FFFD.
    """
    text = SURROGATES.sub("\ufffd", text)
    lower = text.lower()
    if len(lower) == len(text) and "\u03a3" not in text and _is_nfc(text):
        return lower, range(len(text)), range(1, len(text) + 1)
    cleaned, starts, ends = [], [], []
    for start, end in clusters(text):
        part = normalize("NFC", text[start:end]).lower()
        cleaned.append(part)
        starts += [start] * len(part)
        ends += [end] * len(part)
    return "".join(cleaned), starts, ends


def clusters(text: str) -> Iterator[tuple[int, int]]:
    """(start, end) of the smallest parts that NFC changes apart: a letter and its accents, a Hangul syllable."""
    if _is_nfc(text):
        yield from zip(range(len(text)), range(1, len(text) + 1))
        return
    start = 0
    for i in range(1, len(text)):
        here, full = text[i], i - start == MOST_MARKS
        if not full and combining(normalize("NFD", here)[0]):
            continue  # a mark may move or melt into what precedes it
        before = text[start:i]
        if full or normalize("NFC", before + here) == normalize("NFC", before) + normalize("NFC", here):
            yield start, i
            start = i
    yield start, len(text)


def _is_nfc(text: str) -> bool:
    return not MANY_MARKS.search(text) and is_normalized("NFC", text)
