"""Execute the lessons from top to bottom, each in an empty folder, and store them with their pictures.

    pip install -e '.[lessons]'
    python examples/execute.py                      # all
    python examples/execute.py attention            # those with this word in their name

A lesson that raises, or writes to stderr, is not stored. Stored are neither times nor paths, so that executing a
lesson again changes what has changed.
"""

import base64
import io
import os
import re
import sys
import tempfile
import time
from pathlib import Path

import matplotlib.font_manager  # noqa: F401  (builds its cache on a new machine, which a lesson would warn about)
import nbformat
from nbclient import NotebookClient
from PIL import Image

HERE = Path(__file__).resolve().parent
LESSONS = sorted(HERE.glob("*.ipynb"))
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
TIME = re.compile(r" in [\d.]+ s \([^()]*/s\)")
TIMEOUT = 1800
"""seconds for a cell"""


def execute(lesson: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The lesson with its outputs, run by a kernel of this Python with this checkout, in an empty folder.

    Raises nbclient's CellExecutionError for a cell that raises, ValueError for one that writes to stderr.
    """
    paths = [str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    with tempfile.TemporaryDirectory() as folder:
        env = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "TMPDIR": folder, "TQDM_DISABLE": "1"}
        where = {"metadata": {"path": folder}}
        client = NotebookClient(lesson, timeout=TIMEOUT, kernel_name="python3", resources=where)
        client.record_timing, client.coalesce_streams, client.extra_arguments = False, True, ["--log-level=ERROR"]
        client.execute(env=env)
    for cell in lesson.cells:
        cell.metadata = {}
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr":
                raise ValueError(f"a cell writes to stderr: {output.text}\n\n{cell.source}")
            output.pop("metadata", None) if output.output_type == "stream" else output.update(metadata={})
            output.get("data", {}).pop("image/jpeg", None)  # beside the same picture as PNG
            for kind, value in output.get("data", {}).items():
                output.data[kind] = smaller(value) if kind == "image/png" else without(folder, value)
            if "text" in output:
                output.text = without(folder, output.text)
    lesson.metadata = METADATA
    return lesson


def without(folder: str, text: str) -> str:
    """A text in which files of the folder have their names alone, and no work has taken a time."""
    return TIME.sub("", text.replace(f"{folder}{os.sep}", "").replace(folder, "."))


def smaller(png: str) -> str:
    """A PNG in base64 with the 256 colours that fit it best, a fifth of its size, without metadata."""
    with Image.open(io.BytesIO(base64.b64decode(png))) as image:
        pixels, file = image.convert("RGB"), io.BytesIO()
    pixels.quantize(256, method=Image.Quantize.MAXCOVERAGE, kmeans=1).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def main(words: list[str]) -> None:
    chosen = [path for path in LESSONS if not words or any(word in path.stem for word in words)]
    if not chosen:
        sys.exit(f"no lesson's name has {' or '.join(words)}; there are {', '.join(path.stem for path in LESSONS)}")
    for path in chosen:
        started, before = time.monotonic(), os.times()
        lesson = execute(nbformat.read(path, as_version=4))
        nbformat.write(lesson, path)
        spent = os.times().children_user + os.times().children_system - before.children_user - before.children_system
        kilobytes, seconds = path.stat().st_size / 1000, time.monotonic() - started
        print(f"{path.name}: {kilobytes:.0f} kB, {spent:.0f} s of CPU time, {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
