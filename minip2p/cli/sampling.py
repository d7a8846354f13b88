"""What the verbs that sample share: options, the grid, and how an image is made from its metadata and written."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from PIL import Image
from tyro.conf import FlagCreatePairsOff, arg

from ..data.picture_files import size_of
from ..schema import literal
from . import files, metadata
from .arguments import OWN, Loading, Sampler, Spacing, Threads, optional, steps_bar
from .printing import say

if TYPE_CHECKING:
    from ..pipeline import Pipeline

Output = Annotated[str, arg(metavar="PATH", help=f"the file to write ({', '.join(metadata.FORMATS)})")]
Size = Annotated[
    int | tuple[int, int] | None,
    arg(metavar="PIXELS | WIDTH HEIGHT", help="size of the image: one side, or both", help_behavior_hint=OWN),
]
Resolution = Annotated[
    int | None,
    arg(metavar="PIXELS", help="approximate longer side at which the image is sampled", help_behavior_hint=OWN),
]
KeepSize = Annotated[FlagCreatePairsOff[bool], arg(help="resize the result to the input's size")]
BatchSize = Annotated[
    int | None,
    arg(
        metavar="N",
        help="images that share the network's calls, which changes them by rounding only",
        help_behavior_hint="(default: 1 on a CPU; on a GPU as many as fit, up to 8)",
    ),
]
ALONE = ("steps", "weight")
"""settings that all images of a batch have in common"""
AXES = {"scale": float, "seed": int, "steps": int}
MODELS_OWN = {"scale": "text_scale"} | {name: name for name in ("text_scale", "image_scale", "resolution")}
"""setting -> its name in the model's config, which has the default"""
ABOUT = ("verb", "instruction", "prompt", "prompts", "edited_prompt", "grid", "input", "mask", "weights", "made_with")
"""of metadata: what is not a setting of the pipeline's verb"""


def Grid(example: str, axes: Mapping[str, type]) -> Any:
    """The type of the option --grid."""
    names = ", ".join(axes).replace("_", "-")
    return Annotated[
        tuple[str, ...],
        arg(
            metavar="NAME=A,B,...",
            help_behavior_hint="",
            help=f"make a contact sheet that varies one or two of {names}; e.g. {example}",
        ),
    ]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How to sample."""

    steps: int = 50
    """steps of the sampler; more are slower and finer"""
    seed: int = 0
    """random seed of the noise"""
    sampler: Sampler = "euler_ancestral"
    sampler_options: Annotated[tuple[str, ...], optional("NAME=VALUE ...")] = ()
    """options of the sampler, e.g. eta=0.5"""
    spacing: Spacing = "linspace"
    low_memory: FlagCreatePairsOff[bool] = False
    """run guidance branches one at a time, and move networks to the CPU while they are not used"""
    threads: Threads = None
    overwrite: FlagCreatePairsOff[bool] = False
    """replace output files that minip2p did not make"""
    loading: Annotated[Loading, arg(prefix_name=False)] = Loading()

    def settings(self) -> dict[str, Any]:
        """The options as keyword arguments of the pipeline's verbs."""
        names = ("steps", "seed", "sampler", "spacing", "low_memory")
        settings = {name: getattr(self, name) for name in names}
        if self.sampler_options:
            settings["sampler_options"] = parse_options(self.sampler_options)
        return settings

    def load(self, default: str) -> "Pipeline":
        """The weights given, or the shipped `default`."""
        return self.loading.load(default, self.threads)


@dataclass(frozen=True, kw_only=True)
class TextSampling(Sampling):
    """How to sample."""

    scale: Annotated[float | None, optional("FLOAT", OWN)] = None
    """guidance scale: how strongly the prompt is followed"""
    negative: Annotated[str, optional("TEXT")] = ""
    """a text to steer away from"""

    def settings(self) -> dict[str, Any]:
        return {"negative": self.negative, "scale": self.scale} | super().settings()


def parse_options(words: tuple[str, ...]) -> dict[str, Any]:
    """("eta=0.5", "order=3") -> {"eta": 0.5, "order": 3}; a value that is no Python literal is a string."""
    options = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"--sampler-options {word!r}: expected NAME=VALUE, e.g. eta=0.5")
        options[name] = literal(text)
    return options


