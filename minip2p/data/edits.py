"""Opens sets of edit pairs in any layout as one sequence.

edits = open_edits("data/pairs")        # the authors' folders, WebDataset tars, parquet, MagicBrush, or on the hub
edits[0].source, edits[0].target, edits[0].instruction
"""

from collections.abc import Callable
from os import PathLike
from pathlib import Path

from .latents import is_precomputed
from .layouts.common import EditsError, EditText, EncodedImage, size_of
from .layouts.folder import Folder, has_pairs
from .layouts.huggingface import HuggingFaceTable, is_saved_folder, load_table, parquet_files
from .layouts.magicbrush import MagicBrush
from .layouts.table import open_table, table_in
from .layouts.webdataset import Tars
from .pairs import EditPair, Edits, Layout
from .tables import ENDINGS

__all__ = ["LAYOUTS", "EditPair", "EditText", "Edits", "EditsError", "EncodedImage", "Layout", "open_edits"]


def _open_tars(path: str, part: str | None) -> Layout:
    return Tars(sorted(Path(path).glob("*.tar")) if Path(path).is_dir() else [Path(path)])


def _open_magicbrush(path: str, part: str | None) -> Layout:
    folder = Path(path) / (part or "train")
    return MagicBrush(folder if folder.is_dir() else Path(path))


def _open_folder(path: str, part: str | None) -> Layout:
    return Folder(Path(path))


def _open_huggingface(path: str, part: str | None) -> Layout:
    return HuggingFaceTable(load_table(path, part), path)


def _open_table(path: str, part: str | None) -> Layout:
    return open_table(table=_table_at(Path(path), part or "train") or path)


def _table_at(path: Path, part: str) -> Path | None:
    return table_in(path / part) or table_in(path)


LAYOUTS: dict[str, Callable[[str, str | None], Layout]] = {
    "folder": _open_folder,
    "webdataset": _open_tars,
    "magicbrush": _open_magicbrush,
    "huggingface": _open_huggingface,
    "table": _open_table,
}
"""name -> what opens the layout, from (path, part)"""


def open_edits(path: str | PathLike, *, layout: str | None = None, part: str | None = None) -> Edits:
    """The pairs in a folder or file, or in a set on Hugging Face's hub (OWNER/NAME).

    layout: a word of LAYOUTS; recognised unless given. part: of a set in several parts, e.g. "dev"; "train" unless
    given. Raises EditsError for a missing, unknown or empty set, and for a broken list or tar; a broken pair is an
    error only when it is read.
    """
    path = str(path)
    layout = layout or _recognise(Path(path))
    if layout not in LAYOUTS:
        raise EditsError(f"unknown layout {layout!r}; there are {', '.join(LAYOUTS)}")
    edits = Edits(LAYOUTS[layout](path, part), path)
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
    if _table_at(path, "train"):
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
