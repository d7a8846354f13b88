"""Files of the command line: hashes, writing, and paths that are stored in an image."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from ..data.encode import png as png
from ..data.encode import svg as svg
from ..files import remove_unfinished
from ..files import write_file as write_file

LEAST = 2**20
"""bytes that must be free on the disk"""


def sha256(path: Path) -> str:
    """The file's hash, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def check_writable(*paths: Path) -> None:
    """Raise ValueError if one of these files could not be written: to know it before hours of work.

    Removes the temporary files that killed processes left of them.
    """
    for folder in {_existing_folder(path) for path in paths}:  # there _check_writable writes, too
        if folder.is_dir():
            remove_unfinished(folder, {path.name for path in paths})
    for path in paths:
        _check_writable(path)


def check_ours(verb: str, paths: Iterable[Path], headers: Iterable[Path]) -> None:
    """Raise ValueError where one of these files is there, but no header of a run by which this verb knows its own."""
    there = [path for path in paths if path.exists()]
    if there and not any(header.exists() for header in headers):
        raise ValueError(f"{there[0]} is a file that minip2p {verb} did not make; choose another --output")


def _existing_folder(path: Path) -> Path:
    """The nearest place above `path` that exists."""
    folder = path.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def _check_writable(path: Path) -> None:
    try:
        if path.exists() and not path.is_file():
            raise ValueError(f"output {path} is {'a directory' if path.is_dir() else 'no file'}; expected a file")
        folder = _existing_folder(path)
        if not folder.is_dir():
            raise ValueError(f"output {path}: {folder} is a file, not a directory")
        with tempfile.NamedTemporaryFile(prefix=f".{path.name}.", suffix=".part", dir=folder):
            pass  # as `write` will do
    except OSError as error:
        raise ValueError(f"output {path} cannot be written: {(error.strerror or str(error)).lower()}") from None
    if shutil.disk_usage(folder).free < LEAST:
        raise ValueError(f"output {path} cannot be written: the disk is full")


def relative(path: str | Path, picture: Path) -> str:
    """`path` relative to the picture's folder: valid while both move together, and without the user's home.

    Bytes of a name that are no UTF-8 become "?".
    """
    try:
        name = Path(os.path.relpath(path, picture.parent)).as_posix()
    except ValueError:  # on another drive
        name = str(Path(path).absolute())
    return name.encode(errors="replace").decode()
