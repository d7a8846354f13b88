"""Files of made pairs for tests that need some without making them, and the split of a group."""

from collections.abc import Sequence
from pathlib import Path

from minip2p.data.pair_files import PairUnit
from minip2p.data.split import SPLITS, split_groups
from minip2p.files import write_content


def write_pair_unit(folder: Path, unit: PairUnit) -> None:
    """Write a unit as `minip2p pairs` does."""
    write_content(folder / unit.name, unit.files)


def split_of(group: str, fractions: Sequence[float] = SPLITS) -> int:
    """The split, by number, of a group that is not divided: it depends on its text alone."""
    return next(which for which, found in enumerate(split_groups([(group, "")], fractions)) if found)
