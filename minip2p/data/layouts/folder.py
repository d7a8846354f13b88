"""The authors' folders: NAME/prompt.json, NAME/SEED_0.jpg (source) and NAME/SEED_1.jpg (target).

seeds.json lists the pairs; then no folder is opened before its pair is read. Without it, every pair found is taken.
"""

import re
from collections.abc import Iterator
from os import scandir
from pathlib import Path

import numpy as np

from .common import IMAGE_ENDINGS, EditsError, EditText, EncodedImage, cannot_read, read_json, read_seeds, read_text


class Folder:
    """Pairs in the authors' folders."""

    def __init__(self, path: Path):
        self.path = path
        seeds_json = path / "seeds.json"
        found = read_seeds(seeds_json) if seeds_json.is_file() else list(_found(path))
        self.names = np.array([name for name, _ in found], dtype=str)  # arrays: a worker's fork does not copy them
        self.seeds = np.array([seed for _, seeds in found for seed in seeds], dtype=str)
        self.name_of = np.repeat(np.arange(len(found)), [len(seeds) for _, seeds in found])

    def __len__(self) -> int:
        return len(self.seeds)

    def text(self, i: int) -> EditText:
        name = str(self.names[self.name_of[i]])
        path = self.path / name / "prompt.json"
        return read_text(read_json(path), str(path), f"{name}/{self.seeds[i]}")

    def files(self, i: int) -> tuple[EncodedImage, EncodedImage]:
        stem = str(self.path / self.names[self.name_of[i]] / self.seeds[i])
        return _image(f"{stem}_0"), _image(f"{stem}_1")


def has_pairs(path: Path) -> bool:
    """Whether a folder has this layout."""
    with scandir(path) as entries:
        return any((path / entry.name / "prompt.json").is_file() for entry in entries if entry.name[0] != ".")


def _image(stem: str) -> EncodedImage:
    """The image of that name, with the first of the IMAGE_ENDINGS that exists."""
    for ending in IMAGE_ENDINGS:
        path = Path(f"{stem}.{ending}")
        try:
            return EncodedImage(str(path), path.read_bytes())
        except FileNotFoundError:
            pass
        except OSError as error:
            raise cannot_read(path, error) from None
    raise EditsError(f"{stem}.jpg: no such file")


def _found(path: Path) -> Iterator[tuple[str, list[str]]]:
    """(folder, seeds) in order. A folder that lacks its prompt or one of two images is listed too: reading it fails."""
    image = re.compile(rf"(.+)_[01]\.({'|'.join(IMAGE_ENDINGS)})", re.IGNORECASE)
    with scandir(path) as entries:
        folders = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    for name in folders:
        with scandir(path / name) as entries:
            files = {entry.name for entry in entries}
        seeds = {match[1] for file in files if (match := image.fullmatch(file))}
        if "prompt.json" in files or seeds:
            yield name, sorted(seeds, key=lambda seed: (len(seed), seed))  # as numbers of any length
