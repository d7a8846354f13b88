"""`minip2p import`: a user's own pairs, or a set in any known layout, as a training set in the authors' folders."""

import hashlib
import io
import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import FlagCreatePairsOff, arg

from . import files
from .arguments import optional

if TYPE_CHECKING:
    from ..data.edits import Edits, EditText, Stored

SETTINGS, LIST = "run.json", "seeds.json"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Make a training set of your own pictures before and after, or of a set in another layout.

    Everything is checked before anything is written. After a stop the same command goes on; a table that has grown adds
    its new rows. `minip2p check` tells then what the set holds.
    """

    source: Annotated[str | None, optional("DIR")] = None
    """the folder of the pictures before"""
    target: Annotated[str | None, optional("DIR")] = None
    """the folder of the pictures after"""
    table: Annotated[str | None, optional("PATH")] = None
    """a .jsonl or .csv with the rows {"source": ..., "target": ..., "edit": ..., and if you like the captions "input",
    "output"}. Names are relative to the two folders, else to the table; one name does where both are called the same"""
    edit: Annotated[str | None, optional("TEXT")] = None
    """the instruction of rows without their own; without a table, of all pictures of equal names"""
    data: Annotated[str | None, optional("PATH")] = None
    """in place of all that: a set of WebDataset tars, parquet, MagicBrush, ..., or OWNER/NAME of Hugging Face's hub"""
    part: Annotated[str | None, optional("NAME", "(default: train)")] = None
    """of --data in several parts, which"""
    output: Annotated[str, arg(metavar="DIR")]
    """the folder to make"""
    lossless: FlagCreatePairsOff[bool] = False
    """write what is no JPEG as PNG, which the authors' code does not read, in place of a JPEG of quality 100. Upright
    RGB pictures that are JPEGs already are copied as they are"""
    skip_broken: FlagCreatePairsOff[bool] = False
    """name the rows that are no pairs, and go on without them"""


def run(options: Options) -> None:
    """Check all rows, write those that are not there yet, list them."""
    edits = _open(options)
    output = Path(options.output)
    settings = {"verb": "import", "lossless": options.lossless}
    _check_output(output, settings)
    broken = _validate(edits, output)
    if broken:
        _tell(broken, len(edits), options.skip_broken)
    files.write(output / SETTINGS, json.dumps(settings, indent=2).encode() + b"\n")
    good = [i for i in range(len(edits)) if i not in broken]
    made = _write_all(edits, good, output, options.lossless)
    listed = [[name_of(i), [seed_of(edits.key(i))]] for i in good]
    files.write(output / LIST, json.dumps(listed).encode() + b"\n")
    parts = [f"{output}: {len(good):,} pairs"]
    parts += [f"{len(good) - made:,} were there"] if made < len(good) else []
    parts += [f"{len(broken):,} broken rows are left out"] if broken else []
    print("; ".join([*parts, f"minip2p check {output} tells more"]))


def name_of(i: int) -> str:
    """The folder of a row, counted with the broken ones: it stays when a row is mended or the table grows."""
    from ..datagen.units import unit_name

    return unit_name(i)


