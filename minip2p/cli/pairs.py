"""`minip2p pairs`: from a table of instructions to scored pairs of images."""

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from .. import engines
from ..datagen import pairs
from ..loading import load_clip
from .arguments import Loading, limit_threads, optional
from .work import EngineOptions, show_progress

if TYPE_CHECKING:
    from ..models.clip import CLIP
    from ..pipeline import Pipeline


@dataclass(frozen=True, kw_only=True)
class Options:
    """Generate pairs of images by Prompt-to-Prompt and score them by CLIP: step 2 of the paper's training set.

    Images are written only of candidates, which pass all thresholds. So minip2p filter, which then chooses the pairs to
    train on, can be stricter, but not looser. To resume an interrupted run, repeat the command.
    """

    prompts: Annotated[str, arg(metavar="PATH")]
    """a table (.jsonl, .json, .csv, .tsv) of rows {"input": caption, "edit": instruction, "output": edited caption}, as
    minip2p instructions writes it"""
    output: Annotated[str, arg(metavar="FOLDER")]
    """created if missing"""
    clip: Annotated[str | None, optional("PATH", "(default: the shipped tiny CLIP)")] = None
    """a CLIP checkpoint, e.g. a folder of openai/clip-vit-large-patch14"""
    settings: pairs.Settings = pairs.Settings()
    engine: EngineOptions = field(default_factory=EngineOptions)
    loading: Loading = field(default_factory=Loading)


def run(options: Options) -> None:
    """Make the pairs that do not exist yet."""
    engine = options.engine.for_run(options.loading.device)
    made = pairs.make(
        partial(load_models, options), pairs.read_prompts(options.prompts), options.settings, options.output, **engine
    )
    show_progress(made, Path(options.output))


def load_models(options: Options) -> "tuple[Pipeline, CLIP]":
    """The networks of one process. Raises ValueError for a model that cannot generate images of this size."""
    settings, device = options.settings, engines.local_device(options.loading.device)
    pipe = replace(options.loading, device=device).load("text2image")
    dtype = "tf32" if options.loading.dtype == "tf32" else "float32"  # a switch of the process: the last one counts
    clip = load_clip(options.clip, device=pipe.device, dtype=dtype)
    limit_threads(clip, *pipe.parts.values(), threads=settings.threads)
    return pipe, clip
