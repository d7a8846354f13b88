"""Write a set of edit pairs as a training set in the authors' folders.

Every pair is checked before anything is written. A stopped run can be continued; a table that has grown adds its rows.

    OUT/run.json                        the settings of the import
    OUT/0000012/prompt.json             the texts of pair 12: input, edit, output, key, origin
    OUT/0000012/metadata.jsonl          the file names it came from
    OUT/0000012/SEED_0.jpg, SEED_1.jpg  source and target; SEED is a hash of the pair's key
    OUT/seeds.json                      the list of all pairs, written last
"""

import hashlib
import io
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from ..files import lock_folder, write_content, write_file, write_json
from .colour import to_srgb
from .edits import Edits, EditsError, EditText, EncodedImage
from .layouts.common import read_json
from .layouts.table import check_text
from .pair_files import json_lines
from .picture_files import decode, open_picture
from .pixels import ImageError

SETTINGS, LIST = "run.json", "seeds.json"


@dataclass(frozen=True, kw_only=True)
class Imported:
    """The result of an import."""

    pairs: int
    written: int
    """pairs that were not there before"""
    broken: dict[int, str]
    """row -> its error, of the rows left out"""


def import_pairs(edits: Edits, output: Path, *, lossless: bool = False, skip_broken: bool = False) -> Imported:
    """Write all pairs to the folder `output`.

    lossless: images that are not JPEG become PNG, which the authors' code does not read, instead of JPEG of quality
    100. Upright RGB JPEGs are copied byte for byte. skip_broken: leave broken pairs out.
    Raises ValueError, before anything is written: for a folder with other contents, or in which another process writes,
    and for a broken pair.
    """
    with lock_folder(output):
        return _import(edits, output, lossless, skip_broken)


def _import(edits: Edits, output: Path, lossless: bool, skip_broken: bool) -> Imported:
    settings = {"verb": "import", "lossless": lossless}
    _check_output(output, settings)
    broken = _find_broken(edits, output)
    good = [i for i in range(len(edits)) if i not in broken]
    if broken and not (skip_broken and good):
        more = f"; {len(broken) - 1:,} more of {len(edits):,} are broken" if len(broken) > 1 else ""
        hint = "" if skip_broken else "; fix it, or leave out what is broken by --skip-broken"
        raise ValueError(f"{next(iter(broken.values()))}{more}{hint}")
    write_json(output / SETTINGS, settings)
    missing = [i for i in good if not (output / folder_name(i)).is_dir()]
    for i in tqdm(missing, "writing", unit="pair", leave=False):
        write_content(output / folder_name(i), _contents(edits.text(i), edits.files(i), lossless))
    seeds = [[folder_name(i), [seed_of(edits.key(i))]] for i in good]
    write_file(output / LIST, json.dumps(seeds) + "\n")
    return Imported(pairs=len(good), written=len(missing), broken=broken)


def folder_name(i: int) -> str:
    """The folder of row i. Broken rows count, so that it stays when a row is fixed or the table grows."""
    return f"{i:07d}"


def seed_of(key: str) -> int:
    """The number in the images' names, where the authors have a seed: 31 bits of a hash."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") >> 1


def encode(image: EncodedImage, lossless: bool) -> tuple[str, bytes]:
    """(ending, bytes) of an image in a training set; a JPEG that is upright and sRGB is not encoded again."""
    with open_picture(io.BytesIO(image.data), image.name) as opened:
        upright = opened.getexif().get(0x0112, 1) == 1
        plain = opened.format in ("JPEG", "MPO") and opened.mode == "RGB" and upright
        if plain and to_srgb(opened, image.name) is None:
            return "jpg", image.data
    picture, file = decode(io.BytesIO(image.data), image.name), io.BytesIO()
    if lossless:
        picture.save(file, "PNG")
        return "png", file.getvalue()
    picture.save(file, "JPEG", quality=100, subsampling=0)
    return "jpg", file.getvalue()


def _check_output(output: Path, settings: dict) -> None:
    """Raise ValueError unless the folder is new, or holds an import with the same settings."""
    there = sorted(name for name in os.listdir(output) if not name.startswith(".")) if output.is_dir() else []
    if there and SETTINGS not in there:
        raise ValueError(f"output {output} holds other files, such as {there[0]}; choose a new folder")
    before = read_json(output / SETTINGS) if there else settings
    if before != settings:
        was, now = json.dumps(before), json.dumps(settings)
        raise ValueError(f"output {output} was started with {was:.80}, now it is {now}; choose a new folder")


def _find_broken(edits: Edits, output: Path) -> dict[int, str]:
    """Row -> its error. Reads every text and opens every image, except of pairs that are already written.

    Raises ValueError where the folder holds another pair in a row's place, or a pair beyond the last row.
    """
    done = {name for name in os.listdir(output) if re.fullmatch(r"\d{7,}", name)} if output.is_dir() else set()
    if beyond := sorted(done - {folder_name(i) for i in range(len(edits))}):
        raise ValueError(
            f"output {output} holds {beyond[0]}, which is beyond the {len(edits):,} rows; choose a new folder"
        )
    broken = {}
    for i in tqdm(range(len(edits)), "checking", unit="pair", leave=False):
        text = None
        try:
            text = edits.text(i)
            if folder_name(i) in done:
                _check_same(output / folder_name(i), text)
                continue
            for role, value in (("edit", text.instruction), ("input", text.input), ("output", text.output)):
                check_text(role, value)
            edits[i]
        except (EditsError, ImageError) as error:
            broken[i] = str(error) if text is None or text.name in str(error) else f"{text.name}: {error}"
    return broken


def _check_same(folder: Path, text: EditText) -> None:
    if read_json(folder / "prompt.json") != _prompt(text):
        raise ValueError(
            f"output {folder} is another pair than {text.name}: the rows have changed since; choose a new folder"
        )


def _prompt(text: EditText) -> dict[str, str]:
    """A pair's prompt.json."""
    values = {"input": text.input, "edit": text.instruction, "output": text.output}
    values |= {"key": text.key, "origin": text.origin}
    return {name: value for name, value in values.items() if value is not None}


def _contents(text: EditText, images: tuple[EncodedImage, EncodedImage], lossless: bool) -> dict[str, bytes]:
    """The files of a pair's folder, by name."""
    seed = seed_of(text.key)
    came_from = {side: Path(image.name).name for side, image in zip(("source", "target"), images)}
    contents = {"prompt.json": json_lines([_prompt(text)]), "metadata.jsonl": json_lines([{"seed": seed} | came_from])}
    for side, image in enumerate(images):
        ending, data = encode(image, lossless)
        contents[f"{seed}_{side}.{ending}"] = data
    return contents
