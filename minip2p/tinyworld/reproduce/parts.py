"""What the parts of the reproduction share: where they work and with which models, and what each of them returns."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from ... import __version__
from ...data.encode import png
from ...data.pair_files import json_lines
from ...data.tables import read_rows
from ...engines import run
from ...files import read_json, write_file, write_json
from ...loading import load, load_clip, load_language_model
from ...models.clip import CLIP
from ...pipeline import LanguageModel, Pipeline, fingerprint
from ...units import Result, Work
from ..classifier import AttributeClassifier, load_classifier
from ..miniature import finish
from .claims import Claim
from .sizes import Sizes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SECTION = "section.json"


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Where the reproduction works, how large it is, and with which models; each is loaded when it is first used."""

    out: Path
    """the folder of the report; each part has a folder in it"""
    weights: Path
    """a folder with editor, editor-from-pairs, text2image, clip, classifier and instructions (.safetensors)"""
    sizes: Sizes = Sizes()
    device: str = "cpu"
    dtype: str = "float32"
    """of the denoisers that generate and edit, a word of `loading.DTYPES`; trainings have their own"""

    def file(self, name: str) -> Path:
        return self.weights / f"{name}.safetensors"

    @cached_property
    def text2image(self) -> Pipeline:
        return load(self.file("text2image"), device=self.device, dtype=self.dtype)

    @cached_property
    def editor(self) -> Pipeline:
        return load(self.file("editor"), device=self.device, dtype=self.dtype)

    @cached_property
    def editor_from_pairs(self) -> Pipeline:
        """The one that was trained as the paper's."""
        return load(self.file("editor-from-pairs"), device=self.device, dtype=self.dtype)

    @cached_property
    def clip(self) -> CLIP:
        return load_clip(self.file("clip"), device=self.device)

    @cached_property
    def classifier(self) -> AttributeClassifier:
        return load_classifier(self.file("classifier"), device=self.device)

    @cached_property
    def language_model(self) -> LanguageModel:
        return load_language_model(self.file("instructions"), device=self.device)

    @property
    def size(self) -> int:
        """Side of the images in pixels: the text-to-image model's own."""
        return self.text2image.config.sampling.resolution

    @cached_property
    def header(self) -> dict[str, Any]:
        """Everything that determines the results."""
        models = {
            "editor": self.editor.fingerprint,
            "editor-from-pairs": self.editor_from_pairs.fingerprint,
            "text2image": self.text2image.fingerprint,
            "clip": fingerprint({"clip": self.clip}),
            "classifier": fingerprint({"classifier": self.classifier}),
            "instructions": self.language_model.fingerprint,
        }
        sizes = json.loads(json.dumps(asdict(self.sizes)))
        return {
            "minip2p": __version__,
            "models": models,
            "pixels": self.size,
            **sizes,
            "device": self.device,
            "dtype": self.dtype,
        }


@dataclass(frozen=True, kw_only=True)
class Section:
    """What a part of the reproduction found."""

    title: str
    text: str
    """Markdown: paragraphs, tables, and figures as ![what it shows](NAME.png), each by itself"""
    claims: Sequence[Claim] = ()
    figures: Mapping[str, "Image.Image | Figure"] = field(default_factory=dict)
    """NAME.png -> figure"""


def write_section(folder: Path, section: Section) -> None:
    """Write a part's figures and, when they are there, its section.json, with which the part is done."""
    for name, figure in section.figures.items():
        write_file(folder / name, png(figure))
    claims = [claim.to_dict() for claim in section.claims]
    write_json(folder / SECTION, {"title": section.title, "text": section.text, "claims": claims})


def read_section(folder: Path) -> dict[str, Any] | None:
    """title, text, claims (`Claim.to_dict`) of a part that is done."""
    return read_json(folder / SECTION) if (folder / SECTION).exists() else None


@dataclass(frozen=True)
class RowMaker:
    """Makes units of JSON lines by a function of their names."""

    header: dict[str, Any]
    rows: Callable[[str], Sequence[Mapping[str, Any]]]

    def make(self, name: str) -> Result:
        lines = self.rows(name)
        return Result(json_lines(lines), {"rows": len(lines)})


def make_rows(
    setup: Setup, folder: Path, names: Sequence[str], rows: Callable[[str], Sequence[Mapping[str, Any]]]
) -> dict[str, list[dict[str, Any]]]:
    """rows(name) of each name, from a file NAME.jsonl that an earlier call wrote, or made and written now."""
    work = Work(folder=folder, names=[f"{name}.jsonl" for name in names], load=lambda: maker)
    maker = RowMaker(setup.header, lambda name: rows(name.removesuffix(".jsonl")))
    finish(folder.name, run(work))
    return {name: [row for _, row in read_rows(folder / f"{name}.jsonl")] for name in names}
