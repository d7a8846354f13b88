"""What the files of a CLIP tokenizer's folder hold, as transformers writes them."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from .files import read_json
from .schema import Token, foreign, from_dict

BOS, EOS, END = "<|startoftext|>", "<|endoftext|>", "</w>"
USUAL = {"bos": BOS, "eos": EOS, "unk": EOS, "pad": EOS}
"""special tokens, where no file names others"""

Vocab = dict[str, Token]


def split_pair(merge: Any) -> Any:
    """ "a b" as ("a", "b"); a list as a tuple."""
    return tuple(merge.split(" ") if isinstance(merge, str) else merge) if isinstance(merge, (str, list)) else merge


Merge = Annotated[tuple[str, str], BeforeValidator(split_pair)]
""" "a b" or ["a", "b"]"""


@foreign
class AddedToken:
    """A token that is looked for in texts before they are split; `normalized`: in the cleaned text."""

    content: str
    normalized: bool = False


@foreign
class NumberedToken(AddedToken):
    """An added token of tokenizer.json."""

    id: Token


def as_token(value: Any) -> Any:
    """A token from its text alone, or from all that a file says of it."""
    return AddedToken(content=value) if isinstance(value, str) else value and from_dict(AddedToken, value)


Special = Annotated[AddedToken | None, BeforeValidator(as_token)]
"""its text alone, or all about it"""


@foreign
class TokenizerConfig:
    """tokenizer_config.json; special_tokens_map.json has some of it."""

    bos_token: Special = None
    eos_token: Special = None
    unk_token: Special = None
    pad_token: Special = None
    added_tokens_decoder: dict[Annotated[str, Field(pattern="^[0-9]{1,8}$")], AddedToken] | None = None
    model_max_length: float | None = None
    """1e30 stands for none"""


@foreign
class Model:
    """Of tokenizer.json: byte-pair encoding whose words end with </w>, as CLIP's do."""

    type: Literal["BPE"]
    end_of_word_suffix: Literal["</w>"]
    vocab: Vocab
    merges: tuple[Merge, ...]


@foreign
class TokenizerFile:
    """tokenizer.json."""

    model: Model
    added_tokens: tuple[NumberedToken, ...] = ()


def read_if_there(file: Path, kind: Any) -> Any:
    """A file as a kind of this module, None where there is none. Raises ValueError that names it."""
    return from_dict(kind, read_json(file), str(file)) if file.is_file() else None


def special_tokens(folder: Path) -> dict[str, AddedToken]:
    """bos, eos, unk and pad of a tokenizer's folder; special_tokens_map.json overrides tokenizer_config.json."""
    names = ("special_tokens_map.json", "tokenizer_config.json")
    given = [found for name in names if (found := read_if_there(folder / name, TokenizerConfig))]
    words = {key: [getattr(each, f"{key}_token") for each in given] for key in USUAL}
    return {key: next(filter(None, words[key]), AddedToken(content=usual)) for key, usual in USUAL.items()}
