"""Hugging Face's tables: parquet, folders by `save_to_disk`, and sets on the hub. Needs the `datasets` library."""

import glob
import os
import re
from collections.abc import Mapping
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

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
    read_text,
    size_of,
)
from .unpacked import unpacked_bytes

IDS = ("img_id", "image_id", "id", "key")
"""columns that name a pair, or with MagicBrush's turn_index its source image"""
PARTS = {name: name for name in ("train", "test", "validation")} | dict.fromkeys(("val", "valid", "dev"), "validation")
"""word in a file's name -> its part of the set, as the library has it"""
MOST_UNPACKED = 64 << 20
"""bytes that a small file may unpack to"""
MOST_ROWS = 10_000
"""of a small file; in larger ones a row takes a byte at least"""


class HuggingFaceTable:
    """Rows with two images and an instruction, in columns with any of the known NAMES, or those that `named` says."""

    def __init__(self, dataset: Any, path: str, named: Columns = NO_COLUMNS):
        self.path = path
        kinds = {name: _kind(dataset.features[name]) for name in dataset.column_names}
        given = named.find(kinds, path)
        for role, name in given.items():
            if kinds[name] not in (("text", "") if role not in ALSO_IMAGES else ("image", "text", "")):
                what = "images" if role in ALSO_IMAGES else "texts"
                raise EditsError(f"{path}: the column {name!r} for the {role} holds no {what}")
        others = {name: kind for name, kind in kinds.items() if name not in given.values()}
        columns = {role: given.get(role) or _column(others, role) for role in NAMES}
        if missing := [role for role in ("source", "target", "edit") if columns[role] is None]:
            raise EditsError(
                f"{path}: no column for the {missing[0]} ({', '.join(NAMES[missing[0]])}); there are "
                f"{', '.join(dataset.column_names)}; --columns {missing[0]}=NAME names another"
            )
        self.sides = columns["source"], columns["target"]
        self.folders = [Path(), *_folders(Path(path))]
        self.id = next((name for name in IDS if name in dataset.column_names), None)
        self.turn = "turn_index" if self.id and "turn_index" in dataset.column_names else None
        self.roles = {role: columns[role] for role in ("edit", "input", "output") if columns[role]}
        self.texts = dataset.select_columns([*self.roles.values(), *filter(None, (self.id, self.turn))])
        self.images = _undecoded(dataset.select_columns(list(self.sides)), self.sides)
        self.sources = self.images.select_columns(self.sides[:1])

    def __len__(self) -> int:
        return len(self.texts)

    def text(self, i: int) -> EditText:
        row, where = self.texts[i], f"row {i}"
        values = {role: row[name] for role, name in self.roles.items()}
        key = origin = None
        if self.turn:
            origin, key = str(row[self.id]), f"{row[self.id]}-{row[self.turn]}"
        elif self.id:
            key = str(row[self.id])
        elif not values.get("input"):  # without id or caption, pairs of one instruction stay in one split
            origin = values["edit"]
        return read_text(values | {"key": key or where, "origin": origin}, f"{self.path}, {where}", where)

    def files(self, i: int) -> tuple[EncodedImage, EncodedImage]:
        row = self.images[i]
        source, target = (self._encoded(row[name], f"{self.path}, row {i}, {name}") for name in self.sides)
        return source, target

    def header(self, i: int) -> tuple[BytesIO, str]:
        name = self.sides[0]
        image = self._encoded(self.sources[i][name], f"{self.path}, row {i}, {name}")
        return BytesIO(image.data), image.name

    def _encoded(self, value: Any, name: str) -> EncodedImage:
        """An image in any of the ways in which tables hold them: {"bytes", "path"}, bytes, a path."""
        if isinstance(value, Mapping):
            value = value.get("path") if value.get("bytes") is None else value["bytes"]
        if isinstance(value, (bytes, bytearray, memoryview)):
            return EncodedImage(name, bytes(value))
        if isinstance(value, str):
            paths = [
                folder / each for each in dict.fromkeys((value, value.replace("\\", "/"))) for folder in self.folders
            ]
            found = next((path for path in paths if os.path.isfile(path)), paths[-1])
            return EncodedImage(name, read_file(found))
        what = "nothing" if value is None else f"a {type(value).__name__}"
        raise EditsError(f"{name}: expected an image, found {what}")


