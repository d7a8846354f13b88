"""What all layouts share: the text and the image files of one pair, field names, and errors that name the file.

A layout has a length, `text(i)` and `files(i)`, which read one pair and nothing else (see `edits.Layout`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ... import files

IMAGE_ENDINGS = ("jpg", "jpeg", "png", "webp")
NAMES = {
    "source": ("source", "source_image", "source_img", "input_image", "original_image", "before", "source_file"),
    "target": ("target", "target_image", "target_img", "edited_image", "output_image", "after", "target_file"),
    "edit": ("edit", "instruction", "edit_prompt", "edit_instruction"),
    "input": ("input", "caption", "input_caption", "original_prompt", "original_caption", "source_caption"),
    "output": ("output", "edited_prompt", "output_caption", "edited_caption", "target_caption"),
}
"""role -> field names in published sets and tables; "input" and "output" are captions"""


class EditsError(ValueError):
    """A set of pairs, or one pair, that cannot be read: one line that names it."""


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


def field_of(values: Mapping, role: str) -> str | None:
    """The first of the role's NAMES that `values` has."""
    return next((name for name in NAMES[role] if name in values), None)


def read_text(values: Mapping, where: str, key: str) -> EditText:
    """The text of a pair from a row with any of the NAMES. `where` names the row in errors."""
    edit = values.get(field_of(values, "edit"))
    if not isinstance(edit, str):
        found = ", ".join(map(str, values)) or "nothing"
        raise EditsError(f"{where}: no instruction as 'edit' (or {', '.join(NAMES['edit'][1:])}); there is {found}")
    captions = {role: values.get(field_of(values, role)) for role in ("input", "output")}
    captions = {role: text.strip() for role, text in captions.items() if isinstance(text, str) and text.strip()}
    known = {name: values[name] for name in ("key", "origin") if isinstance(values.get(name), str)}
    return EditText(name=key, instruction=edit.strip(), **{"key": key} | captions | known)


def read_file(path: Path) -> bytes:
    """The file's bytes. Raises EditsError that names it."""
    try:
        return path.read_bytes()
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
    return files.read_json(path, EditsError, kind)


def read_seeds(path: Path) -> list[tuple[str, list[str]]]:
    """The authors' seeds.json, [[name, [seed, ...]], ...], with the seeds as text."""
    values = read_json(path, object)
    try:
        return [(name, list(map(str, seeds))) for name, seeds in values if name + ""]
    except (TypeError, ValueError):
        raise EditsError(f'{path}: expected [["0000000", [seed, ...]], ...], names of folders and seeds') from None
