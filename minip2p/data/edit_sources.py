"""Where edit pairs lie on a disk: the authors' folders, WebDataset tars, MagicBrush's folder. `edits.py` opens them.

A source has a length, `text(i)` and `files(i)`, which read one item and nothing else, and `units`: for each item, which
of the set's first-level entries (the authors' prompts) it belongs to.
"""

import json
import re
import tarfile
from bisect import bisect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from os import scandir
from pathlib import Path
from typing import NamedTuple

import numpy as np

PICTURES = ("jpg", "jpeg", "png", "webp")
NAMES = {
    "source": ("source", "source_image", "source_img", "input_image", "original_image", "before", "source_file"),
    "target": ("target", "target_image", "target_img", "edited_image", "output_image", "after", "target_file"),
    "edit": ("edit", "instruction", "edit_prompt", "edit_instruction"),
    "input": ("input", "caption", "input_caption", "original_prompt", "original_caption", "source_caption"),
    "output": ("output", "edited_prompt", "output_caption", "edited_caption", "target_caption"),
}
"""what the parts of a pair are called in published sets and tables; "input" and "output" are captions"""


class EditsError(ValueError):
    """A set of pairs, or an item of one, that cannot be read: one line that names it."""


class Stored(NamedTuple):
    """A picture as it is stored."""

    name: str
    """where it lies, for errors"""
    data: bytes


@dataclass(frozen=True, kw_only=True)
class EditText:
    """What is told of a pair without opening its pictures."""

    name: str
    """where it lies in its set"""
    key: str
    """no other item of the set has it, and it stays when items are added or taken away"""
    instruction: str
    input: str | None = None
    """the source's caption, where there is one"""
    output: str | None = None
    """the target's caption, where there is one"""
    origin: str | None = None
    """what the source picture was made of, where pairs of several captions, or of none, have it in common"""

    @property
    def group(self) -> str:
        """What must not come apart in a split: `origin` where it is told; else the caption, without capitals and outer
        spaces; of pairs without captions the instruction and the key."""
        if self.origin is not None:
            return self.origin
        return f"{self.instruction}\n{self.key}" if self.input is None else self.input.strip().lower()


def pick(values: Mapping, role: str) -> str | None:
    """The first of the role's NAMES that `values` has."""
    return next((name for name in NAMES[role] if name in values), None)


def read_text(values: Mapping, where: str, key: str) -> EditText:
    """The text of an item from a row or an object under any of the NAMES. `where` names it."""
    edit = values.get(pick(values, "edit"))
    if not isinstance(edit, str):
        there = ", ".join(map(str, values)) or "nothing"
        raise EditsError(f"{where}: no instruction as 'edit' (or {', '.join(NAMES['edit'][1:])}); there is {there}")
    captions = {role: values.get(pick(values, role)) for role in ("input", "output")}
    captions = {role: told.strip() for role, told in captions.items() if isinstance(told, str) and told.strip()}
    known = {name: values[name] for name in ("key", "origin") if isinstance(values.get(name), str)}
    return EditText(name=key, instruction=edit.strip(), **{"key": key} | captions | known)


def read_file(path: Path) -> bytes:
    """The file's bytes, or an EditsError that names it."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise EditsError(f"{path}: no such file") from None
    except OSError as error:
        raise EditsError(f"{path}: {(error.strerror or str(error)).lower()}") from None


def parse_object(data: bytes, name: str) -> dict:
    """A JSON object, or an EditsError that names where it lies."""
    values = parse_json(data, name)
    if not isinstance(values, dict):
        raise EditsError(f'{name}: expected an object like {{"edit": "make it night"}}')
    return values


def parse_json(data: bytes, name: str):
    """Any JSON, or an EditsError that names where it lies."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise EditsError(f"{name}: not JSON ({' '.join(str(error).split())})") from None


def read_seeds(path: Path) -> list[tuple[str, list[str]]]:
    """The authors' seeds.json: [[name, [seed, ...]], ...], the seeds as text."""
    try:
        return [(name, list(map(str, seeds))) for name, seeds in parse_json(read_file(path), str(path)) if name + ""]
    except (TypeError, ValueError) as error:
        if isinstance(error, EditsError):
            raise
        raise EditsError(f'{path}: expected [["0000000", [seed, ...]], ...], names of folders and seeds') from None


