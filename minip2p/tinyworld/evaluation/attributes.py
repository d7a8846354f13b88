"""Predicted attributes of images: how often a text-to-image model generates what a caption describes, and how accurate
the classifier itself is on images of known scenes.

An attribute is the scene's setting, its time, its medium, or a thing as (colour, kind). All attributes of an image are
correct if all those of its scene are predicted and no extra thing is.
"""

from collections.abc import Mapping, Sequence

import torch
from PIL import Image
from torch import Tensor

from ...data.images import to_tensor
from ...pipeline import Pipeline
from ..classifier import AttributeClassifier
from ..scenes import Attributes, Scene, loose_captions, render, sample_scene
from .common import held_out, markdown

WHOLE = ("setting", "time", "medium")
"""attributes of the whole image"""


Compared = tuple[Attributes, Attributes]
"""of the scene that an image should show, and as the classifier predicts them for the image"""


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


def compare(
    classifier: AttributeClassifier, scenes: Sequence[Scene], images: Tensor | Sequence[Image.Image]
) -> list[Compared]:
    """What images should show, and what the classifier predicts for them."""
    return list(zip([scene.attributes for scene in scenes], predict(classifier, images), strict=True))


def accuracy(results: Sequence[Compared]) -> tuple[float, float]:
    """The fraction of attributes predicted correctly, and the fraction of images with all attributes correct."""
    if not results:
        raise ValueError("no images to evaluate; expected at least one")
    correct = sum(
        sum(getattr(truth, name) == getattr(found, name) for name in WHOLE) + len(truth.things & found.things)
        for truth, found in results
    )
    total = sum(len(WHOLE) + len(truth.things) for truth, _ in results)
    return correct / total, sum(truth == found for truth, found in results) / len(results)


def evaluate_classifier(
    classifier: AttributeClassifier, pipe: Pipeline | None = None, n: int = 500
) -> dict[str, list[Compared]]:
    """The classifier on renderings of the first n held-out scenes: "as drawn", and "through the autoencoder" of `pipe`.

    They have the classifier's size, with `pipe` the pipeline's. The latter is an upper bound for images that `pipe`
    generates.
    """
    scenes, _ = held_out("classifier", n, sample_scene)
    size = classifier.config.size if pipe is None else pipe.config.sampling.resolution
    images = {"as drawn": torch.stack([to_tensor(render(scene, size)) for scene in scenes])}
    if pipe is not None:
        factor = pipe.config.vae.scaling_factor
        decoded = [pipe.decode(factor * pipe.encode_image(batch)).cpu() for batch in images["as drawn"].split(50)]
        images["through the autoencoder"] = torch.cat(decoded)
    return {name: compare(classifier, scenes, some) for name, some in images.items()}


def evaluate_text2image(
    pipe: Pipeline, classifier: AttributeClassifier, n: int = 200, *, loose: bool = False, steps: int = 30, **options
) -> list[Compared]:
    """Generate the captions of the first n held-out scenes and predict the attributes. options: of `pipe.generate`.

    loose: loosely worded captions (without sizes, places and weather) in place of fully specified ones. As captions may
    leave places open, a generated image has no known layout, and the classifier predicts what it shows.
    """
    scenes, rng = held_out("text2image", n, sample_scene)
    captions = [loose_captions(scene, rng=rng)[0] if loose else scene.caption for scene in scenes]
    return compare(classifier, scenes, pipe.generate(captions, **({"steps": steps, "batch_size": 25} | options)))


def table(evaluated: Mapping[str, Sequence[Compared]]) -> str:
    """Named sets of images as Markdown: how many attributes are correct, and how many images have all correct."""
    rows = [[name, len(results), *(f"{x:.1%}" for x in accuracy(results))] for name, results in evaluated.items()]
    return markdown(["held-out images", "number", "attributes correct", "all attributes correct"], rows)
