"""Predicted attributes of images, how they are scored, and how accurate the classifier is on images of known scenes.

An attribute is the scene's setting, its time, its medium, or a thing as (colour, kind). All attributes of an image are
correct if all those of its scene are predicted and no extra thing is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from ...data.images import to_tensor
from ...pipeline import Pipeline
from ..classifier import AttributeClassifier
from ..scenes import Attributes, Scene, render, sample_scene
from .common import held_out, markdown

WHOLE = ("setting", "time", "medium")
"""attributes of the whole image"""


@dataclass(frozen=True)
class Prediction:
    """The scene that an image should show, and the attributes that the classifier predicts for the image."""

    scene: Scene
    predicted: Attributes

    @property
    def correct(self) -> int:
        """How many of the scene's attributes are predicted."""
        whole = sum(getattr(self.predicted, name) == getattr(self.scene, name) for name in WHOLE)
        return whole + len(self.predicted.things & self.scene.attributes.things)

    @property
    def total(self) -> int:
        """How many attributes the scene has."""
        return len(WHOLE) + len(self.scene.things)

    @property
    def all_correct(self) -> bool:
        """Whether all are predicted and no extra thing is."""
        return self.predicted == self.scene.attributes


@torch.inference_mode()
def predict(
    classifier: AttributeClassifier, images: Tensor | Sequence[Image.Image], batch_size: int = 64
) -> list[Attributes]:
    """The attributes of images of any size: (b, 3, y, x) in [0, 1], or PIL images. ValueError for another shape."""
    if isinstance(images, Image.Image):
        raise ValueError("one image where a list of images is expected; put it in a list")
    if not len(images):
        return []
    if not isinstance(images, Tensor):
        images = torch.cat([classifier.fit(to_tensor(image)[None]) for image in images])
    if images.dim() != 4 or images.shape[1] != 3:
        raise ValueError(f"images of shape {tuple(images.shape)}; expected (b, 3, y, x) with values in [0, 1]")
    device, c = next(classifier.parameters()).device, classifier.config
    predictions = []
    for batch in images.float().split(batch_size):
        for setting, time, medium, *colours in classifier(batch.to(device)).argmax().tolist():
            things = frozenset((c.colours[i - 1], kind) for i, kind in zip(colours, c.kinds, strict=True) if i)
            whole = {"setting": c.settings[setting], "time": c.times[time], "medium": c.media[medium]}
            predictions.append(Attributes(**whole, things=things))
    return predictions


def accuracy(results: Sequence[Prediction]) -> tuple[float, float]:
    """The fraction of attributes predicted correctly, and the fraction of images with all attributes correct."""
    if not results:
        raise ValueError("no images to evaluate; expected at least one")
    attributes = sum(each.correct for each in results) / sum(each.total for each in results)
    return attributes, sum(each.all_correct for each in results) / len(results)


def evaluate_classifier(
    classifier: AttributeClassifier, pipe: Pipeline | None = None, n: int = 500
) -> dict[str, list[Prediction]]:
    """The classifier on renderings of the first n held-out scenes: "as drawn", and "through the autoencoder" of `pipe`.

    The latter is an upper bound for images that `pipe` generates.
    """
    scenes, _ = held_out("classifier", n, sample_scene)
    images = {"as drawn": torch.stack([to_tensor(render(scene, classifier.config.size)) for scene in scenes])}
    if pipe is not None:
        factor = pipe.config.vae.scaling_factor
        decoded = [pipe.decode(factor * pipe.encode_image(batch)).cpu() for batch in images["as drawn"].split(50)]
        images["through the autoencoder"] = torch.cat(decoded)
    return {
        name: [Prediction(*pair) for pair in zip(scenes, predict(classifier, some), strict=True)]
        for name, some in images.items()
    }


def table(evaluated: Mapping[str, Sequence[Prediction]]) -> str:
    """Named sets of images as Markdown: how many attributes are correct, and how many images have all correct."""
    rows = [[name, len(results), *(f"{x:.1%}" for x in accuracy(results))] for name, results in evaluated.items()]
    return markdown(["held-out images", "number", "attributes correct", "all attributes correct"], rows)
