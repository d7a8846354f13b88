"""Networks, tokenizer and schedule as one value, and a file for each thing that is done with it.

core.py      Pipeline: encode, decode, sample
edit.py      a picture and an instruction -> the edited picture (the paper's editor)
generate.py  a prompt -> a picture; sdedit: a picture and a prompt -> a picture
invert.py    a picture and its prompt -> a start from which it is painted again; inversions.py: these as files
writer.py    a language model that goes on with texts
pair.py      two prompts -> two pictures that differ as little as the prompts do (Prompt-to-Prompt)
items.py     what these share: lists and single values, batches, checks in the user's words
"""

from .core import Pipeline, fingerprint
from .inversions import load_inversion, save_inversion
from .items import OUTPUTS, Progress
from .writer import Writer

__all__ = ["OUTPUTS", "Pipeline", "Progress", "Writer", "fingerprint", "load_inversion", "save_inversion"]
