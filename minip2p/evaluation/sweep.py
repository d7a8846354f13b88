"""The paper's Figure 8: how much an edit follows the text, against how much of the picture it keeps, at several scales.

Each item of a set with captions is edited at image scales 1.0 ... 2.2 by an editor and at strengths 0.3 ... 0.9 by
SDEdit, or comes from another editor's folder of pictures; CLIP's four similarities of each result are a line.
`summary.py` makes the table and the figure.

    curve = Curve(name="editor", method="editor", source="editor.safetensors", points=IMAGE_SCALES)
    work = sweep(load, curve, open_edits("data/pairs"), Settings(), "out")     # load() -> pipe, clip
    for unit in engines.run(work): print(unit.name, unit.counts)
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from ..data.edits import Edits
from ..data.images import open_image
from ..data.pair_files import json_lines
from ..models.clip import CLIP
from ..pipeline import Pipeline
from ..units import Result, Work
from .curves import Curve, Settings, clip_name, find_picture, header, parse_unit, require_captions, work_of
from .metrics import scores, similarities
from .protocols import FILTER, PIXELS, AuthorsNoise, Item, choose, edit_as_authors, similarities_as_authors, squash

Load = Callable[[], tuple]
"""-> the editor or text-to-image model of a curve, None for pictures from a folder; CLIP; and what is not used here"""


@dataclass(frozen=True, kw_only=True)
class SweepMaker:
    """Makes the samples of a curve's units. Raises ValueError for a model that cannot make its pictures."""

    curve: Curve
    pipe: Pipeline | None
    clip: CLIP
    edits: Edits
    items: list[Item]
    settings: Settings

    def __post_init__(self):
        if self.pipe is not None:
            self.pipe.require("editor" if self.curve.method == "editor" else "text-to-image")

    @cached_property
    def header(self) -> dict[str, Any]:
        texts = [item.text for item in self.items]
        more = {
            "metrics": "clip",
            "clip_model": clip_name(self.clip),
            "pixels": PIXELS[self.settings.protocol],
            "filter": FILTER,
        }
        more["device"] = self.clip.vision.patch.weight.device.type
        return header(self.curve, self.settings, texts, self.pipe, **more)

    @cached_property
    def noise(self) -> AuthorsNoise:
        assert self.pipe is not None, "noise is for a model"
        return AuthorsNoise(self.settings.seed, self.pipe.device)

    def make(self, name: str) -> Result:
        point, start = parse_unit(name)
        items = self.items[start : start + self.settings.unit]
        images = [self.edits.pictures(item.index)[0] for item in items]
        measure = _measure_as_authors if self.settings.protocol == "authors" else _measure
        rows = []
        for item, found in zip(items, measure(self, items, images, point), strict=True):
            if not all(map(math.isfinite, found.values())):
                raise ValueError(f"{item.text.name}: CLIP's similarities are not finite; its weights are wrong")
            about = {"item": item.number, "key": item.text.key, "instruction": item.text.instruction}
            rows.append(about | {"point": point, "seed": item.seed} | found)
        return Result(json_lines(rows), {"samples": len(rows)})


def _measure(maker: SweepMaker, items: list[Item], images: list[Image.Image], point: float | None) -> list[dict]:
    """The scores of the items' edits, in our protocol: pictures in [0, 1]."""
    s, pipe, results = maker.settings, maker.pipe, []
    how = {"steps": s.steps, "seed": [item.seed for item in items], "batch_size": s.batch_size, "output": "tensor"}
    if pipe is None:
        results = [open_image(find_picture(Path(maker.curve.source), item.text.key)) for item in items]
    elif maker.curve.method == "editor":
        edits, scales = [item.text.instruction for item in items], {"text_scale": s.text_scale, "image_scale": point}
        results = pipe.edit(images, edits, **scales, resolution=s.resolution, **how)
    else:
        results = pipe.sdedit(images, _outputs(items), point, resolution=s.resolution, **how)
    sources = images if pipe is None else [each.image for each in pipe.fitted(images, s.resolution)]
    inputs = [item.text.input or "" for item in items]
    return scores(similarities(maker.clip, sources, results, inputs, _outputs(items), batch_size=len(items)))


def _measure_as_authors(
    maker: SweepMaker, items: list[Item], images: list[Image.Image], point: float | None
) -> list[dict]:
    """The scores in the authors' protocol, one item at a time."""
    s, pipe, found = maker.settings, maker.pipe, []
    side = s.resolution or (512 if pipe is None else pipe.config.sampling.resolution)
    for item, image in zip(items, images):
        source, result = squash(image, side), _as_authors(maker, item, squash(image, side), point)
        found += scores(similarities_as_authors(pipe, maker.clip, source, result, item.text))
    return found


def _as_authors(maker: SweepMaker, item: Item, image: Image.Image, point: float | None) -> Image.Image | Tensor:
    s, pipe = maker.settings, maker.pipe
    if pipe is None:
        return open_image(find_picture(Path(maker.curve.source), item.text.key))
    if maker.curve.method == "editor":
        scales = {"text_scale": pipe.config.sampling.text_scale if s.text_scale is None else s.text_scale}
        scales["image_scale"] = pipe.config.sampling.image_scale if point is None else point
        how = {"steps": s.steps, "noise": maker.noise, "item": item.number}
        return edit_as_authors(pipe, image, item.text.instruction, **scales, **how)
    how = {"steps": s.steps, "seed": item.seed, "resolution": image.width, "output": "latent"}
    return pipe.sdedit(image, item.text.output or "", point, **how)[None]


def _outputs(items: list[Item]) -> list[str]:
    return [item.text.output or "" for item in items]


def sweep(load: Load, curve: Curve, edits: Edits, settings: Settings, out: str | Path) -> Work:
    """The samples of a curve as units of work (`curves.work_of`).

    Raises ValueError for a set without captions or without items, and for missing pictures of another editor.
    """
    items = choose(edits, settings)
    require_captions(edits, [item.text for item in items])
    if curve.method == "results":
        for item in items:
            find_picture(Path(curve.source), item.text.key)
    maker = partial(_load_maker, load, curve=curve, edits=edits, items=items, settings=settings)
    return work_of(maker, curve, len(items), settings, out)


def _load_maker(load: Load, **options: Any) -> SweepMaker:
    pipe, clip, *_ = load()
    return SweepMaker(pipe=pipe, clip=clip, **options)
