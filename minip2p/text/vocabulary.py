"""Vocabularies of byte-pair encoding: CLIP's, those of tokenizer folders, and learning one."""

import gzip
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

import regex

from .words import BOS, END, EOS, SYMBOL, Pair, join, symbols_of


def smallest_alphabet() -> list[str]:
    """The 361 symbols that every cleaned word is made of: bytes within a word, then bytes at its end.

    There are no capitals and no white space, a digit is a word of its own, and UTF-8 never has 0xC0, 0xC1 and 0xF5 on.
    """
    plain = [byte for byte in range(128) if not regex.match(r"[A-Z\s]", chr(byte))]
    within = [byte for byte in plain if not chr(byte).isdigit()] + [*range(0x80, 0xC0), *range(0xC2, 0xF5)]
    at_the_end = plain + [*range(0x80, 0xC0)]
    return [SYMBOL[byte] for byte in within] + [SYMBOL[byte] + END for byte in at_the_end]


def commonest_pairs(counts: Counter[str]) -> Iterator[Pair]:
    """The pair of neighbours seen most often (of equals the smallest), joined everywhere; and again, till none is left.

    Sennrich et al. 2016, algorithm 1; only the words that hold the pair are counted anew.
    """
    parts = {word: symbols_of(word) for word in counts}
    seen, where = Counter(), defaultdict(set)

    def count_pairs(word: str, times: int) -> None:
        for pair in zip(parts[word], parts[word][1:]):
            seen[pair] += times
            where[pair].add(word)

    for word, times in counts.items():
        count_pairs(word, times)
    while seen:
        best = min(seen, key=lambda pair: (-seen[pair], pair))
        yield best
        for word in where.pop(best):
            count_pairs(word, -counts[word])
            parts[word] = join(parts[word], {best: 0})
            count_pairs(word, counts[word])
        seen = +seen  # only what is still seen


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


def read_folder(folder: Path) -> dict:
    """The fields of `BPE`. The flags of added tokens go before those of bos, eos, unk and pad, as in transformers."""
    vocab, merges, added = read_vocabulary(folder)
    config = read_json(folder / "tokenizer_config.json") or {}
    for number, entry in (config.get("added_tokens_decoder") or {}).items():
        added[entry["content"]] = (int(number), entry.get("normalized", False))

    given = config | (read_json(folder / "special_tokens_map.json") or {})
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
    whole, vocab, file = read_json(folder / "tokenizer.json"), read_json(folder / "vocab.json"), folder / "merges.txt"
    if whole is not None:
        file, model = folder / "tokenizer.json", whole["model"]
        if model["type"] != "BPE" or model["end_of_word_suffix"] != END:
            raise ValueError(f"{file} is of another kind (CLIP's is BPE with {END} endings)")
        vocab, merges = model["vocab"], model["merges"]
        added = {entry["content"]: (entry["id"], entry["normalized"]) for entry in whole["added_tokens"]}
    elif vocab is not None and file.is_file():
        lines = file.read_text(encoding="utf-8").split("\n")
        merges = [line for line in lines if line and not line.startswith("#version")]
        added = {token: (i, True) for token, i in (read_json(folder / "added_tokens.json") or {}).items()}
    else:
        raise FileNotFoundError(f"no tokenizer in {folder}: looked for tokenizer.json, or vocab.json and merges.txt")
    if not all(isinstance(number, int) for number in vocab.values()):
        raise ValueError("its vocabulary does not give every token a whole number")
    return dict(vocab), as_pairs(merges, file), added


def read_json(file: Path) -> dict | None:
    """The object in a JSON file, None where there is no file; ValueError names a malformed one."""
    if not file.is_file():
        return None
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not valid JSON: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{file} holds a {type(values).__name__}, where a JSON object was expected")
    return values


def write(file: Path, text: str) -> None:
    """All of the file or none of it."""
    part = file.with_name(file.name + ".part")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)
