"""What all layouts share: the text and the image files of one pair, field names, and errors that name the file.

A layout has a length, `text(i)` and `files(i)`, which read one pair and nothing else (see `edits.Layout`).
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ... import files
from ...regular import read_regular, require_regular
from ...schema import Name, checked, from_dict

NAMES = {
    "source": ("source", "source_image", "source_img", "input_image", "original_image", "before"),
    "target": ("target", "target_image", "target_img", "edited_image", "output_image", "after"),
    "edit": ("edit", "instruction", "edit_prompt", "edit_instruction"),
    "input": ("input", "caption", "input_caption", "original_prompt", "original_caption", "source_caption"),
    "output": ("output", "edited_prompt", "output_caption", "edited_caption", "target_caption"),
}
"""role -> field names in published sets and tables, as `plain` writes them; "input" and "output" are captions"""
ALSO_IMAGES = {"source": ("input", "original", "image"), "target": ("output", "edited")}
"""role -> further field names, where what they hold is an image and not a text"""
MAX_IMAGE = 256 << 20
MAX_JSON = 32 << 20
"""bytes of a file that is read whole"""
MAX_TEXT = 20_000
"""characters of an instruction or a caption"""


@checked
class Columns:
    """What a set calls its columns, where that is none of `NAMES`; a name may also be written as `plain` has it."""

    source: Name | None = None
    """the image to edit"""
    target: Name | None = None
    """the edited image"""
    edit: Name | None = None
    """the instruction"""
    input: Name | None = None
    """the source's caption"""
    output: Name | None = None
    """the target's caption"""

    @classmethod
    def parse(cls, words: Iterable[str]) -> "Columns":
        """From words such as "source=original_image". Raises ValueError in one line."""
        pairs = [word.partition("=") for word in words]
        if wrong := [name for name, equals, _ in pairs if not equals]:
            raise ValueError(f"columns {wrong[0]!r}: expected ROLE=NAME, e.g. source=original_image")
        return from_dict(cls, {role.strip(): name.strip() for role, _, name in pairs}, "columns: ")

    @property
    def given(self) -> dict[str, str]:
        """Role -> name, of those that are named."""
        return {role: name for role, name in vars(self).items() if name is not None}

    def find(self, fields: Iterable[str], where: str) -> dict[str, str]:
        """Role -> its field, of the roles that are named. Raises EditsError, which begins with `where`, for a name that
        is not there."""
        fields, found = [name for name in fields if isinstance(name, str)], {}
        for role, name in self.given.items():
            same = [name] if name in fields else [each for each in fields if plain(each) == plain(name)]
            if not same:
                raise EditsError(f"{where}: no column {name!r} for the {role}; there are {', '.join(fields):.300}")
            found[role] = same[0]
        return found

    def rename(self, row: Mapping[str, Any], where: str) -> Mapping[str, Any]:
        """The row with the fields of the roles that are named called as `NAMES` has them first, and no others of
        these. Raises EditsError as `find`."""
        found = self.find(row, where)
        known = {name for role in found for name in NAMES[role]} if found else set()
        others = {name: row[name] for name in row if name not in found.values() and plain(str(name)) not in known}
        return others | {role: row[name] for role, name in found.items()}


NO_COLUMNS = Columns()
"""a set whose columns all have known names"""


class EditsError(ValueError):
    """A set of pairs, or one pair, that cannot be read: one line that names it, without control characters."""

    def __init__(self, message: str):
        super().__init__(printable(message))


def printable(text: str) -> str:
    """The text on one line and not too long for it; what a terminal would not show as a letter is escaped."""
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in " ".join(text.split()))
    return text if len(text) <= 600 else f"{text[:300]} ... {text[-250:]}"


class EncodedImage(NamedTuple):
    """An image file, not decoded."""

    name: str
    """where it is stored, for errors"""
    data: bytes


