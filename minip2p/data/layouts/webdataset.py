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
from ..tars import tar_members
from .common import (
    ALSO_IMAGES,
    MAX_IMAGE,
    MAX_JSON,
    NAMES,
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

    def __init__(self, tars: list[Path]):
        self.tars = tars
        found = [(number, key, parts) for number, tar in enumerate(tars) for key, parts in _members(tar)]
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

    def __len__(self) -> int:
        return len(self.keys)

    def text(self, i: int) -> EditText:
        name, data = self._read(i, "text", "text (.json or .txt) with the instruction")
        values = {"edit": data.decode("utf-8", "replace")} if self.is_plain[i] else parse_json(data, name, EditsError)
        return read_text(values, name, str(self.keys[i]))

    def files(self, i: int) -> tuple[EncodedImage, EncodedImage]:
        return self._read(i, "source", "source image"), self._read(i, "target", "target image")

    def _read(self, i: int, part: str, what: str) -> EncodedImage:
        tar, key = self.tars[self.tar_of[i]], self.keys[i]
        offset, size = map(int, self.spans[i, PARTS.index(part)])
        if offset < 0:
            raise EditsError(f"{tar}: {key} has no {what}")
        if size > (most := MAX_JSON if part == "text" else MAX_IMAGE):
            raise EditsError(f"{tar}: the {what} of {key} has {size:,} bytes; expected at most {most:,}")
        return EncodedImage(f"{tar}: the {what} of {key}", read_part(tar, offset, size, f"{what} of {key}"))


def part_of(name: str) -> tuple[str, str, str] | None:
    """(key, part, ending) of a file in a tar; part is one of PARTS. None for a file that belongs to no pair."""
    folder, slash, base = name.rpartition("/")
    stem, _, tail = base.partition(".")
    role, _, ending = tail.lower().rpartition(".")
    key = folder + slash + stem
    if f".{ending}" in ENDINGS:
        if not role and (numbered := NUMBERED.fullmatch(key)):
            key, role = numbered.groups()
        elif not role and folder:
            key, role = folder, stem.lower()
        part = "source" if role in SOURCES else "target" if role in TARGETS else None
    elif ending in ("json", "txt"):
        if not role and folder and stem.lower() in TEXTS:
            key, role = folder, stem.lower()
        part = "text" if role in TEXTS else None
    else:
        return None
    return None if part is None else (key, part, ending)


def _members(tar: Path) -> Iterator[tuple[str, dict[str, tuple[int, int, str]]]]:
    """(key, part -> (offset, bytes, ending)) of each pair, in the tar's order."""
    items: dict[str, dict[str, tuple[int, int, str]]] = {}
    try:
        for name, offset, size in tar_members(tar):
            if found := part_of(name.removeprefix("./")):
                key, part, ending = found
                items.setdefault(key, {}).setdefault(part, (offset, size, ending))
    except tarfile.ReadError as error:
        raise EditsError(f"{tar}: not a whole, uncompressed tar ({error}); unpack it, or make it again") from None
    except OSError as error:
        raise cannot_read(tar, error) from None
    yield from items.items()
