"""`minip2p precompute`: a set of edit pairs as latents, from which training is faster."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import arg

from .arguments import Loading, Threads, optional
from .work import EngineOptions, show_progress

if TYPE_CHECKING:
    from ..datagen.precompute import Settings
    from ..models.vae import AutoencoderKL


@dataclass(frozen=True, kw_only=True)
class Options:
    """Encode a set of edit pairs once, in several crops and mirrored, so that training is faster.

    `train.py editor --data` reads the result. To resume a stopped run, repeat the command.
    """

    data: Annotated[str, arg(metavar="PATH")]
    """pairs in any layout that minip2p check reads"""
    output: Annotated[str, arg(metavar="FOLDER")]
    """created if missing"""
    preset: Literal["tiny", "sd15"] = "tiny"
    """preset of train.py editor, which sets the defaults of size, resize and flip"""
    size: Annotated[int | None, optional("PIXELS", "(default: the preset's)")] = None
    """side of the square crops"""
    resize: Annotated[tuple[int, int] | None, arg(metavar="LOW HIGH", help_behavior_hint="(default: the preset's)")] = (
        None
    )
    """before each crop, resize the shorter side to a random length between these two"""
    flip: Annotated[Literal["yes", "no"] | None, optional("{yes,no}", "(default: the preset's)")] = None
    """also encode each crop mirrored"""
    crops: int = 4
    """random crops of each pair"""
    seed: int = 0
    """random seed of the crops"""
    batch_size: int = 16
    """images that are encoded together"""
    unit: int = 64
    """pairs in each tar"""
    threads: Threads = None
    skip_broken: bool = False
    """leave out pairs that cannot be read, and name them"""
    engine: EngineOptions = field(default_factory=EngineOptions)
    loading: Loading = field(default_factory=Loading)
    """The weights whose autoencoder is used: those from which training will start."""


def run(options: Options) -> None:
    """Encode the pairs that are not encoded yet."""
    from ..data.edits import open_edits
    from ..datagen.precompute import precompute
    from ..training.pairs import read_texts

    if options.loading.dtype != "float32":
        raise ValueError(f"dtype {options.loading.dtype}: expected float32, in which training runs the autoencoder")
    settings, engine = settings_of(options), options.engine.for_run(options.loading.device)
    edits = open_edits(options.data)
    mark = read_texts(edits, options.skip_broken).mark
    load, how = partial(load_vae, options), {"data": mark, "skip_broken": options.skip_broken}
    show_progress(precompute(load, edits, settings, options.output, **how, **engine), Path(options.output))


def load_vae(options: Options) -> "AutoencoderKL":
    """The autoencoder, in each process."""
    from ..datagen.engines import local_device

    device = local_device(options.loading.device)
    return options.loading.load(threads=options.threads, device=device, inference=False).vae


def settings_of(options: Options) -> "Settings":
    """The options that determine the latents."""
    from ..datagen.precompute import Settings
    from .train import specs_of

    preset = next(spec.presets[options.preset] for spec in specs_of("editor") if options.preset in spec.presets)
    return Settings(
        size=preset.size if options.size is None else options.size,
        resize=options.resize or preset.resize,
        flips=preset.flip > 0 if options.flip is None else options.flip == "yes",
        batch=options.batch_size,
        **{name: getattr(options, name) for name in ("crops", "seed", "unit", "threads")},
    )