@dataclass(frozen=True, kw_only=True)
class EditText:
    """Everything about a pair except its images."""

    name: str
    """where the pair is in its set"""
    key: str
    """unique in the set, and the same when pairs are added or removed"""
    instruction: str
    input: str | None = None
    """the source's caption, if there is one"""
    output: str | None = None
    """the target's caption, if there is one"""
    origin: str | None = None
    """names the source image, where pairs without a common caption have it in common"""

    @property
    def group(self) -> str:
        """Pairs of one group stay in one split: `origin`, else the caption without capitals and outer spaces, else the
        instruction and the key."""
        if self.origin is not None:
            return self.origin
        return f"{self.instruction}\n{self.key}" if self.input is None else self.input.strip().lower()


def plain(name: str) -> str:
    """A field name in lower case with underscores, without what only says that it names a file: "Source Image",
    "sourceImage" and "source_image_file_name" are "source_image"."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.strip())
    words = re.sub(r"[\s_-]+", "_", words).lower()
    return re.sub(r"(?<=.)_(file_?name|file|path)$", "", words)


def find_field(values: Mapping | Iterable, names: Iterable[str], fits: Callable[[Any], bool] | None = None) -> Any:
    """The field of `values` with the first of these names, as it is written there; None without one.

    fits: whether what a field holds (`values[field]`) can be meant.
    """
    known: dict[str, Any] = {}
    for name in values:
        known.setdefault(plain(name) if isinstance(name, str) else name, name)
    found = (known[name] for name in names if name in known)
    return next((name for name in found if fits is None or fits(values[name])), None)


def read_text(values: Mapping, where: str, key: str) -> EditText:
    """The text of a pair from a row with any of the NAMES. `where` names the row in errors."""
    fields = {role: find_field(values, NAMES[role], _is_text) for role in ("edit", "input", "output")}
    if fields["edit"] is None:
        found = ", ".join(str(name) for name in values if name not in ("key", "origin")) or "nothing"
        raise EditsError(
            f"{where}: no instruction as 'edit' (or {', '.join(NAMES['edit'][1:])}); there is {found:.300}"
        )
    texts = {role: values[field].strip() for role, field in fields.items() if field is not None}
    if long := [role for role, text in texts.items() if len(text) > MAX_TEXT]:
        raise EditsError(f"{where}: {long[0]!r} has {len(texts[long[0]]):,} characters; expected at most {MAX_TEXT:,}")
    known = {name: values[name] for name in ("key", "origin") if isinstance(values.get(name), str)}
    captions = {role: texts[role] for role in ("input", "output") if texts.get(role)}
    return EditText(name=key, instruction=texts["edit"], **{"key": key} | captions | known)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def read_file(path: Path, most: int = MAX_IMAGE) -> bytes:
    """The bytes of a regular file with at most so many. Raises EditsError that names it."""
    return read_regular(path, most, EditsError)


def size_of(path: Path) -> int:
    """The bytes of a regular file, by its entry. Raises EditsError that names it: devices and pipes may have no end."""
    try:
        require_regular(path, EditsError)
        return path.stat().st_size
    except FileNotFoundError:
        raise EditsError(f"{path}: no such file") from None
    except OSError as error:
        raise cannot_read(path, error) from None


def read_part(path: Path, offset: int, size: int, what: str) -> bytes:
    """`size` bytes of a file. Raises EditsError that names file and `what`."""
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            data = file.read(size)
    except OSError as error:
        raise cannot_read(path, error) from None
    if len(data) < size:
        raise EditsError(f"{path}: cut short since it was opened, in the {what}")
    return data


def cannot_read(path: Path, error: OSError) -> EditsError:
    """The system's error as one that names the file."""
    return EditsError(f"{path}: {(error.strerror or str(error)).lower()}")


def read_json(path: Path, kind: type = dict) -> Any:
    """The JSON value in a file. Raises EditsError that names it."""
    return files.parse_json(read_file(path, MAX_JSON), str(path), EditsError, kind)
