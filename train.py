"""Train a model: `python train.py --recipe tiny`, `python train.py vae --preset tiny`."""

import sys

from minip2p.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
