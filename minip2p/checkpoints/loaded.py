"""What reading a checkpoint gives, whatever its layout."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ..config import CLIPConfig, Config, LlamaConfig, VisionConfig
from ..schema import foreign
from .files import CheckpointError
from .tables import Link, pull

KINDS: dict[str, type] = {"model": Config, "clip": CLIPConfig, "language_model": LlamaConfig, "dino": VisionConfig}
"""the kind that a file of ours names -> the class of its config; a network from elsewhere adds an entry"""
FORMER = {"reader": "classifier", "writer": "language_model"}
"""names of kinds and parts in files of minip2p 0.1 -> today's"""
LEAST_TENSORS = 6
"""of a residual block or a transformer's layer"""
IGNORED = re.compile(r".*\bposition_ids$|.*\battn_mask$")
"""index buffers that older libraries saved"""


@foreign
class Header:
    """What our own files say beside their tensors, and `minip2p.json` in a folder."""

    config: dict[str, Any] | None = None
    tokenizer: dict[str, Any] | None = None
    provenance: dict[str, Any] | None = None
    sampling: dict[str, Any] | None = None
    shared: dict[str, str] | None = None


@dataclass
class Loaded:
    """A checkpoint's content under our names. Tensors are views of the mapped file."""

    path: Path
    layout: str
    """"minip2p", "original", "diffusers", "transformers" (a language model) or "clip" """
    config: Any
    """an instance of one of KINDS"""
    parts: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    """part -> name -> tensor. Parts are "unet" (or another denoiser), "vae", "text"; of a CLIP "text", "vision",
    "logit_scale" (whose one tensor is named ""); "language_model"; "dino"; and what other kinds hold"""
    names: dict[str, dict[str, str]] = field(default_factory=dict)
    """part -> our names -> the file's, for messages"""
    tokenizer: Path | dict | None = None
    """a folder of tokenizer files, a tokenizer as a dict, or None for CLIP's own vocabulary"""
    alphas_cumprod: Tensor | None = None
    """(steps,) float64, the noise schedule that an original file was trained on, if it has it"""
    provenance: dict = field(default_factory=dict)
    shared: dict[str, str] = field(default_factory=dict)
    """part -> the file beside it that it was read from, where several models share it"""
    notes: list[str] = field(default_factory=list)
    """one line for each assumption about something that the file does not say"""

    def take(self, part: str, tensors: dict[str, Tensor], links: Iterable[Link]) -> set[str]:
        """Add a part through the table; the names of theirs that it used."""
        self.parts[part], self.names[part], used = pull(tensors, links)
        return used

    def check_counts(self) -> "Loaded":
        """The checkpoint itself. Raises CheckpointError where its config has far more layers than its tensors make.

        So that a wrong number is refused before a network is built: a thousand layers take half a minute.
        """
        for part, tensors in self.parts.items():
            c = getattr(self.config, part, self.config)
            counts = [getattr(c, word, 1) for word in ("layers", "blocks", "depth")]
            layers = math.prod(each for each in counts if isinstance(each, int)) * len(getattr(c, "widths", (1,)))
            if layers > 1 and LEAST_TENSORS * layers > len(tensors) > 0:
                raise CheckpointError(
                    f"{self.path}: its config has {layers:,} layers in the {part}, too many for {len(tensors)} tensors"
                )
        return self

    def joined(self) -> dict[str, Tensor]:
        """All parts in one dict, {"text.token.weight": tensor}: the state dict of a module with these parts."""
        return {join(part, name): t for part, tensors in self.parts.items() for name, t in tensors.items()}

    def joined_names(self) -> dict[str, str]:
        """`names` for `joined`."""
        return {join(part, name): theirs for part, names in self.names.items() for name, theirs in names.items()}


def join(part: str, name: str) -> str:
    """The name of a part's tensor; without a name, of the part itself."""
    return f"{part}.{name}" if name else part


def refuse_unknown(path: Path, unknown: Iterable[str], read: Iterable[str]) -> None:
    """Raise CheckpointError if tensors are left that no table knows; `read` are the parts that were read."""
    if unknown := sorted(unknown):
        few = ", ".join(unknown[:3]) + (", …" if len(unknown) > 3 else "")
        raise CheckpointError(
            f"{path}: {len(unknown)} tensors are unknown beside those of {', '.join(read) or 'no network'}: {few}"
        )
