"""MagicBrush's metrics (Zhang et al. 2023): an edited picture against the true one.

L1 and L2 (mean squared error) of pixels, CLIP-I and DINO (cosines of the two pictures' features), CLIP-T (of the
picture and a caption of what was to be edited). As in their script (evaluation/image_eval.py), single turn is every
edit of a true input, and multi turn the last picture of a chain in which each edit's result is the next one's input.
Published for ViT-B/32 and dino_vits16, on the test set, of the original InstructPix2Pix:

    single turn  L1 .1122  L2 .0371  CLIP-I .8524  DINO .7428  CLIP-T .2764
    multi turn   L1 .1584  L2 .0598  CLIP-I .7924  DINO .6177  CLIP-T .2726
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import cosine_similarity

from ..config import VisionConfig
from ..data.edits import Edits, EditText
from ..data.images import open_image, to_tensor
from ..data.layouts.magicbrush import MagicBrush
from ..data.pair_files import json_lines
from ..models import clip as clip_module
from ..models import dino as dino_module
from ..models.clip import CLIP
from ..models.dino import DINO
from ..pipeline import Pipeline, fingerprint
from ..units import Result, Work
from .curves import Curve, Settings, clip_name, find_picture, header, item_seed, parse_unit, vit_name, work_of
from .metrics import compare
from .protocols import choose

Load = Callable[[], tuple[Pipeline | None, CLIP, DINO | None]]
"""-> the editor, None for pictures from a folder; CLIP; DINO, None to leave its metric out"""
PIXELS = "[0, 1], 8 bits"
FILTER = "Pillow's bicubic with antialias: L1, L2 at the truth's size; features of the centre of the shorter side"


@dataclass(frozen=True)
class MagicBrushMetrics:
    """The networks that compare pictures."""

    clip: CLIP
    dino: DINO | None = None

    @torch.inference_mode()
    def measure(self, result: Image.Image, truth: Image.Image, caption: str | None) -> dict[str, float]:
        """The metrics of a picture; DINO and CLIP-T only with a DINO and a caption."""
        device, config = self.clip.vision.patch.weight.device, self.clip.config.vision
        both, near = (result, truth), result.resize(truth.size)
        pixels = [to_tensor(image)[None] for image in (near, truth)]
        found = {name: float(values) for name, values in compare(*pixels).items()}
        views = torch.stack([clip_view(image, config) for image in both])
        features = self.clip.vision(views.to(device)).float()
        found["clip_i"] = _cosine(*features)
        if self.dino is not None:
            views = torch.stack([dino_view(image, self.dino.config) for image in both])
            found["dino"] = _cosine(*self.dino(views.to(device)).float())
        if caption is not None:
            found["clip_t"] = _cosine(features[0], self.clip.encode_texts([caption])[0].float())
        return found


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(cosine_similarity(a, b, dim=0))


def clip_view(image: Image.Image, config: VisionConfig) -> Tensor:
    """As OpenAI's own transform: the shorter side resized to CLIP's size, the centre, normalised: (3, y, x)."""
    size = config.image_size
    return normalised(resized_centre(image, size, size), clip_module.MEAN, clip_module.STD)


def dino_view(image: Image.Image, config: VisionConfig) -> Tensor:
    """As in DINO's evaluation: the shorter side resized to 8/7 of its size (256 for 224), the centre, normalised."""
    size = config.image_size
    return normalised(resized_centre(image, round(size * 8 / 7), size), dino_module.MEAN, dino_module.STD)


def resized_centre(image: Image.Image, side: int, size: int) -> Image.Image:
    """The central size x size pixels of a picture whose shorter side is resized to `side`, rounded as torchvision."""
    w, h = image.size
    w, h = (side, int(side * h / w)) if w <= h else (int(side * w / h), side)
    left, top = round((w - size) / 2), round((h - size) / 2)
    return image.resize((w, h), Image.Resampling.BICUBIC).crop((left, top, left + size, top + size))


