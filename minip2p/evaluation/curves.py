"""Editors evaluated at several scales, as units of work: a curve is a folder, a unit its samples at one scale.

    OUT/editor/run.json               the header: the models, the set, all settings
    OUT/editor/1.2_0000008.jsonl      items 8, 9, ... at image scale 1.2, a line each

Items and seeds are the same for all curves of one set and one seed, so differences between curves are paired.
"""

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import PIL
import torch

from .. import __version__
from ..config import VisionConfig
from ..data.edits import Edits, EditText
from ..data.layouts.seeds import file_name
from ..data.pair_files import to_json
from ..data.picture_files import ENDINGS, is_picture_name
from ..models.clip import CLIP
from ..pipeline import Pipeline, fingerprint
from ..schema import Count, Fraction, Pixels, Scale, Seed, Threads, checked
from ..units import Maker, Work

IMAGE_SCALES = (1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.2)
"""the authors', at which the paper's Figure 8 has points"""
STRENGTHS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""of SDEdit, the paper's baseline"""
NAME = re.compile(r"[A-Za-z0-9][\w.@-]{0,60}")
"""of a curve or a variant: a folder on any system"""
METHODS = {"editor": "image scale", "sdedit": "strength", "results": ""}
"""how the pictures of a curve are made -> what varies along it"""


@checked
class Settings:
    """What determines the samples, beside the models and the set. The defaults are those of the authors' script."""

    protocol: str = "paired"
    """which items, which noise, and how CLIP sees the pictures. paired: of the test split by hashes of captions (as
    minip2p train holds it out), noise from a seed of each item, pictures in [0, 1]. authors: as their script does: the
    last 5 % of seeds.json, their order of draws, pictures in [-1, 1], which CLIP does not expect"""
    split: str = "test"
    """test, val, train or all"""
    n: Count = 5000
    """items, at most"""
    image_scales: tuple[Scale, ...] | None = None
    """of the editor; None: 1.0 1.2 ... 2.2, for magicbrush the model's own"""
    text_scale: Scale | None = None
    """of the editor; None: the model's own, 7.5 for published ones. SDEdit has its model's own"""
    strengths: tuple[Fraction, ...] = STRENGTHS
    """of SDEdit"""
    steps: Count = 100
    """of the sampler"""
    resolution: Pixels | None = None
    """about the longer side at which images are edited; None: the model's own, 512 for published ones"""
    seed: Seed = 0
    """random seed of the items and of their noise"""
    unit: Count = 8
    """items in each file of samples"""
    batch_size: Count = 1
    """items that are edited together; the rounding depends on it"""
    threads: Threads | None = None
    """CPU threads, on which the rounding depends; None: PyTorch's own number, or that of the resumed run"""

    def __post_init__(self):
        for name, words in (("protocol", ("paired", "authors")), ("split", ("test", "val", "train", "all"))):
            if getattr(self, name) not in words:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}; there are {', '.join(words)}")
        for name in ("image_scales", "strengths"):
            values = getattr(self, name) or ()
            if len({f"{value:g}" for value in values}) < len(values):
                raise ValueError(f"{name.replace('_', ' ')} {values}: expected different numbers")


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A way to make pictures, at several scales."""

    name: str
    """its folder, and its name in tables and figures"""
    method: str
    """a word of METHODS"""
    source: str
    """the weights, or the folder of pictures"""
    points: tuple[float | None, ...] = (None,)
    """image scales or strengths; None is the model's own scale, or pictures that have none"""

    def units(self, n: int, size: int) -> list[str]:
        """The names of all units of n items, block by block, so that a stopped run has all points for its items."""
        return [self.unit(point, start) for start in range(0, n, size) for point in self.points]

    def unit(self, point: float | None, start: int) -> str:
        return f"{'' if point is None else f'{point:g}_'}{start:07d}.jsonl"


def parse_unit(name: str) -> tuple[float | None, int]:
    """The point and the first item of a unit."""
    point, _, start = name.removesuffix(".jsonl").rpartition("_")
    return float(point) if point else None, int(start)


