"""The tiny world's vocabulary: the same for every network that reads."""

from dataclasses import replace
from functools import cache

import numpy as np

from ..config import TextConfig
from ..data.scenes import sample_edit
from ..text.bpe import BPE


@cache
def learn_vocabulary(size: int, edits: int = 10_000) -> BPE:
    """A BPE of at most `size` tokens, learnt from captions and instructions of fixed random edits."""
    rng = np.random.default_rng(0)
    drawn = [sample_edit(rng) for _ in range(edits)]
    return BPE.learn([text for edit in drawn for text in (edit.source.caption, edit.instruction)], size)


def tokenizer_for(config: TextConfig) -> tuple[BPE, TextConfig]:
    """The vocabulary cut to the tower's length, and the tower's config with the vocabulary's true size and ids."""
    tokenizer = replace(learn_vocabulary(config.vocab_size), max_length=config.max_length)
    return tokenizer, replace(
        config, vocab_size=len(tokenizer.vocab), bos=tokenizer.bos, eos=tokenizer.eos, pad=tokenizer.pad
    )
