"""What the command line prints: names, texts and metadata as they are, but without control over the terminal."""

import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
"""control characters (C0, C1, of writing direction), ends of lines, and halves of characters"""


def plain(text: str) -> str:
    """The text on one line, with control characters as JSON's escapes, e.g. \\u001b."""
    return CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def say(*lines: str, error: bool = False) -> None:
    """Print lines to stdout, or stderr: the only place where the command line prints."""
    stream = sys.stderr if error else sys.stdout
    letters = getattr(stream, "encoding", None) or "utf-8"
    for line in lines:
        text = plain(line).encode(letters, "backslashreplace").decode(letters)
        if "tqdm" in sys.modules:  # there may be a bar, above which it goes
            sys.modules["tqdm"].tqdm.write(text, file=stream)
        else:
            print(text, file=stream)


def note(text: str) -> None:
    """Print something that the user may not expect, on stderr."""
    say(f"minip2p: note: {text}", error=True)


@contextmanager
def warnings_as_notes() -> Iterator[None]:
    """Print this package's warnings as notes, each once."""
    usual, seen = warnings.showwarning, set()

    def show(message: Any, category: type, *place: Any, **more: Any) -> None:
        if not category.__module__.startswith("minip2p."):
            usual(message, category, *place, **more)
        elif str(message) not in seen:
            seen.add(str(message))
            note(str(message))

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield
