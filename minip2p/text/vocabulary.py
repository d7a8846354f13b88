"""Vocabularies of byte-pair encoding: CLIP's, and those of checkpoints and tokenizer folders.

These functions are methods of `BPE`. `kind` is the class itself.
"""

import gzip
import json
import os
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from ..files import read_json, write_file

BOS, EOS, END = "<|startoftext|>", "<|endoftext|>", "</w>"
Pair = tuple[str, str]
Kind = TypeVar("Kind")

VISIBLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
HIDDEN = [byte for byte in range(256) if byte not in VISIBLE]
SYMBOL = {byte: chr(byte) for byte in VISIBLE} | {byte: chr(256 + i) for i, byte in enumerate(HIDDEN)}
"""A visible character for each byte (GPT-2's alphabet), in the order of CLIP's ids."""
BYTE = {symbol: byte for byte, symbol in SYMBOL.items()}


@cache
def clip_vocabulary() -> tuple[dict[str, int], tuple[Pair, ...]]:
    """(vocab, merges) of OpenAI's CLIP: 256 bytes, 256 at a word's end, 48894 merges, bos, eos."""
    file = Path(__file__).parent / "data" / "bpe_simple_vocab_16e6.txt.gz"
    lines = gzip.decompress(file.read_bytes()).decode().split("\n")
    merges = as_pairs(lines[1 : 1 + 48894], file)
    symbols = list(SYMBOL.values())
    tokens = [*symbols, *(symbol + END for symbol in symbols), *map("".join, merges), BOS, EOS]
    return {token: i for i, token in enumerate(tokens)}, merges


def as_pairs(merges: Iterable[str | Sequence[str]], file: Path | str) -> tuple[Pair, ...]:
    """Pairs of symbols, from "a b" or ["a", "b"]; ValueError names the file and the first that is none."""
    pairs = tuple(tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in merges)
    for i, pair in enumerate(pairs):
        if len(pair) != 2:
            raise ValueError(f"{file}: merge {i + 1} joins {pair}, where two symbols were expected")
    return pairs


def check(bpe: Any) -> None:
    """Raise ValueError for fields that do not fit together."""
    if missing := [token for token in (*bpe.lifted, *map("".join, bpe.merges)) if token not in bpe.vocab]:
        raise ValueError(f"the vocabulary lacks {missing[0]!r}, which is a special token or made by a merge")
    special = {bpe.vocab[token] for token in bpe.lifted}
    for name in ("bos", "eos", "pad"):
        if getattr(bpe, name) not in special:
            known = ", ".join(bpe.lifted)
            raise ValueError(f"{name}={getattr(bpe, name)} is not the id of a special token ({known})")
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
    return {"vocab": vocab, "merges": merges, **numbers, "lifted": dict(bpe.lifted)}


def from_dict(kind: type[Kind], values: dict) -> Kind:
    """The inverse of `to_dict`; ValueError for anything else."""
    try:
        if values["vocab"] == "clip":
            vocab, merges = clip_vocabulary()
        else:
            vocab, merges = values["vocab"], as_pairs(values["merges"], "its merges")
        return kind(**values | {"vocab": vocab, "merges": merges})
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"these values are not a tokenizer's (BPE.to_dict): {error!r}") from None


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
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        reason = error if isinstance(error, ValueError) else repr(error)
        raise ValueError(f"{path} is not a CLIP tokenizer's folder: {reason}") from None


def folder_fields(folder: Path) -> dict:
    """A folder's vocabulary as the fields of `BPE`.

    The flags of added tokens go before those of bos, eos, unk and pad, as in transformers.
    """
    vocab, merges, added = read_vocabulary(folder)
    config = _if_there(folder / "tokenizer_config.json") or {}
    for number, entry in (config.get("added_tokens_decoder") or {}).items():
        added[entry["content"]] = (int(number), entry.get("normalized", False))

    given = config | (_if_there(folder / "special_tokens_map.json") or {})
    special, lifted = {}, {}
    for name, usual in {"bos": BOS, "eos": EOS, "unk": EOS, "pad": EOS}.items():
        entry = given.get(f"{name}_token") or usual
        entry = entry if isinstance(entry, dict) else {"content": entry}
        special[name] = entry["content"]
        lifted[entry["content"]] = entry.get("normalized", False)

    vocab |= {token: number for token, (number, _) in added.items()}
    for token in lifted:
        vocab.setdefault(token, len(vocab))
    lifted |= {token: cleaned for token, (_, cleaned) in added.items()}
    length = config.get("model_max_length") or 77
    return {
        "vocab": vocab,
        "merges": merges,
        **{name: vocab[special[name]] for name in ("bos", "eos", "pad")},
        "max_length": int(length) if length < 1e6 else 77,  # transformers writes 1e30 for "not said"
        "lifted": lifted,
    }


def read_vocabulary(folder: Path) -> tuple[dict[str, int], tuple[Pair, ...], dict[str, tuple[int, bool]]]:
    """(vocab, merges, added tokens: the id and whether it is looked for in the cleaned text)."""
    whole, vocab, file = _if_there(folder / "tokenizer.json"), _if_there(folder / "vocab.json"), folder / "merges.txt"
    if whole is not None:
        file, model = folder / "tokenizer.json", whole["model"]
        if model["type"] != "BPE" or model["end_of_word_suffix"] != END:
            raise ValueError(f"{file} is of another kind (CLIP's is BPE with {END} endings)")
        vocab, merges = model["vocab"], model["merges"]
        added = {entry["content"]: (entry["id"], entry["normalized"]) for entry in whole["added_tokens"]}
    elif vocab is not None and file.is_file():
        lines = file.read_text(encoding="utf-8").split("\n")
        merges = [line for line in lines if line and not line.startswith("#version")]
        added = {token: (i, True) for token, i in (_if_there(folder / "added_tokens.json") or {}).items()}
    else:
        raise FileNotFoundError(f"no tokenizer in {folder}: looked for tokenizer.json, or vocab.json and merges.txt")
    if not all(isinstance(number, int) for number in vocab.values()):
        raise ValueError("its vocabulary does not give every token a whole number")
    return dict(vocab), as_pairs(merges, file), added


def _if_there(file: Path) -> dict | None:
    """The object in a JSON file, None where there is no file. Raises ValueError that names a malformed one."""
    return read_json(file) if file.is_file() else None


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
