"""Files of `torch.save`, read by torch's own restricted unpickler, which builds tensors and plain containers only.

A pickle is a program, and published `.ckpt` files also name classes of a training library (Lightning's callbacks). Each
such name gets a stand-in that does nothing; the class itself is never imported. Names in the modules that torch blocks
(os, posix, nt, sys) make the whole file unreadable.

Before that the program is rehearsed with stand-ins for every name, so that a small file cannot ask for much memory.
"""

import io
import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Sized
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

MOST_TUPLES = 50_000
"""in a pickle: a tensor needs four, and Python's stack holds the hash of about 100,000 nested ones"""
TUPLES = pickle.TUPLE + pickle.TUPLE1 + pickle.TUPLE2 + pickle.TUPLE3
"""the opcodes that make one"""
MOST_BYTES = 32 << 20
"""of a pickle, without the tensors' numbers; published checkpoints have less than one MiB"""
AVERAGES = {"ema", "ema_model", "model_ema", "ema_state_dict"}
"""where files keep averaged weights beside the plain ones"""
MOST_SHARED = 4
"""how many times a file's size all its tensors together may be: averages that equal the weights share their numbers"""
ALLOCATES = re.compile(r"bytearray|encode|\w*Tensor|\w*Storage|_rebuild_(?!tensor|parameter)\w+")
"""names that torch would call, and that can take memory which the file does not have"""


class Refused(ValueError):
    """The reason why a file is not read."""


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
    tensors = _tensors(value)
    if not tensors:
        raise ValueError("holds no tensors; expected the weights of a model")
    claimed, size = sum(tensor.nbytes for tensor in tensors.values()), path.stat().st_size
    if claimed > MOST_SHARED * size:
        raise ValueError(f"its tensors would take {claimed:,} bytes, but the file has {size:,}; it is damaged")
    return tensors, words


def _tensors(value: dict) -> dict[str, Tensor]:
    """Those of a `state_dict`, under "state_dict" or "model" or at the top, with averages beside it as "ema.…".

    Without such tensors, those of each dict at the top: "unet.conv_in.weight".
    """
    inner = next((value[key] for key in ("state_dict", "model") if isinstance(value.get(key), dict)), value)
    dicts = {key: each for key, each in value.items() if isinstance(key, str) and isinstance(each, dict)}
    averages = {f"ema.{n}": t for key in AVERAGES & dicts.keys() for n, t in _plain(dicts[key]).items()}
    all_dicts = {f"{key}.{n}": t for key, each in dicts.items() for n, t in _plain(each).items()}
    return _plain(inner) | averages if _plain(inner) else all_dicts


def _plain(value: dict) -> dict[str, Tensor]:
    return {
        name: item.detach()
        for name, item in value.items()
        if isinstance(name, str) and isinstance(item, Tensor)
        if item.layout is torch.strided and item.device.type == "cpu"
    }


def _load_zip(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    if any(each.filename.endswith("/constants.pkl") for each in members):
        raise Refused(
            "a TorchScript archive, which holds code; load it with torch.jit.load(...) if you trust its source, and "
            "torch.save its state_dict()"
        )
    if not any(each.filename.endswith("/data.pkl") for each in members):
        raise Refused("a zip archive of other files than torch.save's; unpack it and give what is in it")
    if any(each.compress_type for each in members) or sum(each.file_size for each in members) > path.stat().st_size:
        raise Refused("its members are compressed or overlap; expected a file of torch.save, which stores them plainly")
    names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    program = torch._C.PyTorchFileReader(str(path)).get_record("data.pkl")
    _rehearse(io.BytesIO(program), len(program))
    stand_ins = [(DictStandIn if name.lower().endswith("dict") else StandIn, name) for name in names]
    with torch.serialization.safe_globals(stand_ins):
        return torch.load(path, map_location="cpu", mmap=True, weights_only=True)


def _load_pickles(path: Path) -> Any:
    """The file of a torch < 1.6: five pickles (magic number, protocol, machine, value, keys), then the numbers."""
    with path.open("rb") as file:
        for _ in range(5):
            _rehearse(file, min(path.stat().st_size, MOST_BYTES))
    return torch.load(path, map_location="cpu", weights_only=True)


def _rehearse(file: BinaryIO, size: int) -> None:
    """Run the next pickle without making anything. Raises Refused if it would take far more memory than its `size`.

    Tuples may not nest so deeply that to hash one ends the whole process; and what is handed to calls, counted in
    items, is at most the bytes: one long list may not become the shape of a thousand tensors.
    """
    if size > MOST_BYTES:
        raise Refused(f"its pickle has {size:,} bytes, expected at most {MOST_BYTES:,}: weights alone")
    _Rehearsal(file, size).load()


def _counted(load: Callable[[Any], None]) -> Callable[[Any], None]:
    """The same step of an unpickler, and one tuple more."""

    def counting(unpickler: "_Rehearsal") -> None:
        unpickler.tuples += 1
        if unpickler.tuples > MOST_TUPLES:
            raise Refused(f"its pickle has over {MOST_TUPLES:,} tuples; expected weights alone")
        load(unpickler)

    return counting


class _Rehearsal(pickle._Unpickler):  # the one in C makes room for any index that a pickle names
    """An unpickler whose every name is a class of inert values."""

    dispatch = {key: _counted(load) if key in TUPLES else load for key, load in pickle._Unpickler.dispatch.items()}

    def __init__(self, file: BinaryIO, items: int):
        super().__init__(file, encoding="bytes")
        self.items, self.tuples = items, 0
        self.classes: dict[str, type] = {}

    def find_class(self, module: str, name: str) -> type:
        if name not in self.classes:
            self.classes[name] = type(name, (_Inert,), {"rehearsal": self})
        return self.classes[name]

    def persistent_load(self, pid: Any) -> None:
        return None


class _Inert(StandIn):
    rehearsal: _Rehearsal

    def __new__(cls, *args: Any, **kwargs: Any) -> "_Inert":
        if ALLOCATES.fullmatch(cls.__name__) and args != () and args[1:] != ("latin1",):
            raise Refused(f"its pickle calls {cls.__name__}, which could take any memory; expected weights alone")
        cls.rehearsal.items -= sum(len(each) for each in args if isinstance(each, Sized))
        if cls.rehearsal.items < 0:
            raise Refused("its pickle expands to more than the file holds; it is damaged or made to take memory")
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        _Inert.__new__(type(self), state)

    def append(self, item: Any) -> None:
        pass

    extend = append

    def __setitem__(self, key: Any, item: Any) -> None:
        pass


def _reason(error: BaseException, zipped: bool) -> str:
    text = str(error).strip().partition("\n")[0] or type(error).__name__
    if isinstance(error, Refused):
        return text
    if "Unsupported global" in text and not zipped:
        return (
            f"a file of torch < 1.6 with more than tensors in it ({text.partition(' was not')[0]}); if you trust its "
            "source, load it with torch.load(..., weights_only=False) and torch.save its state_dict"
        )
    return f"cut short or damaged, or torch's restricted unpickler refuses it ({text}); expected a file of torch.save"
