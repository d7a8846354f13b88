"""What the reader says a picture shows, how that is scored, and how well it reads pictures whose truth is known.

An *attribute* of a scene is its setting, its time, its medium, and each thing it holds as (colour, kind). A picture is
*wholly right* if all attributes of its scene are read and no further thing is.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..data.images import to_tensor
from ..data.scenes import MEDIA, TIMES, Scene, render, sample_scene
from ..models.reader import Reader
from ..pipeline import Pipeline
from .edits import HELD_OUT


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a picture shows; things are (colour, kind)."""

    setting: str
    time: str
    medium: str
    things: frozenset[tuple[str, str]]

    @classmethod
    def of(cls, scene: Scene) -> "Reading":
        """The right reading of a scene's picture."""
        things = frozenset((thing.colour, thing.kind) for thing in scene.things)
        return cls(setting=scene.setting, time=scene.time, medium=scene.medium, things=things)

    def __str__(self) -> str:
        things = ", ".join(sorted(f"{colour} {kind}" for colour, kind in self.things)) or "nothing"
        return f"{self.setting}, {self.time}, {self.medium}: {things}"


@dataclass(frozen=True)
class Score:
    """How right a reading is: attributes read of those asked, and whether the picture is wholly right."""

    right: int
    asked: int
    whole: bool

    def __iter__(self):
        return iter((self.right, self.asked, self.whole))


@dataclass(frozen=True)
class Read:
    """One picture's scene, and what was read of the picture."""

    scene: Scene
    reading: Reading

    @property
    def score(self) -> Score:
        return right(self.reading, self.scene)


def right(reading: Reading, scene: Scene) -> Score:
    """Score a reading against the scene that the picture should show; unpacks as (right, asked, whole)."""
    truth = Reading.of(scene)
    whole = sum(getattr(reading, name) == getattr(truth, name) for name in ("setting", "time", "medium"))
    return Score(whole + len(reading.things & truth.things), 3 + len(truth.things), reading == truth)


@torch.inference_mode()
def read(reader: Reader, images: Tensor | Sequence[Image.Image], batch_size: int = 64) -> list[Reading]:
    """What each picture shows: (b, 3, y, x) in [0, 1], or PIL pictures, of any size. No picture, no reading.

    ValueError for a tensor of another shape.
    """
    device = next(reader.parameters()).device
    if not isinstance(images, Tensor):
        if isinstance(images, Image.Image):
            raise ValueError("one picture where a list of pictures is expected; put it in a list")
        if not len(images):
            return []
        images = torch.cat([reader.fit(to_tensor(image)[None]) for image in images])
    if images.dim() != 4 or images.shape[1] != 3:
        raise ValueError(f"pictures of shape {tuple(images.shape)}; expected (b, 3, y, x) with values in [0, 1]")
    readings = []
    for some in images.float().split(batch_size) if len(images) else ():
        readings += [_worded(row, reader) for row in reader(some.to(device)).best().tolist()]
    return readings


def _worded(best: list[int], reader: Reader) -> Reading:
    """A row of `Answers.best` in words."""
    c = reader.config
    setting, time, medium, *colours = best
    things = frozenset((c.colours[i - 1], kind) for i, kind in zip(colours, c.kinds, strict=True) if i)
    return Reading(setting=c.settings[setting], time=c.times[time], medium=c.media[medium], things=things)


def share(reads: Iterable[Read]) -> tuple[float, float]:
    """The share of attributes that are right, over all pictures together, and the share of pictures wholly right."""
    scores = [each.score for each in reads]
    if not scores:
        raise ValueError("no picture was read; expected at least one")
    return sum(s.right for s in scores) / sum(s.asked for s in scores), sum(s.whole for s in scores) / len(scores)


def table(reads: Sequence[Read]) -> str:
    """What is read right, by attribute, then by time and by medium, as Markdown.

    `further things` counts pictures in which a thing is read that is not there: of another kind, or colour.
    """
    rows = ["| attribute | asked | right |\n|---|---|---|"]
    for name in ("setting", "time", "medium"):
        hits = [getattr(each.reading, name) == getattr(each.scene, name) for each in reads]
        rows.append(f"| {name} | {len(hits)} | {np.mean(hits):.1%} |")
    truths = [Reading.of(each.scene).things for each in reads]
    found = sum(len(truth & each.reading.things) for truth, each in zip(truths, reads, strict=True))
    asked = sum(map(len, truths))
    rows.append(f"| colour and kind of a thing | {asked} | {found / asked:.1%} |")
    attributes, whole = share(reads)
    rows.append(f"| **all attributes** | {sum(each.score.asked for each in reads)} | {attributes:.1%} |")
    rows.append(f"| **pictures wholly right** | {len(reads)} | {whole:.1%} |")
    more = np.mean([bool(each.reading.things - truth) for truth, each in zip(truths, reads, strict=True)])
    rows.append(f"| pictures with further things | {len(reads)} | {more:.1%} |")

    rows.append("\n| pictures of | number | attributes | wholly right |\n|---|---|---|---|")
    for name, words in (("time", TIMES), ("medium", MEDIA)):
        for word in words:
            if some := [each for each in reads if getattr(each.scene, name) == word]:
                attributes, whole = share(some)
                rows.append(f"| {word} | {len(some)} | {attributes:.1%} | {whole:.1%} |")
    return "\n".join(rows)


def held_out_scenes(n: int) -> list[Scene]:
    """The first n scenes that readers and painters are judged on; no training draws them."""
    rng = np.random.default_rng(HELD_OUT)
    return [sample_scene(rng) for _ in range(n)]


def judge_reader(reader: Reader, pipe: Pipeline | None = None, n: int = 500) -> dict[str, list[Read]]:
    """How the reader reads the first n held-out scenes: "as drawn", and "through the autoencoder" of `pipe`, there and
    back, which is the best that any picture of that pipeline can be."""
    scenes = held_out_scenes(n)
    images = torch.stack([to_tensor(render(scene, reader.config.size)) for scene in scenes])
    pictures = {"as drawn": images}
    if pipe is not None:
        factor = pipe.config.vae.scaling_factor
        back = [pipe.decode(factor * pipe.encode_image(some)).cpu() for some in images.split(50)]
        pictures["through the autoencoder"] = torch.cat(back)
    return {
        name: [Read(*pair) for pair in zip(scenes, read(reader, each), strict=True)] for name, each in pictures.items()
    }


def report(judged: dict[str, list[Read]]) -> str:
    """`judge_reader`'s result as Markdown: one table for all, then the details of each."""
    rows = ["| held-out pictures | number | attributes | wholly right |\n|---|---|---|---|"]
    for name, reads in judged.items():
        attributes, whole = share(reads)
        rows.append(f"| {name} | {len(reads)} | {attributes:.1%} | {whole:.1%} |")
    return "\n".join(rows) + "".join(f"\n\n{name}:\n\n{table(reads)}" for name, reads in judged.items())