def load_table(path: str, part: str | None) -> Any:
    """The `datasets.Dataset` of a parquet file or a folder of them, a saved folder, or a set on the hub."""
    place = Path(path)
    local = place.exists() and not is_saved_folder(place)
    try:
        parts = _parts(place) if local else {}
        import datasets
    except ImportError:
        missing = "" if place.exists() else "no such file or folder; a data set of Hugging Face's hub, and "
        hint = "pip install 'minip2p[data]'"
        raise EditsError(f"{path}: {missing}parquet needs the library datasets, which is missing; {hint}") from None
    try:
        if local:
            files = {name: [glob.escape(str(file)) for file in each] for name, each in parts.items()}
            found = datasets.load_dataset("parquet", data_files=files)
        else:
            found = datasets.load_from_disk(path) if place.exists() else datasets.load_dataset(path)
    except Exception as error:  # of the library, of the network, of parquet: each has its own
        what = "" if place.exists() else "not a file or folder, and not readable from Hugging Face's hub "
        raise EditsError(f"{path}: {what}({_why(error.__cause__ or error)})") from None
    if not isinstance(found, dict):
        return found
    if part is None:
        part = "train" if "train" in found or len(found) != 1 else next(iter(found))
    if part not in found:
        raise EditsError(f"{path}: there is no part {part!r}; there are {', '.join(found)}")
    return found[part]


def _parts(place: Path) -> dict[str, list[Path]]:
    """Part -> its files, without those of no rows. The first word of PARTS in a file's name, or those of its folders,
    is its part. Raises EditsError for a file that cannot be read."""
    parts: dict[str, list[Path]] = {}
    for file in parquet_files(place):
        if _rows_in(file):
            words = re.findall("[a-z]+", f"{file.stem}/{file.relative_to(place).parent}".lower())
            parts.setdefault(next((PARTS[word] for word in words if word in PARTS), "train"), []).append(file)
    if not parts:
        raise EditsError(f"{place}: a set of no pairs")
    return parts


def parquet_files(place: Path) -> list[Path]:
    """The file itself, or those in a folder and below it, without hidden ones."""
    if not place.is_dir():
        return [place]
    found = (path for path in sorted(place.rglob("*.parquet")) if not path.is_dir())
    return [path for path in found if not any(name.startswith(".") for name in path.relative_to(place).parts)]


def _rows_in(file: Path) -> int:
    """The rows of a parquet file. Raises EditsError if it is damaged, or unpacks to many times its size."""
    size = size_of(file)
    most = max(MOST_UNPACKED, 20 * size)
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(file) as opened:
            claimed = unpacked_bytes(file, opened.metadata, most, partial(_count, opened, most))
            rows = opened.metadata.num_rows
    except Exception as error:
        raise EditsError(f"{file}: ({_why(error)})") from None
    if not 0 <= claimed <= most:
        raise EditsError(f"{file} has {size:,} bytes, and claims to unpack to {claimed:,}: it is damaged, or no images")
    if rows > max(MOST_ROWS, size):
        raise EditsError(f"{file} has {size:,} bytes, and claims to have {rows:,} rows: it is damaged, or no images")
    return rows


def _count(file: Any, most: int, group: int, column: str, longest: int) -> int:
    """Bytes of a column of a row group, read in batches of at most MOST_UNPACKED, until they are over `most`."""
    rows, total = max(1, MOST_UNPACKED // max(longest, 1)), 0
    for batch in file.iter_batches(rows, row_groups=[group], columns=[column], use_threads=False):
        found = batch.column(0)
        found = found.dictionary_decode() if hasattr(found, "dictionary_decode") else found
        total += most + 1 if "dictionary<" in str(found.type) else found.nbytes
        if total > most:
            break
    return total


def _why(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def is_saved_folder(path: Path) -> bool:
    """Whether `Dataset.save_to_disk` wrote the folder."""
    return any((path / name).is_file() for name in ("dataset_dict.json", "state.json"))


def _kind(feature: Any) -> str:
    """What a column holds: "text", "image", or "other"; "" where its type does not say it."""
    dtype = getattr(feature, "dtype", None)
    if isinstance(feature, dict) or dtype in ("PIL.Image.Image", "binary", "large_binary"):
        return "image"
    return "text" if dtype in ("string", "large_string") else "" if feature is None else "other"


def _column(kinds: Mapping[str, str], role: str) -> str | None:
    """The column of a role: one whose type fits; for an image else a text, which names a file."""
    if role not in ALSO_IMAGES:
        return find_field(kinds, NAMES[role], ("text", "").__contains__)
    typed = find_field(kinds, [*NAMES[role], *ALSO_IMAGES[role]], "image".__eq__)
    return typed or find_field(kinds, NAMES[role], ("text", "").__contains__)


def _folders(path: Path) -> list[Path]:
    """The folders that file names in a table may be relative to."""
    if not path.is_dir():
        return [path.parent]
    return list(dict.fromkeys([path, *(file.parent for file in parquet_files(path))]))


def _undecoded(dataset: Any, columns: tuple[str, str]) -> Any:
    """The data set with its image columns as {"bytes", "path"}, where the library would decode them."""
    from datasets import Image as ImageColumn

    for name in columns:
        if isinstance(dataset.features[name], ImageColumn):
            dataset = dataset.cast_column(name, ImageColumn(decode=False))
    return dataset