class Folder:
    """The authors' folder: `<name>/prompt.json`, `<name>/<seed>_0.jpg`, `<name>/<seed>_1.jpg`.

    What counts is named in seeds.json; then no folder is looked into before its turn. Without it, every pair found.
    """

    def __init__(self, path: Path):
        self.path = path
        listed = path / "seeds.json"
        found = read_seeds(listed) if listed.is_file() else list(_found(path))
        self.names = np.array([name for name, _ in found], dtype=str)  # arrays: a worker's fork does not copy them
        self.seeds = np.array([seed for _, seeds in found for seed in seeds], dtype=str)
        self.units = np.repeat(np.arange(len(found)), [len(seeds) for _, seeds in found])

    def __len__(self) -> int:
        return len(self.seeds)

    def text(self, i: int) -> EditText:
        name = str(self.names[self.units[i]])
        path = self.path / name / "prompt.json"
        return read_text(parse_object(read_file(path), str(path)), str(path), f"{name}/{self.seeds[i]}")

    def files(self, i: int) -> tuple[Stored, Stored]:
        stem = str(self.path / self.names[self.units[i]] / self.seeds[i])
        return _picture(f"{stem}_0"), _picture(f"{stem}_1")


def _picture(stem: str) -> Stored:
    """The picture of that name in the first of the PICTURES' formats that is there."""
    for ending in PICTURES:
        try:
            return Stored(f"{stem}.{ending}", Path(f"{stem}.{ending}").read_bytes())
        except FileNotFoundError:
            pass
        except OSError as error:
            raise EditsError(f"{stem}.{ending}: {(error.strerror or str(error)).lower()}") from None
    raise EditsError(f"{stem}.jpg: no such file")


