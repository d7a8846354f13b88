"""WebDataset tars: files whose names agree up to the first dot are one pair. Tars are read in place, not unpacked.

Known names are KEY.source.jpg, KEY.0.jpg, KEY_0.jpg and KEY/input.jpg, with KEY.json, KEY.edit.txt or KEY/prompt.json.
"""

import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ...files import parse_json
from ..picture_files import ENDINGS
from ..tars import OpenMember, tar_members
from .common import (
    ALSO_IMAGES,
    MAX_IMAGE,
    MAX_JSON,
    NAMES,
    NO_COLUMNS,
    Columns,
    EditsError,
    EditText,
    EncodedImage,
    cannot_read,
    read_part,
    read_text,
)

SOURCES = {*NAMES["source"], *ALSO_IMAGES["source"], "0"}
TARGETS = {*NAMES["target"], *ALSO_IMAGES["target"], "1"}
TEXTS = {*NAMES["edit"], "", "prompt", "metadata", "info"}
NUMBERED = re.compile(r"(.*)_([01])")
PARTS = ("source", "target", "text")


class Tars:
    """Pairs in tars. Opening reads the headers of all members; reading a pair reads its three members."""

    def __init__(self, tars: list[Path], columns: Columns = NO_COLUMNS):
        """columns: what the files of images are called (KEY.NAME.jpg), and those of texts or their fields."""
        self.tars, self.columns = tars, columns
        self.texts = Columns(**{role: name for role, name in columns.given.items() if role not in PARTS})
        found = [(number, key, parts) for number, tar in enumerate(tars) for key, parts in _members(tar, columns)]
        for side in ("source", "target"):
            if side in columns.given and not any(side in parts for _, _, parts in found):
                there = sorted({name.rpartition("/")[2].partition(".")[2] for name, *_ in tar_members(tars[0])})
                name = columns.given[side]
                raise EditsError(f"{tars[0]}: no file KEY.{name}.jpg for the {side}; there are {', '.join(there):.300}")
        shared = {(n, key): parts["text"] for n, key, parts in found if "text" in parts and len(parts) == 1}
        found = [(n, key, parts) for n, key, parts in found if "source" in parts or "target" in parts]
        if not found:
            raise EditsError(
                f"{tars[0]}: no pair in it, such as KEY.source.jpg, KEY.target.jpg and KEY.json (or KEY.0.jpg, "
                "KEY.1.jpg and KEY.txt)"
            )
        self.keys = np.array([key for _, key, _ in found], dtype=str)
        self.tar_of = np.array([number for number, _, _ in found], dtype=np.int64)
        for number, key, parts in found:  # one text may serve all seeds of a prompt
            if text := shared.get((number, key.rpartition("/")[0])):
                parts.setdefault("text", text)
        spans = [[parts[part][:2] if part in parts else (-1, 0) for part in PARTS] for _, _, parts in found]
        self.spans = np.array(spans, dtype=np.int64)
        self.is_plain = np.array([parts.get("text", ("",))[-1] == "txt" for _, _, parts in found], dtype=bool)
        if self.texts.given:
            self._check_texts()

    def __len__(self) -> int:
        return len(self.keys)

    def text(self, i: int) -> EditText:
        name, data = self._read(i, "text", "text (.json or .txt) with the instruction")
        if self.is_plain[i]:
            return read_text({"edit": data.decode("utf-8", "replace")}, name, str(self.keys[i]))
        values = parse_json(data, name, EditsError)
        return read_text(self.texts.rename(values, name) if self.texts.given else values, name, str(self.keys[i]))

    def _check_texts(self) -> None:
        """Raise EditsError if no text can be read, so that a wrong name of its fields is known at once."""
        errors = []
        for i in range(len(self)):
            try:
                self.text(i)
                return
            except EditsError as error:
                errors.append(error)
        raise errors[0]

    def files(self, i: int) -> tuple[EncodedImage, EncodedImage]:
        return self._read(i, "source", "source image"), self._read(i, "target", "target image")

    def header(self, i: int) -> tuple[OpenMember, str]:
        tar, offset, size = self._place(i, "source", "source image")
        return OpenMember(tar, offset, size), f"{tar}: the source image of {self.keys[i]}"

    def _read(self, i: int, part: str, what: str) -> EncodedImage:
        tar, offset, size = self._place(i, part, what)
        key = self.keys[i]
        return EncodedImage(f"{tar}: the {what} of {key}", read_part(tar, offset, size, f"{what} of {key}"))

    def _place(self, i: int, part: str, what: str) -> tuple[Path, int, int]:
        """The tar of a part, its offset and its bytes."""
        tar, key = self.tars[self.tar_of[i]], self.keys[i]
        offset, size = map(int, self.spans[i, PARTS.index(part)])
        if offset < 0:
            raise EditsError(f"{tar}: {key} has no {what}")
        if size > (most := MAX_JSON if part == "text" else MAX_IMAGE):
            raise EditsError(f"{tar}: the {what} of {key} has {size:,} bytes; expected at most {most:,}")
        return tar, offset, size


def part_of(name: str, columns: Columns = NO_COLUMNS) -> tuple[str, str, str] | None:
    """(key, part, ending) of a file in a tar; part is one of PARTS. None for a file that belongs to no pair."""
    known = {"source": SOURCES, "target": TARGETS, "edit": TEXTS}
    known |= {role: {given.lower()} for role, given in columns.given.items() if role in known}
    folder, slash, base = name.rpartition("/")
    stem, _, tail = base.partition(".")
    role, _, ending = tail.lower().rpartition(".")
    key = folder + slash + stem
    if f".{ending}" in ENDINGS:
        if not role and (numbered := NUMBERED.fullmatch(key)):
            key, role = numbered.groups()
        elif not role and folder:
            key, role = folder, stem.lower()
        part = next((side for side in ("source", "target") if role in known[side]), None)
    elif ending in ("json", "txt"):
        if not role and folder and stem.lower() in TEXTS:
            key, role = folder, stem.lower()
        part = "text" if role in (known["edit"] if ending == "txt" else TEXTS) else None
    else:
        return None
    return None if part is None else (key, part, ending)


def _members(tar: Path, columns: Columns) -> Iterator[tuple[str, dict[str, tuple[int, int, str]]]]:
    """(key, part -> (offset, bytes, ending)) of each pair, in the tar's order."""
    items: dict[str, dict[str, tuple[int, int, str]]] = {}
    try:
        for name, offset, size in tar_members(tar):
            if found := part_of(name.removeprefix("./"), columns):
                key, part, ending = found
                parts = items.setdefault(key, {})
                if part not in parts or (ending == "txt" and columns.edit):  # which names the very file
                    parts[part] = offset, size, ending
    except tarfile.ReadError as error:
        raise EditsError(f"{tar}: not a whole, uncompressed tar ({error}); unpack it, or make it again") from None
    except OSError as error:
        raise cannot_read(tar, error) from None
    yield from items.items()
