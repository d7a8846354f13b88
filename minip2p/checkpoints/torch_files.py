"""Files of `torch.save`, read by torch's own restricted unpickler, which builds tensors and plain containers only.

A pickle is a program, and published `.ckpt` files also name classes of a training library (Lightning's callbacks). Each
such name gets a stand-in that does nothing; the class itself is never imported. Names in the modules that torch blocks
(os, posix, nt, sys) make the whole file unreadable.
"""

import io
import pickletools
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

MOST_TUPLES = 50_000
"""in a pickle: a tensor needs four, and Python's stack holds the hash of about 100,000 nested ones"""


class StandIn:
    """Takes the place of a class or function that a file names. Calling it or giving it state has no effect."""

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class DictStandIn:
    """Takes the place of a subclass of dict by a plain one: torch sets items of no other."""

    def __new__(cls, *args: Any, **kwargs: Any) -> OrderedDict:
        return OrderedDict()


def read_torch(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a `state_dict` and the strings beside it; tensors of a zip (torch >= 1.6) are views of the file.

    Raises ValueError that gives the reason, without the path.
    """
    zipped = zipfile.is_zipfile(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of unusual pickle protocols: what cannot be read is an error
            value = _load_zip(path) if zipped else _load_pickles(path)
    except Exception as error:  # damaged bytes raise errors of nearly any kind
        raise ValueError(_reason(error.__context__ or error, zipped)) from None
    value = value if isinstance(value, dict) else {}
    words = {k: v for k, v in value.items() if isinstance(k, str) and isinstance(v, str)}
    for key in ("state_dict", "model"):
        if isinstance(value.get(key), dict):
            value = value[key]
    tensors = {name: item.detach() for name, item in value.items() if isinstance(name, str) and _is_plain(item)}
    if not tensors:
        raise ValueError("holds no tensors; expected the weights of a model")
    return tensors, words


def _load_zip(path: Path) -> Any:
    names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    _limit_tuples(io.BytesIO(torch._C.PyTorchFileReader(str(path)).get_record("data.pkl")))
    stand_ins = [(DictStandIn if name.lower().endswith("dict") else StandIn, name) for name in names]
    with torch.serialization.safe_globals(stand_ins):
        return torch.load(path, map_location="cpu", mmap=True, weights_only=True)


def _load_pickles(path: Path) -> Any:
    """The file of a torch < 1.6: five pickles (magic number, protocol, machine, value, keys), then the numbers."""
    with path.open("rb") as file:
        for _ in range(5):
            _limit_tuples(file)
    return torch.load(path, map_location="cpu", weights_only=True)


def _limit_tuples(file: BinaryIO) -> None:
    """Raise ValueError if the next pickle may nest tuples so deeply that to hash one ends the whole process."""
    tuples = sum(opcode.name.startswith("TUPLE") for opcode, _, _ in pickletools.genops(file))
    if tuples > MOST_TUPLES:
        raise ValueError(f"{tuples:,} tuples in its pickle, expected at most {MOST_TUPLES:,}")


def _reason(error: BaseException, zipped: bool) -> str:
    text = str(error).strip().partition("\n")[0] or type(error).__name__
    if "torchscript" in text.lower():
        return (
            "a TorchScript archive, which holds code; load it with torch.jit.load(...) if you trust its source, and "
            "torch.save its state_dict()"
        )
    if "Unsupported global" in text and not zipped:
        return (
            f"a file of torch < 1.6 with more than tensors in it ({text.partition(' was not')[0]}); if you trust its "
            "source, load it with torch.load(..., weights_only=False) and torch.save its state_dict"
        )
    return f"cut short or damaged, or torch's restricted unpickler refuses it ({text}); expected a file of torch.save"


def _is_plain(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout is torch.strided and value.device.type == "cpu"
