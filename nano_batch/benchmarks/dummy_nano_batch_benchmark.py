"""`nano-batch bench engine` by its first name, for `python -m`."""

import sys

from nano_batch.cli import main

if __name__ == "__main__":
    sys.exit(main(["bench", "engine", *sys.argv[1:]]))
