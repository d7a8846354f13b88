"""Types and ranges of all that enters as JSON or as words, and the one line that refuses the rest.

A kind of settings is a class under `@checked`: a frozen, keyword-only dataclass. Each field's annotation says what it
may be, by the names below; relations between fields are in `__post_init__`. Nothing is converted but whole numbers to
floats, and lists to tuples.
"""

import ast
import dataclasses
import json
import re
from collections.abc import Callable
from functools import cache, wraps
from reprlib import Repr
from typing import Annotated, Any, TypeVar, get_type_hints

import pydantic.dataclasses
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import dataclass_transform

T = TypeVar("T")

Count = Annotated[int, Field(ge=1, le=100_000_000)]
CountOrNone = Annotated[int, Field(ge=0, le=100_000_000)]
"""a count that may be 0: none of these"""
MOST_STEPS = 10_000
SamplingSteps = Annotated[int, Field(ge=1, le=MOST_STEPS)]
"""of a sampler"""
Width = Annotated[int, Field(ge=1, le=2**18)]
"""channels, features"""
Layers = Annotated[int, Field(ge=1, le=1000)]
Heads = Annotated[int, Field(ge=1, le=4096)]
Vocabulary = Annotated[int, Field(ge=1, le=10_000_000)]
"""number of tokens"""
Token = Annotated[int, Field(ge=0, lt=10_000_000)]
"""number of one token"""
Length = Annotated[int, Field(ge=1, le=100_000_000)]
"""tokens in a row"""
LARGEST_SIDE = 8192
Pixels = Annotated[int, Field(ge=1, le=LARGEST_SIDE)]
Size = Pixels | tuple[Pixels, Pixels]
"""of a picture: a side, or (width, height)"""
Threads = Annotated[int, Field(ge=1, le=512)]
"""of the CPU"""
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Rank = Annotated[int, Field(ge=0, le=2**16)]
"""of LoRA; 0 is none"""
Fraction = Annotated[float, Field(ge=0, le=1)]
"""a chance, a share or a weight: 0 to 1"""
Decay = Annotated[float, Field(ge=0, lt=1)]
"""of a moving average"""
Positive = Annotated[float, Field(gt=0, le=1e12)]
AtLeast0 = Annotated[float, Field(ge=0, le=1e6)]
Scale = Annotated[float, Field(ge=0, le=1000)]
"""of guidance"""
Name = Annotated[str, Field(min_length=1, max_length=200)]
"""a key of one of the package's tables, which is checked where the table is"""

STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
EXPECTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "a text",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "an object",
    "dataclass_type": "an object",
    "literal_error": "{expected}",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "too_short": "a list of at least {min_length}",
    "too_long": "a list of at most {max_length}",
    "string_too_short": "at least {min_length} letters",
    "string_too_long": "at most {max_length} letters",
}
"""pydantic's type of error -> what was expected"""
TYPES = ("_type", "literal_error")
"""ends of the errors of a value that has another type"""
ALTERNATIVE = re.compile(r"(int|float|str|constrained-.*|tuple\[.*|literal\[.*)$")
"""pydantic's name for one of the types that a field may have, in the place of an error"""


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(dataclasses.field,))
def checked(kind: type[T]) -> type[T]:
    """Decorator: a frozen, keyword-only dataclass that cannot be made with values of wrong types or ranges.

    Making one raises ValueError in one line.
    """
    made: Any = _dataclass(kind, STRICT)
    made.__init__ = _in_one_line(made.__init__, made)
    return made


@dataclass_transform(frozen_default=True, kw_only_default=True)
def foreign(kind: type[T]) -> type[T]:
    """Decorator: as `checked`, for a file of another library. Keys that it does not name are ignored.

    A field has our name, and theirs where that is another: `width: Width = theirs("hidden_size", 768)`.
    """
    config = STRICT | {"extra": "ignore", "defer_build": True}  # until such a file is read
    return _dataclass(kind, config)


def _dataclass(kind: type[T], config: ConfigDict) -> type[T]:
    made = pydantic.dataclasses.dataclass(kind, frozen=True, kw_only=True, config=config)
    made.__init__.__annotations__.clear()  # they name what only type checkers can import; the fields have their own
    return made


def theirs(name: str, default: Any) -> Any:
    """A field that has this name in the file."""
    return Field(default, alias=name)


def shared(file: Any, kind: type) -> dict[str, Any]:
    """The fields of a kind that a file has, too: name -> the file's value."""
    return {each.name: getattr(file, each.name) for each in dataclasses.fields(kind) if hasattr(file, each.name)}


def written(config: Any, kind: Any) -> dict[str, Any]:
    """The inverse of reading a `foreign` kind: its names in the file -> the config's values."""
    known = kind.__pydantic_fields__.items()
    return {field.alias or name: getattr(config, name) for name, field in known if hasattr(config, name)}


