"""`minip2p train`: a stage of training, or the recipe of the shipped weights."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from tyro.conf import Positional, arg

from . import files
from .arguments import optional
from .work import device_of

Stage = Literal["vae", "clip", "reader", "editor", "painter", "language", "writer"]
STAGES = ",".join(get_args(Stage))


@dataclass(frozen=True, kw_only=True)
class Options:
    """Train one model, or rebuild all shipped weights with --recipe tiny."""

    stage: Positional[Annotated[Stage | None, arg(metavar=f"{{{STAGES}}}")]] = None
    """what to train"""
    preset: Literal["tiny", "sd15", "tinyllama"] = "tiny"
    """its config, which --set changes (sd15: the paper's, of an editor that starts from Stable Diffusion's weights;
    tinyllama: of a writer that starts from a published language model)"""
    recipe: Annotated[Literal["tiny"] | None, optional("{tiny}")] = None
    """train every stage in turn and write what ships"""
    out: Annotated[str | None, optional("DIR", "(default: runs/STAGE; weights/tiny for a recipe)")] = None
    """where the run's state, log, previews and model go"""
    resume: Annotated[str | None, optional("DIR")] = None
    """go on with the run in this folder, to the same bits as if it had never stopped"""
    init_from: Annotated[tuple[str, ...], optional("PATH ...")] = ()
    """start from the weights of these checkpoints (an editor takes its autoencoder from one, a writer its language
    model: a folder of Llama 2, TinyLlama, Mistral, or a file of ours)"""
    data: Annotated[str | None, optional("PATH", "(default: the tiny world's own)")] = None
    """what to learn from. Of an editor: a set of pairs, as minip2p check reads it (folders, WebDataset tars, parquet, a
    hub's OWNER/NAME), or precomputed by minip2p precompute. Of a writer: triplets, .jsonl or .csv with input (or
    caption), edit, output"""
    mixture: Annotated[str | None, optional("PATH:SHARE,PATH:SHARE,...")] = None
    """of an editor: several such sets, and how much of the training each is"""
    skip_broken: bool = False
    """of an editor: take the next pair in place of one that cannot be read; all are counted and named"""
    lora_rank: Annotated[int | None, optional("R", "(default: the preset's; 0 trains all weights)")] = None
    """of an editor or writer: train an addition of this rank to linear layers, merged when weights are written"""
    steps: Annotated[int | None, optional("N")] = None
    """in place of the preset's"""
    batch_size: Annotated[int | None, optional("B")] = None
    """in place of the preset's"""
    set: Annotated[tuple[str, ...], arg(metavar="NAME=VALUE ...")] = ()
    """changes to the config, e.g. train.learning_rate=3e-4 model.unet.norm=rms"""
    print_config: bool = False
    """print the config, as words for --set, and stop; of an editor, what differs from the paper is marked"""
    dry_run: bool = False
    """read and prepare batches without training, and tell how fast that goes and what memory training would take"""
    shard: bool = False
    """under torchrun: spread weights and the optimiser's state over the processes, too (FSDP2)"""
    device: Annotated[str, arg(metavar="NAME")] = "auto"
    """auto (CUDA, else MPS, else CPU), cpu, cuda, cuda:1, mps"""


def run(options: Options) -> None:
    """Train."""
    if (options.stage is None) == (options.recipe is None):
        raise ValueError(f"expected a stage ({STAGES}) or --recipe tiny; e.g. train.py editor --preset tiny")
    if options.resume and (options.out or options.init_from):
        raise ValueError(
            "--resume goes on with all of a run's state, in its own folder; --out and --init-from start another"
        )
    others = (options.steps, options.batch_size, options.set, options.init_from, options.resume, options.data,
              options.mixture, options.skip_broken, options.lora_rank, options.dry_run, options.shard)  # fmt: skip
    if options.recipe and any(each is not None and each is not False and each != () for each in others):
        raise ValueError("--recipe is as it is: only --out and --device go with it; to change something, train a stage")
    from ..loading import place
    from ..training.loop import progress
    from ..training.ranks import joined
    from ..training.recipe import SECOND, rebuild, start
    from ..training.stops import Stopped

    device, _ = place(device_of(options.device), "float32")
    try:
        if options.recipe:
            out = Path(options.out or "weights/tiny")
            files.check_writable(out / "editor.safetensors")
            runs = out / "runs" if options.out else Path("runs/tiny")
            rebuild(out, runs, progress, lambda models: _make_pairs(models, runs / "data", options.device), device)
            return _tell(out / "editor.safetensors", runs / SECOND / "model.safetensors")
        out = Path(options.resume or options.out or f"runs/{options.stage}")
        config = _config(options, out)
        if options.print_config:
            return _print(options, config)
        with joined(device, options.shard) as ranks:
            if options.dry_run:
                return _rehearse(options, config, out, ranks)
            files.check_writable(out / "config.json")
            logs = start(options.stage, config, out, init_from=options.init_from, resume=bool(options.resume), ranks=ranks)
            progress(logs, config.train.steps, options.stage, quiet=not ranks.first)
            if ranks.first:
                print(out / "model.safetensors")
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(stopped.status)