def normalised(image: Image.Image, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """An image as (3, y, x), each channel shifted by its mean and divided by its deviation."""
    x = to_tensor(image)
    return (x - x.new_tensor(mean)[:, None, None]) / x.new_tensor(std)[:, None, None]


def sessions(edits: Edits, settings: Settings) -> list[list[int]]:
    """The pairs of each picture of MagicBrush, in order; of other sets the pairs of the split, each alone."""
    if not isinstance(edits.layout, MagicBrush):
        return [[item.index] for item in choose(edits, settings)]
    found: dict[str, list[int]] = {}
    for i, text in enumerate(edits.texts()):
        found.setdefault(text.origin or text.key, []).append(i)
    return [sorted(turns, key=lambda i: _turn(edits.text(i).key)) for turns in found.values()][: settings.n]


def _turn(name: str) -> int:
    """139-output2.png -> 2"""
    numbers = re.findall(r"\d+", Path(name).stem.rpartition("-")[2])
    return int(numbers[-1]) if numbers else 0


@dataclass(frozen=True, kw_only=True)
class BenchmarkMaker:
    """Makes the samples of a unit of sessions. Raises ValueError for a model that is no editor."""

    curve: Curve
    pipe: Pipeline | None
    metrics: MagicBrushMetrics
    edits: Edits
    sessions: list[list[int]]
    settings: Settings

    def __post_init__(self):
        if self.pipe is not None:
            self.pipe.require("editor")

    @cached_property
    def header(self) -> dict[str, Any]:
        texts = [self.edits.text(i) for turns in self.sessions for i in turns]
        clip, dino = self.metrics.clip, self.metrics.dino
        more = {"metrics": "magicbrush", "clip_model": clip_name(clip), "pixels": PIXELS, "filter": FILTER}
        more["dino_model"] = dino and f"{vit_name(dino.config)} ({fingerprint({'dino': dino})})"
        more["device"] = clip.vision.patch.weight.device.type
        return header(self.curve, self.settings, texts, self.pipe, **more)

    def make(self, name: str) -> Result:
        point, start = parse_unit(name)
        numbers = range(start, min(start + self.settings.unit, len(self.sessions)))
        rows = [row for number in numbers for row in self.session(number, point)]
        return Result(json_lines(rows), {"samples": len(rows)})

    def session(self, number: int, point: float | None) -> Iterator[dict[str, Any]]:
        """A sample for every turn, and one for the end of the chain, if there is one."""
        turns = self.sessions[number]
        texts = [self.edits.text(i) for i in turns]
        pairs = [self.edits.pictures(i) for i in turns]
        for k, (i, text, (source, truth)) in enumerate(zip(turns, texts, pairs), 1):
            result = self.edited(text, source, point) if self.pipe else self.given(text, k, False)
            if k == 1:
                last = result
            elif self.pipe:
                last = self.edited(text, last, point)
            yield self.sample(number, k, "single", point, i, result, truth)
        if self.has_chains:
            if self.pipe is None:
                last = self.given(texts[-1], len(turns), True)
            yield self.sample(number, len(turns), "multi", point, turns[-1], last, pairs[-1][1])

    def sample(
        self, number: int, turn: int, turns: str, point: float | None, i: int, result: Image.Image, truth: Image.Image
    ) -> dict[str, Any]:
        text = self.edits.text(i)
        about = {"item": number, "key": text.key, "instruction": text.instruction, "turn": turn, "turns": turns}
        about |= {"point": point, "seed": item_seed(self.settings.seed, text.key)}
        return about | self.metrics.measure(result, truth, caption_of(self.edits, i, text))

    def edited(self, text: EditText, image: Image.Image, point: float | None) -> Image.Image:
        s = self.settings
        how = {"text_scale": s.text_scale, "image_scale": point, "steps": s.steps, "resolution": s.resolution}
        return self.pipe.edit(image, text.instruction, seed=item_seed(s.seed, text.key), **how)

    def given(self, text: EditText, turn: int, chain: bool) -> Image.Image:
        """The picture of a turn in a folder: by MagicBrush's names, or in other sets by its key."""
        folder, origin = Path(self.curve.source), text.origin
        if not isinstance(self.edits.layout, MagicBrush):
            return open_image(find_picture(folder, text.key))
        word = "1" if turn == 1 else f"{'iter' if chain else 'inde'}_{turn}"
        return open_image(find_picture(folder, f"{origin}/{origin}_{word}"))

    @cached_property
    def has_chains(self) -> bool:
        """Whether the set has chains, and the folder any pictures of them; single turns can be measured without."""
        here = self.pipe is not None or any(Path(self.curve.source).glob("*/*_iter_*"))
        return here and isinstance(self.edits.layout, MagicBrush)


def caption_of(edits: Edits, i: int, text: EditText) -> str | None:
    """What the edit was to show: MagicBrush's local description, in other sets the edited caption."""
    return edits.layout.local_caption(i) if isinstance(edits.layout, MagicBrush) else text.output


def benchmark(load: Load, curve: Curve, edits: Edits, settings: Settings, out: str | Path) -> Work:
    """The samples of a curve as units of work (`curves.work_of`). MagicBrush is published in parts, and taken whole."""
    if isinstance(edits.layout, MagicBrush):
        settings = replace(settings, split="all")
    chosen = sessions(edits, settings)
    maker = partial(_load_maker, load, curve=curve, edits=edits, sessions=chosen, settings=settings)
    return work_of(maker, curve, len(chosen), settings, out)


def _load_maker(load: Load, **options: Any) -> BenchmarkMaker:
    pipe, clip, dino = load()
    return BenchmarkMaker(pipe=pipe, metrics=MagicBrushMetrics(clip, dino), **options)
