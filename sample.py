"""Use a model: `python sample.py edit --input photo.jpg --edit "make it night" --output out.png`."""

import sys

from minip2p.cli import main

if __name__ == "__main__":
    sys.exit(main())
