"""Edit pairs in Hugging Face's tables (parquet, Arrow folders, the hub), by the `datasets` library if it is there."""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from .edit_sources import NAMES, EditsError, EditText, Stored, pick, read_file, read_text

IDS = ("img_id", "image_id", "id", "key")
"""columns that name an item, or with MagicBrush's turn_index its source picture"""
HINT = "pip install 'minip2p[data]'"


def load_table(path: str, part: str | None):
    """`datasets.Dataset` of a parquet file or a folder of them, a folder by `save_to_disk`, or a set on the hub."""
    try:
        import datasets
    except ImportError:
        missing = "" if Path(path).exists() else "no such file or folder; a data set of Hugging Face's hub, and "
        raise EditsError(f"{path}: {missing}parquet needs the library datasets, which is missing; {HINT}") from None
    place = Path(path)
    try:
        if saved_folder(place):
            found = datasets.load_from_disk(path)
        elif place.is_file():
            found = datasets.load_dataset("parquet", data_files=path)
        else:
            found = datasets.load_dataset(path)
    except Exception as error:  # of the library, of the network, of parquet: each has its own
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        what = "" if place.exists() else "neither a file or folder here, nor read from Hugging Face's hub "
        raise EditsError(f"{path}: {what}({why})") from None
    if not isinstance(found, dict):
        return found
    if part is None:
        part = "train" if "train" in found or len(found) != 1 else next(iter(found))
    if part not in found:
        raise EditsError(f"{path}: there is no part {part!r}; there are {', '.join(found)}")
    return found[part]


def saved_folder(path: Path) -> bool:
    """Whether `Dataset.save_to_disk` wrote it."""
    return any((path / name).is_file() for name in ("dataset_dict.json", "state.json"))


class Table:
    """Rows with two pictures and an instruction, under any of the known NAMES."""

    def __init__(self, dataset, path: str):
        self.path = path
        columns = {role: pick(dict.fromkeys(dataset.column_names), role) for role in NAMES}
        if absent := [role for role in ("source", "target", "edit") if columns[role] is None]:
            raise EditsError(
                f"{path}: no column for the {absent[0]} ({', '.join(NAMES[absent[0]])}); there are "
                f"{', '.join(dataset.column_names)}"
            )
        self.sides = columns["source"], columns["target"]
        self.id = next((name for name in IDS if name in dataset.column_names), None)
        self.turn = "turn_index" if self.id and "turn_index" in dataset.column_names else None
        told = [columns[role] for role in ("edit", "input", "output")] + [self.id, self.turn]
        self.told = dataset.select_columns([name for name in told if name])
        self.pictures = _undecoded(dataset.select_columns(list(self.sides)), self.sides)
        self.units = np.arange(len(dataset))

    def __len__(self) -> int:
        return len(self.told)

    def text(self, i: int) -> EditText:
        row, where = self.told[i], f"row {i}"
        key = origin = None
        if self.turn:
            origin, key = str(row[self.id]), f"{row[self.id]}-{row[self.turn]}"
        elif self.id:
            key = str(row[self.id])
        elif not row.get(pick(row, "input")):  # rows' numbers move when rows go: then pairs told alike stay together
            origin = row.get(pick(row, "edit"))
        known = {"key": key or where} | ({"origin": origin} if isinstance(origin, str) else {})
        values = {name: value for name, value in row.items() if name not in (self.id, self.turn)}
        return read_text(values | known, f"{self.path}, {where}", where)

    def files(self, i: int) -> tuple[Stored, Stored]:
        row = self.pictures[i]
        source, target = (_stored(row[name], f"{self.path}, row {i}, {name}") for name in self.sides)
        return source, target


def _undecoded(dataset, columns: tuple[str, str]):
    """Pictures as they are stored, {"bytes", "path"}, where the library would open them."""
    from datasets import Image as Picture

    for name in columns:
        if isinstance(dataset.features[name], Picture):
            dataset = dataset.cast_column(name, Picture(decode=False))
    return dataset


def _stored(value, name: str) -> Stored:
    """A picture in any of the ways in which tables hold them: {"bytes", "path"}, bytes, a path, an opened picture."""
    if isinstance(value, Mapping):
        value = value.get("path") if value.get("bytes") is None else value["bytes"]
    if isinstance(value, (bytes, bytearray, memoryview)):
        return Stored(name, bytes(value))
    if isinstance(value, str):
        return Stored(name, read_file(Path(value)))
    if isinstance(value, Image.Image):
        file = io.BytesIO()
        value.save(file, "PNG")
        return Stored(name, file.getvalue())
    raise EditsError(f"{name}: no picture, but {'nothing' if value is None else f'a {type(value).__name__}'}")
