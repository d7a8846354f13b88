"""From captions to a training set: instructions written, pairs painted, the good ones kept."""
