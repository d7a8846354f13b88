"""`minip2p tiny make-data`: the paper's data generation in miniature, with a report."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from ...loading import load, load_clip, load_language_model, shipped
from ...tinyworld import miniature, miniature_report
from ...tinyworld.classifier import load_classifier
from .. import files
from ..arguments import Device, DType, limit_threads, optional
from ..printing import say

SHIPPED = "(default: the shipped one)"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Make a training set from captions alone: language model, Prompt-to-Prompt, CLIP filter.

    The output folder gets captions.txt, prompts.jsonl, the training set in pairs/, and report.md and report.png, which
    say how good it is. To resume an interrupted run, repeat the command.
    """

    output: Annotated[str, arg(metavar="FOLDER")]
    """created if missing"""
    recipe: miniature.Recipe = miniature.RECIPE
    language_model: Annotated[str | None, optional("PATH", SHIPPED)] = None
    """weights of the language model"""
    text2image: Annotated[str | None, optional("PATH", SHIPPED)] = None
    """weights of the text-to-image model"""
    clip: Annotated[str | None, optional("PATH", SHIPPED)] = None
    """weights of the CLIP that filters"""
    classifier: Annotated[str | None, optional("PATH", SHIPPED)] = None
    """weights of the attribute classifier, for the report"""
    device: Device = "auto"
    dtype: DType = "auto"


def run(options: Options) -> None:
    """Load the models, make what is missing, write the report."""
    out = Path(options.output)
    files.check_writable(out / "report.md")
    models = miniature.Models(
        language_model=load_language_model(options.language_model, device=options.device),
        text2image=load(options.text2image or shipped("text2image"), device=options.device, dtype=options.dtype),
        clip=load_clip(options.clip, device=options.device),
        classifier=load_classifier(options.classifier, device=options.device),
    )
    networks = [*models.language_model.parts.values(), *models.text2image.parts.values(), models.clip]
    limit_threads(*networks, models.classifier, threads=options.recipe.threads)
    report = miniature.make(options.recipe, out, models)
    text = miniature_report.to_markdown(report)
    files.write_file(out / "report.png", files.png(miniature_report.draw(report)))
    files.write_file(out / "report.md", f"{text}\n![Pairs](report.png)\n".encode())
    say(*text.split("\n"), f"training set: {out / 'pairs'}", f"examples: {out / 'report.png'}")