def _config(options: Options, out: Path):
    """The preset, or a stopped run's config, with what the options change."""
    from ..config import override
    from ..training.presets import PRESETS
    from ..training.recipe import saved_config, settled

    words = [
        f"train.{name}={value}" for name in ("steps", "batch_size") if (value := getattr(options, name)) is not None
    ]
    for name in ("steps", "batch_size"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} {value}: expected at least 1")
    if options.preset not in PRESETS[options.stage]:
        raise ValueError(f"--preset {options.preset}: of {options.stage} there are {', '.join(PRESETS[options.stage])}")
    own = _own(options)
    if options.resume:
        return override(saved_config(options.stage, out), *words, *options.set)
    if options.preset != "tiny" and not options.init_from:
        what = "the language model" if options.stage == "writer" else "Stable Diffusion's weights"
        raise ValueError(f"--preset {options.preset}: give --init-from PATH, {what} to start from")
    if options.preset == "sd15" and "data" not in own:
        raise ValueError("--preset sd15: give --data, a set of pairs; the tiny world's are pictures of 64 pixels")
    config = replace(PRESETS[options.stage][options.preset], **own)
    if options.stage != "writer":
        return override(settled(options.stage, config, options.init_from), *words, *options.set)
    config = override(config, *words, *options.set)
    steps = options.steps is not None or any(word.startswith("train.steps") for word in options.set)
    return config if steps else settled(options.stage, config, options.init_from)


FITS = {
    "data": ("editor", "writer"), "mixture": ("editor",), "skip_broken": ("editor",), "lora_rank": ("editor", "writer"),
}  # fmt: skip
"""an option that some stages have -> these"""


def _own(options: Options) -> dict[str, Any]:
    """What is said of this stage alone, as words of its config. Raises ValueError for what is none of its."""
    said = {name: getattr(options, name) for name in FITS}
    said = {name: value for name, value in said.items() if value is not None and value is not False}
    for name in said:
        if options.stage not in FITS[name] or options.resume:
            word = f"--{name.replace('_', '-')}"
            raise ValueError(f"{word}: goes with train.py {' or '.join(FITS[name])}, when it starts; leave it out")
    if options.stage != "editor":
        return said
    if "data" in said and "mixture" in said:
        raise ValueError("--data and --mixture: give one of them; a mixture names its sets itself")
    if "data" in said:
        said["data"] = (said["data"],)
    if "mixture" in said:
        said["data"], said["shares"] = parse_mixture(said.pop("mixture"))
    return said


def parse_mixture(text: str) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """"a:0.7,b:0.3" -> its paths and shares."""
    paths, shares = [], []
    for word in text.split(","):
        path, _, share = word.rpartition(":")
        try:
            value = float(share)
        except ValueError:
            value = 0.0
        if not path or not 0 < value < float("inf"):
            raise ValueError(f"--mixture {text!r}: expected PATH:SHARE,PATH:SHARE,... with shares above 0, e.g. a:0.7,b:0.3")
        paths.append(path)
        shares.append(value)
    return tuple(paths), tuple(shares)


def _print(options: Options, config) -> None:
    """Each word of the config on its line; of an editor with what the paper has."""
    from ..config import words_of
    from ..training.presets import PAPER

    paper = words_of(PAPER) if options.stage == "editor" else {}
    for name, value in words_of(config).items():
        line = f"{name}={value!r}"
        print(f"{line:<60}  # the paper: {paper[name]!r}" if name in paper and paper[name] != value else line)


def _rehearse(options: Options, config, out: Path, ranks) -> None:
    """What the data loader gives by itself, and the memory that training takes."""
    from ..training.rehearsal import rehearse

    for line in rehearse(options.stage, config, out, options.init_from, ranks):
        if ranks.first:
            print(line)


def _make_pairs(models: dict[str, Path], out: Path, device: str) -> Path:
    """A training set by the recipe's own models, as minip2p make-data and precompute make one."""
    from . import make_data, precompute
    from .arguments import Loading

    weights = {name: str(models[name]) for name in ("writer", "painter", "clip", "reader")}
    make_data.run(make_data.Options(output=str(out), device=device, **weights))
    loading = Loading(weights=weights["painter"], device=device)
    latents = out / "latents"
    precompute.run(precompute.Options(data=str(out / "pairs"), output=str(latents), crops=8, loading=loading))
    return latents


def _tell(*editors: Path) -> None:
    """What the recipe's editors reach."""
    import minip2p

    from ..evaluation.edits import judge_editor, table

    for path in editors:
        print(f"{path}:\n{table(judge_editor(minip2p.load(path)))}")
