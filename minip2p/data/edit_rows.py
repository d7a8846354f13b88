"""A user's own pairs: two folders of pictures and a table, or one instruction for all, as a source of edit pairs.

    edits = open_rows(source="before", target="after", table="edits.jsonl")
    edits = open_rows(source="before", target="after", edit="make it night")     # pictures of equal names

A row that is no pair stays in its place and is an error when it is asked for, as a picture that is not there is.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from os import PathLike
from pathlib import Path

import numpy as np

from .captions import read_rows
from .edit_sources import EditsError, EditText, Stored, pick, read_file
from .edits import Edits

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
ONE = ("file", "file_name", "filename", "picture", "image", "name")
"""what a table may call a name that both pictures have"""
LONGEST = 2000
"""characters of an instruction or a caption; CLIP reads about 300 of them, more is another column or a broken table"""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A pair as it is named."""

    where: str
    source: Path
    target: Path
    told: tuple[str, str]
    """the two pictures' names within their folders"""
    edit: str
    input: str | None = None
    output: str | None = None


class Rows:
    """Pairs by file names."""

    def __init__(self, rows: list[Row | EditsError]):
        self.rows, self.units = rows, np.arange(len(rows))

    def __len__(self) -> int:
        return len(self.rows)

    def row(self, i: int) -> Row:
        """The row, or the error that it is."""
        row = self.rows[i]
        if isinstance(row, EditsError):
            raise EditsError(str(row))
        return row

    def text(self, i: int) -> EditText:
        row = self.row(i)
        key = sha256("\0".join((*row.told, row.edit)).encode("utf-8", "surrogatepass")).hexdigest()[:16]
        known = {"input": row.input, "output": row.output, "origin": None if row.input else row.told[0]}
        return EditText(name=row.where, key=key, instruction=row.edit, **known)

    def files(self, i: int) -> tuple[Stored, Stored]:
        row = self.row(i)
        source, target = (Stored(f"{row.where}: {path}", _read(path, row.where)) for path in (row.source, row.target))
        return source, target


def open_rows(
    *, source: str | PathLike | None = None, target: str | PathLike | None = None, table: str | PathLike | None = None,
    edit: str | None = None,
) -> Edits:
    """The pairs that a table (.jsonl, .csv) names, or all pictures of equal names in two folders.

    source, target: the folders that names are relative to; without one, the table's own. A row has both pictures (under
    any of NAMES), or one name for both, or for the one whose partner is called the same but for the ending; an
    instruction; and captions (`input`, `output`), if there are any. edit: the instruction where a row has none.
    Raises ValueError for folders or a table that are not there or hold nothing.
    """
    for name, folder in (("source", source), ("target", target)):
        if folder is not None and not Path(folder).is_dir():
            raise EditsError(f"{name} {folder}: no such folder")
        if folder is None and table is None:
            raise EditsError(f"missing the {name} pictures' folder; or a table that names both pictures of each pair")
    if source is not None and target is not None and os.path.samefile(source, target) and table is None:
        raise EditsError(f"source and target are one folder, {source}; expected the pictures before and after in two")
    if table is None:
        if edit is None:
            raise EditsError("missing the instruction: one for all pairs, or a table with one for each")
        rows = list(_of_equal_names(Path(source), Path(target), edit))
        what = f"{source}, {target}: no pictures ({', '.join(ENDINGS)})"
    else:
        rows = _of_table(Path(table), source, target, edit)
        what = f'{table} is empty; expected rows like {{"source": "a.jpg", "target": "b.jpg", "edit": "make it night"}}'
    if not rows:
        raise EditsError(what)
    return Edits(Rows(rows), str(table or source))


def _of_equal_names(source: Path, target: Path, edit: str) -> Iterator[Row | EditsError]:
    """A row for each name in either folder, in order."""
    sides = {"source": (source, stems(source)), "target": (target, stems(target))}
    for stem in sorted(set().union(*(there for _, there in sides.values()))):
        try:
            names = tuple(_only(stem, there, folder, side) for side, (folder, there) in sides.items())
            yield _row(stem, (source / names[0], target / names[1]), names, {"edit": edit})
        except EditsError as error:
            yield error


