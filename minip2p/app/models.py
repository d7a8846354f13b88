"""The networks that the page uses, and how they were loaded."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from ..cli.arguments import Loading, limit_threads
from ..config import Config
from ..loading import read, shipped
from ..pipeline import Pipeline


@dataclass(frozen=True)
class Models:
    """An editor, and a text-to-image model that is loaded when the page first asks for it."""

    loading: Loading
    """of the editor; no weights are the shipped ones"""
    text2image_weights: str | None = None
    threads: int | None = None

    @cached_property
    def editor(self) -> Pipeline:
        """Raises ValueError for another kind of model."""
        pipe = self.loading.load("editor", self.threads)
        pipe.require("editor")
        return pipe

    @cached_property
    def text2image(self) -> Pipeline:
        """Raises ValueError for another kind of model."""
        pipe = self.text2image_loading.load("text2image", self.threads)
        limit_threads(*self.editor.parts.values(), *pipe.parts.values(), threads=self.threads)  # both are used from now
        pipe.require("text-to-image")
        return pipe

    @property
    def text2image_scale(self) -> float:
        """Its own guidance scale, from its config alone."""
        found = read(self.text2image_weights or shipped("text2image"), Config, ema=self.loading.ema)
        return found.config.sampling.text_scale

    @property
    def text2image_loading(self) -> Loading:
        """As the editor, but without what changes the editor's own weights."""
        return replace(self.loading, weights=self.text2image_weights, lora=(), vae=None, config=())


def example() -> Path:
    """The image with which the page opens."""
    return shipped("editor").with_name("example.png")
