"""A user's own pairs: two folders of images with a table of instructions, or with one instruction for all.

    edits = open_table(source="before", target="after", table="edits.jsonl")
    edits = open_table(source="before", target="after", edit="make it night")     # images of equal names

A broken row keeps its place: reading it raises its error.
"""

import os
from collections.abc import Iterator, Mapping
from hashlib import sha256
from os import PathLike
from pathlib import Path
from typing import Any

from .. import picture_files
from ..picture_files import is_picture_name
from ..tables import ENDINGS, columns, place, read_rows
from .common import (
    ALSO_IMAGES,
    NAMES,
    NO_COLUMNS,
    Columns,
    EditsError,
    EditText,
    EncodedImage,
    find_field,
    read_file,
    size_of,
)

SHARED_NAMES = ("file", "file_name", "filename", "picture", "image", "name")
"""field names for a file name that both images have"""
MAX_LENGTH = 2000
"""characters of an instruction or a caption; CLIP reads about 300 of them, more is another column or a broken table"""


Row = tuple[EditText, tuple[Path, Path]]
"""the text of a pair and the files of its images"""


class Table:
    """Pairs by file names."""

    def __init__(self, rows: list[Row | EditsError]):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def row(self, i: int) -> Row:
        """The row. Raises its EditsError if it is broken."""
        row = self.rows[i]
        if isinstance(row, EditsError):
            raise EditsError(str(row))
        return row

    def text(self, i: int) -> EditText:
        return self.row(i)[0]

    def files(self, i: int) -> tuple[EncodedImage, EncodedImage]:
        text, paths = self.row(i)
        try:
            source, target = (EncodedImage(f"{text.name}: {path}", read_file(path)) for path in paths)
        except EditsError as error:
            raise EditsError(f"{text.name}: {error}") from None
        return source, target

    def header(self, i: int) -> tuple[Path, str]:
        text, (source, _) = self.row(i)
        return source, f"{text.name}: {source}"


def open_table(
    *,
    source: str | PathLike | None = None,
    target: str | PathLike | None = None,
    table: str | PathLike | None = None,
    edit: str | None = None,
    columns: Columns = NO_COLUMNS,
) -> Table:
    """The pairs in the rows of a table (`data.tables`), or all images of equal names in two folders.

    source, target: the folders that names are relative to; the table's own folder unless given. A row names both images
    (with any of NAMES), or has one name for both; an image may be named without its ending. It has an instruction and
    perhaps captions (`input`, `output`). edit: the instruction of rows without one. columns: other names of these.
    Raises EditsError if a folder or the table is missing or empty.
    """
    for name, folder in (("source", source), ("target", target)):
        if folder is not None and not Path(folder).is_dir():
            raise EditsError(f"{name} {folder}: no such folder")
        if folder is None and table is None:
            raise EditsError(f"missing the folder of {name} images; or a table that names both images of each pair")
    if table is not None:
        rows = _rows_of(Path(table), source, target, edit, columns)
    elif columns.given:
        raise EditsError("columns: expected a table, too; images of equal names have no columns")
    elif edit is None:
        raise EditsError("missing the instruction: one for all pairs, or a table with one for each")
    elif os.path.samefile(source, target):
        raise EditsError(f"source and target are one folder, {source}; expected the images before and after in two")
    else:
        rows = list(_equal_names(Path(source), Path(target), edit))
    if not rows and table is None:
        raise EditsError(f"{source}, {target}: no images ({', '.join(picture_files.ENDINGS)})")
    if not rows:
        example = '{"source": "a.jpg", "target": "b.jpg", "edit": "make it night"}'
        raise EditsError(f"{table} is empty; expected rows like {example}")
    return Table(rows)


def table_in(folder: Path) -> Path | None:
    """The table of a folder of images as Hugging Face's libraries expect it."""
    found = (folder / f"metadata{ending}" for ending in ENDINGS)
    return next((path for path in found if path.is_file()), None)


def _equal_names(source: Path, target: Path, edit: str) -> Iterator[Row | EditsError]:
    """A row for each name in either folder, in order."""
    sides = [_Side("source", source), _Side("target", target)]
    for stem in sorted({stem for side in sides for stem in side.files}):
        try:
            yield _row(stem, sides, (sides[0].only(stem), sides[1].only(stem)), {"edit": edit})
        except EditsError as error:
            yield error


def _rows_of(table: Path, source, target, edit: str | None, named: Columns) -> list[Row | EditsError]:
    sides = [_Side("source", Path(source or table.parent)), _Side("target", Path(target or table.parent))]
    rows: list[Row | EditsError] = []
    for number, values in read_rows(table, lambda _, error: rows.append(error)):
        where = place(table, number)
        try:
            renamed = named.rename(values, where) if named.given else values
            given = {name: value for name, value in renamed.items() if value not in (None, "")}
            names, texts = _names_of(given, sides)
            if find_field(texts, NAMES["edit"]) is None and edit is not None:
                texts["edit"] = edit
            rows.append(_row(where, sides, names, texts))
        except _Missing as error:
            rows.append(EditsError(f"{where}: {error}; there are {columns(table, values)}"))
        except EditsError as error:
            rows.append(error if str(error).startswith(where) else EditsError(f"{where}: {error}"))
    if rows and all(isinstance(row, EditsError) for row in rows):
        raise EditsError(f"{rows[0]}; all {len(rows):,} rows are broken" if len(rows) > 1 else str(rows[0]))
    return rows


