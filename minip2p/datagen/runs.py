"""run.json: what decides the content of a folder that several runs and processes fill."""

import json
import os
from pathlib import Path
from typing import Any

from .units import part_name


def create(path: Path, values: dict) -> None:
    """Write a file whole, unless there is one: of several processes, the first one's stays."""
    beside = path.with_name(part_name(path.name))
    try:
        beside.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        try:
            os.link(beside, path)
        except FileExistsError:
            pass
        except OSError:  # a file system without links: then the last one's stays, which only a race can tell apart
            os.replace(beside, path)
    except OSError as error:
        raise OSError(error.errno, f"cannot be written: {error.strerror}".lower(), str(path)) from error
    finally:
        beside.unlink(missing_ok=True)


def check_same(path: Path, there: dict[str, Any], ours: dict[str, Any]) -> None:
    """Raise ValueError that names the first difference of this run from the one that is there; made_with may differ."""
    for key in [key for key in (*ours, *there) if key != "made_with"]:
        if ours.get(key) != there.get(key):
            raise ValueError(
                f"{path} tells of a run with {key} {_short(there.get(key))}, this one has {_short(ours.get(key))}: "
                "choose another --output, or the same settings"
            )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
