"""A model as one value, and a page for each thing that it does.

core.py      networks, tokenizer, schedule; encode, decode, sample
edit.py      a picture and an instruction -> the edited picture (InstructPix2Pix)
mask.py      where an edit may change the picture; turns.py: several edits, one after the other
generate.py  a prompt -> a picture
sdedit.py    a picture and a prompt -> a picture (the paper's baseline)
pair.py      two prompts -> two pictures that differ as little as the prompts do (Prompt-to-Prompt)
invert.py    a picture and its prompt -> a start from which it is generated again; inversions.py: its files
graphs.py    the denoiser compiled, and on CUDA replayed as graphs; batch_size.py: how many items share its calls
unchanged.py what an edit returns that changes nothing
batching.py  what the verbs share: lists, batches, progress, checks; settings.py: of those that start from a prompt
language.py  a language model that completes texts
"""

from .batching import OUTPUTS, Progress
from .core import LatentDiffusion
from .edit import edit
from .fingerprint import fingerprint
from .generate import generate
from .inversions import load_inversion, save_inversion
from .invert import invert
from .language import LanguageModel
from .pair import generate_pair
from .sdedit import sdedit
from .turns import edit_turns

__all__ = ["OUTPUTS", "LanguageModel", "Pipeline", "Progress", "fingerprint", "load_inversion", "save_inversion"]


class Pipeline(LatentDiffusion):
    """A latent diffusion model with its verbs as methods; what it can do depends on its `kind`."""

    edit = edit
    edit_turns = edit_turns
    generate = generate
    sdedit = sdedit
    generate_pair = generate_pair
    invert = invert

    def __repr__(self) -> str:
        size = sum(p.numel() for network in self.parts.values() for p in network.parameters())
        return f"{type(self).__name__}({self.kind}, {size / 1e6:.1f} M parameters, {self.dtype}, {self.device})"
