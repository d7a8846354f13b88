"""Byte-level byte-pair encoding as in CLIP (Radford et al. 2021; BPE: Sennrich et al. 2016).

    text -> special tokens out -> NFC, lower case -> words -> bytes -> the best-ranked pair joined, until none is left

Each byte is written as one visible character, and the last of a word carries "</w>". Ids equal those of transformers'
CLIPTokenizer. OpenAI's own code first repairs broken encodings (ftfy) and un-escapes HTML twice: "&amp;" is one
ampersand there and three words here. A character newer than Python's Unicode tables may give other ids than there.
"""

import gzip
import heapq
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from functools import cache, cached_property, lru_cache
from pathlib import Path
from unicodedata import combining, is_normalized, normalize

import regex
import torch

BOS, EOS, END = "<|startoftext|>", "<|endoftext|>", "</w>"
Pair = tuple[str, str]

VISIBLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
HIDDEN = [byte for byte in range(256) if byte not in VISIBLE]
SYMBOL = {byte: chr(byte) for byte in VISIBLE} | {byte: chr(256 + i) for i, byte in enumerate(HIDDEN)}
"""A visible character for each byte (GPT-2's alphabet), in the order of CLIP's ids."""
BYTE = {symbol: byte for byte, symbol in SYMBOL.items()}

