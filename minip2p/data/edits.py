"""Opens sets of edit pairs in any layout as one sequence.

edits = open_edits("data/pairs")        # the authors' folders, WebDataset tars, parquet, MagicBrush, or on the hub
edits[0].source, edits[0].target, edits[0].instruction
"""

from collections.abc import Callable
from os import PathLike
from pathlib import Path

from .latents import is_precomputed
from .layouts.common import NO_COLUMNS, Columns, EditsError, EditText, EncodedImage, size_of
from .layouts.folder import Folder, has_pairs
from .layouts.huggingface import PARTS, HuggingFaceTable, is_saved_folder, load_table, parquet_files
from .layouts.magicbrush import MagicBrush
from .layouts.table import open_table, table_in
from .layouts.webdataset import Tars
from .pair_files import all_samples
from .pairs import EditPair, Edits, Layout
from .tables import ENDINGS

__all__ = ["LAYOUTS", "Columns", "EditPair", "EditText", "Edits", "EditsError", "EncodedImage", "Layout", "open_edits"]


def _open_tars(path: str, part: str | None, columns: Columns = NO_COLUMNS) -> Layout:
    return Tars(sorted(Path(path).glob("*.tar")) if Path(path).is_dir() else [Path(path)], columns)


def _open_magicbrush(path: str, part: str | None) -> Layout:
    folder = Path(path) / (part or "train")
    return MagicBrush(folder if folder.is_dir() else Path(path))


def _open_folder(path: str, part: str | None) -> Layout:
    return Folder(Path(path))


def _open_huggingface(path: str, part: str | None, columns: Columns = NO_COLUMNS) -> Layout:
    return HuggingFaceTable(load_table(path, part), path, columns)


def _open_table(path: str, part: str | None, columns: Columns = NO_COLUMNS) -> Layout:
    return open_table(table=_table_of(Path(path), part), columns=columns)


def _table_of(path: Path, part: str | None) -> Path:
    """The table of a part: that of its folder, else that of all. Raises EditsError where there is none."""
    if path.is_file():
        return path
    parts, whole = _tables_in(path), table_in(path)
    same = [table for name, table in parts.items() if PARTS[name] == PARTS.get(part or "train")]
    only = list(parts.values()) if part is None and len(parts) == 1 else []
    found = [table for table in (table_in(path / (part or "train")), *same, whole, *only) if table]
    if not found:
        raise EditsError(f"{path}: there is no part {part or 'train'!r}; there are {', '.join(parts)}")
    return found[0]


def _tables_in(path: Path) -> dict[str, Path]:
    """The tables of the parts of a set: folder -> table."""
    return {name: table for name in PARTS if (table := table_in(path / name))}


LAYOUTS: dict[str, Callable[..., Layout]] = {
    "folder": _open_folder,
    "webdataset": _open_tars,
    "magicbrush": _open_magicbrush,
    "huggingface": _open_huggingface,
    "table": _open_table,
}
"""name -> what opens the layout, from (path, part), and from (path, part, columns) those of NAMED"""
NAMED = ("webdataset", "huggingface", "table")
"""layouts whose columns may have any names"""


def open_edits(
    path: str | PathLike,
    *,
    layout: str | None = None,
    part: str | None = None,
    columns: Columns = NO_COLUMNS,
    filtered: bool = True,
) -> Edits:
    """The pairs in a folder or file, or in a set on Hugging Face's hub (OWNER/NAME).

    layout: a word of LAYOUTS; recognised unless given. part: of a set in several parts, e.g. "dev"; "train" unless
    given. columns: what its columns are called, where that is none of the known names. filtered: False takes all
    samples of a folder of made pairs, whatever its seeds.json lists (`pair_files.all_samples`). Raises EditsError for a
    missing, unknown or empty set, for columns that it does not have, and for a broken list or tar; a broken pair is an
    error only when it is read.
    """
    path = str(path)
    if not filtered:
        return Edits(Folder(Path(path), all_samples(path)), path)
    layout = layout or _recognise(Path(path))
    if layout not in LAYOUTS:
        raise EditsError(f"unknown layout {layout!r}; there are {', '.join(LAYOUTS)}")
    if columns.given and layout not in NAMED:
        raise EditsError(f"{path}: columns are those of tables, parquet and tars; a set of layout {layout!r} has none")
    edits = Edits(LAYOUTS[layout](path, part, *([columns] if columns.given else [])), path)
    if not len(edits):
        raise EditsError(f"{path}: a set of no pairs")
    return edits


def _recognise(path: Path) -> str:
    """The layout of the set at `path`."""
    if path.is_file():
        layouts = {".tar": "webdataset", ".parquet": "huggingface"} | dict.fromkeys(ENDINGS, "table")
        if (layout := layouts.get(path.suffix.lower())) is None:
            raise EditsError(f"{path}: expected a folder of edit pairs, or a file that ends in {', '.join(layouts)}")
        return layout
    if path.exists() and not path.is_dir():
        size_of(path)
    if not path.exists():
        if len(path.parts) == 2 and not path.is_absolute() and ".." not in path.parts:
            return "huggingface"  # OWNER/NAME
        raise EditsError(f"{path}: no such file or folder")
    if is_precomputed(path):
        raise EditsError(f"{path} is precomputed: it holds latents, not images; give the pairs it was made of")
    if has_pairs(path):
        return "folder"
    if any(path.glob("*.tar")):
        return "webdataset"
    if any((path / part / "edit_turns.json").is_file() for part in (".", "train", "dev", "test")):
        return "magicbrush"
    if table_in(path) or _tables_in(path):
        return "table"
    if is_saved_folder(path):
        return "huggingface"
    if (path / "seeds.json").is_file():
        return "folder"
    if parquet_files(path):
        return "huggingface"
    raise EditsError(
        f"{path}: no known set of edit pairs; looked for the authors' folders (prompt.json, 1_0.jpg, 1_1.jpg, "
        "seeds.json), WebDataset's .tar, .parquet, MagicBrush's edit_turns.json, and metadata.jsonl beside images"
    )
