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

from ..captions import read_rows
from .common import EditsError, EditText, EncodedImage, field_of, read_file

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
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


def open_table(
    *,
    source: str | PathLike | None = None,
    target: str | PathLike | None = None,
    table: str | PathLike | None = None,
    edit: str | None = None,
) -> Table:
    """The pairs in the rows of a table (.jsonl, .csv), or all images of equal names in two folders.

    source, target: the folders that names are relative to; the table's own folder unless given. A row names both images
    (with any of NAMES), or has one name for both; an image may be named without its ending. It has an instruction and
    perhaps captions (`input`, `output`). edit: the instruction of rows without one.
    Raises EditsError if a folder or the table is missing or empty.
    """
    for name, folder in (("source", source), ("target", target)):
        if folder is not None and not Path(folder).is_dir():
            raise EditsError(f"{name} {folder}: no such folder")
        if folder is None and table is None:
            raise EditsError(f"missing the folder of {name} images; or a table that names both images of each pair")
    if table is not None:
        rows = _rows_of(Path(table), source, target, edit)
    elif edit is None:
        raise EditsError("missing the instruction: one for all pairs, or a table with one for each")
    elif os.path.samefile(source, target):
        raise EditsError(f"source and target are one folder, {source}; expected the images before and after in two")
    else:
        rows = list(_equal_names(Path(source), Path(target), edit))
    if not rows and table is None:
        raise EditsError(f"{source}, {target}: no images ({', '.join(ENDINGS)})")
    if not rows:
        example = '{"source": "a.jpg", "target": "b.jpg", "edit": "make it night"}'
        raise EditsError(f"{table} is empty; expected rows like {example}")
    return Table(rows)


def _equal_names(source: Path, target: Path, edit: str) -> Iterator[Row | EditsError]:
    """A row for each name in either folder, in order."""
    sides = [_Side("source", source), _Side("target", target)]
    for stem in sorted({stem for side in sides for stem in side.files}):
        try:
            yield _row(stem, sides, (sides[0].only(stem), sides[1].only(stem)), {"edit": edit})
        except EditsError as error:
            yield error


def _rows_of(table: Path, source, target, edit: str | None) -> list[Row | EditsError]:
    if table.suffix.lower() not in (".jsonl", ".csv"):
        raise EditsError(f"{table}: expected a .jsonl or .csv table")
    if not table.is_file():
        raise EditsError(f"{table}: no such file")
    sides = [_Side("source", Path(source or table.parent)), _Side("target", Path(target or table.parent))]
    rows: list[Row | EditsError] = []
    for number, values in read_rows(table, lambda _, error: rows.append(EditsError(str(error)))):
        where = f"{table}, line {number}"
        try:
            values = {name: value for name, value in values.items() if value not in (None, "")}
            names = _names_of(values, sides)
            default = {} if edit is None or field_of(values, "edit") else {"edit": edit}
            rows.append(_row(where, sides, names, values | default))
        except EditsError as error:
            rows.append(error if str(error).startswith(where) else EditsError(f"{where}: {error}"))
    return rows


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
                for name in sorted(files):
                    if name.lower().endswith(ENDINGS) and not name.startswith("."):
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

    def find(self, own: str | None, other: str) -> str:
        """The image that a row names; or the one with that name, or with the other image's name, and any ending."""
        if own is not None and (self.folder / own).is_file():
            return own
        if own is not None and own.lower().endswith(ENDINGS):
            raise EditsError(f"{self.folder / own}: no such file")
        name = other if own is None else own
        stem = name[: -len(Path(name).suffix)] if name.lower().endswith(ENDINGS) else name
        return self.only(Path(stem).as_posix())


def _names_of(values: Mapping, sides: list[_Side]) -> tuple[str, str]:
    """The names of both images of a row."""
    own: list[str | None] = []
    for side in sides:
        name = field_of(values, side.role)
        if name is not None and not isinstance(values[name], str):
            raise EditsError(f"{name!r} is {values[name]!r:.80}; expected a file's name")
        own.append(None if name is None else values[name])
    both = next((values[name] for name in SHARED_NAMES if isinstance(values.get(name), str)), None)
    known = both or own[0] or own[1]
    if known is None:
        hint = "; 'input' is a caption here" if "input" in values else ""
        raise EditsError(f"neither 'source' nor 'target' names an image{hint}")
    return sides[0].find(own[0], both or own[1] or known), sides[1].find(own[1], both or own[0] or known)


def _row(where: str, sides: list[_Side], names: tuple[str, str], values: Mapping) -> Row:
    """The row, its texts checked."""
    texts = {role: values.get(field_of(values, role)) for role in ("edit", "input", "output")}
    for role, text in texts.items():
        check_text(role, text, where)
    texts = {role: text.strip() or None for role, text in texts.items() if text is not None}
    edit, caption = texts.pop("edit"), texts.get("input")
    key = sha256("\0".join((*names, edit)).encode("utf-8", "surrogatepass")).hexdigest()[:16]
    text = EditText(name=where, key=key, instruction=edit, origin=None if caption else names[0], **texts)
    return text, (sides[0].folder / names[0], sides[1].folder / names[1])


def check_text(role: str, text: object, where: str) -> None:
    """Raise EditsError unless it is a usable instruction (`edit`), or a usable caption or None."""
    if text is None and role == "edit":
        raise EditsError(f"{where}: there is no instruction ('edit'), neither in the row nor one for all")
    if text is None:
        return
    if not isinstance(text, str):
        raise EditsError(f"{where}: {role!r} is {text!r:.80}; expected a text")
    if not text.strip() and role == "edit":
        raise EditsError(f"{where}: the instruction is empty")
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise EditsError(f"{where}: {role!r} holds half a character, which is not valid Unicode: {text!r:.80}")
    if len(text) > MAX_LENGTH:
        raise EditsError(f"{where}: {role!r} has {len(text):,} characters; expected at most {MAX_LENGTH:,}")
