"""What reading a checkpoint gives, whatever its layout."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from ..config import CLIPConfig, Config, LlamaConfig, ReaderConfig
from .mapped import CheckpointError
from .tables import Link, pull

AnyConfig = Config | CLIPConfig | ReaderConfig | LlamaConfig
KINDS: dict[str, type[AnyConfig]] = {
    "model": Config, "clip": CLIPConfig, "reader": ReaderConfig, "writer": LlamaConfig,
}  # fmt: skip
"""what a file of ours says that it holds -> what its config is"""


@dataclass
class Loaded:
    """A checkpoint's content under our names. Tensors are views of the mapped file."""

    path: Path
    layout: str
    """"minip2p", "original", "diffusers", "transformers" (a language model) or "clip" """
    config: AnyConfig
    parts: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    """any of "unet", "vae", "text"; of a CLIP "text", "vision", "logit_scale" (whose one tensor is named ""); "reader";
    "writer".
    """
    names: dict[str, dict[str, str]] = field(default_factory=dict)
    """our names -> the file's, for messages"""
    tokenizer: Path | dict | None = None
    """a folder of tokenizer files, a tokenizer as a dict, or None for CLIP's own vocabulary"""
    provenance: dict = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    """one line each: what the file does not say and was assumed"""

    def take(self, part: str, tensors: dict[str, Tensor], links: Iterable[Link]) -> set[str]:
        """Add a part through the table; the names of theirs that it used."""
        self.parts[part], self.names[part], used = pull(tensors, links)
        return used

    def joined(self) -> dict[str, Tensor]:
        """All parts in one dict, "text.token.weight": what a module that holds them by these names is given."""
        return {join(part, name): t for part, tensors in self.parts.items() for name, t in tensors.items()}

    def joined_names(self) -> dict[str, str]:
        """`names` for `joined`."""
        return {join(part, name): theirs for part, names in self.names.items() for name, theirs in names.items()}


def join(part: str, name: str) -> str:
    return f"{part}.{name}" if name else part


def refuse_unknown(path: Path, unknown: Iterable[str], read: Iterable[str]) -> None:
    """Raise the strict error for tensors that no table knows: what the file has, what it was read as."""
    if unknown := sorted(unknown):
        few = ", ".join(unknown[:3]) + (", …" if len(unknown) > 3 else "")
        raise CheckpointError(
            f"{path}: {len(unknown)} tensors are unknown beside those of {', '.join(read) or 'no network'}: {few}"
        )