WORDS = regex.compile(r"(<\|)(startoftext|endoftext)(\|>)|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+")
"""A name that becomes a special token's only by lower-casing stays text: three words."""
SURROGATES = regex.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class BPE:
    """A vocabulary and its merges. It compares, pickles and goes to JSON as the value it is.

    >>> BPE.clip()(["a photo of a cat"])[0, :7]
    tensor([49406,   320,  1125,   539,   320,  2368, 49407])
    """

    vocab: dict[str, int] = field(repr=False)
    merges: tuple[Pair, ...] = field(repr=False)
    """the best first; both symbols and what they make are in the vocabulary"""
    bos: int
    eos: int
    """also the id of a symbol that the vocabulary lacks"""
    pad: int
    max_length: int = 77
    lifted: dict[str, bool] = field(default_factory=lambda: {BOS: False, EOS: False}, repr=False)
    """special tokens, taken out of a text whole; True: looked for in the cleaned text, False: in the text as given"""

    def __post_init__(self):
        if missing := [token for token in (*self.lifted, *map("".join, self.merges)) if token not in self.vocab]:
            raise ValueError(f"the vocabulary lacks {missing[0]!r}, which is a special token or made by a merge")
        for name in ("bos", "eos", "pad"):
            if self._names.get(getattr(self, name)) not in self.lifted:
                known = ", ".join(self.lifted)
                raise ValueError(f"{name}={getattr(self, name)} is not the id of a special token ({known})")
        if self.max_length < 2:
            raise ValueError(f"max_length={self.max_length}, but the start and end tokens alone need 2")

    def __call__(self, texts: str | Sequence[str]) -> torch.Tensor:
        """(b, max_length) int64: bos, the text, eos, padding. A text too long is cut; eos stays last."""
        texts = [texts] if isinstance(texts, str) else list(texts)
        tokens = torch.full((len(texts), self.max_length), self.pad, dtype=torch.long)
        for row, text in zip(tokens, texts):
            ids = [self.bos, *self.encode(text)[: self.max_length - 2], self.eos]
            row[: len(ids)] = torch.tensor(ids)
        return tokens

    def encode(self, text: str) -> list[int]:
        """Ids of a text of any length, without bos and eos around it."""
        return [token for token, _, _ in self._tokens(text)]

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """For each id of `encode(text)`, the (start, end) of what it stands for in the text as given.

        Ids that share a character (the bytes of an emoji) share its span.
        """
        return [(start, end) for _, start, end in self._tokens(text)]

    def decode(self, ids: Iterable[int]) -> str:
        """The cleaned text, a space between words; without bos, eos and padding. Broken bytes become U+FFFD."""
        data = bytearray()
        for token in map(int, ids):
            if token not in self._names:
                raise ValueError(f"{token} is no id of this vocabulary of {len(self.vocab)} tokens")
            name = self._names[token]
            if token in (self.bos, self.eos, self.pad):
                data += b""
            elif name in self.lifted:
                data += f"{name} ".encode()
            else:
                data += bytes(BYTE[symbol] for symbol in name.removesuffix(END)) + b" " * name.endswith(END)
        return data.decode(errors="replace").strip(" ")

    @classmethod
    def clip(cls, pad: int = 49407, max_length: int = 77) -> "BPE":
        """CLIP's vocabulary, which ships with the package. Stable Diffusion 1 pads with eos (49407), 2 with "!" (0).

        The padding token is special, as in transformers: with pad=0 a "!" in a text is 0 too (in open_clip it is 256).
        """
        vocab, merges = clip_vocabulary()
        names = list(vocab)
        if not 0 <= pad < len(names):
            raise ValueError(f"pad={pad}, but CLIP's ids run from 0 to {len(names) - 1}")
        lifted = dict.fromkeys((BOS, EOS, names[pad]), False)
        return cls(vocab, merges, bos=49406, eos=49407, pad=pad, max_length=max_length, lifted=lifted)

    @classmethod
    def learn(cls, captions: Iterable[str], vocab_size: int = 1000, max_length: int = 77) -> "BPE":
        """At most `vocab_size` tokens: 361 bytes, what the commonest pairs make, bos, eos (which pads, too).

        There are fewer when every word has become one token. Only how often each word occurs matters, not the order.
        """
        if isinstance(captions, str):
            raise TypeError("BPE.learn takes a list of captions, not one string")
        alphabet = smallest_alphabet()
        if vocab_size < len(alphabet) + 2:
            raise ValueError(f"vocab_size={vocab_size}, but bytes and special tokens alone need {len(alphabet) + 2}")
        vocab, merges = {symbol: i for i, symbol in enumerate(alphabet)}, []
        for pair in commonest_pairs(Counter(word for caption in captions for word, _ in words(clean(caption)[0]))):
            if len(vocab) + 2 == vocab_size:
                break
            merges.append(pair)
            vocab.setdefault("".join(pair), len(vocab))
        bos, eos = len(vocab), len(vocab) + 1
        return cls(vocab | {BOS: bos, EOS: eos}, tuple(merges), bos=bos, eos=eos, pad=eos, max_length=max_length)

    @classmethod
    def from_folder(cls, path: str | os.PathLike) -> "BPE":
        """Read a `tokenizer/` folder: tokenizer.json, or vocab.json and merges.txt; and its configs, where it has any.

        FileNotFoundError names the folder and what was looked for; ValueError names the malformed file.
        """
        try:
            return cls(**read_folder(Path(path)))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            reason = error if isinstance(error, ValueError) else repr(error)
            raise ValueError(f"{path} is not a CLIP tokenizer's folder: {reason}") from None

    def save(self, path: str | os.PathLike) -> None:
        """Write a `tokenizer/` folder that we and transformers read: vocab.json, merges.txt and two configs."""
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        entries = {
            token: {"content": token, "normalized": cleaned, "lstrip": False, "rstrip": False, "single_word": False}
            for token, cleaned in self.lifted.items()
        }
        ids = {"bos_token": self.bos, "eos_token": self.eos, "unk_token": self.eos, "pad_token": self.pad}
        special = {key: entries[self._names[token]] for key, token in ids.items()}
        config = {
            "tokenizer_class": "CLIPTokenizer",
            "model_max_length": self.max_length,
            "do_lower_case": True,
            "added_tokens_decoder": {
                self.vocab[token]: entry | {"special": entry in special.values()} for token, entry in entries.items()
            },
            **{key: entry | {"__type": "AddedToken"} for key, entry in special.items()},
        }
        write(folder / "vocab.json", json.dumps(self.vocab, ensure_ascii=False))
        write(folder / "merges.txt", "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in self.merges))
        write(folder / "special_tokens_map.json", json.dumps(special, indent=2))
        write(folder / "tokenizer_config.json", json.dumps(config, indent=2))

    def to_dict(self) -> dict:
        """JSON-able. CLIP's own vocabulary is only named."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        values |= {"vocab": dict(self.vocab), "lifted": dict(self.lifted)}
        if len(self.vocab) == 49408 and (self.vocab, self.merges) == clip_vocabulary():
            return values | {"vocab": "clip", "merges": "clip"}
        return values | {"merges": [" ".join(pair) for pair in self.merges]}

    @classmethod
    def from_dict(cls, values: dict) -> "BPE":
        """The inverse of `to_dict`; ValueError for anything else."""
        try:
            if values["vocab"] == "clip":
                vocab, merges = clip_vocabulary()
            else:
                vocab, merges = values["vocab"], as_pairs(values["merges"], "its merges")
            return cls(**values | {"vocab": vocab, "merges": merges})
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"these values are not a tokenizer's (BPE.to_dict): {error!r}") from None

    def __reduce__(self):
        return BPE, tuple(getattr(self, each.name) for each in fields(self))

    def _tokens(self, text: str) -> Iterator[tuple[int, int, int]]:
        """(id, start, end) in the text as given."""
        if not isinstance(text, str):
            raise TypeError(f"a text was expected, not {text!r:.80} ({type(text).__name__})")
        for part, at, special in split_at(text, *self._special[False]):
            if special is not None:
                yield special, at, at + len(part)
                continue
            cleaned, starts, ends = clean(part)
            for token, i, j in self._tokens_of_cleaned(cleaned):
                yield token, at + starts[i], at + ends[j - 1]

    def _tokens_of_cleaned(self, cleaned: str) -> Iterator[tuple[int, int, int]]:
        for part, at, special in split_at(cleaned, *self._special[True]):
            if special is not None:
                yield special, at, at + len(part)
                continue
            for word, first in words(part):
                tokens = self._remembered(word) if len(word) < 100 else self._tokens_of_word(word)
                for token, i, j in tokens:
                    yield token, at + first + i, at + first + j

    def _tokens_of_word(self, word: str) -> list[tuple[int, int, int]]:
        owner = [i for i, character in enumerate(word) for _ in character.encode()]
        tokens, at = [], 0
        for name in join(symbols_of(word), self._ranks):
            end = min(at + len(name), len(owner))  # a symbol a byte; the last name is longer by "</w>"
            tokens.append((self.vocab.get(name, self.eos), owner[at], owner[end - 1] + 1))
            at = end
        return tokens

    @cached_property
    def _remembered(self):
        return lru_cache(maxsize=1 << 16)(self._tokens_of_word)

    @cached_property
    def _ranks(self) -> dict[Pair, int]:
        return {pair: rank for rank, pair in enumerate(self.merges)}

    @cached_property
    def _names(self) -> dict[int, str]:
        return {token: name for name, token in self.vocab.items()}

    @cached_property
    def _special(self) -> dict[bool, tuple[regex.Pattern | None, dict[str, int]]]:
        """What to look for in a text as given (False) and in a cleaned one (True); the longest of two at one place."""
        tables = {}
        for after in (False, True):
            names = [name for name, cleaned in self.lifted.items() if cleaned == after]
            ids = {clean(name)[0] if after else name: self.vocab[name] for name in names}
            longest_first = map(regex.escape, sorted(ids, key=len, reverse=True))
            tables[after] = regex.compile("|".join(longest_first)) if ids else None, ids
        return tables


# From a text to words


def clean(text: str) -> tuple[str, Sequence[int], Sequence[int]]:
    """NFC and lower case, with where each character of the result starts and ends in `text`.

    Lower case is taken without regard to neighbours: a final capital sigma becomes the ordinary small one. Half a
    surrogate pair (an undecodable byte of a command line) becomes U+FFFD.
    """
    if text.isascii():
        return text.lower(), range(len(text)), range(1, len(text) + 1)
    text = SURROGATES.sub("\ufffd", text)
    cleaned, starts, ends = [], [], []
    for start, end in clusters(text):
        part = normalize("NFC", text[start:end]).lower()
        cleaned.append(part)
        starts += [start] * len(part)
        ends += [end] * len(part)
    return "".join(cleaned), starts, ends


def clusters(text: str) -> Iterator[tuple[int, int]]:
    """(start, end) of the smallest parts that NFC changes apart: a letter and its accents, a Hangul syllable."""
    if is_normalized("NFC", text):
        yield from zip(range(len(text)), range(1, len(text) + 1))
        return
    start = 0
    for i in range(1, len(text)):
        here = text[i]
        if combining(normalize("NFD", here)[0]):
            continue  # a mark may move or melt into what precedes it
        before = text[start:i]
        if normalize("NFC", before + here) == normalize("NFC", before) + normalize("NFC", here):
            yield start, i
            start = i
    yield start, len(text)


def split_at(text: str, pattern: regex.Pattern | None, ids: dict[str, int]) -> Iterator[tuple[str, int, int | None]]:
    """(part, its start, its id or None): what the pattern finds, and what is between."""
    at = 0
    for found in pattern.finditer(text) if pattern else ():
        if at < found.start():
            yield text[at : found.start()], at, None
        yield found.group(), found.start(), ids[found.group()]
        at = found.end()
    if at < len(text):
        yield text[at:], at, None


def words(cleaned: str) -> Iterator[tuple[str, int]]:
    """(word, its start): runs of letters, single digits, runs of other signs, English contractions; no white space."""
    for found in WORDS.finditer(cleaned):
        for group in (1, 2, 3) if found.lastindex else (0,):
            yield found.group(group), found.start(group)


def symbols_of(word: str) -> list[str]:
    """A symbol for each byte, the last with "</w>"."""
    symbols = [SYMBOL[byte] for byte in word.encode()]
    return [*symbols[:-1], symbols[-1] + END]


def join(symbols: list[str], ranks: dict[Pair, int]) -> list[str]:
    """Join the pair of lowest rank, of equals the leftmost, until no pair has a rank: n log n, by a heap of pairs."""
    symbols, n = list(symbols), len(symbols)
    left, right = list(range(-1, n - 1)), list(range(1, n + 1))
    heap = []

    def propose(i: int, j: int) -> None:
        rank = ranks.get((symbols[i], symbols[j])) if 0 <= i and j < n else None
        if rank is not None:
            heapq.heappush(heap, (rank, i, symbols[i] + symbols[j]))

    for i in range(n - 1):
        propose(i, i + 1)
    while heap:
        _, i, both = heapq.heappop(heap)
        j = right[i]
        if j == n or symbols[i] + symbols[j] != both or (symbols[i], symbols[j]) not in ranks:
            continue  # one of the two has been joined to another since
        symbols[i], symbols[j] = both, ""
        right[i] = right[j]
        if right[i] < n:
            left[right[i]] = i
        propose(left[i], i)
        propose(i, right[i])
    return [symbol for symbol in symbols if symbol]


# Learning a vocabulary


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


# Files


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