def _found(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Folders with a prompt.json, in order, with the seeds of pictures; also of one without its other, to be named."""
    half = re.compile(rf"(.+)_[01]\.({'|'.join(PICTURES)})", re.IGNORECASE)
    with scandir(path) as entries:
        folders = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    for name in folders:
        with scandir(path / name) as entries:
            files = {entry.name for entry in entries}
        seeds = {match[1] for file in files if (match := half.fullmatch(file))}
        if "prompt.json" in files or seeds:
            yield name, sorted(seeds, key=lambda seed: (len(seed), seed))  # as numbers of any length


# WebDataset: files of one name but for what follows its first dot are one item

SIDES = {
    "source": {*NAMES["source"], "0", "input", "original"}, "target": {*NAMES["target"], "1", "output", "edited"}
}  # fmt: skip
TOLD = {*NAMES["edit"], "", "prompt", "metadata", "info"}
"""what a .json or .txt with the instruction may be called"""
HALF = re.compile(r"(.*)_([01])")


def member_of(name: str) -> tuple[str, str, str] | None:
    """(key, part, ending) of a file in a tar; part is source, target or text. None for what belongs to no pair.

    Known are KEY.source.jpg, KEY.0.jpg, KEY_0.jpg and KEY/input.jpg, with KEY.json, KEY.edit.txt or KEY/prompt.json.
    """
    folder, slash, base = name.rpartition("/")
    stem, _, tail = base.partition(".")
    role, _, ending = tail.lower().rpartition(".")
    key = folder + slash + stem
    if ending in PICTURES:
        if not role and (half := HALF.fullmatch(key)):
            key, role = half.groups()
        elif not role and folder:
            key, role = folder, stem.lower()
        part = next((part for part, names in SIDES.items() if role in names), None)
    elif ending in ("json", "txt"):
        if not role and folder and stem.lower() in TOLD:
            key, role = folder, stem.lower()
        part = "text" if role in TOLD else None
    else:
        return None
    return None if part is None else (key, part, ending)


class Tars:
    """WebDataset's tars, not unpacked: at opening only the heads of their files are read, later the item that is asked.

    A seeds.json beside them says what of `minip2p pairs` counts.
    """

    def __init__(self, tars: list[Path]):
        self.tars = tars
        found = [(number, key, parts) for number, tar in enumerate(tars) for key, parts in _indexed(tar)]
        shared = {(n, key): parts["text"] for n, key, parts in found if "text" in parts and len(parts) == 1}
        found = [(n, key, parts) for n, key, parts in found if "source" in parts or "target" in parts]
        if not found:
            raise EditsError(
                f"{tars[0]}: no pair in it, such as KEY.source.jpg, KEY.target.jpg and KEY.json (or KEY.0.jpg, "
                "KEY.1.jpg and KEY.txt)"
            )
        units = range(len(found))
        listed = tars[0].parent / "seeds.json"
        if listed.is_file():
            at = {key: i for i, (_, key, _) in enumerate(found)}
            rows = ((name.replace(".", "_"), seeds) for name, seeds in read_seeds(listed))  # a key ends at a dot
            kept = [(unit, f"{name}-{seed}") for unit, (name, seeds) in enumerate(rows) for seed in seeds]
            if absent := [key for _, key in kept if key not in at]:
                raise EditsError(f"{listed}: {absent[0]!r} is in none of the {len(tars)} tars beside it")
            units, found = [unit for unit, _ in kept], [found[at[key]] for _, key in kept]
        self.units = np.array(units, dtype=np.int64)
        self.keys = np.array([key for _, key, _ in found], dtype=str)
        self.of = np.array([number for number, _, _ in found], dtype=np.int64)
        text = [parts.get("text") or shared.get((n, key.rpartition("/")[0])) for n, key, parts in found]
        parts = [(parts.get("source"), parts.get("target"), told) for (_, _, parts), told in zip(found, text)]
        self.spans = np.array([[part[:2] if part else (-1, 0) for part in three] for three in parts], dtype=np.int64)
        self.plain = np.array([told is not None and told[2] == "txt" for told in text], dtype=bool)

    def __len__(self) -> int:
        return len(self.keys)

    def text(self, i: int) -> EditText:
        key, stored = str(self.keys[i]), self._read(i, 2, "text (.json or .txt) with the instruction")
        if self.plain[i]:
            values = {"edit": stored.data.decode("utf-8", "replace")}
        else:
            values = parse_object(stored.data, stored.name)
        return read_text(values, stored.name, key)

    def files(self, i: int) -> tuple[Stored, Stored]:
        return self._read(i, 0, "source picture"), self._read(i, 1, "target picture")

    def _read(self, i: int, part: int, what: str) -> Stored:
        tar, key, (offset, size) = self.tars[self.of[i]], self.keys[i], map(int, self.spans[i, part])
        if offset < 0:
            raise EditsError(f"{tar}: {key} has no {what}")
        try:
            with open(tar, "rb") as file:
                file.seek(offset)
                data = file.read(size)
        except OSError as error:
            raise EditsError(f"{tar}: {(error.strerror or str(error)).lower()}") from None
        if len(data) < size:
            raise EditsError(f"{tar}: cut short since it was opened, in the {what} of {key}")
        return Stored(f"{tar}: the {what} of {key}", data)


def _indexed(tar: Path) -> Iterator[tuple[str, dict[str, tuple[int, int, str]]]]:
    """(key, part -> (offset, bytes, ending)), in the tar's order."""
    items: dict[str, dict[str, tuple[int, int, str]]] = {}
    try:
        with tarfile.open(tar, "r:") as file:
            while (member := file.next()) is not None:
                file.members.clear()  # which tarfile keeps, heads and all
                found = member_of(member.name.removeprefix("./")) if member.isreg() else None
                if found is not None:
                    key, part, ending = found
                    items.setdefault(key, {}).setdefault(part, (member.offset_data, member.size, ending))
    except tarfile.ReadError as error:
        raise EditsError(f"{tar}: not a whole, uncompressed tar ({error}); unpack it, or make it again") from None
    except OSError as error:
        raise EditsError(f"{tar}: {(error.strerror or str(error)).lower()}") from None
    yield from items.items()


class MagicBrush:
    """MagicBrush as it is published in folders.

    edit_turns.json has {"input", "mask", "output", "instruction"}, the names of pictures in images/<number>/, where
    <number> begins the name; global_descriptions.json, if there, has captions: {number: {name: caption}}.
    """

    def __init__(self, path: Path):
        self.path, turns = path, path / "edit_turns.json"
        self.turns = parse_json(read_file(turns), str(turns))
        names = ("input", "output", "instruction")
        for i, turn in enumerate(self.turns if isinstance(self.turns, list) else [None]):
            if not isinstance(turn, dict) or not all(isinstance(turn.get(name), str) for name in names):
                raise EditsError(f"{turns}, entry {i}: expected an object with {', '.join(names)}")
        captions = path / "global_descriptions.json"
        self.captions = parse_object(read_file(captions), str(captions)) if captions.is_file() else {}
        self.firsts = [i for i, turn in enumerate(self.turns) if not i or _origin(turn) != _origin(self.turns[i - 1])]
        self.units = np.array([bisect(self.firsts, i) - 1 for i in range(len(self.turns))], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.turns)

    def text(self, i: int) -> EditText:
        turn, origin = self.turns[i], _origin(self.turns[i])
        told = self.captions.get(origin)
        told = told if isinstance(told, dict) else {}
        values = {"edit": turn["instruction"], "origin": origin}
        values |= {"input": told.get(turn["input"]), "output": told.get(turn["output"])}
        return read_text(values, turn["output"], turn["output"])

    def files(self, i: int) -> tuple[Stored, Stored]:
        folder = self.path / "images" / _origin(self.turns[i])
        paths = (folder / self.turns[i][name] for name in ("input", "output"))
        source, target = (Stored(str(path), read_file(path)) for path in paths)
        return source, target


def _origin(turn: dict) -> str:
    return turn["input"].partition("-")[0]
