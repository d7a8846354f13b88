"""The authors' list of pairs, and names that a set gives."""

import operator
from pathlib import Path, PurePosixPath
from typing import Any

from .common import EditsError, read_json


def read_seeds(path: Path) -> list[tuple[str, list[str]]]:
    """The authors' seeds.json, [[name, [seed, ...]], ...], with the seeds as text."""
    values = read_json(path, object)
    try:
        return [(file_name(name), [file_name(_seed(seed)) for seed in seeds]) for name, seeds in values]
    except (TypeError, ValueError) as error:
        why = f"; {error}" if isinstance(error, EditsError) else ""
        message = 'expected [["0000000", [seed, ...]], ...], names of folders and seeds'
        raise EditsError(f"{path}: {message}{why}") from None


def _seed(value: Any) -> str:
    return value.strip() if isinstance(value, str) else str(operator.index(whole(value)))


def file_name(name: str, where: str = "") -> str:
    """A name that a set gives, of a file beneath its folder. Raises EditsError, which begins with `where`, if it cannot
    be one."""
    parts = PurePosixPath(name).parts
    if not parts or parts[0] == "/" or ".." in parts or len(name) > 250 or not name.isprintable():
        raise EditsError(f"{where}{name!r:.80} cannot be the name of a file in the set")
    return name


def whole(value: Any) -> Any:
    """A seed as a whole number, where a table or another program stored it as text ("12") or as a float (12.0)."""
    if isinstance(value, str) and len(value) < 20 and value.strip().isdecimal():
        return int(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value
