"""Byte-level byte-pair encoding as in CLIP (Radford et al. 2021; BPE: Sennrich et al. 2016).

    text -> special tokens out -> NFC, lower case -> words -> bytes -> the best-ranked pair joined, until none is left

Each byte is written as one visible character, and the last of a word carries "</w>". Ids equal those of transformers'
CLIPTokenizer. OpenAI's own code first repairs broken encodings (ftfy) and un-escapes HTML twice: "&amp;" is one
ampersand there and three words here. A character newer than Python's Unicode tables may give other ids than there.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property, lru_cache
from pathlib import Path

import regex
import torch

from .vocabulary import as_pairs, clip_vocabulary, commonest_pairs, read_folder, smallest_alphabet, write
from .words import BOS, BYTE, END, EOS, Pair, clean, join, split_at, symbols_of, words


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
