"""InstructPix2Pix (Brooks, Holynski, Efros 2022) from text to trained editor.

import minip2p
pipe = minip2p.load()                        # the shipped tiny editor; or a path to any published checkpoint
pipe.edit("photo.jpg", "make it night").save("night.png")
"""

from importlib import import_module

__version__ = "0.2.0"

_HOME = {"Pipeline": "pipeline", "LanguageModel": "pipeline"} | dict.fromkeys(
    ("load", "load_clip", "load_language_model", "save", "shipped"), "loading"
)
__all__ = sorted(_HOME)


def __getattr__(name: str):
    """The names of `__all__`, fetched when first used: `import minip2p` alone does not wait for torch."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    return value
