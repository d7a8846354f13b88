"""Vocabularies of byte-pair encoding: CLIP's, and those of checkpoints and tokenizer folders.

These functions are methods of `BPE`. `kind` is the class itself.
"""

import gzip
import json
import os
from collections.abc import Iterable
from dataclasses import field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from .. import schema
from ..files import MOST_JSON, write_file
from ..regular import read_regular
from ..schema import Length, Name, Token, checked
from ..tokenizer_files import BOS, END, EOS, Merge, TokenizerConfig, TokenizerFile, Vocab, read_if_there, special_tokens
from .cleaning import CLEANINGS
from .unicode import clean_unicode

Pair = tuple[str, str]
Kind = TypeVar("Kind")

VISIBLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
HIDDEN = [byte for byte in range(256) if byte not in VISIBLE]
SYMBOL = {byte: chr(byte) for byte in VISIBLE} | {byte: chr(256 + i) for i, byte in enumerate(HIDDEN)}
"""A visible character for each byte (GPT-2's alphabet), in the order of CLIP's ids."""
BYTE = {symbol: byte for byte, symbol in SYMBOL.items()}
LONGEST_SPECIAL = 100
"""letters of a special token, also in the cleaned text"""


@cache
def clip_vocabulary() -> tuple[dict[str, int], tuple[Pair, ...]]:
    """(vocab, merges) of OpenAI's CLIP: 256 bytes, 256 at a word's end, 48894 merges, bos, eos."""
    file = Path(__file__).parent / "data" / "bpe_simple_vocab_16e6.txt.gz"
    lines = gzip.decompress(file.read_bytes()).decode().split("\n")
    merges = as_pairs(lines[1 : 1 + 48894], file)
    symbols = list(SYMBOL.values())
    tokens = [*symbols, *(symbol + END for symbol in symbols), *map("".join, merges), BOS, EOS]
    return {token: i for i, token in enumerate(tokens)}, merges


def as_pairs(merges: Iterable[str], file: Path) -> tuple[Pair, ...]:
    """Pairs of symbols, from "a b"; ValueError names the file and the first that is none."""
    pairs = tuple(tuple(merge.split(" ")) for merge in merges)
    for i, pair in enumerate(pairs):
        if len(pair) != 2:
            raise ValueError(f"{file}: merge {i + 1} joins {schema.shown(pair)}, where two symbols were expected")
    return pairs


def check(bpe: Any) -> None:
    """Raise ValueError for fields that do not fit together."""
    if missing := [token for token in (*bpe.lifted, *map("".join, bpe.merges)) if token not in bpe.vocab]:
        name = schema.shown(missing[0])
        raise ValueError(f"the vocabulary lacks {name}, which is a special token or made by a merge")
    for token in bpe.lifted:
        if not 0 < max(len(token), len(token if token.isascii() else clean_unicode(token)[0])) <= LONGEST_SPECIAL:
            raise ValueError(f"special token {schema.shown(token)}: expected 1 to {LONGEST_SPECIAL} letters")
    special = {bpe.vocab[token] for token in bpe.lifted}
    for name in ("bos", "eos", "pad"):
        if getattr(bpe, name) not in special:
            known = ", ".join(bpe.lifted)
            raise ValueError(f"{name}={getattr(bpe, name)} is not the id of a special token ({known})")
    if bpe.cleaning not in CLEANINGS:
        raise ValueError(f"text cleaning {bpe.cleaning!r}: expected {' or '.join(CLEANINGS)}")
    CLEANINGS[bpe.cleaning]("")  # raises where its package is not installed
    if bpe.max_length < 2:
        raise ValueError(f"max_length={bpe.max_length}, but the start and end tokens alone need 2")


def clip(kind: type[Kind], pad: int = 49407, max_length: int = 77) -> Kind:
    """CLIP's vocabulary, which ships with the package. Stable Diffusion 1 pads with eos (49407), 2 with "!" (0).

    The padding token is special, as in transformers: with pad=0 a "!" in a text is 0 too (in open_clip it is 256).
    """
    vocab, merges = clip_vocabulary()
    names = list(vocab)
    if not 0 <= pad < len(names):
        raise ValueError(f"pad={pad}, but CLIP's ids run from 0 to {len(names) - 1}")
    lifted = dict.fromkeys((BOS, EOS, names[pad]), False)
    return kind(vocab=vocab, merges=merges, bos=49406, eos=49407, pad=pad, max_length=max_length, lifted=lifted)


def to_dict(bpe: Any) -> dict:
    """Its fields as JSON values. CLIP's own vocabulary is only named."""
    names = ("bos", "eos", "pad", "max_length")
    vocab: Any = dict(bpe.vocab)
    merges: Any = [" ".join(pair) for pair in bpe.merges]
    if len(vocab) == 49408 and (vocab, bpe.merges) == clip_vocabulary():
        vocab = merges = "clip"
    numbers = {name: getattr(bpe, name) for name in names}
    cleaning = {} if bpe.cleaning == "none" else {"cleaning": bpe.cleaning}
    return {"vocab": vocab, "merges": merges, **numbers, "lifted": dict(bpe.lifted), **cleaning}


