"""MagicBrush as published in folders (Zhang et al. 2023).

edit_turns.json has {"input", "mask", "output", "instruction"}: names of images in images/NUMBER/, where NUMBER begins
the name. global_descriptions.json, if present, has the captions: {NUMBER: {name: caption}}.
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
        captions = path / "global_descriptions.json"
        self.captions = read_json(captions) if captions.is_file() else {}

    def __len__(self) -> int:
        return len(self.turns)

    def text(self, i: int) -> EditText:
        turn, origin = self.turns[i], _origin(self.turns[i])
        captions = self.captions.get(origin)
        captions = captions if isinstance(captions, dict) else {}
        values = {"edit": turn["instruction"], "origin": origin}
        values |= {"input": captions.get(turn["input"]), "output": captions.get(turn["output"])}
        return read_text(values, turn["output"], turn["output"])

    def files(self, i: int) -> tuple[EncodedImage, EncodedImage]:
        folder = self.path / "images" / _origin(self.turns[i])
        source, target = (folder / self.turns[i][name] for name in ("input", "output"))
        return EncodedImage(str(source), read_file(source)), EncodedImage(str(target), read_file(target))


def _origin(turn: dict) -> str:
    return turn["input"].partition("-")[0]