def work_of(load: Callable[[], Maker], curve: Curve, n: int, settings: Settings, out: str | Path) -> Work:
    """The units of a curve of n items, in OUT/NAME; `engines.run` makes those that are not there yet.

    load: the maker of its units, called once in every process, so for Ray it must pickle.
    """
    return Work(folder=Path(out) / curve.name, names=curve.units(n, settings.unit), load=load)


def item_seed(seed: int, key: str) -> int:
    """Of an item's noise, 31 bits: it depends on the run's seed and the item alone."""
    return int.from_bytes(sha256(f"{seed}/{key}".encode("utf-8", "surrogatepass")).digest()[:4], "big") >> 1


def header(curve: Curve, settings: Settings, texts: list[EditText], pipe: Pipeline | None, **more: Any) -> dict:
    """What determines the samples of a curve. more: entries of the maker's own."""
    digest = sha256()
    for text in texts:
        digest.update(to_json([text.key, text.instruction, text.input, text.output]).encode("utf-8", "surrogatepass"))
    own = {name: value for name, value in asdict(settings).items() if name not in ("image_scales", "strengths", "n")}
    if pipe is not None:
        if settings.text_scale is None or curve.method == "sdedit":
            own["text_scale"] = pipe.config.sampling.text_scale
        if curve.points == (None,):
            own["image_scale"] = pipe.config.sampling.image_scale
        own["resolution"] = settings.resolution or pipe.config.sampling.resolution
    return {
        "minip2p": __version__,
        "curve": curve.name,
        "method": curve.method,
        "points": list(curve.points),
        "model": Path(curve.source).name + (f" ({pipe.fingerprint})" if pipe else f" ({folder_mark(curve.source)})"),
        "dtype": str(pipe.dtype).removeprefix("torch.") if pipe else None,
        "items": {"number": len(texts), "sha256": digest.hexdigest()},
        **own,
        **more,
        "made_with": {"torch": torch.__version__, "pillow": PIL.__version__},
    }


def clip_name(clip: CLIP) -> str:
    """ "ViT-L/14 (fingerprint)"; by its sizes where they are none of the published ones."""
    return f"{vit_name(clip.config.vision)} ({fingerprint({'clip': clip})})"


def vit_name(c: VisionConfig) -> str:
    """A vision transformer's usual name, such as ViT-L/14."""
    size = {(384, 12): "S", (768, 12): "B", (1024, 24): "L", (1280, 32): "H"}.get((c.width, c.layers))
    sides = "" if c.image_size == 224 else f" at {c.image_size} px"
    return f"ViT-{size or f'{c.layers}x{c.width}'}/{c.patch_size}{sides}"


def find_picture(folder: Path, key: str) -> Path:
    """The picture of an item in a folder: named as its key, with any ending of a picture. Raises ValueError."""
    plain = folder / file_name(key)
    stem = plain.with_suffix("") if is_picture_name(plain.name) else plain
    for path in (plain, *(stem.with_name(stem.name + ending) for ending in ENDINGS)):
        if is_picture_name(path.name) and path.is_file():
            return path
    raise ValueError(f"{folder}: no picture {stem.relative_to(folder)}.png (or .jpg ...), which item {key!r} needs")


def folder_mark(folder: str) -> str:
    """16 hexadecimal digits of the names and sizes of the pictures in and below a folder."""
    files = sorted(path for path in Path(folder).rglob("*") if is_picture_name(path.name))
    lines = "".join(f"{path.relative_to(folder)} {path.stat().st_size}\n" for path in files)
    return sha256(lines.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def require_captions(edits: Edits, texts: list[EditText]) -> None:
    """Raise ValueError for items without both captions, which CLIP's similarities compare the pictures with."""
    for text in texts:
        if text.input is None or text.output is None:
            which = "caption" if text.input is None else "edited caption"
            raise ValueError(
                f"{edits.path}, {text.name}: no {which}; CLIP's similarities need both ('input', 'output')"
            )
