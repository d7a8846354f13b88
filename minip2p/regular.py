"""Regular files, which have an end: a pipe or a device may have none."""

import os
import stat
from pathlib import Path


def read_regular(path: Path, most: int, error: type[ValueError] = ValueError) -> bytes:
    """The bytes of a file with at most so many. Raises `error` in one line that names it."""
    try:
        require_regular(path, error)
        if (size := path.stat().st_size) > most:
            raise error(f"{path} has {size:,} bytes; expected at most {most:,}")
        return path.read_bytes()
    except FileNotFoundError:
        raise error(f"{path}: no such file") from None
    except OSError as reason:
        raise error(f"{path}: {(reason.strerror or str(reason)).lower()}") from None


def require_regular(path: Path, error: type[ValueError] = ValueError) -> None:
    """Raise `error` for a folder, a dangling link, a pipe or a device, which may never end; OSError for nothing."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        if not path.is_symlink():
            raise
        raise error(f"{path}: a link to {os.readlink(path)}, where there is nothing; fetch the file again") from None
    except ValueError as reason:  # a name with a NUL
        raise error(f"{str(path)!r}: {reason}") from None
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "a device" if stat.S_ISCHR(mode) else "a pipe or a socket"
        raise error(f"{path}: is {what}; expected a file")
