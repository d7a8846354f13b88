"""Hugging Face's tables: parquet, folders by `save_to_disk`, and sets on the hub. Needs the `datasets` library."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from .common import NAMES, EditsError, EditText, EncodedImage, field_of, read_file, read_text

IDS = ("img_id", "image_id", "id", "key")
"""columns that name a pair, or with MagicBrush's turn_index its source image"""


class HuggingFaceTable:
    """Rows with two images and an instruction, in columns with any of the known NAMES."""

    def __init__(self, dataset: Any, path: str):
        self.path = path
        columns = {role: field_of(dict.fromkeys(dataset.column_names), role) for role in NAMES}
        if missing := [role for role in ("source", "target", "edit") if columns[role] is None]:
            raise EditsError(
                f"{path}: no column for the {missing[0]} ({', '.join(NAMES[missing[0]])}); there are "
                f"{', '.join(dataset.column_names)}"
            )
        self.sides = columns["source"], columns["target"]
        self.id = next((name for name in IDS if name in dataset.column_names), None)
        self.turn = "turn_index" if self.id and "turn_index" in dataset.column_names else None
        texts = [columns[role] for role in ("edit", "input", "output")] + [self.id, self.turn]
        self.texts = dataset.select_columns([name for name in texts if name])
        self.images = _undecoded(dataset.select_columns(list(self.sides)), self.sides)

    def __len__(self) -> int:
        return len(self.texts)

    def text(self, i: int) -> EditText:
        row, where = self.texts[i], f"row {i}"
        key = origin = None
        if self.turn:
            origin, key = str(row[self.id]), f"{row[self.id]}-{row[self.turn]}"
        elif self.id:
            key = str(row[self.id])
        elif not row.get(field_of(row, "input")):  # without id or caption, pairs of one instruction stay in one split
            origin = row.get(field_of(row, "edit"))
        known = {"key": key or where} | ({"origin": origin} if isinstance(origin, str) else {})
        values = {name: value for name, value in row.items() if name not in (self.id, self.turn)}
        return read_text(values | known, f"{self.path}, {where}", where)

    def files(self, i: int) -> tuple[EncodedImage, EncodedImage]:
        row = self.images[i]
        source, target = (_encoded(row[name], f"{self.path}, row {i}, {name}") for name in self.sides)
        return source, target


def load_table(path: str, part: str | None) -> Any:
    """The `datasets.Dataset` of a parquet file or a folder of them, a saved folder, or a set on the hub."""
    place = Path(path)
    try:
        import datasets
    except ImportError:
        missing = "" if place.exists() else "no such file or folder; a data set of Hugging Face's hub, and "
        hint = "pip install 'minip2p[data]'"
        raise EditsError(f"{path}: {missing}parquet needs the library datasets, which is missing; {hint}") from None
    try:
        if is_saved_folder(place):
            found = datasets.load_from_disk(path)
        elif place.is_file():
            found = datasets.load_dataset("parquet", data_files=path)
        else:
            found = datasets.load_dataset(path)
    except Exception as error:  # of the library, of the network, of parquet: each has its own
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        what = "" if place.exists() else "not a file or folder, and not readable from Hugging Face's hub "
        raise EditsError(f"{path}: {what}({why})") from None
    if not isinstance(found, dict):
        return found
    if part is None:
        part = "train" if "train" in found or len(found) != 1 else next(iter(found))
    if part not in found:
        raise EditsError(f"{path}: there is no part {part!r}; there are {', '.join(found)}")
    return found[part]


def is_saved_folder(path: Path) -> bool:
    """Whether `Dataset.save_to_disk` wrote the folder."""
    return any((path / name).is_file() for name in ("dataset_dict.json", "state.json"))


def _undecoded(dataset: Any, columns: tuple[str, str]) -> Any:
    """The data set with its image columns as {"bytes", "path"}, where the library would decode them."""
    from datasets import Image as ImageColumn

    for name in columns:
        if isinstance(dataset.features[name], ImageColumn):
            dataset = dataset.cast_column(name, ImageColumn(decode=False))
    return dataset


def _encoded(value: Any, name: str) -> EncodedImage:
    """An image in any of the ways in which tables hold them: {"bytes", "path"}, bytes, a path, a decoded image."""
    if isinstance(value, Mapping):
        value = value.get("path") if value.get("bytes") is None else value["bytes"]
    if isinstance(value, (bytes, bytearray, memoryview)):
        return EncodedImage(name, bytes(value))
    if isinstance(value, str):
        return EncodedImage(name, read_file(Path(value)))
    if isinstance(value, Image.Image):
        file = io.BytesIO()
        value.save(file, "PNG")
        return EncodedImage(name, file.getvalue())
    raise EditsError(f"{name}: expected an image, found {'nothing' if value is None else f'a {type(value).__name__}'}")
