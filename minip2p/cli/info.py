"""`minip2p info`: what a checkpoint holds."""

import json
import sys
from dataclasses import dataclass, field

from .arguments import Source


@dataclass(frozen=True, kw_only=True)
class Options:
    """Tell what a checkpoint holds: its parts and their sizes, its config, where it comes from."""

    source: Source = field(default_factory=Source)


def run(options: Options) -> None:
    """Print it. Nothing is built: a file that holds one network only is told as well."""
    from .. import checkpoints
    from ..config import override, to_dict
    from ..loading import shipped

    source = options.source
    loaded = checkpoints.read(source.weights or shipped("editor"), ema=source.ema)
    config = override(loaded.config, *source.config)
    rows = {"weights": loaded.path, "layout": loaded.layout}
    if "unet" in loaded.parts:
        editor = config.unet.in_channels == 2 * config.vae.latent_channels
        rows["kind"] = "edits pictures" if editor else "paints from text"
    for part, tensors in loaded.parts.items():
        count = sum(tensor.numel() for tensor in tensors.values())
        dtypes = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()})
        rows[part] = f"{count:,} parameters, {', '.join(dtypes)}"
        if part in ("reader", "writer"):
            rows[f"{part} config"] = json.dumps(to_dict(config))
        elif part in to_dict(config):
            rows[f"{part} config"] = json.dumps(to_dict(config)[part])
    for section in ("schedule", "sampling"):
        if "unet" in loaded.parts and section in to_dict(config):
            rows[f"{section} config"] = json.dumps(to_dict(config)[section])
    rows |= {f"from: {name}": value for name, value in loaded.provenance.items()}
    width = max(map(len, rows))
    for name, value in rows.items():
        print(f"{name:{width}}  {value}")
    for note in loaded.notes:
        print(f"minip2p: note: {note}", file=sys.stderr)
