"""`minip2p evaluate`: an editor on a set of pairs, in CLIP's similarities or MagicBrush's metrics."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import arg

from ..evaluation.curves import IMAGE_SCALES, NAME, Curve, Settings
from . import files
from .arguments import Loading, limit_threads, optional
from .printing import note, say
from .work import EngineOptions, show_progress

if TYPE_CHECKING:
    from ..models.clip import CLIP
    from ..models.dino import DINO
    from ..pipeline import Pipeline

SUMMARY = "samples.jsonl", "summary.json", "summary.md", "figure.png", "figure.svg"
"""what is written when all samples are there"""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure an editor on a set of pairs: how much its edits follow the text, and how much of the image they keep.

    The output folder gets a table of means with intervals (summary.md, summary.json), a figure (figure.png, .svg), and
    all samples (samples.jsonl). To resume a stopped run, or to add other editors' results, repeat the command.
    """

    data: Annotated[str, arg(metavar="PATH")]
    """pairs with captions, in any layout that minip2p check reads"""
    part: Annotated[str | None, optional("NAME", "(default: train)")] = None
    """the part of a set with several parts"""
    output: Annotated[str, arg(metavar="FOLDER")]
    """created if missing"""
    metrics: Literal["clip", "magicbrush"] = "clip"
    """clip: CLIP's similarities at several scales, the paper's Figure 8; magicbrush: L1, L2, CLIP-I, DINO and CLIP-T
    against the true image, of single turns and of chains"""
    methods: tuple[Literal["editor", "sdedit"], ...] = ("editor", "sdedit")
    """what is measured, besides --results: the editor of --weights; SDEdit, the paper's baseline (clip only)"""
    text2image: Annotated[str | None, optional("PATH", "(default: the shipped tiny one, with the shipped editor)")] = (
        None
    )
    """a text-to-image model for SDEdit"""
    clip: Annotated[str | None, optional("PATH", "(default: the shipped tiny CLIP)")] = None
    """a CLIP checkpoint: the paper has ViT-L/14, MagicBrush ViT-B/32"""
    dino: Annotated[str | None, optional("PATH", "(default: DINO is left out)")] = None
    """for magicbrush: dino_deitsmall16_pretrain.pth (dino_vits16), or a folder of facebook/dino-vits16"""
    results: Annotated[tuple[str, ...], optional("NAME=FOLDER ...")] = ()
    """images that another editor made: KEY.png for each key in samples.jsonl; of MagicBrush as its script names them,
    ID/ID_1.png, ID/ID_inde_2.png, ID/ID_iter_2.png"""
    against: Annotated[tuple[str, ...], optional("NAME=FOLDER ...")] = ()
    """finished runs to compare with, OUT/editor of each: they are drawn too, and where scales and items are the same,
    the table has paired differences to them"""
    settings: Settings = Settings()
    engine: EngineOptions = field(default_factory=EngineOptions)
    loading: Loading = field(default_factory=Loading)
    """The weights of the editor. --lora and --vae are for it, not for --text2image."""


def run(options: Options) -> None:
    """Make the samples that are missing; when all are there, write the summary."""
    from .. import engines, units
    from ..data.edits import open_edits
    from ..evaluation.benchmarks import benchmark
    from ..evaluation.summary import read_points
    from ..evaluation.sweep import sweep

    out, engine = Path(options.output), options.engine.for_run(options.loading.device)
    curves = list(curves_of(options))
    others = {name: read_points(folder) for name, folder in named(options.against, "against")}
    if other := [name for name, points in others.items() for p in points if p.header.get("metrics") != options.metrics]:
        raise ValueError(f"--against {other[0]}: a run of other metrics than {options.metrics}")
    if not curves:
        raise ValueError("nothing to measure: expected --methods, or --results NAME=FOLDER")
    names = [*(curve.name for curve in curves), *others]
    if clash := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"two curves are named {clash[0]!r}; choose other names")
    files.check_writable(*(out / name for name in SUMMARY))
    edits, whole = open_edits(options.data, part=options.part), benchmark if options.metrics == "magicbrush" else sweep
    works = [whole(partial(load_models, options, curve), curve, edits, options.settings, out) for curve in curves]
    files.check_ours("evaluate", [out / name for name in SUMMARY], [work.folder / work.header for work in works])
    for work in works:
        show_progress(engines.run(work, **engine), work.folder)
    if missing := [name for work in works for name in set(work.names) - units.existing(work.folder)]:
        say(f"{out}: {len(missing)} units are left to other shards; the last one to finish writes the summary")
        return
    write_summary(out, [work.folder for work in works], others, options.metrics)