def seed_of(key: str) -> int:
    """What stands for the authors' seed in the pictures' names: 31 bits of a hash."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") >> 1


def _open(options: Options) -> "Edits":
    from ..data.edit_rows import open_rows
    from ..data.edits import open_edits

    own = {name: getattr(options, name) for name in ("source", "target", "table", "edit")}
    given = [f"--{name}" for name, value in own.items() if value is not None]
    if options.data is None:
        if options.part is not None:
            raise ValueError("--part goes with --data")
        if not given:
            raise ValueError("missing --source DIR --target DIR and --table PATH (or --edit TEXT); or --data PATH")
        return open_rows(**own)
    if given:
        raise ValueError(f"--data and {', '.join(given)}: a set has its own pictures and instructions; choose one")
    return open_edits(options.data, part=options.part)


def _check_output(output: Path, settings: dict) -> None:
    """Raises ValueError where the folder holds anything but what this command writes into it."""
    files.check_writable(output / SETTINGS)
    if not output.is_dir():
        return
    there = sorted(name for name in os.listdir(output) if not name.endswith(".part"))
    if there and SETTINGS not in there:
        raise ValueError(f"output {output} holds other things, such as {there[0]}; choose a new folder")
    if there:
        before = _read_json(output / SETTINGS)
        if before.get("verb") != "import":
            raise ValueError(f"output {output} was written by another command (its run.json); choose a new folder")
        if differs := [name for name in settings if before.get(name) != settings[name]]:
            name = differs[0]
            raise ValueError(
                f"output {output} was begun with {name} {json.dumps(before.get(name))}, this is "
                f"{json.dumps(settings[name])}; choose a new folder or the same setting"
            )


def _validate(edits: "Edits", output: Path) -> dict[int, str]:
    """What is wrong with which item: every text is read and every picture opened, but of what was written before.

    Raises ValueError where the folder holds another pair in an item's place, or one beyond the last.
    """
    from tqdm import tqdm

    from ..data.edit_rows import check_text
    from ..data.edits import EditsError
    from ..data.images import ImageError
    from ..datagen.units import done_units

    done = set(done_units(output)) if output.is_dir() else set()
    if beyond := sorted(done - {name_of(i) for i in range(len(edits))}):
        told = f"{beyond[0]}, which is not among the {len(edits):,} rows"
        raise ValueError(f"output {output} holds {told}; choose a new folder")
    broken = {}
    for i in tqdm(range(len(edits)), "checking", unit="pair", leave=False):
        try:
            text = edits.text(i)
            if name_of(i) in done:
                _check_same(output / name_of(i), text)
                continue
            for role, told in (("edit", text.instruction), ("input", text.input), ("output", text.output)):
                check_text(role, told, text.name)
            edits[i]
        except (EditsError, ImageError) as error:
            broken[i] = str(error)
    return broken


def _check_same(folder: Path, text: "EditText") -> None:
    if _read_json(folder / "prompt.json") != prompt_of(text):
        raise ValueError(
            f"output {folder} is another pair than {text.name}: the rows have changed since; choose a new folder"
        )


def _tell(broken: dict[int, str], count: int, skip: bool) -> None:
    """Every broken row by name where they are skipped; else, as an error, the first and how many more."""
    first = next(iter(broken.values()))
    if skip and len(broken) < count:
        for message in broken.values():
            print(f"minip2p: skipped: {message}", file=sys.stderr)
        return
    more = f"; {len(broken) - 1:,} more of {count:,} are broken" if len(broken) > 1 else ""
    hint = "" if skip else "; mend it, or --skip-broken leaves out and names what is broken"
    raise ValueError(f"{first}{more}{hint}")


def _write_all(edits: "Edits", good: list[int], output: Path, lossless: bool) -> int:
    """How many were written: those that were not there."""
    from tqdm import tqdm

    from ..datagen.units import clean

    clean(output, patience=3600.0)
    todo = [i for i in good if not (output / name_of(i)).is_dir()]
    for i in tqdm(todo, "writing", unit="pair", leave=False):
        text, pair, encoded = edits.text(i), edits.files(i), {}
        seed = seed_of(text.key)
        came_from = {side: Path(stored.name).name for side, stored in zip(("source", "target"), pair)}
        encoded["prompt.json"] = _json(prompt_of(text))
        encoded["metadata.jsonl"] = _json({"seed": seed} | came_from)
        for side, stored in enumerate(pair):
            ending, data = encode(stored, lossless)
            encoded[f"{seed}_{side}.{ending}"] = data
        _write_folder(output / name_of(i), encoded)
    return len(todo)


def prompt_of(text: "EditText") -> dict:
    """What a pair's prompt.json says; what is not known is left out."""
    told = {"input": text.input, "edit": text.instruction, "output": text.output}
    told |= {"key": text.key, "origin": text.origin}
    return {name: value for name, value in told.items() if value is not None}


def encode(stored: "Stored", lossless: bool) -> tuple[str, bytes]:
    """(ending, bytes) of a picture: a JPEG that every reader sees as it is stays as it is."""
    from PIL import Image

    from ..data.images import decode

    with Image.open(io.BytesIO(stored.data)) as image:
        upright = image.getexif().get(0x0112, 1) == 1
        if image.format in ("JPEG", "MPO") and image.mode == "RGB" and upright:
            return "jpg", stored.data
    picture, file = decode(io.BytesIO(stored.data), stored.name), io.BytesIO()
    if lossless:
        picture.save(file, "PNG")
        return "png", file.getvalue()
    picture.save(file, "JPEG", quality=100, subsampling=0)
    return "jpg", file.getvalue()


def _write_folder(folder: Path, contents: dict[str, bytes]) -> None:
    """All files of a pair, or no folder: written beside and renamed."""
    from ..datagen.units import host, put

    beside = folder.with_name(f".{folder.name}.{host()}.{os.getpid()}.0.part")
    with files.naming(folder):
        try:
            beside.mkdir()
            for name, data in contents.items():
                put(beside / name, data)
            os.rename(beside, folder)
        finally:
            shutil.rmtree(beside, ignore_errors=True)


def _json(value: dict) -> bytes:
    from ..datagen.units import to_json

    return f"{to_json(value)}\n".encode()


def _read_json(path: Path) -> dict:
    from ..data.edit_sources import parse_object, read_file

    return parse_object(read_file(path), str(path))
