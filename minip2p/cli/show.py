"""`minip2p show`: the metadata of an image, and the image made again from it."""

import io
import json
import os
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from PIL import Image, ImageChops
from tyro.conf import FlagCreatePairsOff, Positional, arg

from . import files, metadata
from .arguments import Source, optional, steps_bar

if TYPE_CHECKING:
    from ..pipeline import Pipeline


@dataclass(frozen=True, kw_only=True)
class Options:
    """Print the metadata of an image that minip2p made, or make the image again.

    --again checks that input and weights are the recorded ones and compares the pixels; the exit status is 1 if they
    differ.
    """

    picture: Positional[Annotated[str, arg(metavar="IMAGE")]]
    """the image"""
    again: FlagCreatePairsOff[bool] = False
    """make it again"""
    output: Annotated[str | None, optional("PATH", "(default: NAME-again beside it)")] = None
    """the new image"""
    input: Annotated[str | None, optional("PATH", "(default: as recorded)")] = None
    """where the input image is now"""
    weights: Annotated[str | None, optional("PATH", "(default: as recorded)")] = None
    """where the weights are now"""


def run(options: Options) -> int:
    """The exit status: 1 if the pixels differ."""
    picture = Path(options.picture)
    m = metadata.read(picture)
    if not options.again:
        print(json.dumps(m, indent=2, ensure_ascii=False))
        return 0
    verb = metadata.verb_of(m)
    module = import_module(f".{verb}", __package__)
    output = Path(options.output or picture.with_stem(f"{picture.stem}-again"))
    metadata.check_output(output)
    if output.resolve() == picture.resolve():
        raise ValueError(f"output {output} is the image itself; choose another place")
    source = _find_input(options.input, m, picture) if "input" in m else None
    weights = options.weights or (m["weights"]["path"] and str(picture.parent / m["weights"]["path"]))
    pipe = _load(weights, m, "editor" if verb == "edit" else "text2image")
    with steps_bar(output.name) as on_step:
        image = module.make(pipe, source, m, on_step)
    now = m | {"made_with": metadata.versions(pipe)}
    if source is not None:
        now["input"] = m["input"] | {"path": files.relative(source, output)}
    now["weights"] = m["weights"] | {"path": weights and files.relative(weights, output)}
    files.write(output, metadata.encode(image, output, now))
    return _compare(image, picture, m, now, output)


def _find_input(given: str | None, m: dict, picture: Path) -> Path:
    path = Path(given) if given else Path(os.path.normpath(picture.parent / m["input"]["path"]))
    if not path.is_file():
        raise ValueError(f"input {path}: no such file; give its new place by --input")
    if files.sha256(path) != m["input"]["sha256"]:
        raise ValueError(f"input {path} has changed since (sha256); give the old one by --input")
    return path


def _load(path: str | None, m: dict, default: str) -> "Pipeline":
    recorded = m["weights"]
    device = m.get("made_with", {}).get("device", "auto")
    source = Source(weights=path, ema=recorded["ema"], config=tuple(recorded["config"]))
    pipe = source.load(default, device=device, dtype=recorded["dtype"])
    if pipe.fingerprint != recorded["fingerprint"]:
        raise ValueError(
            f"weights {path or '(the shipped ones)'} have changed since: their fingerprint is {pipe.fingerprint}, "
            f"recorded was {recorded['fingerprint']}; give the old ones by --weights"
        )
    return pipe


def _compare(image: Image.Image, picture: Path, before: dict, now: dict, output: Path) -> int:
    """Print whether the pixels are equal. The new image is first encoded in the old one's format, perhaps lossy."""
    with Image.open(io.BytesIO(metadata.encode(image, picture, now))) as new, Image.open(picture) as old:
        if new.size != old.size:
            sizes = f"is {old.width}x{old.height}, made again it is {new.width}x{new.height}"
            raise ValueError(f"{picture} {sizes}: it was changed since")
        worst = max(high for _, high in ImageChops.difference(new.convert("RGB"), old.convert("RGB")).getextrema())
    if worst == 0:
        print(f"{output}: the pixels are equal to those of {picture}")
        return 0
    was, is_ = before.get("made_with", {}), now["made_with"]
    changed = [f"{name} {was[name]}, now {is_.get(name)}" for name in was if was[name] != is_.get(name)]
    why = "; ".join(changed) or "same versions: the image was changed since, or the number of threads matters"
    print(f"{output}: the pixels differ from those of {picture} by up to {worst} of 255 ({why})")
    return 1
