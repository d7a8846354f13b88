"""Files of made pairs for tests that need some without making them."""

from pathlib import Path

from minip2p.data.pair_files import PairUnit
from minip2p.files import write_content


def write_pair_unit(folder: Path, unit: PairUnit) -> None:
    """Write a unit as `minip2p pairs` does."""
    write_content(folder / unit.name, unit.files)
