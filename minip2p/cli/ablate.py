"""`minip2p ablate`: train variants of a model and say, with intervals, which of them are better."""

import json
import sys
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import UseAppendAction

from ..evaluation.curves import IMAGE_SCALES
from . import files
from .ablation_runs import EVALUATION, RunOptions, check_evaluation, check_variant, config_of, evaluate, train
from .arguments import limit_threads, optional
from .printing import note, say
from .work import EngineOptions, show_progress

if TYPE_CHECKING:
    from ..evaluation.ablation import Ablation, Variant

RESULTS = "table.json", "table.md", "differences.png", "differences.svg", "figure.png", "figure.svg"
"""what is written when all runs are there"""


@dataclass(frozen=True, kw_only=True)
class Options(RunOptions):
    """Train variants of a model, each with several seeds and equal steps, and evaluate all of them on the same items.

    The output folder gets a table (table.md, table.json): means with intervals, paired differences to the baseline,
    parameters, FLOP, pictures/s; and figures. To resume a stopped ablation, or to add variants or seeds, repeat the
    command.
    """

    output: str
    """folder for the runs and the results, created if missing"""
    variant: Annotated[UseAppendAction[tuple[str, ...]], optional("'NAME: WORD=VALUE ...'", "(may be repeated)")] = ()
    """a name, and the words by which the config differs, as for minip2p train --set: 'rms: model.unet.norm=rms'. The
    preset without changes is the baseline, unless a variant is named baseline"""
    variants: Annotated[str | None, optional("PATH")] = None
    """variants as a JSON file: {"rms": "model.unet.norm=rms", ...}"""
    figure: Annotated[Literal[10] | None, optional("10")] = None
    """the variants of the paper's Figure 10: all of --data, 10 %, 1 %, without the CLIP filter, and --unshared; with
    one seed, evaluated by CLIP at image scales 1.0 1.2 ... 2.2"""
    unshared: Annotated[str | None, optional("PATH")] = None
    """for --figure 10: pairs made without Prompt-to-Prompt (minip2p pairs --share 0)"""
    seeds: Annotated[int | None, optional("N", "(default: 3; for --figure 10, 1)")] = None
    """each variant is trained with the seeds 0 ... N-1"""
    engine: EngineOptions = field(default_factory=EngineOptions)


def run(options: Options) -> None:
    """Check all variants, train and evaluate what is missing, write the table when all is there."""
    from .. import units
    from ..evaluation import ablation
    from ..training.stops import Stopped

    check(options)
    out = Path(options.output)
    files.check_writable(*(out / name for name in RESULTS))
    if options.figure and not options.image_scales:
        options = replace(options, image_scales=IMAGE_SCALES)
    made = ablation.Ablation(
        folder=out,
        variants=variants_of(options),
        seeds=range((1 if options.figure else 3) if options.seeds is None else options.seeds),
        train=partial(train, options),
        evaluate=partial(evaluate, options),
        header=options.header,
        threads=options.threads,
    )
    files.check_ours("ablate", [out / name for name in RESULTS], [out / made.work.header])
    check_evaluation(options)
    for look in (config_of, check_variant):  # words first: that takes no time
        for variant in made.variants:
            try:
                found = look(options, variant, made.seeds[0], out / "runs" / variant.name)
            except (ValueError, OSError) as error:
                raise ValueError(f"variant {variant.name}: {error}") from None
    limit_threads(found, threads=options.threads)
    try:
        show_progress(ablation.run(made, **options.engine.for_run(options.device)), out)
    except Stopped as stopped:
        say(f"{stopped}; or repeat the command", error=True)
        sys.exit(stopped.status)
    if missing := made.runs.keys() - units.existing(out):
        say(f"{out}: {len(missing)} runs are left to other shards; the last one to finish writes the table")
        return
    write_results(made)


def check(options: Options) -> None:
    """Raise ValueError for options that do not fit together."""
    own = options.variants or options.variant
    if options.figure and own:
        raise ValueError("--figure 10 has variants of its own; leave out --variant and --variants")
    if not options.figure and not own:
        raise ValueError("nothing to compare: give --variant 'NAME: WORD=VALUE ...', --variants FILE or --figure 10")
    if options.figure and not options.data:
        raise ValueError("--figure 10 needs --data PATH, the pairs of which parts are trained on")
    if options.unshared and not options.figure:
        raise ValueError("--unshared is for --figure 10; otherwise give --variant 'unshared: data=PATH'")
    if not options.all_metrics:
        raise ValueError("nothing to evaluate the models on: give --data or --test PATH, pairs with captions")
    if "truth" in options.all_metrics and options.preset != "tiny":
        raise ValueError("--metrics truth: it is of the tiny world, whose models --preset tiny trains")
    if "clip" in options.all_metrics and (options.stage != "editor" or not options.pairs):
        raise ValueError("--metrics clip: it is of editors, and needs --data or --test PATH, pairs with captions")
    if options.image_scales and "clip" not in options.all_metrics:
        raise ValueError("--image-scales: they are of --metrics clip")


def variants_of(options: Options) -> "list[Variant]":
    """The baseline first."""
    from ..data.edits import open_edits
    from ..evaluation.ablation import Variant, parse_variant, read_variants

    if not options.figure:
        found = read_variants(options.variants) if options.variants else []
        found += map(parse_variant, options.variant)
        named = [each for each in found if each.name == "baseline"] or [Variant(name="baseline")]
        return [*named, *(each for each in found if each.name != "baseline")]
    found = [Variant(name="all"), *(Variant(name=f"{p}-percent", words=(f"fraction={p / 100}",)) for p in (10, 1))]
    try:
        open_edits(str(options.data), filtered=False)
        found.append(Variant(name="unfiltered", words=("filtered=False",)))
    except ValueError as error:
        note(f"no curve without the CLIP filter: {error}")
    return [*found, *([Variant(name="unshared", words=(f"data={options.unshared}",))] if options.unshared else [])]


def write_results(made: "Ablation") -> None:
    """Write the table and the figures, and print the table."""
    from ..evaluation import ablation_table
    from ..files import read_json

    rows, out = ablation_table.rows(made), made.folder
    text = ablation_table.table(rows)
    files.write_file(out / "table.json", json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    files.write_file(out / "table.md", f"{text}\n")
    say(*text.split("\n"))
    try:
        drawn = {"differences": ablation_table.differences(rows)}
        if any(row.point is not None for row in rows):
            about = read_json(out / "runs" / next(iter(made.runs)) / EVALUATION / "run.json")
            drawn["figure"] = ablation_table.curves(rows, about)
    except ValueError as error:  # matplotlib is missing
        note(f"{error}; then repeat the command")
        return
    for name, figure in drawn.items():
        if figure is not None:
            files.write_file(out / f"{name}.png", files.png(figure))
            files.write_file(out / f"{name}.svg", files.svg(figure))
            say(f"figure: {out / name}.png, {out / name}.svg")
