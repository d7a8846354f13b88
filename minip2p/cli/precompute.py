"""`minip2p precompute`: a set of edit pairs as latents, from which training is faster."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import arg

from .arguments import ColumnNames, Loading, Threads, optional
from .printing import note
from .work import EngineOptions, show_progress

if TYPE_CHECKING:
    from ..datagen.precompute import Settings
    from ..pipeline import Pipeline


@dataclass(frozen=True, kw_only=True)
class Options:
    """Encode a set of edit pairs once, in several crops and mirrored, so that training is faster.

    `train.py editor --data` reads the result. To resume a stopped run, repeat the command.
    """

    data: Annotated[str, arg(metavar="PATH")]
    """pairs in any layout that minip2p check reads"""
    columns: ColumnNames = ()
    output: Annotated[str, arg(metavar="FOLDER")]
    """created if missing"""
    preset: Literal["tiny", "sd15"] = "tiny"
    """preset of train.py editor, which sets the defaults of size, resize and flip"""
    size: Annotated[int | tuple[int, int] | None, optional("PIXELS | WIDTH HEIGHT", "(default: the preset's)")] = None
    """of the crops: one side, or both"""
    resize: Annotated[tuple[int, int] | None, optional("LOW HIGH", "(default: from the shorter side to 9/8 of it)")] = (
        None
    )
    """before each crop, resize the shorter side to a random length between these two"""
    flip: Annotated[Literal["yes", "no"] | None, optional("{yes,no}", "(default: the preset's)")] = None
    """also encode each crop mirrored"""
    texts: Annotated[Literal["yes", "no"] | None, optional("{yes,no}", "(default: the preset's)")] = None
    """also encode the instructions, for training that keeps the text encoder as it is"""
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
    """The weights whose autoencoder and text encoder are used: those from which training will start."""


def run(options: Options) -> None:
    """Encode the pairs that are not encoded yet."""
    from ..config import Config
    from ..data.edits import Columns, open_edits
    from ..datagen.precompute import precompute
    from ..loading import read, shipped, tokenizer_of
    from ..text.cleaning import note_of_cut
    from ..training.pairs import read_texts

    if options.loading.dtype not in ("auto", "float32"):
        raise ValueError(f"dtype {options.loading.dtype}: expected float32, in which training runs the autoencoder")
    settings, engine = settings_of(options), options.engine.for_run(options.loading.device)
    edits = open_edits(options.data, columns=Columns.parse(options.columns))
    texts, source = read_texts(edits, options.skip_broken), options.loading
    loaded = read(source.weights or shipped("editor"), Config, source.config or None, source.ema)
    load, how = partial(load_model, options), {"data": texts.mark, "skip_broken": options.skip_broken}
    made = precompute(load, edits, settings, options.output, **how, **engine)
    if cut := note_of_cut(texts.instructions, tokenizer_of(loaded, loaded.config.text)):
        note(cut)
    show_progress(made, Path(options.output))


def load_model(options: Options) -> "Pipeline":
    """The model whose networks encode, in each process."""
    from ..engines import local_device

    device = local_device(options.loading.device)
    return options.loading.load(threads=options.threads, device=device, inference=False)


def settings_of(options: Options) -> "Settings":
    """The options that determine the latents."""
    from ..datagen.precompute import Settings
    from .train import specs_of

    preset = next(spec.presets[options.preset] for spec in specs_of("editor") if options.preset in spec.presets)
    return Settings(
        size=preset.size if options.size is None else options.size,
        resize=options.resize,
        flips=preset.flip > 0 if options.flip is None else options.flip == "yes",
        texts=not preset.train_text if options.texts is None else options.texts == "yes",
        batch=options.batch_size,
        **{name: getattr(options, name) for name in ("crops", "seed", "unit", "threads")},
    )