def curves_of(options: Options) -> "Iterator[Curve]":
    """What is measured. Raises ValueError for options that do not fit together."""
    from ..loading import shipped

    s, magicbrush = options.settings, options.metrics == "magicbrush"
    if options.dino and not magicbrush:
        raise ValueError("--dino: it is one of MagicBrush's metrics; add --metrics magicbrush")
    if magicbrush and s.protocol != "paired":
        raise ValueError(f"--protocol {s.protocol}: it is of CLIP's similarities; leave it out")
    weights = options.loading.weights
    if "editor" in options.methods:
        points = s.image_scales or ((None,) if magicbrush else IMAGE_SCALES)
        yield Curve(name="editor", method="editor", source=str(weights or shipped("editor")), points=points)
    if "sdedit" in options.methods and not magicbrush:
        if weights and not options.text2image:
            raise ValueError("SDEdit needs --text2image PATH, a Stable Diffusion checkpoint; or add --methods editor")
        source = str(options.text2image or shipped("text2image"))
        yield Curve(name="sdedit", method="sdedit", source=source, points=s.strengths)
    for name, folder in named(options.results, "results"):
        yield Curve(name=name, method="results", source=folder)


def named(words: Sequence[str], option: str) -> Iterator[tuple[str, str]]:
    """("ours=out/ours",) -> ("ours", "out/ours"). Raises ValueError for other words and missing folders."""
    for word in words:
        name, equals, folder = word.partition("=")
        if not equals or not NAME.fullmatch(name):
            raise ValueError(f"--{option} {word!r}: expected NAME=FOLDER, a name of letters, digits, - and .")
        if not Path(folder).is_dir():
            raise ValueError(f"--{option} {word!r}: {folder} is no folder")
        yield name, folder


def load_models(
    options: Options, curve: Curve
) -> "tuple[Pipeline | None, CLIP] | tuple[Pipeline | None, CLIP, DINO | None]":
    """The networks of a curve, in each process."""
    from ..engines import local_device
    from ..loading import load_clip, load_dino, place

    device, pipe = place(local_device(options.loading.device), "float32")[0], None
    if curve.method != "results":
        loading = replace(options.loading, weights=curve.source, device=str(device))
        if curve.method == "sdedit":  # what is merged belongs to the editor
            loading = replace(loading, lora=(), vae=None)
        pipe = loading.load(threads=options.settings.threads)
    clip = load_clip(options.clip, device=device)
    limit_threads(clip, *(pipe.parts.values() if pipe else ()), threads=options.settings.threads)
    return pipe, clip, load_dino(options.dino, device=device) if options.dino else None


def write_summary(out: Path, folders: Sequence[Path], others: dict[str, Any], metrics: str) -> None:
    """Write the samples, the table and the figure, and print the table."""
    from ..evaluation import summary

    rows = summary.summarize([point for folder in folders for point in summary.read_points(folder)], others)
    text = summary.table(rows)
    files.write_file(out / "samples.jsonl", b"".join(samples(folders)))
    files.write_file(out / "summary.json", json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
    files.write_file(out / "summary.md", f"{text}\n")
    say(*summary.table(rows, about=()).split("\n"), "", f"with models, preprocessing, settings: {out / 'summary.md'}")
    if metrics == "magicbrush":
        return
    for name, points in others.items():
        rows += [row | {"curve": name} for row in summary.summarize(points)]
    try:
        drawn = summary.figure(rows)
    except ValueError as error:  # matplotlib is missing
        note(f"{error}; then repeat the command")
        return
    files.write_file(out / "figure.png", files.png(drawn))
    files.write_file(out / "figure.svg", files.svg(drawn))
    say(f"figure: {out / 'figure.png'}, {out / 'figure.svg'}")


def samples(folders: Sequence[Path]) -> Iterator[bytes]:
    """All samples of all curves, each line with its curve."""
    from ..data.pair_files import json_lines
    from ..data.tables import read_rows

    for folder in folders:
        for path in sorted(folder.glob("*.jsonl")):
            yield json_lines({"curve": folder.name} | row for _, row in read_rows(path))
