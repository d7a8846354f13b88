"""How many bytes a parquet file unpacks to, by the headers of its pages: what its footer says may be wrong.

A page is compressed, and its values are encoded: a dictionary has a value once, however often it occurs, and a list of
a million nothings takes a few bytes. (The format: github.com/apache/parquet-format, Thrift's compact protocol.)
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

LONGEST_HEADER = 1 << 16
"""bytes of a page's header; statistics in it are cut by their writers"""
VALUE = 16
"""bytes of a value beside its content: its place in a list, its length, or itself if it is a number"""
DATA, DICTIONARY, DATA_2 = 0, 2, 3
"""types of pages"""
DELTA_BYTES = 7
"""the encoding by which a value begins with a part of the one before"""


class Chunk(NamedTuple):
    """A column of a row group."""

    bytes: int
    """of its pages, decompressed"""
    longest: int
    """bytes of a value that may be repeated, at most; 0 where none can be"""
    values: int

    @property
    def most(self) -> int:
        """Bytes that it unpacks to, at most."""
        return self.bytes + self.values * (VALUE + self.longest)


def read_chunk(file: BinaryIO, about: Any) -> Chunk:
    """From a column's pages, and `about` it in the footer. Raises ValueError or IndexError for damaged headers."""
    starts = [at for at in (about.dictionary_page_offset, about.data_page_offset) if at is not None]
    at, end = min(starts), min(starts) + about.total_compressed_size
    size = longest = values = 0
    while at < end:
        file.seek(at)
        header, length = _struct(file.read(LONGEST_HEADER), 0)
        kind, unpacked, packed = (header[i] for i in (1, 2, 3))
        if min(unpacked, packed) < 0:
            raise ValueError("a page of negative length")
        size += unpacked
        if kind == DICTIONARY:
            longest = max(longest, unpacked)
        elif kind in (DATA, DATA_2):
            data = header[5 if kind == DATA else 8]
            values += data[1]
            if data[2 if kind == DATA else 4] == DELTA_BYTES:
                longest = max(longest, unpacked)
        at += length + packed
    return Chunk(size, longest, max(values, about.num_values))


def unpacked_bytes(path: Path, about: Any, most: int, count: Callable[[int, str, int], int]) -> int:
    """Bytes that a file unpacks to, or an estimate above `most`. about: its footer, by pyarrow.

    count: (row group, column, bytes of the longest value) -> the bytes of a column with values that may be repeated,
    which is read for it where the worst case is above `most`.
    """
    total = 0
    with open(path, "rb") as file:
        for i in range(about.num_row_groups):
            group = about.row_group(i)
            for j in range(group.num_columns):
                column = group.column(j)
                chunk = read_chunk(file, column)
                sure = chunk.bytes + VALUE * chunk.values
                if total + sure <= most < total + chunk.most:
                    sure = count(i, column.path_in_schema, chunk.longest)
                elif chunk.longest:
                    sure = chunk.most
                total += sure
                if total > most:
                    return total
    return total


def _struct(data: bytes, at: int) -> tuple[dict[int, Any], int]:
    """(number of a field -> its value, where the struct ends)."""
    fields: dict[int, Any] = {}
    number = 0
    while kind := data[at] & 15:
        step, at = data[at] >> 4, at + 1
        if step:
            number += step
        else:
            number, at = _integer(data, at)
        fields[number], at = _value(data, at, kind)
    return fields, at + 1


def _value(data: bytes, at: int, kind: int) -> tuple[Any, int]:
    if kind in (1, 2):
        return kind == 1, at
    if kind in (3, 7):
        return None, at + (1 if kind == 3 else 8)
    if kind in (4, 5, 6):
        return _integer(data, at)
    if kind == 8:
        length, at = _varint(data, at)
        return None, at + length
    if kind == 12:
        return _struct(data, at)
    raise ValueError(f"a field of type {kind} in the header of a page")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 127) << shift
        if data[at] < 128:
            return value, at + 1
        at, shift = at + 1, shift + 7


def _integer(data: bytes, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return (value >> 1) ^ -(value & 1), at
