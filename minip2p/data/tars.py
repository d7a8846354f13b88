"""Uncompressed tars: written with the same bytes for the same files, and read in place."""

import io
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from .layouts.common import EditsError, size_of

MOST = 1 << 20
"""bytes of a header with all of its extensions"""


class Member(NamedTuple):
    """A file in a tar."""

    name: str
    offset: int
    """of its content in the tar"""
    size: int


def make_tar(files: Mapping[str, bytes]) -> bytes:
    """A tar of these files; sorted, with neither time nor owner."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in sorted(files.items()):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def tar_members(path: Path) -> Iterator[Member]:
    """The regular files in a tar, in its order; links, devices and folders are passed over.

    Raises tarfile.TarError if it is damaged or compressed, or if a header claims what the file does not hold; OSError,
    and EditsError if it is not a file.
    """
    end, at = size_of(path), 0
    with _guarded(), open(path, "rb") as file, tarfile.open(fileobj=Headers(file), mode="r:") as tar:
        while (member := tar.next()) is not None:
            tar.members.clear()  # tarfile keeps every header otherwise
            if not at < tar.offset or not 0 <= member.size <= end - member.offset_data:
                raise tarfile.ReadError(f"{member.name!r:.80} of {member.size:,} bytes is not whole in it")
            at = tar.offset
            if member.isreg() and not member.issparse():
                yield Member(member.name, member.offset_data, member.size)


class OpenMember(io.RawIOBase):
    """A file in a tar, of which no more is read than is asked for. It closes with its last reference."""

    def __init__(self, tar: Path, offset: int, size: int):
        self.tar, self.offset, self.size, self.at = open(tar, "rb"), offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, to: int, whence: int = io.SEEK_SET) -> int:
        self.at = to + (0, self.at, self.size)[whence]
        return self.at

    def tell(self) -> int:
        return self.at

    def readinto(self, buffer: Any) -> int:
        self.tar.seek(self.offset + self.at)
        data = self.tar.read(max(0, min(len(buffer), self.size - self.at)))
        buffer[: len(data)] = data
        self.at += len(data)
        return len(data)

    def close(self) -> None:
        self.tar.close()
        super().close()


class Headers:
    """A file as a reader of headers needs it: what a header claims to be longer than MOST is not read."""

    def __init__(self, file: BinaryIO):
        self.seek, self.tell, self._read = file.seek, file.tell, file.read

    def read(self, size: int) -> bytes:
        return self._read(min(size, MOST))


@contextmanager
def _guarded() -> Iterator[None]:
    """Whatever a damaged header makes Python's reader raise is a ReadError."""
    try:
        yield
    except (tarfile.TarError, OSError, EditsError):
        raise
    except (ValueError, ArithmeticError, LookupError, RecursionError, MemoryError) as error:
        raise tarfile.ReadError(f"a damaged header: {error}") from None
