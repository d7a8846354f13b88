"""The authors' folders: NAME/prompt.json, NAME/SEED_0.jpg (source) and NAME/SEED_1.jpg (target).

seeds.json lists the pairs; then no folder is opened before its pair is read. Without it, every pair found is taken.
"""

import os
from collections.abc import Iterable, Iterator
from os import scandir
from pathlib import Path

import numpy as np

from ...regular import read_regular
from ..picture_files import is_picture_name
from .common import MAX_IMAGE, EditsError, EditText, EncodedImage, read_json, read_text
from .seeds import read_seeds


class Folder:
    """Pairs in the authors' folders: those of seeds.json, or of `listed`, which is as `read_seeds` returns it."""

    def __init__(self, path: Path, listed: list[tuple[str, list[str]]] | None = None):
        self.path = path
        seeds_json = path / "seeds.json"
        found = listed or (read_seeds(seeds_json) if os.path.lexists(seeds_json) else list(_found(path)))
        self.names = _encoded(name for name, _ in found)
        self.seeds = _encoded(seed for _, seeds in found for seed in seeds)
        self.name_of = np.repeat(np.arange(len(found)), [len(seeds) for _, seeds in found])

    def __len__(self) -> int:
        return len(self.seeds)

    def text(self, i: int) -> EditText:
        name, seed = self._at(i)
        path = self.path / name / "prompt.json"
        return read_text(read_json(path), str(path), f"{name}/{seed}")

    def files(self, i: int) -> tuple[EncodedImage, EncodedImage]:
        name, seed = self._at(i)
        return _image(self.path / name / f"{seed}_0"), _image(self.path / name / f"{seed}_1")

    def header(self, i: int) -> tuple[Path, str]:
        name, seed = self._at(i)
        found = _image_file(self.path / name / f"{seed}_0")
        return found, str(found)

    def _at(self, i: int) -> tuple[str, str]:
        """The names of the pair's folder and seed."""
        return os.fsdecode(self.names[self.name_of[i]]), os.fsdecode(self.seeds[i])


def _encoded(names: Iterable[str]) -> np.ndarray:
    """As an array, which a worker's fork does not copy."""
    return np.array([os.fsencode(name) for name in names], dtype=bytes)


def has_pairs(path: Path) -> bool:
    """Whether a folder has this layout."""
    with scandir(path) as entries:
        return any((path / entry.name / "prompt.json").is_file() for entry in entries if entry.name[0] != ".")


def _image(path: Path) -> EncodedImage:
    """The image of that name with any ending. Raises EditsError if there is none."""
    found = _image_file(path)
    return EncodedImage(str(found), read_regular(found, MAX_IMAGE, EditsError))


def _image_file(path: Path) -> Path:
    """The file of that name with one of the picture_files.ENDINGS, or as it would be called."""
    found = Path(f"{path}.jpg")  # as the authors write it
    if not found.is_file() and path.parent.is_dir():
        names = [name for name in os.listdir(path.parent) if Path(name).stem == path.name and is_picture_name(name)]
        found = path.with_name(min(names, default=found.name))
    return found


def _found(path: Path) -> Iterator[tuple[str, list[str]]]:
    """(folder, seeds) in order. A folder that lacks its prompt or one of two images is listed too: reading it fails."""
    with scandir(path) as entries:
        folders = sorted(entry.name for entry in entries if os.path.isdir(entry) and not entry.name.startswith("."))
    for name in folders:
        files = os.listdir(path / name)
        stems = {Path(file).stem for file in files if is_picture_name(file)}
        seeds = {stem[:-2] for stem in stems if stem[:-2] and stem.endswith(("_0", "_1"))}
        if "prompt.json" in files or seeds:
            yield name, sorted(seeds, key=lambda seed: (len(seed), seed))  # as numbers of any length
