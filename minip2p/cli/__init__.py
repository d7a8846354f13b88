"""The command line: `minip2p VERB`, one file per verb; `sample.py` and `train.py` call the same verbs.

A verb's file has `Options`, a dataclass whose docstrings are its help, and `run(options)`. It is imported when the verb
is called, and torch only where it is used, so that help and errors appear at once.
"""

import os
import sys
from importlib import import_module
from pathlib import Path

from .printing import say, warnings_as_notes

VERBS = {
    "edit": "edit images as an instruction says",
    "generate": "generate an image from a prompt",
    "sdedit": "edit an image by SDEdit, the paper's baseline",
    "pair": "generate two images from two prompts by Prompt-to-Prompt",
    "invert": "reconstruct a real image by inversion, and edit it by Prompt-to-Prompt",
    "attention": "draw the attention maps of an edit or a generation",
    "app": "edit in the browser: a page on this machine",
    "show": "print the metadata of an image that minip2p made, or make it again",
    "info": "print what a checkpoint holds: parts, sizes, config, provenance",
    "convert": "write a checkpoint in another layout, or widen a UNet for editing",
    "instructions": "write instructions and edited captions for captions",
    "pairs": "generate scored pairs of images from captions and instructions",
    "filter": "select the pairs to train on by their CLIP scores",
    "import": "make a training set from your own images, or from a set in another layout",
    "evaluate": "measure an editor on a set of pairs, as the paper's Figure 8 or MagicBrush does",
    "ablate": "train variants of a model and say which are better; the paper's Figure 10",
    "check": "report what a set of edit pairs holds",
    "precompute": "encode a set of edit pairs once, for faster training",
    "train": "train a model",
    "tiny": "the tiny world: scenes, evaluation, data, the shipped weights",
}
TINY_VERBS = {
    "scene": "draw a scene, to have something to edit",
    "evaluate": "measure models where the right answer is known",
    "make-data": "make a training set from captions, with a report",
    "rebuild": "train the shipped weights from scratch",
    "reproduce": "the paper's figures and tables as one report",
}
FILES = {"import": "import_pairs"}
"""verbs that are not the name of their file"""
LESS_MEMORY = {
    **dict.fromkeys(("invert", "attention"), "--low-memory, a smaller --resolution, --dtype bfloat16"),
    **dict.fromkeys(("edit", "sdedit"), "--batch-size 1, --low-memory, a smaller --resolution, --dtype bfloat16"),
    **dict.fromkeys(("generate", "pair"), "--batch-size 1, --low-memory, a smaller --size, --dtype bfloat16"),
    "pairs": "a smaller --size, --dtype bfloat16",
    "app": "fewer images, or start it with --dtype bfloat16",
    "instructions": "a smaller --batch-size, --dtype bfloat16",
    "precompute": "a smaller --batch-size",
    "ablate": "a smaller --batch-size",
    "evaluate": "a smaller --batch or --resolution, --dtype bfloat16",
    "train": "a smaller --batch-size; for an editor --set train.micro_batch=1 train.checkpointing=True "
    "train.ema_on_cpu=True, or --lora-rank 16",
}
"""verb -> the options with which it takes less memory"""
OUT_OF_MEMORY = ("can't allocate memory", "cannot allocate memory", "out of memory", "alloc_failed")
"""in the messages of libraries: torch on the CPU, the system, MPS, and CUDA's libraries"""
EXAMPLES = """

examples
  minip2p tiny scene --seed 3 --output scene.png
  minip2p edit --input scene.png --edit "make it night" --output night.png
  minip2p show night.png
  minip2p pair --prompt "a red cat at night" --edited-prompt "a red boat at night" --output pair.png
  minip2p edit --help"""
LONGEST = 2000
"""letters of an error that are printed: a file may hold a word of any length"""
PACKAGE = str(Path(__file__).parent.parent)


def main(argv: list[str] | None = None) -> int:
    """Run one verb. The exit status: 2 after a user's mistake, which is printed in one line; 130 after Ctrl-C.

    A bug keeps its traceback; with MINIP2P_DEBUG=1 a user's mistake has one, too.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        with warnings_as_notes():
            return _dispatch(argv)
    except KeyboardInterrupt:
        say("minip2p: stopped; finished results are kept", error=True)
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as `head` does
        sys.stdout = open(os.devnull, "w")
        return 0
    except Exception as error:
        message = in_words(error, *argv[:1])
        if message is None or os.environ.get("MINIP2P_DEBUG"):
            raise
        say(f"minip2p: error: {message}", error=True)
        return 2


def _dispatch(argv: list[str], prog: str = "minip2p", verbs: dict[str, str] = VERBS, package: str = __name__) -> int:
    """Run the verb that comes first in `argv`."""
    verb, *words = argv or ["--help"]
    if verb in ("-h", "--help", "help"):
        say(*_help(prog, verbs).split("\n"))
        return 0
    if verb in ("-V", "--version"):
        from .. import __version__

        say(f"minip2p {__version__}")
        return 0
    if verb not in verbs:
        raise ValueError(f"unknown verb {verb!r}; there are {', '.join(verbs)} (see {prog} --help)")
    if verb == "tiny":
        return _dispatch(words, "minip2p tiny", TINY_VERBS, f"{__name__}.tiny")
    from .arguments import parse

    module = import_module(f".{FILES.get(verb, verb).replace('-', '_')}", package)
    options = parse(module.Options, words, f"{prog} {verb}")
    return 0 if options is None else module.run(options) or 0


def _help(prog: str, verbs: dict[str, str]) -> str:
    lines = "\n".join(f"  {verb:14}{what}" for verb, what in verbs.items())
    if verbs is not VERBS:
        return f"usage: {prog} VERB [OPTIONS]\n\n{lines}\n\n{prog} VERB --help lists the options of a verb."
    head = "minip2p: InstructPix2Pix: edit images by instructions, generate data, train"
    usage = "usage: minip2p VERB [OPTIONS]          or: python sample.py VERB ..., python train.py ..."
    return f"{head}\n\n{usage}\n\n{lines}\n\nminip2p VERB --help lists the options of a verb.{EXAMPLES}"


def in_words(error: Exception, verb: str = "") -> str | None:
    """One line for a user's mistake; None for a bug.

    A user's mistake is a ValueError or OSError raised in this package (a ValueError from a library is a bug), an error
    of the file system, or too little memory.
    """
    ours = isinstance(error, ValueError) and _raised_here(error)
    if isinstance(error, MemoryError) or not ours and any(each in str(error).lower() for each in OUT_OF_MEMORY):
        return f"out of memory; try {LESS_MEMORY.get(verb, 'a machine with more')}"
    if isinstance(error, OSError) and error.strerror:
        return ": ".join(_cut(str(part)) for part in (error.filename, error.strerror.lower()) if part)
    if isinstance(error, (ValueError, OSError)) and _raised_here(error):
        return _cut(" ".join(str(error).split()))
    return None


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ... ({len(text):,} letters)"


def _raised_here(error: Exception) -> bool:
    trace = error.__traceback__
    while trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_frame.f_code.co_filename.startswith(PACKAGE)
