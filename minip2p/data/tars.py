"""Uncompressed tars: written with the same bytes for the same files, and read in place."""

import io
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple


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
    """The files in a tar, in its order. Raises tarfile.TarError if it is damaged or compressed, or OSError."""
    with tarfile.open(path, "r:") as tar:
        while (member := tar.next()) is not None:
            tar.members.clear()  # tarfile keeps every header otherwise
            if member.isreg():
                yield Member(member.name, member.offset_data, member.size)
