"""Control of attention: Prompt-to-Prompt (as the paper uses it and as its authors do), blending, inversion, recording.

A control is an argument of `Pipeline.edit`, `generate`, `sdedit` and `generate_pair`; several act in their order.
"""

from .blend import LocalBlend
from .inject import Refine, Replace, Reweight
from .record import Record
from .run import AtSites, Control, Run
from .share import Share

__all__ = ["AtSites", "Control", "LocalBlend", "Record", "Refine", "Replace", "Reweight", "Run", "Share"]
