"""Files and folders that are written whole or not at all: under a temporary name beside the target, then renamed.

And locks of folders, and JSON objects, read with an error that names the file.
"""

import ctypes
import errno
import json
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pydantic_core

from .regular import read_regular

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

MOST_JSON = 256 << 20
"""bytes of a JSON file; the largest that are published, tokenizers and indices, have a tenth"""


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write` with a temporary file beside `path`, then rename it to `path`. Missing parent folders are created.

    A process that is killed leaves the old file, and perhaps the temporary one, `.NAME.*.part`.
    Raises OSError that names `path` when the file cannot be written; the old file is then unchanged.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        os.close(handle)
        write(Path(temporary))
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp and safetensors make files that only their owner can read
        os.replace(temporary, path)
    except OSError as error:
        raise _naming(path, error) from None
    finally:
        if temporary:
            Path(temporary).unlink(missing_ok=True)


def write_file(path: Path, data: bytes | str) -> None:
    """Replace the content of `path` by `data`; a str is written as UTF-8, with its line ends unchanged."""
    raw = data.encode() if isinstance(data, str) else data
    replace_file(path, lambda temporary: temporary.write_bytes(raw))


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Replace the content of `path` by these values as indented JSON."""
    write_file(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path, error: type[ValueError] = ValueError, kind: type = dict) -> Any:
    """The JSON value in a file. Raises `error` in one line that names the file, also if it is not of this kind."""
    return parse_json(read_regular(path, MOST_JSON, error), str(path), error, kind)


def parse_json(data: bytes | str, name: str, error: type[ValueError] = ValueError, kind: type = dict) -> Any:
    """A JSON value. Raises `error` in one line that begins with `name`, also if it is not of this kind.

    Refused as well: NaN and Infinity, 200 lists in each other, half a character of UTF-16.
    """
    try:
        text = data if isinstance(data, str) else data.decode(json.detect_encoding(data))
        values = pydantic_core.from_json(text.removeprefix("\ufeff"), allow_inf_nan=False)
    except ValueError as reason:
        raise error(f"{name}: not JSON ({' '.join(str(reason).split())})") from None
    if not _is_finite(values):  # 1e999
        raise error(f"{name}: holds numbers that are not finite")
    if not isinstance(values, kind):
        what = {dict: "an object", list: "a list"}[kind]
        raise error(f"{name}: expected {what}, found a {type(values).__name__}")
    return values


def _is_finite(value: Any) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return (not isinstance(value, float) or math.isfinite(value)) and all(map(_is_finite, inner))


def write_content(path: Path, content: bytes | Mapping[str, bytes]) -> None:
    """Replace a file by these bytes, or a folder by these files: all of them or none."""
    if isinstance(content, bytes):
        write_file(path, content)
        return

    def fill(folder: Path) -> None:
        for name, data in content.items():
            (folder / name).write_bytes(data)

    replace_folder(path, fill)


def replace_folder(path: Path, fill: Callable[[Path], object]) -> None:
    """Call `fill` with a temporary folder beside `path`, then rename it to `path`; a folder at `path` is replaced.

    Raises OSError that names `path` when the folder cannot be written; the old folder is then unchanged.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
        temporary.chmod(0o777 & ~_umask())
        fill(temporary)
        if not path.exists():
            os.replace(temporary, path)
        elif not _exchange(temporary, path):
            old = temporary.with_suffix(".old")
            os.replace(path, old)
            try:
                os.replace(temporary, path)
            except OSError:
                os.replace(old, path)
                raise
            shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise _naming(path, error) from None
    finally:
        if temporary:
            shutil.rmtree(temporary, ignore_errors=True)


def remove_unfinished(folder: Path, names: Collection[str] | None = None) -> None:
    """Remove the temporary files and folders that killed processes left: of these names, or of all.

    A folder that was moved away, and whose place is empty, is moved back.
    """
    for path in folder.glob(".*"):
        name, kind = path.name[1:].rsplit(".", 2)[0], path.suffix
        if kind not in (".part", ".old") or (names is not None and name not in names):
            continue
        if kind == ".old" and not (folder / name).exists():
            os.replace(path, folder / name)
        else:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _exchange(a: Path, b: Path) -> bool:
    """Swap two folders in one step, so that a killed process leaves one of them. False where the system cannot."""
    swap = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform == "linux" else None
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return swap is not None and swap(here, os.fsencode(a), here, os.fsencode(b), exchange) == 0


class FolderInUse(ValueError):
    """Another process writes in a folder."""


@contextmanager
def lock_folder(folder: Path, *, shared: bool = False) -> Iterator[None]:
    """Keep other processes from writing in a folder meanwhile, and remove what killed ones left unfinished in it.

    A missing folder is created, and removed again if it stays empty. shared: any number of processes may hold such a
    lock at once, as those do that make shards of one set; then the first of them removes unfinished files.
    The system ends the lock with the process, however that ends. Where the system or the file system has no `flock`
    (Windows, some network drives), nothing is locked. Raises FolderInUse where another process holds the lock.
    """
    created = [each for each in (folder, *folder.parents) if not each.exists()]
    if not created and not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "not a directory", str(folder))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _naming(folder, error) from None
    handle = os.open(folder, os.O_RDONLY) if fcntl else None
    try:
        if handle is not None:
            _close_in_children().add(handle)
        alone = _flock(handle, "LOCK_EX")
        if alone is False and not (shared and _flock(handle, "LOCK_SH", tries=20)):
            raise FolderInUse(f"{folder}: another process is writing in it; wait for it, or choose another folder")
        if alone or (alone is None and not shared):
            remove_unfinished(folder)
        if alone and shared:
            _flock(handle, "LOCK_SH", tries=20)
        yield
    finally:
        if handle is not None and handle in _close_in_children():  # else a forked child left the block
            _close_in_children().remove(handle)
            os.close(handle)
        for each in created:
            if each.is_dir() and not any(each.iterdir()):
                each.rmdir()


def _flock(handle: int | None, kind: str, tries: int = 1) -> bool | None:
    """Whether this process now has the lock; None where there are no locks. tries: in each 50 ms, since another shard
    that begins is alone for a moment."""
    for i in range(tries if handle is not None else 0):
        try:
            time.sleep(0.05 * (i > 0))
            fcntl.flock(handle, getattr(fcntl, kind) | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            pass
        except OSError:
            return None
    return None if handle is None else False


@cache
def _close_in_children() -> set[int]:
    """The locked folders' handles, which forked processes close: a lock must not outlive its process by a child."""
    handles: set[int] = set()

    def close() -> None:
        for handle in handles:
            os.close(handle)
        handles.clear()

    os.register_at_fork(after_in_child=close)
    return handles


def _naming(path: Path, error: OSError) -> OSError:
    """The same error about the user's path, where the system named a temporary one."""
    reason = (error.strerror or str(error)).lower().removeprefix("cannot be written: ")
    return OSError(error.errno, f"cannot be written: {reason}", str(path))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
