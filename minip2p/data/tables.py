"""Tables of texts and file names, one row after the other: .jsonl, .json, .csv, .tsv and .txt."""

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

from .layouts.common import NAMES, EditsError, find_field, plain, read_json, size_of

ENDINGS = (".jsonl", ".json", ".csv", ".tsv", ".txt")
SEPARATORS = ",;\t|"
MAX_LINE = 1 << 20
"""characters of a line"""
Rows = Iterator[tuple[int, dict[str, Any] | str]]
"""(line number, row, or what is wrong with it)"""


def read_rows(
    path: str | Path, on_broken: Callable[[int, ValueError], None] | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, row) of a table: .jsonl with an object per line, .json with a list of objects, .csv or .tsv with a
    header, .txt with a caption per line. A header may be separated by any of SEPARATORS, and so are the rows then.

    Empty lines are skipped. Raises EditsError that names file and line; `on_broken`, if given, gets it instead.
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise EditsError(f"{path}: unknown ending {path.suffix!r}; expected one of {', '.join(ENDINGS)}")
    for number, row in _objects(path) if ending == ".json" else _rows(path, ending):
        if isinstance(row, dict):
            yield number, row
            continue
        error = EditsError(f"{place(path, number)}: {row}")
        if on_broken is None:
            raise error
        on_broken(number, error)


def place(path: str | Path, number: int) -> str:
    """Where a row is, for errors."""
    return f"{path}, {'entry' if Path(path).suffix.lower() == '.json' else 'line'} {number}"


def text_of(path: str | Path, number: int, row: dict[str, Any], *names: str) -> str:
    """The row's text in the first of these fields that it has. Raises EditsError if it has none or it is no text."""
    name = find_field(row, names)
    if name is None:
        raise EditsError(f"{place(path, number)}: {names[0]!r} is missing; there are {columns(path, row)}")
    text = row[name]
    if not isinstance(text, str) or not text.strip():
        raise EditsError(f"{place(path, number)}: {name!r} is {json.dumps(text)[:80]}; expected a text")
    if any("\ud800" <= letter <= "\udfff" for letter in text):  # JSON can contain them, UTF-8 cannot
        raise EditsError(f"{place(path, number)}: {name!r} holds half a character (a lone surrogate); expected a text")
    return text.strip()


def columns(path: str | Path, row: dict[str, Any]) -> str:
    """The fields of a row, for errors, and what separates them in the file."""
    found = ", ".join(map(repr, row))[:300] or "-"
    if Path(path).suffix.lower() not in (".csv", ".tsv"):
        return found
    with _open(Path(path), newline="") as lines:
        return f"{found}, separated by {_table(lines)[0]!r}"


class Lines:
    """The lines of a file, none of which may be longer than MAX_LINE."""

    def __init__(self, path: Path, file: TextIO):
        self.path, self.file, self.number = path, file, 0

    def __iter__(self) -> "Lines":
        return self

    def __next__(self) -> str:
        if not (line := self.file.readline(MAX_LINE + 1)):
            raise StopIteration
        self.number += 1
        if len(line) > MAX_LINE:
            raise EditsError(f"{self.path}, line {self.number} has more than {MAX_LINE:,} characters; expected a table")
        return line


@contextmanager
def _open(path: Path, newline: str | None) -> Iterator[Lines]:
    """The file's lines. Errors of reading become EditsErrors that name the file."""
    size_of(path)
    with open(path, "rb") as file:
        encoding = "utf-16" if file.read(2) in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"  # both are written by Excel
    with open(path, encoding=encoding, newline=newline) as file:
        lines = Lines(path, file)
        try:
            yield lines
        except UnicodeError:
            raise EditsError(f"{path} is not UTF-8 text; save it as UTF-8") from None
        except csv.Error as error:
            raise EditsError(f"{path}, line {lines.number}: not a row of separated values ({error})") from None


def _rows(path: Path, ending: str) -> Rows:
    parse = {".txt": _texts, ".jsonl": _json_lines}.get(ending, _csv_rows)
    with _open(path, newline="" if parse is _csv_rows else None) as lines:
        yield from parse(lines)


def _texts(lines: Lines) -> Rows:
    return ((lines.number, {NAMES["input"][0]: line.strip()}) for line in lines if line.strip())


def _json_lines(lines: Lines) -> Rows:
    for line in filter(str.strip, lines):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield lines.number, f"not JSON ({error})"
        else:
            yield lines.number, _object(row)


def _objects(path: Path) -> Rows:
    return ((number, _object(row)) for number, row in enumerate(read_json(path, list), 1))


def _object(value: Any) -> dict[str, Any] | str:
    return value if isinstance(value, dict) else f"expected an object, found a {type(value).__name__}"


def _csv_rows(lines: Lines) -> Rows:
    separator, table = _table(lines)
    names = [name.strip() for name in next(table, [])]
    known = Counter(plain(name) for name in names if name)
    if twice := [name for name, count in known.items() if count > 1]:
        yield lines.number, f"two columns are called {twice[0]!r}"
        return
    for row in table:
        cells = [cell.strip() for cell in row]
        if not any(cells):
            continue
        if len(cells) < len(names) or any(cells[len(names) :]):
            expected = f"the header has {len(names)} names, separated by {separator!r}: {', '.join(names)}"
            yield lines.number, f"{len(cells)} values, where {expected:.300}"
        else:
            yield lines.number, {name: cell for name, cell in zip(names, cells) if name}


def _table(lines: Lines) -> tuple[str, Iterator[list[str]]]:
    """What separates a table's values, and its header and rows."""
    first = next(filter(str.strip, lines), "")
    if stated := re.fullmatch(r'"?sep=(.)"?\s*', first):  # for Excel
        separator, first = stated[1], next(filter(str.strip, lines), "")
    else:
        widths = {each: len(next(csv.reader([first], delimiter=each), [])) for each in SEPARATORS}
        separator = max(widths, key=widths.__getitem__)
    return separator, csv.reader(chain([first], lines), delimiter=separator, skipinitialspace=True)
