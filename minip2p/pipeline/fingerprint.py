"""What identifies weights, whatever layout, dtype or device they were loaded in."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from torch import nn


def fingerprint(parts: Mapping[str, nn.Module]) -> str:
    """16 hexadecimal digits of the weights of networks, by name."""
    digest = hashlib.sha256()
    for part, module in parts.items():
        for name, tensor in sorted(module.state_dict().items()):
            digest.update(f"{part}.{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().float().cpu().contiguous().numpy().data)
    return digest.hexdigest()[:16]


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """16 hexadecimal digits of a tokenizer's words; all that have none are alike."""
    words = json.dumps(tokenizer.to_dict(), sort_keys=True) if hasattr(tokenizer, "to_dict") else ""
    return hashlib.sha256(words.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def text_fingerprint(pipe: Any) -> str:
    """Of what gives the states of a text: the text encoder, then the tokenizer."""
    return f"{fingerprint({'text encoder': pipe.text_encoder})} {tokenizer_fingerprint(pipe.tokenizer)}"
