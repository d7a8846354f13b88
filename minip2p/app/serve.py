"""gradio, closed to the outside: no analytics, no fonts or files of other machines, no public link."""

import os
import signal
import socket
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..cli.printing import note, say
from ..data.picture_files import is_picture_name
from .models import Models
from .uploads import MOST_BYTES

ENVIRONMENT = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_NUM_PORTS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "NO_PROXY": "*",  # gradio asks its own address once whether it is there
    "no_proxy": "*",
}
LAUNCH = {
    "share": False,  # also where GRADIO_SHARE is set
    "ssr_mode": False,
    "pwa": False,
    "mcp_server": False,
    "enable_monitoring": False,
    "run_history": False,
    "footer_links": [],
    "quiet": True,
    "max_file_size": MOST_BYTES,
    "state_session_capacity": 100,
    "prevent_thread_lock": True,
}
WAITING = 16
"""computations that may wait for their turn"""


def serve(models: Models, host: str, port: int) -> None:
    """Serve the page until it is interrupted. Raises ValueError for a place that is taken, and without gradio."""
    port = free_port(host, port)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the folder goes as it does at Ctrl-C
    with TemporaryDirectory(prefix="minip2p-app-") as folder:  # of uploads, and of copies of what is shown
        places = {"GRADIO_TEMP_DIR": folder, "MPLCONFIGDIR": folder}  # gradio imports matplotlib, which keeps a cache
        os.environ |= ENVIRONMENT | places  # read when gradio is imported
        gradio = close(import_gradio())
        from .page import CSS, FONTS, build

        page = build(models).queue(max_size=WAITING, api_open=False)
        try:
            page.launch(server_name=host, server_port=port, theme=gradio.themes.Soft(**FONTS), css=CSS, **LAUNCH)
            if host not in ("127.0.0.1", "localhost", "::1"):
                note(f"whoever reaches {host} can use this page: there is no password")
            say(f"minip2p: the page is at http://{host}:{port} (Ctrl-C ends it)")
            while True:
                time.sleep(3600)
        finally:
            page.close(verbose=False)


def import_gradio() -> Any:
    """gradio 6 or later. Raises ValueError, in one line, where it is missing or older."""
    try:
        import gradio
    except ImportError:
        raise ValueError("minip2p app needs gradio, which is missing: pip install 'minip2p[app]'") from None
    if int(gradio.__version__.split(".")[0]) < 6:
        raise ValueError(f"minip2p app needs gradio 6 or later, here is {gradio.__version__}: pip install -U gradio")
    return gradio


def close(gradio: Any) -> Any:
    """gradio, which from now on, in this process, takes no file from another machine, names uploads itself, and hands
    pictures on unread: it would open them without limits."""
    from fastapi import HTTPException
    from gradio import processing_utils, route_utils, routes

    class Upload(route_utils.GradioUploadFile):
        """An upload, of whose name only a known ending of a picture is kept."""

        def __init__(self, file: Any, *, filename: str | None = None, **how: Any):
            ending = Path(filename or "").suffix.lower()
            super().__init__(file, filename=f"upload{ending if is_picture_name('a' + ending) else ''}", **how)

    async def refuse_file(url: str, cache_dir: str) -> str:
        raise gradio.Error("files are taken from this page only, not from an address", print_exception=False)

    async def refuse_address(url: str, request: Any) -> None:
        raise HTTPException(403, "this page passes on no files of other machines")

    def path_of(self: Any, payload: Any) -> str | None:
        return payload and payload.path

    def layers_of(self: Any, payload: Any) -> list[bytes | Path]:
        drawn = payload and (self.blob_storage.pop(payload.id, None) if payload.id else payload)
        layers = [layer for layer in (drawn.layers or ()) if layer is not None] if drawn else []
        return [bytes(layer) if isinstance(layer, (bytes, bytearray)) else Path(layer.path) for layer in layers]

    route_utils.GradioUploadFile = Upload
    processing_utils.async_ssrf_protected_download = refuse_file
    routes.secure_url_stream_response = refuse_address
    gradio.Image.preprocess, gradio.ImageEditor.preprocess = path_of, layers_of
    return gradio


def free_port(host: str, port: int) -> int:
    """The port, or for 0 any that is free. Raises ValueError where the page cannot be served there."""
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as server:
            return server.getsockname()[1]
    except (OSError, OverflowError) as error:
        number = getattr(error, "errno", None)
        reason = os.strerror(number) if number and number > 0 else getattr(error, "strerror", None) or str(error)
        raise ValueError(f"--host {host} --port {port}: {reason.lower()}; choose others") from None
