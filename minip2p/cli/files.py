"""Files of the command line: hashes, writing that leaves nothing half done, paths that travel with a picture."""

import hashlib
import io
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

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
    """All of `data`, or no file: written beside and renamed. Makes the folder. Raises OSError that names `path`."""
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            beside.write_bytes(data)
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)


@contextmanager
def naming(path: Path):
    """Any OSError within tells the user's path, not that of a temporary file."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"cannot be written: {error.strerror}".lower(), str(path)) from error


def check_writable(path: Path) -> None:
    """Raises ValueError where a file at `path` could not be written, before hours of work find it out."""
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
    """A picture, or a figure of matplotlib's, as a PNG file."""
    data = io.BytesIO()
    if hasattr(picture, "savefig"):
        picture.savefig(data, format="png", dpi=110)
    else:
        picture.save(data, "PNG")
    return data.getvalue()


def relative(path: str | Path, picture: Path) -> str:
    """`path` as seen from the picture's folder: it holds while the two move together, and tells nobody's home."""
    try:
        return Path(os.path.relpath(path, picture.parent)).as_posix()
    except ValueError:  # on another drive
        return str(Path(path).absolute())
