"""Control of attention: Prompt-to-Prompt in the paper's way and in its authors', blending, inversion, observing.

A control is an argument of `Pipeline.edit`, `generate` and `generate_pair`; several compose, in their order.
"""

from .blend import LocalBlend
from .edit import Refine, Replace, Reweight
from .observe import Record
from .run import Control, Run
from .share import Share

__all__ = ["Control", "LocalBlend", "Record", "Refine", "Replace", "Reweight", "Run", "Share"]
