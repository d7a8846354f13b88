"""How large the reproduction is, and what it costs."""

from dataclasses import replace
from typing import Annotated

from pydantic import Field

from ...evaluation.curves import IMAGE_SCALES, STRENGTHS
from ...evaluation.metrics import Thresholds
from ...schema import Count, Fraction, Name, SamplingSteps, Scale, Seed, Threads, checked
from .. import miniature


@checked
class Sizes:
    """What determines the results, besides the models. The defaults are those of the shipped report."""

    pairs: Count = 150
    """figure3: pairs of captions, each at every share"""
    items: Count = 100
    """figure8, figure10: edits at each scale"""
    image_scales: tuple[Scale, ...] = IMAGE_SCALES
    """figure8, figure10: of the editor"""
    strengths: tuple[Fraction, ...] = (0.15, *STRENGTHS)
    """figure8: of SDEdit"""
    captions: Annotated[int, Field(ge=1, le=1_000_000)] = 2000
    """made: captions, of each of which the language model makes an instruction"""
    samples: Count = 4
    """made: pairs of each instruction, in each way"""
    inspected: Count = 900
    """made: instructions whose pairs are inspected"""
    thresholds: Thresholds = miniature.RECIPE.thresholds
    """made: of the CLIP filter"""
    rendered: Count = 20_000
    """ablation: rendered pairs to train on"""
    ablation_size: Annotated[int, Field(ge=32, le=2048)] = 64
    """ablation: side of their images in pixels; half of the models' own, as editors from random weights need many"""
    training_steps: Count = 800
    """ceiling, figure10: steps of each editor, which starts from the text-to-image model"""
    ablation_steps: Count = 1000
    """ablation: steps of each editor, which starts from random weights"""
    batch_size: Count = 32
    """ceiling, figure10, ablation: pairs of a step"""
    crops: Count = 2
    """ceiling, figure10: encoded versions of each pair"""
    seeds: Annotated[int, Field(ge=1, le=100)] = 3
    """ceiling, ablation: editors of each variant"""
    edits: Annotated[int, Field(ge=1, le=100_000)] = 300
    """ceiling, ablation: held-out edits on which each editor is evaluated"""
    variants: tuple[Name, ...] = ()
    """ablation: rows of the table, beside the baseline; none: all"""
    generation_steps: SamplingSteps = 12
    """of the text-to-image model's sampler"""
    edit_steps: SamplingSteps = 15
    """of the editor's and SDEdit's samplers"""
    unit: Count = 20
    """results in a file: a run that is stopped loses at most so many"""
    seed: Seed = 0
    """random seed"""
    threads: Threads | None = None
    """CPU threads, on which the rounding depends; None: PyTorch's own number, or that of the resumed run"""

    @property
    def recipe(self) -> miniature.Recipe:
        """Of the made pairs."""
        own = {name: getattr(self, name) for name in ("captions", "samples", "thresholds", "seed", "threads")}
        return replace(miniature.RECIPE, steps=self.generation_steps, compared=0, **own)


SIZES = {
    "full": Sizes(),
    "quick": Sizes(
        pairs=20,
        items=20,
        image_scales=(1.0, 1.6, 2.2),
        strengths=(0.15, 0.5, 0.9),
        captions=40,
        samples=2,
        inspected=20,
        rendered=200,
        training_steps=40,
        ablation_steps=40,
        batch_size=16,
        variants=("no-image", "rms-norm"),
        seeds=1,
        edits=20,
        generation_steps=10,
        edit_steps=10,
    ),
}
"""word -> sizes: the shipped report's, and a look at everything in some minutes, from which nothing follows"""
