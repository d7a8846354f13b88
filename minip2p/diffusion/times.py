"""The distribution of training times."""

from collections.abc import Callable

import torch
from torch import Tensor


def uniform(u: Tensor) -> Tensor:
    """The paper's."""
    return u


def logit_normal(u: Tensor) -> Tensor:
    """Esser et al. 2024, eq. 19, with mean 0 and deviation 1: most times are in the middle. For a flow, log sigma is
    then normal, as in EDM."""
    return torch.special.ndtri(u).sigmoid()


TIMES: dict[str, Callable[[Tensor], Tensor]] = {"uniform": uniform, "logit_normal": logit_normal}
"""uniform numbers from 0 to 1 -> the fractions of the training times to train at (`Schedule.at`)"""
