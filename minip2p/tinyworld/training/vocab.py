"""The vocabularies of the tiny world, learned from its captions and instructions."""

from dataclasses import replace
from functools import cache
from itertools import product

import numpy as np

from ...config import TextConfig
from ...text.bpe import BPE
from ...text.learn import learn_bpe
from ...text.pieces import Pieces
from ..grammar import sample_walk
from ..scenes import COLOURS, KINDS, sample_edit
from .datasets import draw_triplets


@cache
def learn_vocabulary(size: int, edits: int = 10_000) -> BPE:
    """A BPE of at most `size` tokens, from captions and instructions of fixed random edits."""
    rng = np.random.default_rng(0)
    drawn = [sample_edit(rng) for _ in range(edits)]
    return learn_bpe([text for edit in drawn for text in (edit.source.caption, edit.instruction)], size)


def tokenizer_for(config: TextConfig) -> tuple[BPE, TextConfig]:
    """The BPE with the text encoder's length, and the encoder's config with the BPE's size and special tokens."""
    tokenizer = replace(learn_vocabulary(config.vocab_size), max_length=config.max_length)
    return tokenizer, replace(
        config, vocab_size=len(tokenizer.vocab), bos=tokenizer.bos, eos=tokenizer.eos, pad=tokenizer.pad
    )


@cache
def learn_pieces(size: int, triplets: int) -> Pieces:
    """The language model's pieces, from captions and from this number of triplets.

    A thing with its colour is one piece. So a model as small as this one knows which colour belongs to which thing; if
    it has to look that up, at the word before the noun, it does not learn to in 20 million tokens.
    """
    rng = np.random.default_rng(0)
    texts = [line for _ in range(2000) for line in sample_walk(rng, 2)]
    for each in draw_triplets(triplets):
        texts += [each.input, each.output, *[each.edit] * 5]  # 5 times, so that words of instructions are pieces, too
    return Pieces.learn(texts, size, [f" {colour} {kind}" for colour, kind in product(COLOURS, KINDS)])
