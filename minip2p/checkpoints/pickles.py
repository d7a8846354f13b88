"""Pickles, read by a small machine of our own: it knows what each opcode builds and calls nothing.

Published `.ckpt` files pickle objects of a training library beside their tensors, and a pickle is a program. Here
tensors and plain containers are built; any other class or function that a file names becomes a `StandIn`, which can be
"called", "constructed" and "given state" to no effect. `pickletools` only splits the stream into opcodes.
"""

import io
import pickletools
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
}
MARKED = {"LIST", "TUPLE", "DICT", "APPENDS", "SETITEMS", "ADDITEMS", "FROZENSET", "OBJ", "INST", "POP_MARK"}


class Global(NamedTuple):
    """A class or function that the file names; never looked up."""

    module: str
    name: str


@dataclass(eq=False)
class StandIn:
    """An object of a class that we do not build. `state` is what the file would have given it."""

    state: Any = None


class Storage(NamedTuple):
    key: str
    dtype: torch.dtype


class Pending(NamedTuple):
    """A tensor whose bytes have not been located yet; offset and stride in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def build(data: bytes | io.BufferedIOBase, storages: dict[str, Storage] | None = None) -> Any:
    """The value that one pickle describes: containers, numbers, strings, `Pending` tensors and `StandIn`s.

    Every storage that it names is put into `storages`.
    """
    storages = {} if storages is None else storages
    stack, marks, memo = [], [], {}
    for op, arg, _ in pickletools.genops(data):
        if op.name == "STOP":
            return stack.pop()
        if op.name == "MARK":
            marks.append(len(stack))
            continue
        items = []
        if op.name in MARKED:
            start = marks.pop()
            items = stack[start:]
            del stack[start:]
        if op.name in ("PERSID", "BINPERSID"):
            stack.append(_storage(arg if op.name == "PERSID" else stack.pop(), storages))
        else:
            _step(op.name, arg, items, stack, memo)
    raise ValueError("no end")


def _step(op: str, arg: Any, items: list, stack: list, memo: dict) -> None:
    """One opcode; `items` is what lies above the last mark, for opcodes that take it."""
    match op:
        case "PROTO" | "FRAME" | "POP_MARK" | "NEXT_BUFFER" | "READONLY_BUFFER":
            pass
        case "POP":
            stack.pop()
        case "DUP":
            stack.append(stack[-1])
        case "PUT" | "BINPUT" | "LONG_BINPUT":
            memo[arg] = stack[-1]
        case "MEMOIZE":
            memo[len(memo)] = stack[-1]
        case "GET" | "BINGET" | "LONG_BINGET":
            stack.append(memo[arg])
        case "NONE" | "NEWTRUE" | "NEWFALSE":
            stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[op])
        case "EMPTY_LIST" | "EMPTY_DICT" | "EMPTY_TUPLE":
            stack.append({"EMPTY_LIST": [], "EMPTY_DICT": {}, "EMPTY_TUPLE": ()}[op])
        case "EMPTY_SET" | "FROZENSET":  # no tensor lies in a set
            stack.append(StandIn())
        case "LIST" | "TUPLE":
            stack.append({"LIST": list, "TUPLE": tuple}[op](items))
        case "TUPLE1" | "TUPLE2" | "TUPLE3":
            stack.append(tuple(_take(stack, int(op[-1]))))
        case "DICT":
            stack.append(_pairs(items))
        case "APPEND" | "APPENDS" | "ADDITEMS":
            items = _take(stack, 1) if op == "APPEND" else items
            if isinstance(stack[-1], list):
                stack[-1].extend(items)
        case "SETITEM" | "SETITEMS":
            items = _take(stack, 2) if op == "SETITEM" else items
            if isinstance(stack[-1], dict):
                stack[-1].update(_pairs(items))
        case "GLOBAL":
            stack.append(Global(*arg.split(" ", 1)))
        case "STACK_GLOBAL":
            names = _take(stack, 2)
            stack.append(Global(*names) if all(isinstance(name, str) for name in names) else StandIn())
        case "EXT1" | "EXT2" | "EXT4":
            stack.append(Global("extension", str(arg)))
        case "REDUCE" | "NEWOBJ":
            stack.append(_made(*_take(stack, 2)))
        case "NEWOBJ_EX":
            stack.append(_made(*_take(stack, 3)[:2]))
        case "INST":
            stack.append(_made(Global(*arg.split(" ", 1)), tuple(items)))
        case "OBJ":
            stack.append(_made(items[0], tuple(items[1:])))
        case "BUILD":
            state = stack.pop()
            if isinstance(stack[-1], StandIn):
                stack[-1].state = state
        case _:  # numbers, strings and bytes: the opcode's argument is the value
            stack.append(arg)


def _take(stack: list, count: int) -> list:
    if len(stack) < count:
        raise IndexError("stack too short")
    items = stack[-count:]
    del stack[-count:]
    return items


def _pairs(items: list) -> dict:
    """[key, value, key, value, ...] as a dict of names and numbers: hashing a deep enough tuple ends the process."""
    return {key: value for key, value in zip(items[::2], items[1::2], strict=True) if isinstance(key, (str, int))}


def _made(what: Any, args: Any) -> Any:
    """What calling `what` with `args` would have made, for the few makers of tensors and containers; or a stand-in."""
    match what, args:
        case Global("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2"), (
            Storage() as storage,
            offset,
            shape,
            stride,
            *_,
        ):
            return Pending(storage, offset, tuple(shape), tuple(stride))
        case Global("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state"), (Pending() as tensor, *_):
            return tensor
        case Global("collections", "OrderedDict") | Global("builtins" | "__builtin__", "dict"), ():
            return {}
        case Global("collections", "OrderedDict"), (list() as pairs,):
            return _pairs([item for pair in pairs for item in pair])
        case Global("torch", "Size"), (tuple() as sizes,):
            return sizes
    return StandIn()


def _storage(what: Any, storages: dict[str, Storage]) -> Any:
    """A persistent id of `torch.save`: ("storage", class, key, place, elements, ...)."""
    match what:
        case ("storage", Global(_, word), str() as key, *_) if word in STORAGES:
            return storages.setdefault(key, Storage(key, STORAGES[word]))
    return StandIn()
