"""`minip2p info`: what a checkpoint holds."""

import json
from dataclasses import dataclass, field

from .arguments import Source
from .printing import note, say


@dataclass(frozen=True, kw_only=True)
class Options:
    """Print what a checkpoint holds: its parts and their sizes, its config, where it comes from."""

    source: Source = field(default_factory=Source)


def run(options: Options) -> None:
    """Print it. No network is built, so a file with a single network can be read, too."""
    from .. import checkpoints
    from ..checkpoints.files import is_finite
    from ..config import kind_of, override, to_dict
    from ..loading import shipped

    source = options.source
    loaded = checkpoints.read(source.weights or shipped("editor"), ema=source.ema)
    config = override(loaded.config, *source.config)
    rows = {"weights": loaded.path, "layout": loaded.layout}
    if getattr(config, "denoiser", None) in loaded.parts:
        rows["kind"] = f"{kind_of(config)} ({config.denoiser_config.in_channels} input channels)"
    for part, tensors in loaded.parts.items():
        count = sum(tensor.numel() for tensor in tensors.values())
        dtypes = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()})
        broken = [loaded.names[part][name] for name, tensor in tensors.items() if not is_finite(tensor)]
        rows[part] = f"{count:,} parameters, {', '.join(dtypes)}"
        rows[part] += f"; {len(broken)} tensors hold NaN or infinity: {', '.join(broken[:3])}" if broken else ""
        if part in ("classifier", "language_model", "dino"):
            rows[f"{part} config"] = json.dumps(to_dict(config))
        elif part in to_dict(config):
            rows[f"{part} config"] = json.dumps(to_dict(config)[part])
    if "text" in loaded.parts:
        own = loaded.tokenizer if isinstance(loaded.tokenizer, dict) else {}
        rows["text cleaning"] = f"{own.get('cleaning', 'none')}; the authors' environment has ftfy (--text-cleaning)"
    for section in ("schedule", "sampling"):
        if "kind" in rows and section in to_dict(config):
            rows[f"{section} config"] = json.dumps(to_dict(config)[section])
    rows |= {f"from: {name}": value for name, value in loaded.provenance.items()}
    width = max(map(len, rows))
    for name, value in rows.items():
        say(f"{name:{width}}  {value}")
    for each in loaded.notes:
        note(each)
