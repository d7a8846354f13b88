"""Llama's tokenizer: pieces of words, by a sentencepiece model (Kudo and Richardson 2018)."""

import base64
import binascii
import io
import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from ..files import write_file
from ..regular import read_regular

MOST_BYTES = 64 << 20
"""of a sentencepiece model; the largest that are published have a tenth"""

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor


class Pieces:
    """A sentencepiece model: text -> token ids and back. Two of the same bytes are equal."""

    def __init__(self, model: bytes):
        """model: the bytes of a `tokenizer.model`. Raises ValueError for any others."""
        self.model = model
        try:
            good = bool(model) and len(self) > 0  # of no bytes at all sentencepiece makes a processor without a model
        except RuntimeError:
            good = False
        if not good:
            raise ValueError(f"{len(model)} bytes that are no sentencepiece model")

    @cached_property
    def _processor(self) -> "SentencePieceProcessor":
        from sentencepiece import SentencePieceProcessor

        return SentencePieceProcessor(model_proto=self.model)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pieces) and self.model == other.model

    def __hash__(self) -> int:
        return hash(self.model)

    def __len__(self) -> int:
        return self._processor.vocab_size()

    @property
    def bos(self) -> int:
        return self._processor.bos_id()

    @property
    def eos(self) -> int:
        return self._processor.eos_id()

    def encode(self, text: str) -> list[int]:
        """Ids without bos and eos. Unknown letters become bytes, so any text can be encoded."""
        return self._processor.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; invalid bytes become U+FFFD."""
        return self._processor.decode(list(ids))

    def to_dict(self) -> dict[str, str]:
        """As stored in a checkpoint's header."""
        return {"kind": "sentencepiece", "model": base64.b64encode(self.model).decode()}

    @classmethod
    def from_dict(cls, values: dict[str, str]) -> "Pieces":
        """Raises ValueError for another tokenizer's dict, or damage."""
        if values.get("kind") != "sentencepiece":
            raise ValueError("the tokenizer is no sentencepiece model")
        try:
            return cls(base64.b64decode(values["model"], validate=True))
        except (KeyError, TypeError, binascii.Error):
            raise ValueError("the tokenizer's sentencepiece model is damaged") from None

    def save(self, path: str | PathLike) -> None:
        """Write a folder that we and transformers read: `tokenizer.model` and its config."""
        folder = Path(path)
        write_file(folder / "tokenizer.model", self.model)
        names = {"bos_token": self.bos, "eos_token": self.eos, "unk_token": self._processor.unk_id()}
        config = {
            "tokenizer_class": "LlamaTokenizer",
            "add_bos_token": True,
            "add_eos_token": False,
            "legacy": False,
            "add_prefix_space": self._processor.encode("a", out_type=str)[0].startswith("\u2581"),
            **{name: self._processor.id_to_piece(i) for name, i in names.items() if i >= 0},
        }
        write_file(folder / "tokenizer_config.json", json.dumps(config, indent=2) + "\n")

    @classmethod
    def from_file(cls, path: str | PathLike) -> "Pieces":
        """Read a `tokenizer.model`. Raises ValueError that names the file."""
        try:
            model = read_regular(Path(path), MOST_BYTES)
            return cls(model)
        except ValueError as error:
            raise ValueError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None

    @classmethod
    def learn(cls, texts: Iterable[str], size: int, phrases: Sequence[str] = ()) -> "Pieces":
        """Learn at most `size` pieces from texts, as Llama's: byte pairs, and bytes for all else.

        White space is kept. Unlike in Llama's, no space is put before a line's first word, and a new line is a piece:
        a sentence has the same pieces on every line. phrases: texts that are one piece each, such as " red boat".
        """
        from sentencepiece import SentencePieceTrainer

        model = io.BytesIO()
        SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            model_type="bpe",
            vocab_size=size,
            byte_fallback=True,
            character_coverage=1.0,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            user_defined_symbols=["\n", *(phrase.replace(" ", "\u2581") for phrase in phrases)],
            hard_vocab_limit=False,
            split_digits=True,
            allow_whitespace_only_pieces=True,
            num_threads=1,
            minloglevel=2,
        )
        return cls(model.getvalue())