@checked
class Fields:
    """Of a `BPE`, as JSON values."""

    vocab: Vocab
    merges: tuple[Merge, ...]
    bos: Token
    eos: Token
    pad: Token
    max_length: Length = 77
    lifted: dict[str, bool] = field(default_factory=lambda: {BOS: False, EOS: False})
    cleaning: Name = "none"


def from_dict(kind: type[Kind], values: dict) -> Kind:
    """The inverse of `to_dict`; ValueError for anything else."""
    named = isinstance(values, dict) and values.get("vocab") == "clip"
    fields = vars(schema.from_dict(Fields, values | {"vocab": {}, "merges": []} if named else values, "its tokenizer"))
    return kind(**fields | (dict(zip(("vocab", "merges"), clip_vocabulary())) if named else {}))


def decode(bpe: Any, ids: Iterable[int]) -> str:
    """The cleaned text, a space between words; without bos, eos and padding. Broken bytes become U+FFFD."""
    data, names = bytearray(), {token: name for name, token in bpe.vocab.items()}
    for token in map(int, ids):
        if token not in names:
            raise ValueError(f"{token} is no id of this vocabulary of {len(names)} tokens")
        name = names[token]
        if token in (bpe.bos, bpe.eos, bpe.pad):
            continue
        if name in bpe.lifted:
            data += f"{name} ".encode()
        else:
            data += bytes(BYTE[symbol] for symbol in name.removesuffix(END)) + b" " * name.endswith(END)
    return data.decode(errors="replace").strip(" ")


def read_folder(kind: type[Kind], path: str | os.PathLike) -> Kind:
    """Read a `tokenizer/` folder: tokenizer.json, or vocab.json and merges.txt; and its configs, where it has any.

    FileNotFoundError names the folder and what was looked for; ValueError names the malformed file.
    """
    try:
        return kind(**folder_fields(Path(path)))
    except ValueError as error:
        raise ValueError(f"{path} is not a CLIP tokenizer's folder: {error}") from None


def folder_fields(folder: Path) -> dict:
    """A folder's vocabulary as the fields of `BPE`.

    The flags of added tokens go before those of bos, eos, unk and pad, as in transformers.
    """
    vocab, merges, added = read_vocabulary(folder)
    config = read_if_there(folder / "tokenizer_config.json", TokenizerConfig) or TokenizerConfig()
    for number, token in (config.added_tokens_decoder or {}).items():
        added[token.content] = (int(number), token.normalized)

    special = special_tokens(folder)
    vocab |= {token: number for token, (number, _) in added.items()}
    for token in special.values():
        vocab.setdefault(token.content, len(vocab))
    lifted = {token.content: token.normalized for token in special.values()}
    length = config.model_max_length or 77
    return {
        "vocab": vocab,
        "merges": merges,
        **{name: vocab[special[name].content] for name in ("bos", "eos", "pad")},
        "max_length": int(length) if length < 1e6 else 77,
        "lifted": lifted | {token: cleaned for token, (_, cleaned) in added.items()},
    }


def read_vocabulary(folder: Path) -> tuple[dict[str, int], tuple[Pair, ...], dict[str, tuple[int, bool]]]:
    """(vocab, merges, added tokens: the id and whether it is looked for in the cleaned text)."""
    if whole := read_if_there(folder / "tokenizer.json", TokenizerFile):
        added = {token.content: (token.id, token.normalized) for token in whole.added_tokens}
        return dict(whole.model.vocab), whole.model.merges, added
    vocab, file = read_if_there(folder / "vocab.json", Vocab), folder / "merges.txt"
    if vocab is None or not file.is_file():
        raise FileNotFoundError(f"no tokenizer in {folder}: looked for tokenizer.json, or vocab.json and merges.txt")
    lines = read_regular(file, MOST_JSON).decode().split("\n")
    added = read_if_there(folder / "added_tokens.json", Vocab) or {}
    merges = as_pairs([line for line in lines if line and not line.startswith("#version")], file)
    return vocab, merges, {token: (i, True) for token, i in added.items()}


def write_folder(bpe: Any, path: str | os.PathLike) -> None:
    """Write a `tokenizer/` folder that we and transformers read: vocab.json, merges.txt and two configs."""
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    vocab = bpe.vocab
    names = {token: name for name, token in vocab.items()}
    entries = {
        token: {"content": token, "normalized": cleaned, "lstrip": False, "rstrip": False, "single_word": False}
        for token, cleaned in bpe.lifted.items()
    }
    ids = {"bos_token": "bos", "eos_token": "eos", "unk_token": "eos", "pad_token": "pad"}
    special = {key: entries[names[getattr(bpe, name)]] for key, name in ids.items()}
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": bpe.max_length,
        "do_lower_case": True,
        "added_tokens_decoder": {
            vocab[token]: entry | {"special": entry in special.values()} for token, entry in entries.items()
        },
        **{key: entry | {"__type": "AddedToken"} for key, entry in special.items()},
    }
    texts = {
        "vocab.json": json.dumps(vocab, ensure_ascii=False),
        "merges.txt": "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in bpe.merges),
        "special_tokens_map.json": json.dumps(special, indent=2),
        "tokenizer_config.json": json.dumps(config, indent=2),
    }
    for name, text in texts.items():
        write_file(folder / name, text)