def parse_grid(words: tuple[str, ...], axes: Mapping[str, type]) -> dict[str, list[float | int]]:
    """("text-scale=3,5", "seed=0,1,2") -> {"text_scale": [3.0, 5.0], "seed": [0, 1, 2]}: columns, then rows."""
    grid = {}
    for word in words:
        name, equals, values = word.partition("=")
        name = name.replace("-", "_")
        if name not in axes or not equals:
            names = ", ".join(axes).replace("_", "-")
            raise ValueError(f"--grid {word!r}: expected NAME=VALUE,VALUE,... with a name of {names}")
        try:
            grid[name] = [axes[name](value) for value in values.split(",")]
        except ValueError:
            raise ValueError(f"--grid {word!r}: expected numbers with commas between, e.g. {name}=1,2,3") from None
    if len(grid) != len(words) or len(grid) > 2:
        raise ValueError(f"--grid {' '.join(words)}: expected one or two different names")
    return grid


def prepare(options: Any, verb: str, model: str = "text2image", **more: Any) -> "tuple[Pipeline, dict, Path]":
    """The model, the metadata of the output, and the output, of a verb's options; `more` is recorded, too.

    Raises ValueError if the output cannot be written, with this metadata, or is the input; ImageError for the input.
    """
    output, image, size = Path(options.output), getattr(options, "input", None), (1, 1)
    if image is not None:
        size = size_of(Path(image), str(image))
        if output.resolve() == Path(image).resolve():
            raise ValueError(f"output {output} is the input; choose another place, so that nothing is lost")
    metadata.check_outputs(output, overwrite=options.sampling.overwrite)
    pipe = options.sampling.load(model)
    return pipe, describe(pipe, options, output, image, size, verb=verb, **more), output


def describe(
    pipe: "Pipeline",
    options: Any,
    output: Path,
    image: str | Path | None,
    size: tuple[int, int],
    mask: Path | None = None,
    **more: Any,
) -> dict:
    """The metadata of an output: all that decides its pixels. What was left out is the model's own. size: the input's.

    Raises ValueError if a file of the output's format cannot hold it, or a picture of the size that is kept.
    """
    from .recorded import KEYS

    names = KEYS.get(more.get("verb", "edit"), "").split()
    settings = {name: getattr(options, name) for name in names if name != "mask" and hasattr(options, name)}
    settings |= options.sampling.settings() | more
    for name, own in MODELS_OWN.items():
        if settings.get(name, 0) is None:
            settings[name] = getattr(pipe.config.sampling, own)
    m = settings | metadata.origin(pipe, options.sampling.loading, output, input=image, mask=mask)
    metadata.encode(Image.new("RGB", (max(size) if m.get("keep_size") else 1, 1)), output, m)
    return m


def settings_in(m: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in metadata, as keyword arguments of the pipeline's verb."""
    return {name: value for name, value in m.items() if name not in ABOUT}


def make(pipe: "Pipeline", m: dict, output: Path, image: str | None = None, **more: Any) -> Image.Image:
    """Make the image that metadata describes and write it. `more`: for the verb's own `make`."""
    module = import_module(f".{m['verb']}", __package__)
    with steps_bar(output.name) as on_step:
        result = module.make(pipe, image and Path(image), m, on_step, **more)
    files.write_file(output, metadata.encode(result, output, m))
    return result


def batch_size(pipe: "Pipeline", m: Mapping[str, Any], rows: int, given: int | None = None) -> int:
    """The number given, else the usual one, for images of metadata `m` that are so many rows each of a call."""
    from ..pipeline.batch_size import default_batch_size
    from ..pipeline.batching import check

    if given is not None:
        check(batch_size=given)
        return given
    side = m.get("size") or m.get("resolution") or pipe.config.sampling.resolution
    return default_batch_size(pipe, (side, side) if isinstance(side, int) else tuple(side), rows)


def in_batches(cells: list[dict[str, Any]], make: Callable[..., list], seed: int) -> Callable[..., Any]:
    """What `make` makes of each cell of a sheet, as a function of the cell's settings.

    `make` gets the settings as lists, but for those of `ALONE`, and is called once for each value of these. seed: of
    cells that have none of their own.
    """
    groups: dict[tuple, list[dict]] = {}
    for cell in cells:
        groups.setdefault(tuple(cell.get(name) for name in ALONE), []).append(cell)
    made = {}
    for group in groups.values():
        lists = {name: x if name in ALONE else [cell[name] for cell in group] for name, x in group[0].items()}
        results = make(**{"seed": [seed] * len(group)} | lists)
        made |= {frozenset(cell.items()): result for cell, result in zip(group, results, strict=True)}

    def made_of(**settings: Any) -> Any:
        return made[frozenset(settings.items())]

    return made_of


def report(output: Path, image: Image.Image, *notes: str) -> None:
    """Print what was written."""
    say("; ".join([f"{output}: {image.width}x{image.height}", *filter(None, notes)]))


Step = Callable[[Any], None]
