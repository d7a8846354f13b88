"""How the stages of the tiny world are trained: the library's configs with the settings of its data sets."""

from dataclasses import field
from typing import Annotated

from pydantic import Field

from ...schema import AtLeast0, Count, CountOrNone, Fraction, Pixels, checked
from ...training.config import DiffusionTraining, InstructionTraining, LanguageTraining, TrainConfig, VAETraining
from ..classifier import ClassifierConfig
from ..scenes import COLOURS, KINDS, MEDIA, SETTINGS, TIMES


@checked
class ClassifierTraining:
    """The attribute classifier, on images most of which are degraded like generated ones: cross-entropies."""

    model: ClassifierConfig = field(
        default_factory=lambda: ClassifierConfig(
            settings=SETTINGS, times=TIMES, media=MEDIA, kinds=KINDS, colours=COLOURS
        )
    )
    train: TrainConfig = field(default_factory=TrainConfig)
    decoded: CountOrNone = 6000
    """images that are encoded and decoded by an autoencoder before training"""
    decoded_size: Pixels = 128
    """side of these images, in pixels; they are then resized to the classifier's"""
    decoded_fraction: Fraction = 0.5
    """fraction of a batch that is taken from these; the others are rendered anew"""
    latent_noise: AtLeast0 = 0.2
    """largest standard deviation of noise on their latents, which have about unit variance"""
    clean: Fraction = 0.25
    """fraction of the images that are not degraded"""
    noise: AtLeast0 = 0.05
    """largest standard deviation of noise per pixel, and of blurred noise"""
    tint: Fraction = 0.06
    """largest offset of a colour channel; its contrast changes by up to twice this"""
    shift: Annotated[int, Field(ge=0, le=1000)] = 2
    """largest shift of a batch, in pixels"""


@checked
class TinyVAETraining(VAETraining):
    """The autoencoder, mostly on cuts: it is convolutional, and a cut teaches as much per pixel as a whole image."""

    cut: Pixels = 64
    """side of the cuts, in pixels"""

    def __post_init__(self):
        super().__post_init__()
        if self.cut % self.model.factor or self.cut > self.size:
            raise ValueError(f"cut = {self.cut}: expected a multiple of {self.model.factor} up to size = {self.size}")


@checked
class TinyDiffusionTraining(DiffusionTraining):
    """A denoiser, on edits of scenes, rendered and encoded before training, unless `data` names sets of pairs."""

    sources: Count = 10_000
    """scenes"""
    edits: Count = 4
    """edits of each scene; each is used in both directions"""
    full_caption_steps: CountOrNone = 0
    """of a text-to-image model: in the first steps, captions leave nothing open"""


@checked
class SceneTexts:
    """Texts about scenes."""

    scenes: Annotated[int, Field(ge=1, le=1000)] = 4
    """captions of a text, each one edit after the one before"""
    requests: Fraction = 0.3
    """fraction of texts that have no captions but instructions, each with its outcome"""
    asked: Fraction = 0.5
    """of the other texts: fraction of edits whose instruction stands there, too"""


@checked
class TinyLanguageTraining(LanguageTraining):
    """A language model from random weights, on texts about scenes."""

    texts: SceneTexts = field(default_factory=SceneTexts)
    triplets: Count = 700
    """triplets whose words the vocabulary knows, too"""


@checked
class TinyInstructionTraining(InstructionTraining):
    """A language model on triplets of the tiny world, unless `data` names a table."""

    triplets: Count = 700
    rehearsed: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """rows of texts about scenes that are added to each batch, so that the model does not forget them"""
    texts: SceneTexts = field(default_factory=SceneTexts)
