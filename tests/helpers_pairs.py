"""Files of made pairs for tests that need some without making them."""

from pathlib import Path

from minip2p.data.pair_files import PairUnit, encode_unit, file_name
from minip2p.files import write_content


def write_pair_unit(folder: Path, unit: PairUnit, form: str = "folder") -> None:
    """Write a unit as `minip2p pairs` does."""
    write_content(folder / file_name(unit.name, form), encode_unit(unit, form))
