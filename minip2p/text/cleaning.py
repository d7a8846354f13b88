"""What is done to a text before it is tokenized; warnings of texts that are cut, or that the authors' code repairs."""

import warnings
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher

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


def repaired(text: str, word: str) -> tuple[str, Sequence[int], Sequence[int]]:
    """The text cleaned, with where each character of the result starts and ends in `text`."""
    result = CLEANINGS[word](text)
    starts, ends = list(range(len(text))), list(range(1, len(text) + 1))
    if result == text:
        return text, starts, ends
    there: list[tuple[int, int]] = []
    for what, i, j, k, m in SequenceMatcher(None, text, result, autojunk=False).get_opcodes():
        one_to_one = what == "equal" or j - i == m - k
        there += [(i + n, i + n + 1) for n in range(m - k)] if one_to_one else [(i, max(j, i + 1))] * (m - k)
    return result, [start for start, _ in there], [end for _, end in there]


def clean_repaired(text: str, word: str) -> tuple[str, Sequence[int], Sequence[int]]:
    """As `clean_unicode`, after the cleaning of that word."""
    result, starts, ends = repaired(text, word)
    result, first, last = clean_unicode(result)
    return result, [starts[i] for i in first], [ends[i - 1] for i in last]


def warn_of_cut(text: str, room: int, lost: str) -> None:
    """A TextWarning for a text of which only `room` tokens are read."""
    warnings.warn(f"the text {text!r:.60} is cut to {room} tokens; lost: {lost!r:.300}", TextWarning, stacklevel=3)


def warn_of_repair(text: str) -> None:
    """A TextWarning for a text that ftfy changes, and with it what the authors' environment makes of a seed."""
    if found := REPAIRED.search(text):
        what = f"the text {text!r:.60} has {found[0]!r}, which the authors' environment repairs by ftfy"
        warnings.warn(f"{what}; text cleaning 'ftfy' does the same", TextWarning, stacklevel=3)
