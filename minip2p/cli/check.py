"""`minip2p check`: what a set of edit pairs holds, before it is trained on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import FlagCreatePairsOff, Positional, arg

from . import files, metadata
from .arguments import ColumnNames, optional, progress_bar
from .printing import say

if TYPE_CHECKING:
    from ..data.edits import EditPair, Edits
    from ..data.inspect import Finding, Inspection

BATCH = 32
"""pairs that CLIP scores at a time"""
CLIP_SCORES = {
    "image": "of the two images",
    "caption_0": "of source and caption",
    "caption_1": "of target and edited caption",
    "direction": "of the changes of images and captions",
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Report what a set of edit pairs holds: pairs, sizes, repeats, text lengths, differences of the images.

    Reads any layout. Broken pairs are named; the exit status is 1 if there are any.
    """

    data: Positional[Annotated[str, arg(metavar="DIR")]]
    """the authors' folders, WebDataset tars, parquet, MagicBrush, a table, a folder of images with a metadata.jsonl or
    .csv, or OWNER/NAME on the Hugging Face hub"""
    part: Annotated[str | None, optional("NAME", "(default: train)")] = None
    """the part of a set with several parts"""
    columns: ColumnNames = ()
    output: Annotated[str | None, optional("PATH")] = None
    """a .png file for a contact sheet of pairs from the whole set"""
    overwrite: FlagCreatePairsOff[bool] = False
    """replace a file that minip2p did not make"""
    number: int = 12
    """pairs on the contact sheet"""
    clip: Annotated[str | None, optional("PATH")] = None
    """also report CLIP's similarities, for pairs with captions: its weights, or "tiny" for the tiny world's CLIP"""
    device: Annotated[str, arg(metavar="NAME")] = "auto"
    """for CLIP: auto (CUDA, else MPS, else CPU), cpu, cuda, cuda:1, mps"""


def run(options: Options) -> int:
    """Read every pair once, print the findings; the exit status."""
    from ..data.edits import Columns, open_edits
    from ..data.inspect import Inspection
    from ..text.bpe import BPE
    from .figures import pair_sheet

    if options.number < 1:
        raise ValueError(f"number {options.number}: expected at least 1")
    if options.output:
        if Path(options.output).suffix.lower() != ".png":
            raise ValueError(f"output {options.output}: expected a file that ends in .png")
        metadata.check_outputs(Path(options.output), overwrite=options.overwrite)
    scorer = None if options.clip is None else Scorer(options.clip, options.device)
    edits = open_edits(options.data, part=options.part, columns=Columns.parse(options.columns))
    found, broken, shown = Inspection(token_spans=BPE.clip().offsets), 0, []
    with progress_bar("pair", "checking") as show:
        for i in range(len(edits)):
            try:
                text, images, pair = edits.read(i)
            except ValueError as error:
                broken += 1
                say(f"minip2p: broken: {edits.path}, pair {i}: {error}", error=True)
            else:
                found.add(text, (images[0].data, images[1].data), pair)
                if len(shown) < options.number and (i + 0.5) * options.number >= (len(shown) + 0.5) * len(edits):
                    shown.append(pair)
                if scorer:
                    scorer.add(pair)
            show(i + 1, len(edits))
    rows = report(edits, found, broken) | (scorer.report() if scorer else {})
    width = max(map(len, rows))
    say(edits.path, *(f"  {name:{width}}  {text}" for name, text in rows.items()))
    if options.output and shown:
        sheet = pair_sheet(f"{edits.path}: {len(shown)} of {len(edits):,} pairs", shown)
        about = {"verb": "check", "data": edits.path, "number": len(shown)}
        files.write_file(Path(options.output), metadata.encode(sheet, Path(options.output), about))
    return 1 if broken else 0


class Scorer:
    """CLIP's similarities of the pairs that are added; those without both captions are skipped."""

    def __init__(self, path: str, device: str):
        import minip2p

        self.clip = minip2p.load_clip(None if path == "tiny" else path, device=device)
        self.waiting: list[EditPair] = []
        self.values: dict[str, list[float]] = {name: [] for name in CLIP_SCORES}

    def add(self, pair: "EditPair") -> None:
        if pair.input is not None and pair.output is not None:
            self.waiting.append(pair)
        if len(self.waiting) == BATCH:
            self.score()

    def score(self) -> None:
        """Score the pairs that wait."""
        from ..evaluation.metrics import similarities

        pairs, self.waiting = self.waiting, []
        columns = [[getattr(pair, name) for pair in pairs] for name in ("source", "target", "input", "output")]
        for name, values in vars(similarities(self.clip, *columns)).items() if pairs else ():
            self.values[name] += values.tolist()

    def report(self) -> dict[str, str]:
        self.score()
        return {
            f"CLIP {name.replace('_', ' ')}": f"mean {sum(x) / len(x):.3f}, {spread(x, '.3f')}; {CLIP_SCORES[name]}"
            for name, x in self.values.items()
            if x
        } or {"CLIP": "no pair has both captions"}


def report(edits: "Edits", found: "Inspection", broken: int) -> dict[str, str]:
    """The findings by name."""
    rows = {"pairs": f"{len(edits):,}"}
    rows["broken"] = f"{broken:,}, named above" if broken else "none"
    if not found.pairs:
        return rows
    common = found.sizes.most_common(5)
    rows["with captions"] = f"{found.captions:,}"
    rows["sizes"] = ", ".join("{}x{} ({:,})".format(*size, n) for size, n in common)
    rows["sizes"] += f" and {len(found.sizes) - 5:,} others" if len(found.sizes) > 5 else ""
    rows["unequal sizes"] = named(found.unequal)
    rows["repeated pairs"] = named(found.repeated)
    rows["repeated images"] = named(found.reworded, ", with other instructions")
    rows["no instruction"] = named(found.empty)
    rows["words"] = f"{spread(found.words)} in an instruction"
    rows["CLIP tokens"] = f"{spread(found.tokens)}; CLIP reads {found.max_tokens}, besides start and end"
    rows["cut by CLIP"] = named(found.cut)
    rows["captions cut"] = named(found.cut_captions)
    if found.longest[0]:
        tokens, read, lost = found.longest
        read, lost = (" ".join(text.split()) for text in (read[-60:], lost[:120]))
        rows["the longest"] = f"{tokens} tokens: ... {read} | not read: {lost}"
    rows["difference"] = f"{spread(found.differences, '.3f')}; 0 is equal, 1 is black and white"
    rows["equal images"] = named(found.same)
    return rows


def spread(values: Sequence[float], form: str = ",.0f") -> str:
    """Minimum, maximum and median."""
    ordered = sorted(values)
    least, middle, most = (format(value, form) for value in (ordered[0], ordered[len(ordered) // 2], ordered[-1]))
    return least if least == most else f"{least} to {most}, median {middle}"


def named(finding: "Finding", what: str = "") -> str:
    """How many, and which."""
    if not finding.count:
        return "none"
    more = ", ..." if finding.count > len(finding.named) else ""
    return f"{finding.count:,}{what}: {', '.join(finding.named)}{more}"
