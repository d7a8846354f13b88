"""Weights of any layout, read safely and strictly, and written in any layout.

read(path) -> Loaded          our own file, an original single file, a diffusers folder, a CLIP, a language model
on_meta()                     within, networks are built without weights
assign(module, tensors, ...)  gives such a network its weights
write(path, layout, config, parts, ...)
widen(tensors)                turns the four input channels of a text-to-image model into an editor's eight
KINDS                         the kinds of our own files; a network from elsewhere adds its own
"""

from .assign import assign, on_meta, widen
from .files import CheckpointError
from .load import read
from .loaded import KINDS, Loaded
from .save import LAYOUTS, write

__all__ = ["KINDS", "LAYOUTS", "CheckpointError", "Loaded", "assign", "on_meta", "read", "widen", "write"]
