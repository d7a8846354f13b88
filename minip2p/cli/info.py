"""`minip2p info`: what a checkpoint holds."""

import json
from dataclasses import dataclass, field

from .arguments import Source, load


@dataclass(frozen=True, kw_only=True)
class Options:
    """Tell what a checkpoint holds: its parts and their sizes, its config, where it comes from."""

    source: Source = field(default_factory=Source)


def run(options: Options) -> None:
    """Print it."""
    from ..config import to_dict

    pipe = load(options.source, dtype=None, inference=False)
    editor = pipe.config.unet.in_channels == 2 * pipe.config.vae.latent_channels
    rows = {
        "weights": f"{options.source.weights or 'the shipped tiny editor'}, fingerprint {pipe.fingerprint}",
        "kind": f"{'edits pictures' if editor else 'paints from text'}; {str(pipe.dtype).removeprefix('torch.')}",
    }
    for name, part in pipe.parts.items():
        rows[name] = f"{sum(p.numel() for p in part.parameters()):,} parameters"
    rows |= {f"{name} config": json.dumps(section) for name, section in to_dict(pipe.config).items()}
    rows |= {f"from: {name}": value for name, value in pipe.provenance.items()}
    width = max(map(len, rows))
    for name, value in rows.items():
        print(f"{name:{width}}  {value}")
