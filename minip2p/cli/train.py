"""`minip2p train`: a stage of training, or the recipe of the shipped weights."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from tyro.conf import Positional, arg

from . import files
from .arguments import optional

Stage = Literal["vae", "clip", "reader", "editor", "painter", "language", "writer"]
STAGES = ",".join(get_args(Stage))


@dataclass(frozen=True, kw_only=True)
class Options:
    """Train one model, or rebuild all shipped weights with --recipe tiny."""

    stage: Positional[Annotated[Stage | None, arg(metavar=f"{{{STAGES}}}")]] = None
    """what to train"""
    preset: Literal["tiny", "tinyllama"] = "tiny"
    """its config, which --set changes (tinyllama: of a writer that starts from a published language model)"""
    recipe: Annotated[Literal["tiny"] | None, optional("{tiny}")] = None
    """train every stage in turn and write what ships"""
    out: Annotated[str | None, optional("DIR", "(default: runs/STAGE; weights/tiny for a recipe)")] = None
    """where the run's state, log, previews and model go"""
    resume: Annotated[str | None, optional("DIR")] = None
    """go on with the run in this folder, to the same bits as if it had never stopped"""
    init_from: Annotated[tuple[str, ...], optional("PATH ...")] = ()
    """start from the weights of these checkpoints (an editor takes its autoencoder from one, a writer its language
    model: a folder of Llama 2, TinyLlama, Mistral, or a file of ours)"""
    data: Annotated[str | None, optional("TABLE", "(default: the tiny world's own)")] = None
    """of a writer: triplets to learn from, .jsonl or .csv with input (or caption), edit, output"""
    lora_rank: Annotated[int | None, optional("R", "(default: the preset's; 0 trains all weights)")] = None
    """of a writer: train an addition of this rank to each linear layer, merged when weights are written"""
    steps: Annotated[int | None, optional("N")] = None
    """in place of the preset's"""
    batch_size: Annotated[int | None, optional("B")] = None
    """in place of the preset's"""
    set: Annotated[tuple[str, ...], arg(metavar="NAME=VALUE ...")] = ()
    """changes to the config, e.g. train.learning_rate=3e-4 model.unet.norm=rms"""
    print_config: bool = False
    """print the config and stop"""
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
    others = options.steps, options.batch_size, options.set, options.init_from, options.resume, _own(options)
    if options.recipe and any(others):
        raise ValueError("--recipe is as it is: only --out and --device go with it; to change something, train a stage")
    import json

    from ..config import to_dict
    from ..loading import place
    from ..training.loop import progress
    from ..training.recipe import rebuild, start

    device, _ = place(options.device, "float32")
    if options.recipe:
        out = Path(options.out or "weights/tiny")
        files.check_writable(out / "editor.safetensors")
        rebuild(out, out / "runs" if options.out else Path("runs/tiny"), progress, device)
        return _tell(out / "editor.safetensors")
    out = Path(options.resume or options.out or f"runs/{options.stage}")
    config = _config(options, out)
    if options.print_config:
        print(json.dumps(to_dict(config), indent=1))
        return
    files.check_writable(out / "config.json")
    logs = start(options.stage, config, out, init_from=options.init_from, resume=bool(options.resume), device=device)
    progress(logs, config.train.steps, options.stage)
    print(out / "model.safetensors")


def _config(options: Options, out: Path):
    """The preset, or a stopped run's config, with what the options change."""
    from ..config import override
    from ..training.config import PRESETS
    from ..training.recipe import saved_config, settled

    words = [
        f"train.{name}={value}" for name in ("steps", "batch_size") if (value := getattr(options, name)) is not None
    ]
    for name in ("steps", "batch_size"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} {value}: expected at least 1")
    own = _own(options)
    if own and (options.stage != "writer" or options.resume):
        name = f"--{next(iter(own)).replace('_', '-')}"
        raise ValueError(f"{name}: goes with train.py writer, when it starts; leave it out")
    if options.preset not in PRESETS[options.stage]:
        raise ValueError(f"--preset {options.preset}: of {options.stage} there are {', '.join(PRESETS[options.stage])}")
    if options.preset != "tiny" and not options.init_from and not options.resume:
        raise ValueError(f"--preset {options.preset}: give --init-from FOLDER, the language model to start from")
    config = saved_config(options.stage, out) if options.resume else PRESETS[options.stage][options.preset]
    config = override(replace(config, **own), *words, *options.set)
    steps = options.resume or options.steps is not None or any(w.startswith("train.steps") for w in options.set)
    return settled(config) if options.stage == "writer" and not steps else config


def _own(options: Options) -> dict[str, Any]:
    """What is said of a writer's training alone."""
    said = {"data": options.data, "lora_rank": options.lora_rank}
    return {name: value for name, value in said.items() if value is not None}


def _tell(weights: Path) -> None:
    """What the recipe's editor reaches."""
    import minip2p

    from ..evaluation.edits import judge_editor, table

    print(table(judge_editor(minip2p.load(weights))))
