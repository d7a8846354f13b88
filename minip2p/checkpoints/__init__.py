"""Weights of any layout, read safely and strictly, and written in any layout.

read(path) -> Loaded          our own file, an original single file, a diffusers folder, a CLIP, a language model
on_meta()                     within, networks are built without weights
assign(module, tensors, ...)  gives such a network its weights
write(path, layout, config, parts, ...)
share(source, target, shared)  copies a file of ours without the parts that lie in files beside it
replace_vae(loaded, path)     gives a checkpoint another file's autoencoder
merge_lora(loaded, files)     merges LoRA files into a checkpoint's weights
widen(tensors)                turns the four input channels of a text-to-image model into an editor's eight
KINDS                         the kinds of our own files; a network from elsewhere adds its own
"""

from .assign import assign, on_meta, widen
from .files import CheckpointError
from .load import read, replace_vae
from .loaded import KINDS, Loaded
from .lora import merge_lora, write_lora
from .save import LAYOUTS, share, write

__all__ = [
    "KINDS",
    "LAYOUTS",
    "CheckpointError",
    "Loaded",
    "assign",
    "merge_lora",
    "on_meta",
    "read",
    "replace_vae",
    "share",
    "widen",
    "write",
    "write_lora",
]
