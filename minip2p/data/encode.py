"""Images and figures as files."""

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image


def png(picture: "Image.Image | Figure") -> bytes:
    """An image, or a matplotlib figure, as a PNG file."""
    data = io.BytesIO()
    if hasattr(picture, "savefig"):
        picture.savefig(data, format="png", dpi=110)
    else:
        picture.save(data, "PNG")
    return data.getvalue()


def svg(figure: "Figure") -> bytes:
    """A matplotlib figure as an SVG file, always of the same bytes."""
    import matplotlib

    data = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "minip2p"}):
        figure.savefig(data, format="svg", metadata={"Date": None})
    return data.getvalue()
