"""A small language model with random weights."""

from dataclasses import replace

from conftest import randomise

from minip2p.config import LlamaConfig
from minip2p.models.llama import Llama
from minip2p.pipeline import LanguageModel
from minip2p.text.pieces import Pieces

CONFIG = LlamaConfig(
    vocab_size=320, max_length=64, width=24, layers=2, heads=4, kv_heads=2, head_size=6, feed_forward=40
)
TEXTS = ["a red cat in a meadow", "make it night", "generate 12 blue boats é", "turn the cat into a dog"] * 20


def small(seed: int = 0, **changes) -> Llama:
    return randomise(Llama(replace(CONFIG, **changes)), seed)


def small_language_model(seed: int = 0, **changes) -> LanguageModel:
    model = small(seed, **changes)
    return LanguageModel(model, Pieces.learn(TEXTS, 300), model.config, {"from": "a test"})
