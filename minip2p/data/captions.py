"""Captions, and triplets of caption, instruction and edited caption: their tables, and their text for a language model.

The prompt is `caption\\n##\\n`, the completion `edit\\n%%\\noutput\\nEND`, as in the paper.
"""

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

ASK, BETWEEN, STOP = "\n##\n", "\n%%\n", "\nEND"
NAMES = ("input", "caption")
"""field names of a caption; the first one is written"""
ENDINGS = (".jsonl", ".csv", ".txt")
"""of tables"""


class Refused(ValueError):
    """A completion that is not a valid instruction; the message is the rule that it breaks."""


@dataclass(frozen=True, kw_only=True)
class Triplet:
    """A caption, an instruction, and the edited caption."""

    input: str
    edit: str
    output: str


def prompt_text(caption: str) -> str:
    """The prompt of a language model."""
    return caption + ASK


def completion_text(edit: str, output: str) -> str:
    """The completion that a language model learns."""
    return f"{edit}{BETWEEN}{output}{STOP}"


def parse_completion(caption: str, completion: str) -> tuple[str, str]:
    """(instruction, edited caption) of a completion, with or without its STOP. Raises Refused.

    The authors' rules: exactly two parts, and an edited caption that differs from the caption. Ours: neither part is
    empty or has several lines.
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
    """A caption without what makes no difference: in lower case, without `.!?` and spaces at both ends."""
    return text.lower().strip().strip(".!? ").strip()


def one_line(text: str) -> str:
    """The lines of a text joined by spaces."""
    return " ".join(line for line in map(str.strip, text.splitlines()) if line)


def distinct(captions: Iterable[str]) -> list[str]:
    """The captions without those that are equal to an earlier one (as `bare` compares them)."""
    first: dict[str, str] = {}
    for caption in captions:
        first.setdefault(bare(caption), caption)
    return list(first.values())


def read_rows(
    path: str | Path, on_broken: Callable[[int, ValueError], None] | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, row) of a table: .jsonl with an object per line, .csv with a header, .txt with a caption per line.

    Empty lines are skipped. Raises ValueError that names file and line; `on_broken`, if given, gets it instead.
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise ValueError(f"{path}: unknown ending {path.suffix!r}; expected one of {', '.join(ENDINGS)}")
    try:
        with open(path, encoding="utf-8-sig", newline="" if ending == ".csv" else None) as file:
            for number, row in _csv_rows(file) if ending == ".csv" else _line_rows(file, ending):
                if not isinstance(row, str):
                    yield number, row
                    continue
                error = ValueError(f"{path}, line {number}: {row}")
                if on_broken is None:
                    raise error
                on_broken(number, error)
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text") from None
    except csv.Error as error:
        raise ValueError(f"{path}: not a table of comma-separated values ({error})") from None


def _csv_rows(file: TextIO) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """(line number, row, or what is wrong with it)."""
    table = csv.DictReader(file)
    for row in table:
        complete = None not in row and None not in row.values()
        yield table.line_num, row if complete else "not as many values as the header has names"


def _line_rows(file: TextIO, ending: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """(line number, row, or what is wrong with it)."""
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        if ending == ".txt":
            yield number, {NAMES[0]: line.strip()}
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield number, f"not JSON ({error})"
            continue
        yield number, row if isinstance(row, dict) else f"expected an object, found a {type(row).__name__}"


def text_of(path: str | Path, number: int, row: dict[str, Any], *names: str) -> str:
    """The row's text in the first of these fields that it has. Raises ValueError if it has none or it is no text."""
    name = next((name for name in names if name in row), None)
    if name is None:
        found = ", ".join(map(repr, row)) or "-"
        raise ValueError(f"{path}, line {number}: {names[0]!r} is missing; there are {found}")
    text = row[name]
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{path}, line {number}: {name!r} is {json.dumps(text)[:80]}; expected a text")
    if any("\ud800" <= letter <= "\udfff" for letter in text):  # JSON can contain them, UTF-8 cannot
        raise ValueError(f"{path}, line {number}: {name!r} holds half a character (a lone surrogate); expected a text")
    return text.strip()


def read_captions(path: str | Path) -> list[str]:
    """All captions of a table, each on one line. Raises ValueError that names file and line, or if there are none."""
    captions = [one_line(text_of(path, number, row, *NAMES)) for number, row in read_rows(path)]
    if not captions:
        raise ValueError(f"{path} is empty; expected one text per line")
    return captions


def read_triplets(path: str | Path) -> list[Triplet]:
    """All triplets of a table: `input` (or `caption`), `edit`, `output`; each on one line.

    Raises ValueError that names file and line, or if there are none.
    """
    keys = {"input": NAMES, "edit": ("edit",), "output": ("output",)}
    triplets = [
        Triplet(**{key: one_line(text_of(path, number, row, *names)) for key, names in keys.items()})
        for number, row in read_rows(path)
    ]
    if not triplets:
        raise ValueError(f'{path} is empty; expected lines like {{"input": "...", "edit": "...", "output": "..."}}')
    return triplets
