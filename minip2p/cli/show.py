"""`minip2p show`: the recipe inside a picture, and the picture made again from it."""

import io
import json
import os
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from PIL import Image, ImageChops
from tyro.conf import FlagCreatePairsOff, Positional, arg

from . import files, recipe
from .arguments import Source, load, optional
from .edit import steps_bar

if TYPE_CHECKING:
    from ..pipeline import Pipeline


@dataclass(frozen=True, kw_only=True)
class Options:
    """Print the recipe inside a picture that minip2p made, or make the picture again from it.

    `--again` checks that input and weights are the recipe's and says whether the pixels are equal; it exits with 1 if
    they are not.
    """

    picture: Positional[Annotated[str, arg(metavar="PICTURE")]]
    """the picture"""
    again: FlagCreatePairsOff[bool] = False
    """make it again"""
    output: Annotated[str | None, optional("PATH", "(default: NAME-again beside it)")] = None
    """where to"""
    input: Annotated[str | None, optional("PATH", "(default: as recorded)")] = None
    """where the input picture is now"""
    weights: Annotated[str | None, optional("PATH", "(default: as recorded)")] = None
    """where the weights are now"""
    device: Annotated[str | None, optional("NAME", "(default: as recorded)")] = None
    """another device: pixels may then differ by rounding"""


def run(options: Options) -> int:
    """The exit status: 1 where the pixels differ."""
    picture = Path(options.picture)
    r = recipe.read(picture)
    if not options.again:
        print(json.dumps(r, indent=2, ensure_ascii=False))
        return 0
    try:
        verb = recipe.verb_of(r)
    except ValueError as error:
        raise ValueError(f"{picture}: {error}") from None
    module = import_module(f".{verb}", __package__)
    output = Path(options.output or picture.with_stem(f"{picture.stem}-again"))
    recipe.check_format(output)
    if output.resolve() == picture.resolve():
        raise ValueError(f"output {output} is the picture itself; choose another place")
    files.check_writable(output)
    source = _find_input(options.input, r, picture) if "input" in r else None
    weights = options.weights or (r["weights"]["path"] and str(picture.parent / r["weights"]["path"]))
    pipe = _load(weights, options.device, r, verb)
    with steps_bar(module.work(r)) as bar:
        bar.set_description((source or picture).name)
        image = module.perform(pipe, source, r, lambda _: bar.update())
    now = r | {"made_with": recipe.versions(pipe)}
    if source is not None:
        now["input"] = r["input"] | {"path": files.relative(source, output)}
    now["weights"] = r["weights"] | {"path": weights and files.relative(weights, output)}
    files.write(output, recipe.encode(image, output, now))
    return _compare(image, picture, r, now, output)


def _find_input(given: str | None, r: dict, picture: Path) -> Path:
    path = Path(given) if given else Path(os.path.normpath(picture.parent / r["input"]["path"]))
    if not path.is_file():
        raise ValueError(f"input {path} is not there; say with --input where it is now")
    if files.sha256(path) != r["input"]["sha256"]:
        raise ValueError(f"input {path} has changed since (sha256); say with --input where the old one is")
    return path


def _load(path: str | None, device: str | None, r: dict, verb: str) -> "Pipeline":
    recorded = r["weights"]
    device = device or r.get("made_with", {}).get("device", "auto")
    source = Source(weights=path, ema=recorded["ema"], config=tuple(recorded["config"]))
    default = "editor" if verb == "edit" else "painter"
    pipe = load(source, default, device=device, dtype=recorded["dtype"])
    if pipe.fingerprint != recorded["fingerprint"]:
        raise ValueError(
            f"weights {path or '(the shipped ones)'} have changed since: they are {pipe.fingerprint}, the recipe's "
            f"{recorded['fingerprint']}; say with --weights where those are"
        )
    return pipe


def _compare(image: Image.Image, picture: Path, r: dict, now: dict, output: Path) -> int:
    """Say whether pixels are equal. The image goes through the old picture's format first, which may not keep all."""
    with Image.open(io.BytesIO(recipe.encode(image, picture, now))) as new, Image.open(picture) as old:
        if new.size != old.size:
            sizes = f"is {old.width}x{old.height}, its recipe makes {new.width}x{new.height}"
            raise ValueError(f"{picture} {sizes}: it was changed since")
        worst = max(high for _, high in ImageChops.difference(new.convert("RGB"), old.convert("RGB")).getextrema())
    if worst == 0:
        print(f"{output}: the pixels are equal to those of {picture}")
        return 0
    before, after = r.get("made_with", {}), now["made_with"]
    changed = [f"{name} {before[name]}, now {after.get(name)}" for name in before if before[name] != after.get(name)]
    why = "; ".join(changed) or "of the same versions: the picture was changed since, or the number of threads matters"
    print(f"{output}: the pixels differ from those of {picture} by up to {worst} of 255 ({why})")
    return 1
