"""Weights of any layout, read safely and strictly, and written in any layout.

read(path) -> Loaded          our file, an original single file, a diffusers folder, a CLIP
assign(module, tensors, ...)  a network built on "meta" gets its weights
write(path, layout, config, parts, ...)
widen(tensors)                an editor's eight inputs from a painter's four
"""

from .assign import assign
from .load import read
from .loaded import Loaded
from .mapped import CheckpointError
from .save import LAYOUTS, write
from .widen import widen

__all__ = ["LAYOUTS", "CheckpointError", "Loaded", "assign", "read", "widen", "write"]
