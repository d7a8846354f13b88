"""What identifies weights, whatever layout, dtype or device they were loaded in."""

import hashlib
from collections.abc import Mapping

from torch import nn


def fingerprint(parts: Mapping[str, nn.Module]) -> str:
    """16 hexadecimal digits of the weights of networks, by name."""
    digest = hashlib.sha256()
    for part, module in parts.items():
        for name, tensor in sorted(module.state_dict().items()):
            digest.update(f"{part}.{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().float().cpu().contiguous().numpy().data)
    return digest.hexdigest()[:16]
