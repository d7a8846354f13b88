"""Train a model: `python train.py editor --preset tiny` is `minip2p train editor --preset tiny`."""

import sys

from minip2p.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
