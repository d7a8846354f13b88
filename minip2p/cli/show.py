"""`minip2p show`: the metadata of an image, and the image made again from it."""

import io
import json
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path, PurePath, PureWindowsPath
from typing import TYPE_CHECKING, Annotated, Any

from PIL import Image, ImageChops
from tyro.conf import FlagCreatePairsOff, Positional, UseAppendAction, arg

from ..data.picture_files import decode
from . import files, metadata
from .arguments import Model, Threads, optional, steps_bar
from .printing import say
from .recorded import checked

if TYPE_CHECKING:
    from ..pipeline import Pipeline


@dataclass(frozen=True, kw_only=True)
class Options:
    """Print the metadata of an image that minip2p made, or make the image again.

    --again checks that input and weights are the recorded ones and compares the pixels; the exit status is 1 if they
    differ. It reads only files that lie in the image's folder or below, or that are given here.
    """

    picture: Positional[Annotated[str, arg(metavar="IMAGE")]]
    """the image"""
    again: FlagCreatePairsOff[bool] = False
    """make it again"""
    output: Annotated[str | None, optional("PATH", "(default: NAME-again beside it)")] = None
    """the new image"""
    input: Annotated[str | None, optional("PATH", "(default: as recorded)")] = None
    """where the input image is now"""
    mask: Annotated[str | None, optional("PATH", "(default: as recorded)")] = None
    """where the mask is now"""
    weights: Annotated[str | None, optional("PATH", "(default: as recorded)")] = None
    """where the weights are now"""
    lora: Annotated[UseAppendAction[tuple[str, ...]], optional("FILE", "(default: as recorded)")] = ()
    """where a LoRA file is now; repeat it for several, in their order"""
    vae: Annotated[str | None, optional("PATH", "(default: as recorded)")] = None
    """where the autoencoder is now"""
    threads: Threads = None
    overwrite: FlagCreatePairsOff[bool] = False
    """replace an output file that minip2p did not make"""


def run(options: Options) -> int:
    """The exit status: 1 if the pixels differ."""
    picture = Path(options.picture)
    recorded = metadata.read(picture)
    if not options.again:
        say(*json.dumps(recorded, indent=2, ensure_ascii=False).split("\n"))
        return 0
    m = checked(recorded, str(picture))
    output = Path(options.output or picture.with_stem(f"{picture.stem}-again"))
    if output.resolve() == picture.resolve():
        raise ValueError(f"output {output} is the image itself; choose another place")
    metadata.check_outputs(output, overwrite=options.overwrite)
    images = {name: _find(name, getattr(options, name), m[name], picture) for name in ("input", "mask") if m.get(name)}
    there = _places(options, m["weights"], picture)
    pipe = _load(there, m, "editor" if m["verb"] == "edit" else "text2image", options.threads)
    with steps_bar(output.name) as on_step:
        verb, masks = import_module(f".{m['verb']}", __package__), {"mask": images["mask"]} if "mask" in images else {}
        image = verb.make(pipe, images.get("input"), m, on_step, **masks)
    now = recorded | {"made_with": metadata.versions(pipe)}
    now |= {name: m[name] | {"path": files.relative(path, output)} for name, path in images.items()}
    now["weights"] = recorded["weights"] | {"path": there["path"] and files.relative(there["path"], output)}
    if there["vae"]:
        now["weights"]["vae"] = files.relative(there["vae"], output)
    if there["lora"]:
        now["weights"]["lora"] = [{"path": files.relative(path, output), "weight": w} for path, w in there["lora"]]
    files.write_file(output, metadata.encode(image, output, now))
    return _compare(image, picture, m, now, output)


def _beneath(picture: Path, path: str, what: str) -> Path:
    """A file that the metadata names: only in the picture's folder or below, as anybody may have written the name."""
    if PureWindowsPath(path).anchor or PurePath(path).anchor or ".." in PureWindowsPath(path).parts:
        raise ValueError(f"{what} {path} is outside of the folder of {picture}; if you trust it, give it by --{what}")
    return picture.parent / path


def _find(name: str, given: str | None, recorded: dict, picture: Path) -> Path:
    """An image that was read: the input or the mask."""
    path = Path(given) if given else _beneath(picture, recorded["path"], name)
    if not path.is_file():
        raise ValueError(f"{name} {path}: no such file; give its new place by --{name}")
    if files.sha256(path) != recorded["sha256"]:
        raise ValueError(f"{name} {path} has changed since (sha256); give the old one by --{name}")
    return path


def _places(options: Options, recorded: dict, picture: Path) -> dict[str, Any]:
    """Where the weights are, the autoencoder, and the LoRA files with their weights: as given, else as recorded."""
    weights = options.weights or (recorded["path"] and str(_beneath(picture, recorded["path"], "weights")))
    vae = options.vae or (recorded.get("vae") and str(_beneath(picture, recorded["vae"], "vae")))
    loras = recorded.get("lora") or ()
    if options.lora and len(options.lora) != len(loras):
        raise ValueError(f"--lora: {len(options.lora)} files are given; {len(loras)} were merged: expected all of them")
    at = options.lora or [str(_beneath(picture, each["path"], "lora")) for each in loras]
    return {"path": weights, "vae": vae, "lora": [(path, w["weight"]) for path, w in zip(at, loras, strict=True)]}


def _load(there: dict[str, Any], m: dict, default: str, threads: int | None) -> "Pipeline":
    recorded, device = m["weights"], m["made_with"].get("device", "auto")
    device = device if device.split(":")[0] in ("cpu", "cuda", "mps") else "auto"
    source = Model(weights=there["path"], ema=recorded["ema"], config=recorded["config"])
    how = {"dtype": recorded["dtype"], "text_cleaning": recorded.get("text_cleaning")}
    how |= {"lora": there["lora"], "vae": there["vae"]}
    how["compile"] = recorded.get("compile", False)
    pipe = source.load(default, threads, device=device, **how)
    if pipe.fingerprint != recorded["fingerprint"]:
        raise ValueError(
            f"weights {there['path'] or '(the shipped ones)'} have changed since: their fingerprint is "
            f"{pipe.fingerprint}, recorded was {recorded['fingerprint']}; give the old ones by --weights"
            + ", --lora" * bool(there["lora"])
            + ", --vae" * bool(there["vae"])
        )
    return pipe


def _compare(image: Image.Image, picture: Path, before: dict, now: dict, output: Path) -> int:
    """Print whether the pixels are equal. The new image is first encoded in the old one's format, perhaps lossy."""
    new, old = decode(io.BytesIO(metadata.encode(image, picture, now)), str(output)), decode(picture, str(picture))
    if new.size != old.size:
        sizes = f"is {old.width}x{old.height}, made again it is {new.width}x{new.height}"
        raise ValueError(f"{picture} {sizes}: it was changed since")
    worst = max(high for _, high in ImageChops.difference(new, old).getextrema())
    if worst == 0:
        say(f"{output}: the pixels are equal to those of {picture}")
        return 0
    was, is_ = before["made_with"], now["made_with"]
    changed = [f"{name} {was[name]}, now {is_.get(name)}" for name in was if was[name] != is_.get(name)]
    why = "; ".join(changed) or "same versions: the image was changed since, or the number of threads matters"
    say(f"{output}: the pixels differ from those of {picture} by up to {worst} of 255 ({why})")
    return 1
