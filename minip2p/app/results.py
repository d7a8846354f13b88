"""Images that the page makes: files in a temporary folder, with the metadata that `minip2p show` reads.

The names of files are ours. Metadata names files as if they lay beside the image, as they do once they are downloaded;
no folder of this machine is in them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image

from ..cli import metadata, sampling
from ..files import write_file
from ..pipeline import Pipeline


@contextmanager
def folder() -> Iterator[Path]:
    """A folder for the files of one computation, which the page copies when it shows them; removed afterwards."""
    with TemporaryDirectory(prefix="minip2p-") as place:
        yield Path(place)


def describe(pipe: Pipeline, options: Any, size: tuple[int, int] = (1, 1), **more: Any) -> dict[str, Any]:
    """The metadata that a verb of the command line records for its options (`sampling.describe`)."""
    image = getattr(options, "input", None)
    return _beside(sampling.describe(pipe, options, Path(options.output), image, size, **more))


def write(image: Image.Image, path: Path, m: dict[str, Any]) -> Path:
    """The image as a PNG with its metadata."""
    write_file(path, metadata.encode(image, path, m))
    return path


def plain_png(image: Image.Image, path: Path) -> Path:
    """The image as a PNG without metadata."""
    image.save(path, "PNG")
    return path


def _beside(value: Any) -> Any:
    """Metadata in which each path is the name of its file."""
    if isinstance(value, list):
        return [_beside(each) for each in value]
    if not isinstance(value, dict):
        return value
    paths = ("path", "vae")
    return {k: PurePath(v).name if k in paths and isinstance(v, str) else _beside(v) for k, v in value.items()}
