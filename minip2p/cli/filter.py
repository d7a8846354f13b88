"""`minip2p filter`: choose the pairs of a training set by the scores that were stored with them."""

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import FlagCreatePairsOff, Positional, arg

from .arguments import progress_bar
from .printing import say


@dataclass(frozen=True, kw_only=True)
class Options:
    """Choose the pairs of a training set by CLIP's similarities, and print how these are distributed.

    The scores of all samples are stored with the pairs, so no image is made or deleted: try other thresholds at any
    time. The kept pairs are listed in DIR/seeds.json, which minip2p check and train.py follow.
    """

    directory: Positional[Annotated[str, arg(metavar="DIR")]]
    """output folder of minip2p pairs, finished or not"""
    image: float = 0.75
    """minimum similarity of the two images (0.7 in the authors' released script)"""
    caption: float = 0.2
    """minimum similarity of each image and its caption"""
    direction: float = 0.2
    """minimum similarity of the change between the images and that between the captions; -1 switches a rule off"""
    keep: int = 4
    """keep at most this many pairs of a prompt, the best by direction; 0 keeps all that pass"""
    overwrite: FlagCreatePairsOff[bool] = False
    """replace a seeds.json that minip2p filter did not make"""


def run(options: Options) -> None:
    """Filter the folder and print a table."""
    from ..datagen import clip_filter
    from ..evaluation.metrics import Thresholds

    thresholds = Thresholds(image=options.image, caption=options.caption, direction=options.direction)
    most = None if options.keep == 0 else options.keep
    with progress_bar("unit") as show:
        result = clip_filter.run(options.directory, thresholds, most, show, overwrite=options.overwrite)
    say(*clip_filter.table(result).split("\n"))