def _of_table(table: Path, source, target, edit: str | None) -> list[Row | EditsError]:
    if table.suffix.lower() not in (".jsonl", ".ndjson", ".csv"):
        raise EditsError(f"{table}: expected a table of the kind .jsonl or .csv")
    if not table.is_file():
        raise EditsError(f"{table}: no such file")
    finder = _Finder(*(table.parent if folder is None else Path(folder) for folder in (source, target)))
    rows: list[Row | EditsError] = []
    for number, values in read_rows(table, lambda _, error: rows.append(EditsError(str(error)))):
        where = f"{table}, line {number}"
        try:
            values = {name: value for name, value in values.items() if value not in (None, "")}
            names = finder.names(values, where)
            paths = (finder.folders[0] / names[0], finder.folders[1] / names[1])
            default = {} if edit is None or pick(values, "edit") else {"edit": edit}
            rows.append(_row(where, paths, names, values | default))
        except EditsError as error:
            rows.append(error)
    return rows


class _Finder:
    """From what a row names to two files' names; folders are listed only once it takes that."""

    def __init__(self, source: Path, target: Path):
        self.folders, self.listed = (source, target), [None, None]

    def names(self, values: Mapping, where: str) -> tuple[str, str]:
        given = [self._given(values, role, where) for role in ("source", "target")]
        both = next((values[name] for name in ONE if isinstance(values.get(name), str)), None)
        if given == [None, None] and both is None:
            hint = "; 'input' is a caption here" if "input" in values else ""
            raise EditsError(f"{where}: neither 'source' nor 'target' names a picture{hint}")
        source = self._find(0, given[0], both or given[1], where)
        return source, self._find(1, given[1], both or given[0], where)

    def _given(self, values: Mapping, role: str, where: str) -> str | None:
        name = pick(values, role)
        if name is not None and not isinstance(values[name], str):
            raise EditsError(f"{where}: {name!r} is {values[name]!r:.80}; expected a file's name")
        return None if name is None else values[name]

    def _find(self, side: int, own: str | None, others: str | None, where: str) -> str:
        """The file named, or else the only one with that name and any ending."""
        if own is not None and (self.folders[side] / own).is_file():
            return own
        if own is not None and own.lower().endswith(ENDINGS):
            raise EditsError(f"{where}: {self.folders[side] / own}: no such file")
        if self.listed[side] is None:
            self.listed[side] = stems(self.folders[side])
        name = own if own is not None else others
        stem = name[: -len(Path(name).suffix)] if name.lower().endswith(ENDINGS) else name
        try:
            return _only(Path(stem).as_posix(), self.listed[side], self.folders[side], ("source", "target")[side])
        except EditsError as error:
            raise EditsError(f"{where}: {error}") from None


def stems(folder: Path) -> dict[str, list[str]]:
    """Names without endings -> the pictures of that name, in the folder and below it, both relative to it."""
    found: dict[str, list[str]] = {}
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.lower().endswith(ENDINGS) and not name.startswith("."):
                path = Path(place, name).relative_to(folder)
                found.setdefault(path.with_suffix("").as_posix(), []).append(path.as_posix())
    return found


def _only(stem: str, there: dict[str, list[str]], folder: Path, side: str) -> str:
    found = there.get(stem, [])
    if len(found) == 1:
        return found[0]
    if not found:
        raise EditsError(f"{stem}: there is no {side} picture of that name in {folder}")
    raise EditsError(f"{stem}: which {side} picture in {folder}, {' or '.join(found)}?")


def _row(where: str, paths: tuple[Path, Path], names: tuple[str, str], values: Mapping) -> Row:
    """The row, its texts checked."""
    texts = {role: values.get(pick(values, role)) for role in ("edit", "input", "output")}
    for role, text in texts.items():
        check_text(role, text, where)
    texts = {role: text.strip() or None for role, text in texts.items() if text is not None}
    return Row(where=where, source=paths[0], target=paths[1], told=names, **texts)


def check_text(role: str, text, where: str) -> None:
    """Raises EditsError unless it is a text to learn from, or a caption that is left out."""
    if text is None and role == "edit":
        raise EditsError(f"{where}: there is no instruction ('edit'), neither in the row nor one for all")
    if text is None:
        return
    if not isinstance(text, str):
        raise EditsError(f"{where}: {role!r} is {text!r:.80}; expected a text")
    if not text.strip() and role == "edit":
        raise EditsError(f"{where}: the instruction is empty")
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise EditsError(f"{where}: {role!r} holds half a character, which is no Unicode text: {text!r:.80}")
    if len(text) > LONGEST:
        raise EditsError(f"{where}: {role!r} has {len(text):,} characters; expected at most {LONGEST:,}")


def _read(path: Path, where: str) -> bytes:
    try:
        return read_file(path)
    except EditsError as error:
        raise EditsError(f"{where}: {error}") from None
