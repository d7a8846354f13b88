"""MagicBrush as published in folders (Zhang et al. 2023).

edit_turns.json has {"input", "mask", "output", "instruction"}: names of images in images/NUMBER/, where NUMBER begins
the name. global_descriptions.json, if present, has the captions, {NUMBER: {name: caption}}, and local_descriptions.json
those of what was edited.
"""

from pathlib import Path

from .common import EditsError, EditText, EncodedImage, read_file, read_json, read_text
from .seeds import file_name


class MagicBrush:
    """MagicBrush's turns. All turns of one image have one `EditText.origin`."""

    def __init__(self, path: Path):
        self.path, turns = path, path / "edit_turns.json"
        self.turns = read_json(turns, list)
        names = ("input", "output", "instruction")
        for i, turn in enumerate(self.turns):
            if not isinstance(turn, dict) or not all(isinstance(turn.get(name), str) for name in names):
                raise EditsError(f"{turns}, entry {i}: expected an object with {', '.join(names)}")
            for name in ("input", "output"):
                file_name(turn[name], f"{turns}, entry {i}: ")
        files = path / "global_descriptions.json", path / "local_descriptions.json"
        self.captions, self.local = (read_json(file) if file.is_file() else {} for file in files)

    def __len__(self) -> int:
        return len(self.turns)

    def text(self, i: int) -> EditText:
        turn, origin = self.turns[i], _origin(self.turns[i])
        values = {"edit": turn["instruction"], "origin": origin}
        values |= {side: _caption(self.captions, turn, side) for side in ("input", "output")}
        return read_text(values, turn["output"], turn["output"])

    def local_caption(self, i: int) -> str | None:
        """What was edited, as it is in the target."""
        return _caption(self.local, self.turns[i], "output")

    def files(self, i: int) -> tuple[EncodedImage, EncodedImage]:
        source, target = (self._file(i, name) for name in ("input", "output"))
        return EncodedImage(str(source), read_file(source)), EncodedImage(str(target), read_file(target))

    def header(self, i: int) -> tuple[Path, str]:
        source = self._file(i, "input")
        return source, str(source)

    def _file(self, i: int, name: str) -> Path:
        return self.path / "images" / _origin(self.turns[i]) / self.turns[i][name]


def _caption(captions: dict, turn: dict, side: str) -> str | None:
    found = captions.get(_origin(turn))
    caption = found.get(turn[side]) if isinstance(found, dict) else None
    return caption if isinstance(caption, str) else None


def _origin(turn: dict) -> str:
    return turn["input"].partition("-")[0]
