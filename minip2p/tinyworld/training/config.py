"""How the stages of the tiny world are trained: the library's configs with the settings of its data sets."""

from dataclasses import dataclass, field

from ...training.config import DiffusionTraining, InstructionTraining, LanguageTraining, TrainConfig, check_least
from ..classifier import ClassifierConfig
from ..scenes import COLOURS, KINDS, MEDIA, SETTINGS, TIMES


@dataclass(frozen=True, kw_only=True)
class ClassifierTraining:
    """The attribute classifier, on images most of which are degraded like generated ones: cross-entropies."""

    model: ClassifierConfig = field(
        default_factory=lambda: ClassifierConfig(
            settings=SETTINGS, times=TIMES, media=MEDIA, kinds=KINDS, colours=COLOURS
        )
    )
    train: TrainConfig = field(default_factory=TrainConfig)
    decoded: int = 6000
    """images that are encoded and decoded by an autoencoder before training"""
    decoded_fraction: float = 0.5
    """fraction of a batch that is taken from these; the others are rendered anew"""
    latent_noise: float = 0.2
    """largest standard deviation of noise on their latents, which have about unit variance"""
    clean: float = 0.25
    """fraction of the images that are not degraded"""
    noise: float = 0.05
    """largest standard deviation of noise per pixel, and of blurred noise"""
    tint: float = 0.06
    """largest offset of a colour channel; its contrast changes by up to twice this"""
    shift: int = 2
    """largest shift of a batch, in pixels"""


@dataclass(frozen=True, kw_only=True)
class TinyDiffusionTraining(DiffusionTraining):
    """A denoiser, on edits of scenes, rendered and encoded before training, unless `data` names sets of pairs."""

    sources: int = 10_000
    """scenes"""
    edits: int = 4
    """edits of each scene; each is used in both directions"""
    full_caption_steps: int = 0
    """of a text-to-image model: in the first steps, captions leave nothing open"""


@dataclass(frozen=True, kw_only=True)
class SceneTexts:
    """Texts about scenes."""

    scenes: int = 4
    """captions of a text, each one edit after the one before"""
    requests: float = 0.3
    """fraction of texts that have no captions but instructions, each with its outcome"""


@dataclass(frozen=True, kw_only=True)
class TinyLanguageTraining(LanguageTraining):
    """A language model from random weights, on texts about scenes."""

    texts: SceneTexts = field(default_factory=SceneTexts)
    triplets: int = 700
    """triplets whose words the vocabulary knows, too"""


@dataclass(frozen=True, kw_only=True)
class TinyInstructionTraining(InstructionTraining):
    """A language model on triplets of the tiny world, unless `data` names a table."""

    triplets: int = 700
    rehearsed: int = 0
    """rows of texts about scenes that are added to each batch, so that the model does not forget them"""
    texts: SceneTexts = field(default_factory=SceneTexts)

    def __post_init__(self):
        super().__post_init__()
        check_least(self, triplets=1, rehearsed=0)
