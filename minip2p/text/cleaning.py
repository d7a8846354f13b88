"""What is done to a text before it is tokenized; warnings of texts that are cut, or that the authors' code repairs."""

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from typing import Any

import regex

from .unicode import clean_unicode


class TextWarning(UserWarning):
    """A text is not read as it stands."""


def ftfy(text: str) -> str:
    """Broken encodings repaired, curly quotes straight, full width narrow: ftfy.fix_text, as CLIPTokenizer did it."""
    try:
        from ftfy import fix_text
    except ImportError:
        raise ValueError("text cleaning 'ftfy' needs ftfy: pip install ftfy") from None
    return fix_text(text)


CLEANINGS: dict[str, Callable[[str], str]] = {"none": str, "ftfy": ftfy}
"""word -> the text that is tokenized. "none" as today's tokenizers have it, "ftfy" as the authors' environment"""
REPAIRED = regex.compile(
    "[\u2018-\u201f\ufb00-\ufb06\uff01-\uffee]|[\u00c2\u00c3\u00e2\u00f0][\u0080-\u00bf\u0152-\u2122]"
)
"""signs of what ftfy changes: curly quotes, ligatures, full width, UTF-8 that was read as Latin-1 or Windows-1252"""
PARTS = regex.compile(r"\s+|\S+")
"""words, and white space between them"""


def repaired(text: str, word: str) -> tuple[str, Sequence[int], Sequence[int]]:
    """The text cleaned, with where each character of the result starts and ends in `text`."""
    result = CLEANINGS[word](text)
    if result == text:
        return text, list(range(len(text))), list(range(1, len(text) + 1))
    before, after = PARTS.findall(text), PARTS.findall(result)
    if len(before) != len(after):
        before, after = [text], [result]
    there: list[tuple[int, int]] = []
    most, at = 50 if len(before) > 1 else 300, 0
    for old, new in zip(before, after, strict=True):
        there += [(at + i, at + j) for i, j in _matched(old, new, most)]
        at += len(old)
    return result, [start for start, _ in there], [end for _, end in there]


def _matched(old: str, new: str, most: int) -> list[tuple[int, int]]:
    """Where each character of `new` comes from in `old`. Texts of over `most` characters are not compared, which would
    take the third power of their length: a character of the one is that of the other, or comes from all of it."""
    there: list[tuple[int, int]] = []
    codes = [("replace", 0, len(old), 0, len(new))]
    if old != new and max(len(old), len(new)) <= most:
        codes = SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    for what, i, j, k, m in codes:
        one_to_one = what == "equal" or j - i == m - k
        there += [(i + n, i + n + 1) for n in range(m - k)] if one_to_one else [(i, max(j, i + 1))] * (m - k)
    return there


def clean_repaired(text: str, word: str) -> tuple[str, Sequence[int], Sequence[int]]:
    """As `clean_unicode`, after the cleaning of that word."""
    result, starts, ends = repaired(text, word)
    result, first, last = clean_unicode(result)
    return result, [starts[i] for i in first], [ends[i - 1] for i in last]


def warn_of_cut(text: str, room: int, lost: str) -> None:
    """A TextWarning for a text of which only `room` tokens are read."""
    warnings.warn(f"the text {text!r:.60} is cut to {room} tokens; lost: {lost!r:.300}", TextWarning, stacklevel=3)


def note_of_cut(texts: Sequence[str | None], tokenizer: Any) -> str:
    """How many texts of a set are cut, with an example and the part that is lost; "" if none is.

    Texts so short that they must fit are not tokenized, and of equal texts one. A tokenizer without `offsets` says
    nothing.
    """
    room = tokenizer.max_length - 2 if hasattr(tokenizer, "offsets") else 0
    long = Counter(text for text in texts if room and text and len(text) * (1 if text.isascii() else 12) > room)
    cut = {text: spans[room][0] for text in long if len(spans := tokenizer.offsets(text)) > room}
    if not cut:
        return ""
    text, n = min(cut, key=len), sum(long[text] for text in cut)
    return (
        f"{n:,} of {len(texts):,} texts are cut to {room} tokens, e.g. {text!r:.60}; lost: {text[cut[text] :]!r:.300}"
    )


def warn_of_repair(text: str) -> None:
    """A TextWarning for a text that ftfy changes, and with it what the authors' environment makes of a seed."""
    if found := REPAIRED.search(text):
        what = f"the text {text!r:.60} has {found[0]!r}, which the authors' environment repairs by ftfy"
        warnings.warn(f"{what}; text cleaning 'ftfy' does the same", TextWarning, stacklevel=3)
