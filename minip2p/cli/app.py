"""`minip2p app`: the page in the browser."""

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import arg

from .arguments import Loading, Threads, optional


@dataclass(frozen=True, kw_only=True)
class Options(Loading):
    """Open a page on this machine, to edit in the browser: edits, pairs, attention maps, the tiny world.

    It needs gradio (pip install 'minip2p[app]'). It asks nothing of other machines, and keeps files in a temporary
    folder only.
    """

    text2image: Annotated[str | None, optional("PATH", "(default: the shipped tiny model)")] = None
    """a text-to-image model, for pairs and generated images"""
    host: Annotated[str, arg(metavar="ADDRESS")] = "127.0.0.1"
    """address at which the page is served; 0.0.0.0 is for all machines that reach this one"""
    port: int = 7860
    """its port; 0 is any that is free"""
    threads: Threads = None


def run(options: Options) -> None:
    """Serve until Ctrl-C."""
    from ..app.models import Models
    from ..app.serve import serve

    serve(Models(options, options.text2image, options.threads), options.host, options.port)
