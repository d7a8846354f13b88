"""How often a text-to-image model generates what the caption describes, by the attribute classifier.

A generated image has no known layout, because captions may leave places open. So the classifier predicts what it shows.
"""

from ...pipeline import Pipeline
from ..classifier import AttributeClassifier
from ..scenes import loose_captions, sample_scene
from .attributes import Prediction, predict
from .common import held_out


def evaluate_text2image(
    pipe: Pipeline, classifier: AttributeClassifier, n: int = 200, *, loose: bool = False, steps: int = 30, **options
) -> list[Prediction]:
    """Generate the captions of the first n held-out scenes and predict the attributes. options: of `pipe.generate`.

    loose: loosely worded captions (without sizes, places and weather) in place of fully specified ones.
    """
    scenes, rng = held_out("text2image", n, sample_scene)
    captions = [loose_captions(scene, rng=rng)[0] if loose else scene.caption for scene in scenes]
    images = pipe.generate(captions, **({"steps": steps, "batch_size": 25} | options))
    return [Prediction(*pair) for pair in zip(scenes, predict(classifier, images), strict=True)]