def _in_one_line(init: Callable, kind: type) -> Callable:
    @wraps(init)
    def checked_init(self: Any, **values: Any) -> None:
        try:
            init(self, **{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
        except ValidationError as error:
            raise ValueError(_line(error, kind)) from None

    return checked_init


@cache
def _adapter(kind: type) -> TypeAdapter:
    """The reader of a kind of settings. A plain dataclass is read as strictly as a `checked` one."""
    if not dataclasses.is_dataclass(kind):
        return TypeAdapter(kind, config=STRICT)
    if not hasattr(kind, "__pydantic_config__"):
        kind.__pydantic_config__ = STRICT  # type: ignore[attr-defined]
    return TypeAdapter(kind)


def from_dict(kind: type[T], values: Any, where: str = "") -> T:
    """The inverse of `to_dict`: a dataclass, or another type, from values of JSON.

    Raises ValueError in one line: `where` (a file, say), then the key's dotted name, its value and what was expected.
    """
    where += ": " if where and not where.endswith((" ", ".")) else ""
    try:
        text = json.dumps(values)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{where}expected values of JSON ({error})") from None
    try:
        return _adapter(kind).validate_json(text)
    except ValidationError as error:
        raise ValueError(where + _line(error, kind)) from None


def _line(error: ValidationError, kind: type) -> str:
    """The first error as "unet.widths[0] = -1: expected at least 1"."""
    errors = error.errors(include_url=False)
    same = [each for each in errors if _place(each)[: len(_place(errors[0]))] == _place(errors[0])]
    first = next((each for each in same if not each["type"].endswith(TYPES)), errors[0])  # of the type that fits
    place = _place(first)
    name = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in place).lstrip(".")
    if first["type"] == "value_error":  # a relation, which names its field first
        return f"{name}.{first['ctx']['error']}".lstrip(".")
    if first["type"] == "unexpected_keyword_argument":
        return f"unknown key {name!r}; there are {', '.join(_fields_at(kind, place[:-1]))}"
    if first["type"] == "json_invalid":
        return f"expected values of JSON ({first['ctx']['error']})"
    if first["type"] == "missing" and isinstance(place[-1], int):
        return f"{name.rpartition('[')[0]} = {shown(first['input'])}: expected a list of at least {place[-1] + 1}"
    if first["type"] == "missing":
        return f"{name} is missing"
    expected = " or ".join(dict.fromkeys(map(_expected, same if first["type"].endswith(TYPES) else [first])))
    return f"{name} = {shown(first['input'])}: expected {expected}".removeprefix(" = ")


def _place(error: Any) -> list[str | int]:
    """The keys to what an error is about."""
    return [key for key in error["loc"] if not (isinstance(key, str) and ALTERNATIVE.match(key))]


def _expected(error: Any) -> str:
    """What was expected, after pydantic's error."""
    if (wanted := EXPECTED.get(error["type"])) is None:
        return error["msg"].removeprefix("Input should be ")
    context = error.get("ctx", {})
    return wanted.format(
        **{key: f"{value:.3g}" if isinstance(value, float) else value for key, value in context.items()}
    )


def _fields_at(kind: type, place: tuple) -> list[str]:
    for name in place:
        kind = get_type_hints(kind).get(name, kind)
    return [each.name for each in dataclasses.fields(kind)]  # type: ignore[arg-type]


def shown(value: Any) -> str:
    """A value's repr for an error, cut where it is long or nested, without control characters."""
    short = Repr()
    short.maxstring = short.maxother = short.maxlong = 60
    return short.repr(value)


def to_dict(config: Any) -> dict:
    """A config as nested dicts of JSON values (tuples become lists when dumped)."""
    return dataclasses.asdict(config)


def override(config: T, *words: str) -> T:
    """`config` with dotted words set: `override(config, "unet.norm=rms", "unet.widths=(64, 128)")`.

    Values are Python literals; anything else is a string. Raises ValueError for an unknown name or a wrong value.
    """
    values = to_dict(config)
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            raise ValueError(f"{word!r}: expected name=value, e.g. unet.norm=rms")
        *parents, last = name.strip().split(".")
        place = values
        for parent in parents:
            place = place.get(parent) if isinstance(place, dict) else None
        if not isinstance(place, dict) or last not in place:
            raise ValueError(f"unknown key {name!r}; at the top there are {', '.join(values)}")
        place[last] = literal(text.strip())
    return from_dict(type(config), values)


def literal(text: str) -> Any:
    """A Python literal of values that JSON has; any other text as it is."""
    try:
        value = ast.literal_eval(text)
        json.dumps(value)
        return value
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return text


def words_of(config: Any, path: str = "") -> dict[str, Any]:
    """Dotted name -> value of everything in a config: what `override` sets."""
    words = {}
    for each in dataclasses.fields(config):
        value = getattr(config, each.name)
        nested = dataclasses.is_dataclass(value)
        words |= words_of(value, f"{path}{each.name}.") if nested else {path + each.name: value}
    return words
