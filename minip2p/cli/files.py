"""Files of the command line: hashes, writing, and paths that are stored in an image."""

import hashlib
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..files import write_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image


def sha256(path: Path) -> str:
    """The file's hash, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all. Raises OSError that names `path`."""
    write_file(path, data)


def check_writable(path: Path) -> None:
    """Raise ValueError if a file at `path` could not be written: to know it before hours of work."""
    folder = path.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if path.is_dir():
        raise ValueError(f"output {path} is a directory; expected a file")
    if not folder.is_dir():
        raise ValueError(f"output {path}: {folder} is a file, not a directory")
    if not os.access(folder, os.W_OK):
        raise ValueError(f"output {path}: no permission to write in {folder}")


def png(picture: "Image.Image | Figure") -> bytes:
    """An image, or a matplotlib figure, as a PNG file."""
    data = io.BytesIO()
    if hasattr(picture, "savefig"):
        picture.savefig(data, format="png", dpi=110)
    else:
        picture.save(data, "PNG")
    return data.getvalue()


def relative(path: str | Path, picture: Path) -> str:
    """`path` relative to the picture's folder: valid while both move together, and without the user's home."""
    try:
        return Path(os.path.relpath(path, picture.parent)).as_posix()
    except ValueError:  # on another drive
        return str(Path(path).absolute())
