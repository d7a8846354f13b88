"""The command line: one command, `minip2p`, with a verb a file; `sample.py` and `train.py` are doors to the same verbs.

A verb's file has `Options`, a dataclass whose docstrings are its help, and `run(options)`. Files are imported when
their verb is called, and torch only where there is work for it, so that help and mistakes are answered at once.
"""

import os
import sys
from importlib import import_module
from pathlib import Path

VERBS = {
    "edit": "edit a picture, a folder, a glob or a table of pictures; or draw a grid over scales and seeds",
    "show": "print the recipe inside a picture that minip2p made, or make it again",
    "generate": "paint pictures from text; or a sheet of several texts, seeds, scales",
    "sdedit": "paint a picture over towards a text (SDEdit, the paper's baseline)",
    "pair": "paint two pictures that differ as little as two texts do (Prompt-to-Prompt)",
    "invert": "find how a painter paints a given picture, and edit it by Prompt-to-Prompt",
    "attention": "draw where each word is looked at while a picture is edited or painted",
    "scene": "draw a picture of the tiny world, to have something to edit",
    "info": "tell what a checkpoint holds: parts, sizes, config, provenance",
    "convert": "write a checkpoint in another layout; make an editor's UNet of a plain one",
    "judge": "tell how right editors, painters and writers are in the tiny world, where the truth is known",
    "write": "write instructions for captions by a language model",
    "pairs": "paint scored pairs of pictures from captions and instructions, by any number of processes",
    "filter": "choose the pairs to train on by their CLIP scores, without painting",
    "make-data": "all of these at once, in the tiny world: captions to a training set, with a report",
    "import": "make a training set of your own pictures before and after, or of a set in another layout",
    "check": "tell what a set of edit pairs holds: counts, sizes, repeats, broken pictures; draw a sheet",
    "precompute": "encode a set of edit pairs once, for a faster training",
    "train": "train a model, or rebuild the shipped weights with --recipe tiny",
}
MODULES = {"import": "import_pairs", "make-data": "make_data"}
"""verbs that are no names for a file"""
PACKAGE = str(Path(__file__).parent.parent)


def main(argv: list[str] | None = None) -> int:
    """Run one verb; the exit status. 2 after a user's mistake, told in one line; 130 after Ctrl-C.

    A mistake in the program keeps its traceback; MINIP2P_DEBUG=1 shows it for a user's mistake too.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(argv)
    except KeyboardInterrupt:
        print("minip2p: stopped; what was finished is kept", file=sys.stderr)
        return 130
    except BrokenPipeError:  # who read our output has left, as `head` does
        sys.stdout = open(os.devnull, "w")
        return 0
    except Exception as error:
        message = in_words(error)
        if message is None or os.environ.get("MINIP2P_DEBUG"):
            raise
        print(f"minip2p: error: {message}", file=sys.stderr)
        return 2


def _dispatch(argv: list[str]) -> int:
    verb, rest = (argv[0], argv[1:]) if argv else ("--help", [])
    if verb in ("-h", "--help", "help"):
        print(_help())
        return 0
    if verb in ("-V", "--version"):
        from .. import __version__

        print(f"minip2p {__version__}")
        return 0
    if verb not in VERBS:
        raise ValueError(f"unknown verb {verb!r}; there are {', '.join(VERBS)} (minip2p --help tells more)")
    from .arguments import parse

    module = import_module(f".{MODULES.get(verb, verb)}", __name__)
    options = parse(module.Options, rest, f"minip2p {verb}")
    return 0 if options is None else module.run(options) or 0


def _help() -> str:
    verbs = "\n".join(f"  {verb:11}{what}" for verb, what in VERBS.items())
    return f"""minip2p: edit pictures by instructions (InstructPix2Pix), paint them, see why it works

usage: minip2p VERB [OPTIONS]           or: python sample.py VERB ..., python train.py ...

{verbs}

for example
  minip2p scene --seed 3 --output scene.png
  minip2p edit --input scene.png --edit "make it night" --output night.png
  minip2p show night.png
  minip2p pair --prompt "a red cat at night" --edited-prompt "a red boat at night" --output pair.png
  minip2p edit --help"""


def in_words(error: Exception) -> str | None:
    """One line for a user's mistake; None for a mistake in the program.

    A user's mistake is a ValueError or OSError that this package itself raised (a ValueError out of a library is our
    fault), anything that the file system refuses, or too little memory.
    """
    full = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"  # torch's
    if full or "can't allocate memory" in str(error):
        return "out of memory; try --low-memory, a smaller --resolution or --dtype bfloat16"
    if isinstance(error, OSError) and error.strerror:
        return ": ".join(str(part) for part in (error.filename, error.strerror.lower()) if part)
    if isinstance(error, (ValueError, OSError)) and _raised_here(error):
        return " ".join(str(error).split())
    return None


def _raised_here(error: Exception) -> bool:
    trace = error.__traceback__
    while trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_frame.f_code.co_filename.startswith(PACKAGE)
