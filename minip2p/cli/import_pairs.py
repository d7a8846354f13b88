"""`minip2p import`: a user's own pairs, or a set in any known layout, as a training set in the authors' folders."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import FlagCreatePairsOff, arg

from . import files
from .arguments import ColumnNames, optional
from .printing import note, say

if TYPE_CHECKING:
    from ..data.edits import Edits


@dataclass(frozen=True, kw_only=True)
class Options:
    """Make a training set from your own images before and after an edit, or from a set in another layout.

    Everything is checked before anything is written. To resume a stopped run, or to add new rows of the table,
    repeat the command. `minip2p check` reports what the set holds.
    """

    source: Annotated[str | None, optional("DIR")] = None
    """folder of the source images"""
    target: Annotated[str | None, optional("DIR")] = None
    """folder of the edited images"""
    table: Annotated[str | None, optional("PATH")] = None
    """a .jsonl, .json, .csv or .tsv of rows {"source": ..., "target": ..., "edit": ...}, which may also have the
    captions "input" and "output". Names are relative to the two folders, or to the table; one name is enough if both
    images have it"""
    edit: Annotated[str | None, optional("TEXT")] = None
    """the instruction for rows that have none; without a table, for all pairs of images with the same name"""
    data: Annotated[str | None, optional("PATH")] = None
    """a set in another layout, in place of your own images: WebDataset tars, parquet, MagicBrush, a folder of
    images with a metadata.jsonl or .csv, or OWNER/NAME on the Hugging Face hub"""
    part: Annotated[str | None, optional("NAME", "(default: train)")] = None
    """the part of --data, if it has several"""
    columns: ColumnNames = ()
    output: Annotated[str, arg(metavar="DIR")]
    """folder of the training set; created if missing"""
    lossless: FlagCreatePairsOff[bool] = False
    """write images that are not JPEG as PNG, which the authors' code does not read, instead of JPEG of quality 100.
    Upright RGB JPEGs are copied as they are"""
    skip_broken: FlagCreatePairsOff[bool] = False
    """leave out broken rows and name them"""


def run(options: Options) -> None:
    """Import, and print what was written."""
    from ..data.import_pairs import SETTINGS, import_pairs
    from ..text.bpe import BPE
    from ..text.cleaning import note_of_cut

    output = Path(options.output)
    edits = _open(options)
    files.check_writable(output / SETTINGS)
    result = import_pairs(edits, output, lossless=options.lossless, skip_broken=options.skip_broken)
    for message in result.broken.values():
        say(f"minip2p: skipped: {message}", error=True)
    texts = [edits.text(i) for i in range(len(edits)) if i not in result.broken]
    if cut := note_of_cut([each for text in texts for each in (text.instruction, text.input, text.output)], BPE.clip()):
        note(cut)
    parts = [f"{output}: {result.pairs:,} pairs"]
    parts += [f"{result.pairs - result.written:,} were there"] if result.written < result.pairs else []
    parts += [f"{len(result.broken):,} broken rows left out"] if result.broken else []
    say("; ".join([*parts, f"see minip2p check {output}"]))


def _open(options: Options) -> "Edits":
    from ..data.edits import Columns, Edits, open_edits
    from ..data.layouts.table import open_table

    columns = Columns.parse(options.columns)
    own = {name: getattr(options, name) for name in ("source", "target", "table", "edit")}
    given = [f"--{name}" for name, value in own.items() if value is not None]
    if options.data is None:
        if options.part is not None:
            raise ValueError("--part goes with --data")
        if not given:
            raise ValueError("missing --source DIR --target DIR and --table PATH (or --edit TEXT); or --data PATH")
        return Edits(open_table(**own, columns=columns), options.table or options.source)
    if given:
        raise ValueError(f"--data and {', '.join(given)}: a set has its own images and instructions; choose one")
    return open_edits(options.data, part=options.part, columns=columns)
