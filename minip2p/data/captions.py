"""Captions, and triplets of caption, instruction and edited caption: reading them, and the text that a writer sees.

A writer is asked with `caption\\n##\\n` and answers `edit\\n%%\\noutput\\nEND`, as the paper's language model was.
"""

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ASK, BETWEEN, STOP = "\n##\n", "\n%%\n", "\nEND"
NAMES = ("input", "caption")
"""what a caption may be called in a row; the first is what is written"""
ENDINGS = (".jsonl", ".ndjson", ".csv", ".txt")
"""of tables that are read"""


class Refused(ValueError):
    """A completion that gives no instruction; the message is the rule that it falls to."""


@dataclass(frozen=True, kw_only=True)
class Triplet:
    """A caption, an instruction, and the caption after it."""

    input: str
    edit: str
    output: str


def prompt_text(caption: str) -> str:
    """What a writer is asked."""
    return caption + ASK


def completion_text(edit: str, output: str) -> str:
    """What it should answer."""
    return f"{edit}{BETWEEN}{output}{STOP}"


def parse_completion(caption: str, completion: str) -> tuple[str, str]:
    """(instruction, edited caption) of an answer, with or without its STOP. Raises Refused.

    The authors' rules: exactly two parts, and an edited caption that is another caption. Beyond theirs, neither part is
    empty or has more than one line: such a part is the caption of nothing.
    """
    parts = completion.split(STOP)[0].split(BETWEEN)
    if len(parts) != 2:
        raise Refused(f"{len(parts)} parts in place of 2")
    edit, output = (part.strip() for part in parts)
    if not edit or not output:
        raise Refused("an empty part")
    if any(len(part.splitlines()) > 1 for part in (edit, output)):
        raise Refused("a part of several lines")
    if bare(output) == bare(caption):
        raise Refused("nothing changes")
    return edit, output


def bare(text: str) -> str:
    """A caption without what makes no difference: capital letters, and `.!?` at its ends."""
    return text.lower().strip().strip(".!? ").strip()


def one_line(text: str) -> str:
    """A text of several lines as one; a text of one line as it is."""
    return " ".join(line for line in map(str.strip, text.splitlines()) if line)


def distinct(captions: Iterable[str]) -> list[str]:
    """The captions without those that an earlier one tells already, but for what makes no difference."""
    first: dict[str, str] = {}
    for caption in captions:
        first.setdefault(bare(caption), caption)
    return list(first.values())


def read_rows(
    path: str | Path, on_broken: Callable[[int, ValueError], None] | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, row) of a table: .jsonl an object a line, .csv with a head line, .txt a caption a line. Empty lines pass.

    Raises ValueError that names file and line; `on_broken`, if given, is told of a broken line instead.
    """
    path = Path(path)

    def refuse(number: int, error: ValueError) -> None:
        if on_broken is None:
            raise error
        on_broken(number, error)

    if path.suffix.lower() not in ENDINGS:
        raise ValueError(f"{path}: unknown ending {path.suffix!r}; expected one of {', '.join(ENDINGS)}")
    try:
        with open(path, encoding="utf-8-sig", newline="" if path.suffix.lower() == ".csv" else None) as file:
            if path.suffix.lower() == ".csv":
                table = csv.DictReader(file)
                for row in table:
                    if None in row or None in row.values():
                        where = f"{path}, line {table.line_num}"
                        refuse(table.line_num, ValueError(f"{where}: not as many values as the head line has names"))
                        continue
                    yield table.line_num, row
                return
            for number, line in enumerate(file, 1):
                if line.strip():
                    try:
                        row = _row(path, number, line.strip())
                    except ValueError as error:
                        refuse(number, error)
                        continue
                    yield number, row
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not a text in UTF-8") from None
    except csv.Error as error:
        raise ValueError(f"{path}: not a table of comma-separated values ({error})") from None


def _row(path: Path, number: int, line: str) -> dict[str, Any]:
    if path.suffix.lower() not in (".jsonl", ".ndjson"):
        return {NAMES[0]: line}
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}, line {number}: not JSON ({error})") from None
    if not isinstance(row, dict):
        raise ValueError(f'{path}, line {number}: expected an object like {{"input": "a cat in a meadow"}}')
    return row


def text_of(path: str | Path, number: int, row: dict[str, Any], *names: str) -> str:
    """The row's text under the first of the names that it has. Raises ValueError where it has none, or no text."""
    name = next((name for name in names if name in row), None)
    if name is None:
        there = ", ".join(map(repr, row)) or "-"
        raise ValueError(f"{path}, line {number}: {names[0]!r} is missing; there are {there}")
    text = row[name]
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{path}, line {number}: {name!r} is {json.dumps(text)[:80]}; expected a text")
    if any("\ud800" <= letter <= "\udfff" for letter in text):  # JSON can tell them, no file in UTF-8 can
        raise ValueError(f"{path}, line {number}: {name!r} holds half of a letter (a lone surrogate); expected a text")
    return text.strip()


def read_captions(path: str | Path) -> list[str]:
    """All captions of a table, each on one line. Raises ValueError that names file and line, or tells of none."""
    captions = [one_line(text_of(path, number, row, *NAMES)) for number, row in read_rows(path)]
    if not captions:
        raise ValueError(f"{path} is empty; expected captions, one a line")
    return captions


def read_triplets(path: str | Path) -> list[Triplet]:
    """All triplets of a table: `input` (or `caption`), `edit`, `output`; each on one line.

    Raises ValueError that names file and line; also where there are none.
    """
    keys = {"input": NAMES, "edit": ("edit",), "output": ("output",)}
    triplets = [
        Triplet(**{key: one_line(text_of(path, number, row, *names)) for key, names in keys.items()})
        for number, row in read_rows(path)
    ]
    if not triplets:
        raise ValueError(f'{path} is empty; expected lines like {{"input": "...", "edit": "...", "output": "..."}}')
    return triplets


def read_words(path: str | Path) -> list[str]:
    """Words and phrases of a text, one a line. Raises ValueError; also where there are none."""
    words = [text_of(path, number, row, NAMES[0]) for number, row in read_rows(path)]
    if not words:
        raise ValueError(f"{path} is empty; expected words, one a line")
    return words
