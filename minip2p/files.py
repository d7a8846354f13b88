"""Files and folders that are written whole or not at all: under a temporary name beside the target, then renamed.

And JSON objects, read with an error that names the file.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any


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
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp makes files that only their owner can read
        write(Path(temporary))
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
    try:
        return parse_json(path.read_bytes(), str(path), error, kind)
    except OSError as reason:
        raise error(f"{path}: {(reason.strerror or str(reason)).lower()}") from None


def parse_json(data: bytes | str, name: str, error: type[ValueError] = ValueError, kind: type = dict) -> Any:
    """A JSON value. Raises `error` in one line that begins with `name`, also if it is not of this kind."""
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as reason:
        raise error(f"{name}: not JSON ({' '.join(str(reason).split())})") from None
    if not isinstance(values, kind):
        what = {dict: "an object", list: "a list"}[kind]
        raise error(f"{name}: expected {what}, found a {type(values).__name__}")
    return values


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
        old = temporary.with_suffix(".old")
        if path.exists():
            os.replace(path, old)
        try:
            os.replace(temporary, path)
        except OSError:
            if old.exists():
                os.replace(old, path)
            raise
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise _naming(path, error) from None
    finally:
        if temporary:
            shutil.rmtree(temporary, ignore_errors=True)


def remove_unfinished(folder: Path, names: Collection[str] | None = None) -> None:
    """Remove the temporary files and folders that killed processes left: of these names, or of all."""
    for path in folder.glob(".*"):
        name, kind = path.name[1:].rsplit(".", 2)[0], path.suffix
        if kind in (".part", ".old") and (names is None or name in names):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _naming(path: Path, error: OSError) -> OSError:
    """The same error about the user's path, where the system named a temporary one."""
    reason = (error.strerror or str(error)).lower().removeprefix("cannot be written: ")
    return OSError(error.errno, f"cannot be written: {reason}", str(path))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