class _Missing(EditsError):
    """A field that a row lacks."""


class _Side:
    """The folder of source or target images; listed on first use."""

    def __init__(self, role: str, folder: Path):
        self.role, self.folder, self._files = role, folder, None

    @property
    def files(self) -> dict[str, list[str]]:
        """Names without ending -> the images of that name, in the folder and below it, both relative to it."""
        if self._files is None:
            self._files = {}
            for place, folders, files in os.walk(self.folder):
                folders[:] = sorted(name for name in folders if not name.startswith("."))
                for name in sorted(filter(is_picture_name, files)):
                    path = Path(place, name).relative_to(self.folder)
                    self._files.setdefault(path.with_suffix("").as_posix(), []).append(path.as_posix())
        return self._files

    def only(self, stem: str) -> str:
        """The one image of that name."""
        found = self.files.get(stem, [])
        if not found:
            raise EditsError(f"{stem}: no {self.role} image of that name in {self.folder}")
        if len(found) > 1:
            raise EditsError(f"{stem}: which {self.role} image in {self.folder}, {' or '.join(found)}?")
        return found[0]

    def written(self, name: str) -> str:
        """The name with this system's separators, if it is written with those of Windows."""
        return name if os.sep == "\\" or self.has(name) else name.replace("\\", "/")

    def has(self, name: Any) -> bool:
        """Whether this names a file."""
        try:
            return isinstance(name, str) and (self.folder / name).is_file()
        except (OSError, ValueError):  # too long a name, or none that a file can have
            return False

    def means(self, value: Any) -> bool:
        """Whether a field's value is an image's name and not a text."""
        if not isinstance(value, str):
            return False
        name = self.written(value)
        return is_picture_name(Path(name).name) or self.has(name) or Path(name).as_posix() in self.files

    def find(self, own: str | None, other: str) -> str:
        """The image that a row names; or the one with that name, or with the other image's name, and any ending."""
        own, other = own and self.written(own), self.written(other)
        if own is not None and is_picture_name(Path(own).name):
            size_of(self.folder / own)
        name = other if own is None else own
        if self.has(name):
            return name
        path = Path(name)
        return self.only((path.with_suffix("") if is_picture_name(path.name) else path).as_posix())


def _names_of(values: Mapping, sides: list[_Side]) -> tuple[tuple[str, str], dict]:
    """The names of both images of a row, and its other fields."""
    shared, fields = find_field(values, SHARED_NAMES, _is_name), []
    for side in sides:
        names = [*NAMES[side.role], *ALSO_IMAGES[side.role]]
        field = find_field(values, names, side.has) or find_field(values, names, side.means)
        fields.append(field or (find_field(values, NAMES[side.role]) if shared is None else None))
    own = [None if field is None else values[field] for field in fields]
    for field, name in zip(fields, own):
        if name is not None and not isinstance(name, str):
            raise EditsError(f"{field!r} is {name!r:.80}; expected a file's name")
    both = None if shared is None else values[shared]
    known = both or own[0] or own[1]
    if known is None:
        hint = "; 'input' is a caption here" if "input" in values else ""
        raise _Missing(f"neither 'source' nor 'target' names an image{hint}")
    return (sides[0].find(own[0], known), sides[1].find(own[1], known)), {
        field: value for field, value in values.items() if field not in fields
    }


def _is_name(value: Any) -> bool:
    return isinstance(value, str)


def _row(where: str, sides: list[_Side], names: tuple[str, str], values: Mapping) -> Row:
    """The row, its texts checked."""
    paths = sides[0].folder / names[0], sides[1].folder / names[1]
    if paths[0] == paths[1]:
        raise _Missing(f"source and target are one file, {paths[0]}")
    fields = {role: find_field(values, NAMES[role]) for role in ("edit", "input", "output")}
    texts = {role: None if field is None else values[field] for role, field in fields.items()}
    for role, text in texts.items():
        check_text(role, text)
    texts = {role: text.strip() or None for role, text in texts.items() if text is not None}
    edit, caption = texts.pop("edit"), texts.get("input")
    key = sha256("\0".join((*names, edit)).encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return EditText(name=where, key=key, instruction=edit, origin=None if caption else names[0], **texts), paths


def check_text(role: str, text: object) -> None:
    """Raise EditsError unless it is a usable instruction (`edit`), or a usable caption or None."""
    if text is None and role == "edit":
        raise _Missing("there is no instruction ('edit'), neither in the row nor one for all")
    if text is None:
        return
    if not isinstance(text, str):
        raise EditsError(f"{role!r} is {text!r:.80}; expected a text")
    if not text.strip() and role == "edit":
        raise EditsError("the instruction is empty")
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise EditsError(f"{role!r} holds half a character, which is not valid Unicode: {text!r:.80}")
    if len(text) > MAX_LENGTH:
        raise EditsError(f"{role!r} has {len(text):,} characters; expected at most {MAX_LENGTH:,}")
